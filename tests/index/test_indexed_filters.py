"""Filters find the same documents with payload indexes, with indexes that are added later, and without."""

import logging
import random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from qdrant_client import models

from splade_retriever import EdgeClient
from splade_retriever.errors import FilterError, InputError
from splade_retriever.index.splade_index import SpladeIndex
from tests.qdrant_server import QdrantServer
from tests.test_filters import holds
from tests.words import WordEncoder

KINDS: Final = {
    "i": "integer",
    "f": "float",
    "b": "bool",
    "k": "keyword",
    "u": "uuid",
    "d": "datetime",
    "t": "text",
    "n.i": "integer",
}
FIELDS: Final = [*KINDS, "none"]
UUID: Final = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
MOMENT: Final = datetime(2023, 8, 23, 12, 33, tzinfo=UTC)
MOMENTS: Final = [MOMENT + timedelta(days=days) for days in (-1, 0, 1)]
STRINGS: Final = [
    "en",
    "EN",
    "2",
    "",
    UUID,
    UUID.upper(),
    f"urn:uuid:{UUID}",
    *(m.isoformat() for m in MOMENTS),
]
NUMBERS: Final = [0, 1, 2, -3, 2**53 + 1, 2**62, 1692793980, 1692793980000000, 2.0, 2.5, -3.0, 0.1 + 0.2]
VALUES: Final = [*STRINGS, *NUMBERS, True, False]
BOUNDS: Final = [number for number in NUMBERS if number != 2**53 + 1]
"""Engines compare the bounds of ranges as floats; local mode does not."""
DOCUMENTS: Final = 60
FILTERS: Final = 400


def random_metadata(draw: random.Random) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for field in FIELDS:
        kind = draw.randrange(8)
        if kind == 0:
            continue
        values = [draw.choice([*VALUES, None]) for _ in range(draw.randrange(4))]
        value = None if kind == 1 else values if kind == 2 else draw.choice(VALUES)
        if field == "n.i":
            metadata["n"] = {"i": value}
        else:
            metadata[field] = value
    return metadata


