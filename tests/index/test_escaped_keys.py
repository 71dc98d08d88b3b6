"""Filters by metadata keys with quotes and backslashes, which no path of the engine names."""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

import pytest
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator
from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters
from qdrant_client import models

from splade_retriever.errors import FilterError
from splade_retriever.index.payload import PACKAGE_KEY
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.langchain import SpladeVectorStore
from splade_retriever.llama_index import SpladeVectorStore as LlamaIndexStore
from splade_retriever.maintenance.reindex import reindex
from tests.index.test_indexed_filters import DOCUMENTS, KINDS, check, random_filter, random_metadata
from tests.words import WordEncoder

NAMES: Final = {
    "i": 'disk 5"',
    "f": "C:\\",
    "b": '"b"',
    "k": '100%22"',
    "u": "\\u0041",
    "d": 'd.d"',
    "t": '\\"',
    "n": 'n"n',
    "n.i": "i",
    "none": 'no"ne',
}
"""The keys of `test_indexed_filters` -> keys that paths cannot name."""
ODD: Final = 'say "hi" \\ all'
BOX: Final = {"top_left": {"lon": 13.0, "lat": 52.6}, "bottom_right": {"lon": 13.2, "lat": 52.3}}
POTSDAM: Final = {"lon": 13.064, "lat": 52.396}


def renamed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    nested = {"n": {NAMES["n.i"]: metadata["n"]["i"]}} if "n" in metadata else {}
    return {NAMES[key]: value for key, value in {**metadata, **nested}.items()}


def key(field: str) -> str:
    """Write a field's key as a filter has it; as a JSON string where it has a dot or starts with a quote."""
    if field == "n.i":
        return f"{NAMES['n']}.{NAMES['n.i']}"
    name = NAMES[field]
    return json.dumps(name) if name[0] == '"' or "." in name else name


def renamed_filter(filter: Any) -> Any:
    if isinstance(filter, list):
        return [renamed_filter(item) for item in filter]
    if not isinstance(filter, Mapping):
        return filter
    return {
        word if word.startswith("$") else key(word): renamed_filter(value) for word, value in filter.items()
    }


class _Renaming:
    """Filters an index by the keys of `NAMES`."""

    def __init__(self, index: SpladeIndex) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._index, name)
        if name == "search":
            return lambda query, *, k, filter: call(query, k=k, filter=renamed_filter(filter))
        return lambda filter: call(renamed_filter(filter))


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
def test_random_filters_find_the_documents_that_match_in_plain_python(client: Any, indexed: bool) -> None:
    draw = random.Random(7)
    metadatas = [random_metadata(draw) for _ in range(DOCUMENTS)]
    filters = [random_filter(draw) for _ in range(120)]
    index = SpladeIndex(
        client=client,
        model=WordEncoder(),
        indexed_fields={key(field): kind for field, kind in KINDS.items()} if indexed else None,
    )
    index.add(["moon"] * DOCUMENTS, map(renamed, metadatas), [f"{n:03}" for n in range(DOCUMENTS)])

    has_indexes = bool(client.get_collection("splade").payload_schema)
    check(_Renaming(index), filters, metadatas, has_indexes=has_indexes)  # type: ignore[arg-type]
    assert [hit.metadata for hit in index.get(f"{n:03}" for n in range(DOCUMENTS))] == list(
        map(renamed, metadatas)
    )


@pytest.mark.parametrize(
    ("metadata", "filter"),
    [
        ({ODD: "en"}, {ODD: "en"}),
        ({ODD: "en"}, {json.dumps(ODD): {"$in": ["en", "de"]}}),
        ({ODD: "The lunar orbit"}, {ODD: {"$text": "orbit lunar"}}),
        ({ODD: POTSDAM}, {ODD: {"$geo_bounding_box": BOX}}),
        ({ODD: POTSDAM}, {ODD: {"$geo_radius": {"center": POTSDAM, "radius": 10}}}),
        ({ODD: {"name": "Ada"}}, {ODD: {"name": "Ada"}}),
        ({ODD: {"a.b": 0.1}}, {f'{ODD}."a.b"': 0.1}),
        ({"author": {"50%": {'"name"': "Ada"}}}, {'author.50%."\\"name\\""': "Ada"}),
        ({"author": {"50%": {"na\\me": "Ada"}}}, {"author": {"50%": {"na\\me": {"$ne": "Bob"}}}}),
        ({"authors": [{"x": 1}, {'na"me': ["Ada"]}]}, {'authors[].na"me': "Ada"}),
        ({"authors": [{"x": 1}, {'na"me': "Ada"}]}, {'authors[1].na"me': {"$exists": True}}),
        ({ODD: [[1, {"x": "y"}]]}, {json.dumps(ODD): {"$exists": True}}),
        ({"year": 3, 'a"': {"b": 2}}, {"year": 3, 'a".b': {"$gte": 2, "$not": {"$gt": 2}}}),
    ],
)
def test_all_operators_and_nested_keys_find_the_document(
    index: SpladeIndex, metadata: dict[str, Any], filter: dict[str, Any]
) -> None:
    index.add(["a moon", "the moon"], [metadata, {"other": 1}], ["a", "b"])

    expected = ["a", "b"] if "$ne" in str(filter) else ["a"]
    assert sorted(hit.id for hit in index.search("moon", filter=filter)) == expected
    assert index.get(["a"])[0].metadata == metadata


