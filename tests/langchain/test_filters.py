"""Structured queries as filters of the index, and filters as JSON."""

import json
from datetime import date, datetime
from typing import Any

import pytest
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from qdrant_client import QdrantClient, models

from splade_retriever.errors import FilterError
from splade_retriever.langchain import (
    SpladeTranslator,
    SpladeVectorStore,
)
from splade_retriever.langchain.filters import filter_from_json, filter_to_json, to_index_filter
from tests.words import WordEncoder


def compare(word: str, value: Any, attribute: str = "year") -> Comparison:
    return Comparison(Comparator(word), attribute, value)


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        (compare("eq", 2023), {"year": {"$eq": 2023}}),
        (compare("ne", "en", "lang"), {"lang": {"$ne": "en"}}),
        (compare("gt", 1.5), {"year": {"$gt": 1.5}}),
        (compare("in", ["en", "de"], "lang"), {"lang": {"$in": ["en", "de"]}}),
        (compare("nin", [1, 2]), {"year": {"$nin": [1, 2]}}),
        (compare("contain", "moon", "tags"), {"tags": {"$contains": "moon"}}),
        (compare("like", "lunar orbit", "title"), {"title": {"$text": "lunar orbit"}}),
        (
            Operation(Operator.OR, [compare("lt", 3), Operation(Operator.NOT, [compare("eq", 5)])]),
            {"$or": [{"year": {"$lt": 3}}, {"$not": {"year": {"$eq": 5}}}]},
        ),
        (
            Operation(Operator.NOT, [compare("eq", 1), compare("eq", 2)]),
            {"$not": {"$and": [{"year": {"$eq": 1}}, {"year": {"$eq": 2}}]}},
        ),
        (
            compare("lte", {"type": "datetime", "datetime": "2023-08-23T12:33:00"}),
            {"year": {"$lte": datetime(2023, 8, 23, 12, 33)}},
        ),
    ],
)
def test_structured_filters_become_filters_of_the_index(directive: Any, expected: dict[str, Any]) -> None:
    text, arguments = SpladeTranslator().visit_structured_query(StructuredQuery("moon", directive, None))

    assert (text, arguments) == ("moon", {"filter": expected})


def test_a_structured_query_without_filter_has_no_arguments() -> None:
    assert SpladeTranslator().visit_structured_query(StructuredQuery("moon", None, None)) == ("moon", {})


TIMES = ["2023-08-22T23:59:59Z", "2023-08-23T00:00:00Z", "2023-08-23T12:33:00Z", "2023-08-24T00:00:00Z"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("eq", {1, 2}),
        ("ne", {0, 3}),
        ("lt", {0}),
        ("lte", {0, 1, 2}),
        ("gt", {3}),
        ("gte", {1, 2, 3}),
    ],
)
def test_a_date_equals_every_time_of_that_day(word: str, found: set[int]) -> None:
    store = SpladeVectorStore.from_texts(
        ["text"] * 4,
        metadatas=[{"n": n, "at": time} for n, time in enumerate(TIMES)],
        client=QdrantClient(":memory:"),
        model=WordEncoder(),
    )
    day = compare(word, {"type": "date", "date": "2023-08-23"}, "at")

    assert {hit.metadata["n"] for hit in store.similarity_search("text", k=9, filter=day)} == found


def test_an_invalid_date_is_an_error_that_shows_it() -> None:
    with pytest.raises(FilterError, match="the date '23 August', expected ISO 8601"):
        compare("eq", {"type": "date", "date": "23 August"}).accept(SpladeTranslator())


WHEN = datetime(2023, 8, 23, 12, 33)
OWN = models.Filter(
    must=[models.FieldCondition(key="metadata.year", match=models.MatchAny(any=[2023, 2024]))],
    must_not=[
        models.FieldCondition(key="metadata.at", range=models.DatetimeRange(lt=WHEN)),
        models.FieldCondition(key="metadata.n", range=models.Range(gte=1.5)),
    ],
)


@pytest.mark.parametrize(
    ("filter", "read"),
    [
        (OWN, OWN),
        ({"$or": [OWN, {"at": WHEN}]}, {"$or": [OWN, {"at": WHEN}]}),
        ({"at": {"$gte": date(2023, 8, 23)}}, {"at": {"$gte": date(2023, 8, 23)}}),
        ({"lang": ("en", "de")}, {"lang": ["en", "de"]}),
        (compare("eq", {"type": "date", "date": "2023-08-23"}, "at"), None),
    ],
)
def test_a_filter_comes_back_equal_from_json(filter: Any, read: Any) -> None:
    written = json.dumps(filter_to_json(filter))

    assert filter_from_json(json.loads(written)) == (to_index_filter(filter) if read is None else read)


def test_an_operation_without_arguments_is_an_error() -> None:
    with pytest.raises(FilterError, match="'and' without arguments"):
        Operation(Operator.AND, []).accept(SpladeTranslator())


def test_days_are_compared_as_dates() -> None:
    assert compare("gte", {"type": "date", "date": "2023-08-23"}).accept(SpladeTranslator()) == {
        "year": {"$gte": date(2023, 8, 23)}
    }