def random_filter(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = draw.randrange(10 if depth < 2 else 7)
    if kind < 7:
        fields = draw.sample(FIELDS, draw.choice([1, 1, 2]))
        return {field: random_condition(draw) for field in fields}
    inner = [random_filter(draw, depth + 1) for _ in range(draw.choice([1, 2, 3]))]
    if kind == 7:
        return {"$not": inner[0]}
    return {"$and" if kind == 8 else "$or": inner}


def random_condition(draw: random.Random) -> Any:
    asked = [*VALUES, *MOMENTS]
    several = [draw.choice(asked) for _ in range(draw.choice([1, 2, 3, 20]))]
    bounds = BOUNDS if draw.random() < 0.6 else [*MOMENTS, MOMENT.isoformat()]
    words = draw.sample(["$gt", "$gte", "$lt", "$lte"], draw.choice([1, 2]))
    return draw.choice(
        [
            draw.choice(asked),
            draw.choice(asked),
            several,
            {"$ne": draw.choice(asked)},
            {"$nin": several},
            {"$all": several[:2]},
            {"$exists": draw.random() < 0.5},
            {word: draw.choice(bounds) for word in words},
            {"$not": {word: draw.choice(bounds) for word in words}},
        ]
    )


def is_refused(filter: Mapping[str, Any]) -> bool:
    """Return whether a filter compares a field with a kind of value that its index answers wrongly."""
    return any(
        any(map(is_refused, [value] if key == "$not" else value))
        if key.startswith("$")
        else is_refused_condition(KINDS.get(key), value)
        for key, value in filter.items()
    )


def is_refused_condition(kind: str | None, condition: Any) -> bool:
    if isinstance(condition, list):
        return any(is_refused_condition(kind, value) for value in condition)
    if isinstance(condition, Mapping):
        return any(is_refused_operand(kind, word, value) for word, value in condition.items())
    return is_refused_operand(kind, "$eq", condition)


def is_refused_operand(kind: str | None, word: str, value: Any) -> bool:
    if word == "$not" or isinstance(value, list):
        return is_refused_condition(kind, value)
    if word == "$exists":
        return False
    is_range = word in ("$gt", "$gte", "$lt", "$lte")
    if kind in ("integer", "float"):
        return isinstance(value, datetime) or (is_range and isinstance(value, str))
    return kind == "datetime" and (isinstance(value, float) or (is_range and isinstance(value, int)))


def as_python(filter: Any) -> Any:
    """Replace the ISO 8601 bounds of ranges by datetimes, as `holds` compares them."""
    if isinstance(filter, list):
        return [as_python(item) for item in filter]
    if not isinstance(filter, Mapping):
        return filter
    return {
        key: MOMENT if key in ("$gt", "$gte", "$lt", "$lte") and isinstance(value, str) else as_python(value)
        for key, value in filter.items()
    }


SERVER: Final = pytest.param("server", marks=pytest.mark.server)
INDEXED: Final = [
    pytest.param("edge", "new", id="edge-new"),
    pytest.param("edge", "later", id="edge-later"),
    pytest.param("local", "new", id="local"),  # has no payload indexes
    pytest.param("server", "new", id="server-new", marks=pytest.mark.server),
    pytest.param("server", "later", id="server-later", marks=pytest.mark.server),
]


@pytest.mark.parametrize(("client", "indexed"), INDEXED, indirect=["client"])
def test_random_filters_find_the_documents_that_match_in_plain_python(client: Any, indexed: str) -> None:
    draw = random.Random(11)
    metadatas = [random_metadata(draw) for _ in range(DOCUMENTS)]
    filters = [random_filter(draw) for _ in range(FILTERS)]
    index = SpladeIndex(
        client=client,
        model=WordEncoder(),
        indexed_fields=KINDS if indexed == "new" else None,
    )
    index.add(["moon"] * DOCUMENTS, metadatas, [f"{n:03}" for n in range(DOCUMENTS)])
    if indexed == "later":
        check(index, filters[::8], metadatas, has_indexes=False)
        index = SpladeIndex(client=client, indexed_fields=KINDS, model=WordEncoder())

    is_local = index._collection.single_thread
    check(index, filters[::4] if is_local else filters, metadatas, has_indexes=not is_local)


def check(
    index: SpladeIndex, filters: list[dict[str, Any]], metadatas: list[dict[str, Any]], *, has_indexes: bool
) -> None:
    for n, filter in enumerate(filters):
        if has_indexes and is_refused(filter):
            with pytest.raises(FilterError, match="has an index of kind"):
                index.count(filter)
            continue
        wanted = as_python(filter)
        expected = [f"{n:03}" for n, metadata in enumerate(metadatas) if holds(wanted, metadata)]
        assert sorted(hit.id for hit in index.scroll(filter)) == expected, filter
        if n % 10 == 0:
            assert index.count(filter) == len(expected)
            assert sorted(hit.id for hit in index.search("moon", k=DOCUMENTS, filter=filter)) == expected


@pytest.mark.parametrize("client", ["edge", SERVER], indirect=True)
def test_the_kinds_of_indexes_are_those_that_change_no_filter(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder(), indexed_fields=KINDS)

    kinds = {
        path: item.data_type.value for path, item in client.get_collection("splade").payload_schema.items()
    }
    assert kinds == {
        f"metadata.{key}": {"integer": "float", "uuid": "keyword"}.get(kind, kind)
        for key, kind in KINDS.items()
    }


@pytest.mark.parametrize("fields", [["year"], {"year": "number"}])
def test_fields_that_are_not_valid_leave_no_collection_behind(fields: Any) -> None:
    with EdgeClient() as client:
        with pytest.raises(InputError, match="indexed_fields"):
            SpladeIndex(client=client, model=WordEncoder(), indexed_fields=fields)

        assert not client.collection_exists("splade")


@pytest.mark.parametrize("client", ["edge", SERVER], indirect=True)
def test_indexes_of_other_programs_are_used_without_a_change_of_meaning(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    values: list[Any] = [UUID, UUID.upper(), f"see {UUID}", 2, 2.0]
    index.add(["moon"] * len(values), [{"u": value, "i": value} for value in values], list("abcde"))
    client.create_payload_index("splade", "metadata.u", models.PayloadSchemaType.UUID)
    client.create_payload_index("splade", "metadata.i", models.PayloadSchemaType.INTEGER)
    other = SpladeIndex(client=client)

    with caplog.at_level(logging.WARNING, "splade_retriever"):
        assert [hit.id for hit in other.scroll({"u": UUID})] == ["a"]
        assert [hit.id for hit in other.scroll({"u": {"$in": [UUID.upper(), "x", 2]}})] == ["b", "d"]
        assert sorted(hit.id for hit in other.scroll({"u": {"$ne": UUID}})) == ["b", "c", "d", "e"]
        assert caplog.text == ""
        for _ in range(2):
            assert len(list(other.scroll({"i": 2}))) == 2  # the engine's own meaning
    assert len(caplog.records) == 1
    assert re.search("index of kind integer for 'metadata.i'.*2.0", caplog.text)


@pytest.mark.own_server
def test_integers_keep_their_index_on_a_server_that_refuses_filters_without_one(
    start_server: Callable[..., QdrantServer],
) -> None:
    strict = "storage.collection.strict_mode."
    server = start_server(settings={f"{strict}enabled": True, f"{strict}unindexed_filtering_retrieve": False})

    with SpladeIndex(server.url, model=WordEncoder(), indexed_fields={"year": "integer"}) as index:
        index.add(["moon", "sun"], [{"year": 2020}, {"year": 2021}], ["a", "b"])
        assert [hit.id for hit in index.scroll({"year": [2020, 2019]})] == ["a"]
        assert [hit.id for hit in index.search("sun", filter={"year": {"$gt": 2020}})] == ["b"]