def test_a_changed_document_is_found_by_its_new_values_only(index: SpladeIndex) -> None:
    index.add(["a moon"], [{ODD: 1}], ["a"])
    index.update_metadata("a", {ODD: 2, "x": 1})
    assert (index.count({ODD: 1}), index.count({ODD: 2})) == (0, 1)

    index.add(["a moon"], [{"x": 1}], ["a"])
    assert (index.count({ODD: {"$exists": True}}), index.get(["a"])[0].metadata) == (0, {"x": 1})

    index.add(["a moon"], [{ODD: 3, 'b"': {"c": 1}}], ["a"])
    assert index.count({ODD: 3, 'b".c': 1}) == 1
    assert index.delete(filter={'b"': {"c": 1}}) == 1


def test_a_document_of_an_earlier_version_is_found_after_it_was_added_again(
    client: Any, index: SpladeIndex
) -> None:
    index.add(["a moon"], [{ODD: 1, "x": 1}], ["a"])
    (point,) = client.scroll("splade", with_payload=True)[0]
    package = {name: value for name, value in point.payload[PACKAGE_KEY].items() if name != "escaped"}
    client.overwrite_payload("splade", {**point.payload, PACKAGE_KEY: package}, points=[point.id])
    assert (index.count({"x": 1}), index.count({ODD: 1})) == (1, 0)

    index.add(["a moon"], [{ODD: 1, "x": 1}], ["a"])
    assert index.count({ODD: 1}) == 1


def test_windows_of_long_texts_and_tenants_are_found(client: Any) -> None:
    index = SpladeIndex(
        client=client, model=WordEncoder(), windows="points", window_overlap=0, tenant_field='"ten\\"ant"'
    )
    metadatas = [{'ten"ant': tenant, ODD: tenant} for tenant in ("x", "y")]
    index.add(["moon " * 100, "sun " * 100], metadatas, ["1", "1"])

    assert [hit.text.split()[0] for hit in index.get(["1"], tenant="y")] == ["sun"]
    assert [hit.metadata for hit in index.search("sun moon", filter={ODD: "x"})] == [metadatas[0]]
    assert index.count({"$not": {ODD: "x"}}) == 1
    assert index.delete(filter={ODD: "y", "$text": "sun"}) == 1


def test_both_frameworks_filter_by_such_keys(index: SpladeIndex) -> None:
    langchain, llama_index = SpladeVectorStore(index=index), LlamaIndexStore(index=index)
    langchain.add_texts(["a moon", "the moon"], [{ODD: 1}, {ODD: 2}], ids=["a", "b"])

    structured = Operation(
        operator=Operator.AND, arguments=[Comparison(comparator=Comparator.GT, attribute=ODD, value=1)]
    )
    assert [hit.id for hit in langchain.similarity_search("moon", filter=structured)] == ["b"]
    assert [hit.id for hit in langchain.similarity_search("moon", filter={ODD: 1})] == ["a"]
    filters = MetadataFilters(filters=[MetadataFilter(key=ODD, value=2)], condition=FilterCondition.NOT)
    assert [node.node_id for node in llama_index.get_nodes(filters=filters)] == ["a"]


def test_a_reindexed_collection_is_filtered_by_such_keys(client: Any, index: SpladeIndex) -> None:
    index.add(["a moon", "the moon"], [{ODD: 1}, {"x": 1}], ["a", "b"])
    report = reindex(client, WordEncoder("other words"), collection="splade")

    new = SpladeIndex(client=client, collection=report.new_collection, create=False)
    assert new.count({ODD: 1}) == 1


def test_a_collection_of_another_program_refuses_keys_that_no_path_names(client: Any) -> None:
    client.create_collection("splade", {}, sparse_vectors_config={"splade": models.SparseVectorParams()})
    client.upsert("splade", [models.PointStruct(id=1, vector={}, payload={"text": "moon", ODD: 1})])

    with pytest.raises(FilterError, match="Only collections that this package created"):
        SpladeIndex(client=client, model=WordEncoder()).count({ODD: 1})
