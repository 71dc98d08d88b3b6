"""`SpladeIndex(metadata="coerce")`: values that JSON does not have are converted, by opt-in only."""

import enum
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient

from splade_retriever import SpladeIndex
from splade_retriever.errors import InputError
from tests.words import WordEncoder


class Colour(enum.Enum):
    RED = "red"


CASES = [
    (datetime(2023, 8, 23, 12, 33, tzinfo=UTC), "2023-08-23T12:33:00+00:00"),
    (date(2023, 8, 23), "2023-08-23"),
    (time(12, 33), "12:33:00"),
    (Decimal("1.5"), 1.5),
    (Decimal("NaN"), None),
    (float("nan"), None),
    (float("inf"), None),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (PurePosixPath("docs/a.md"), "docs/a.md"),
    (Colour.RED, "red"),
    (np.int64(3), 3),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (np.datetime64("2023-08-23"), "2023-08-23"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ((1, (2, np.float64("nan"))), [1, [2, None]]),
    ({"b", "a"}, ["a", "b"]),
    ({"deep": [{"at": date(2023, 8, 23)}]}, {"deep": [{"at": "2023-08-23"}]}),
    ([1, "a", None, True, 0.5], [1, "a", None, True, 0.5]),
]


@pytest.mark.parametrize(
    ("value", "stored"), CASES, ids=[f"{type(value).__name__} {stored}" for value, stored in CASES]
)
def test_a_value_is_stored_as_documented(value: Any, stored: Any) -> None:
    index = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder(), metadata="coerce")

    index.add(["one"], [{"key": value}], ids=["list"])
    index.add(iter(["two"]), iter([{"key": value}]), ids=iter(["stream"]))
    index.add(["three"], ids=["updated"])
    index.update_metadata("updated", {"key": value})

    found = [hit.metadata["key"] for hit in index.get(["list", "stream", "updated"])]
    assert found == [stored] * 3
    assert {type(item) for item in found} == {type(stored)}


def test_a_coerced_time_can_be_filtered() -> None:
    index = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder(), metadata="coerce")
    index.add(
        ["text"] * 2, [{"at": datetime(year, 1, 1, tzinfo=UTC)} for year in (2022, 2024)], ids=["a", "b"]
    )

    assert [hit.id for hit in index.search("text", filter={"at": {"$gte": date(2023, 1, 1)}})] == ["b"]


@pytest.mark.parametrize("value", [object(), b"bytes", {1: "int key"}])
def test_a_value_without_a_conversion_is_an_error(value: Any) -> None:
    index = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder(), metadata="coerce")

    with pytest.raises(InputError, match=r"metadata\.key"):
        index.add(["text"], [{"key": value}])


def test_a_set_of_several_kinds_and_what_is_nested_too_deep_are_converted_or_refused() -> None:
    index = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder(), metadata="coerce")
    index.add(["text"], [{"mixed": {(1,), ("b",), 2, 1.5, "a"}}], ids=["a"])
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}

    assert index.get(["a"])[0].metadata == {"mixed": [1.5, 2, ["b"], [1], "a"]}
    with pytest.raises(InputError, match="nested more than 100 levels deep"):
        index.add(["text"], [deep])
    with pytest.raises(InputError, match="nested more than 100 levels deep"):
        index.update_metadata("a", deep)


def test_without_the_option_metadata_is_not_converted() -> None:
    index = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder())

    with pytest.raises(InputError, match=r"metadata\.at is a date"):
        index.add(["text"], [{"at": date(2023, 8, 23)}])
    with pytest.raises(InputError, match="metadata is 'corce', expected 'json' or 'coerce'"):
        SpladeIndex(model=WordEncoder(), metadata="corce")  # type: ignore[arg-type]
