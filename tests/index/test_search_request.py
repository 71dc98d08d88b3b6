"""Requests and ranking as pure functions."""

from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.options import Fusion, SearchOptions
from splade_retriever.index.payload import Layout
from splade_retriever.index.search_request import (
    EncodedQuery,
    SearchRequest,
    branches_of,
    engine_query,
    rank_documents,
)
from splade_retriever.sparse import SparseEmbedding

SPARSE = SparseEmbedding(values=[1.0], indices=[3])
LAYOUT = Layout(tenant_field="tenant")
NAMES = {"sparse": "splade", "dense": "dense"}


def points(*scored: tuple[str, float], tenant: str = "acme") -> list[models.ScoredPoint]:
    """Build an answer of the engine: (id of the document, score) of each point, one of two windows."""
    return [
        models.ScoredPoint(
            id=n,
            version=0,
            score=score,
            payload={"metadata": {"tenant": tenant}, "_splade": {"id": id, "window": {"of": 2}}},
        )
        for n, (id, score) in enumerate(scored)
    ]


def ranked(answer: list[models.ScoredPoint], limit: int, depth: int) -> Any:
    found = rank_documents(answer, limit, depth, LAYOUT)
    return found if isinstance(found, int) else [(point.payload or {})["_splade"]["id"] for point in found]


def test_equal_scores_are_ordered_by_id() -> None:
    assert ranked(points(("b", 2.0), ("c", 1.0), ("a", 1.0)), 10, 2) == ["b", "a"]


def test_of_a_document_the_best_point_counts() -> None:
    assert ranked(points(("a", 3.0), ("b", 2.0), ("a", 1.0)), 10, 5) == ["a", "b"]


def test_documents_of_two_tenants_with_one_id_are_two() -> None:
    both = [*points(("a", 3.0), ("a", 2.0)), *points(("a", 1.0), tenant="globex")]

    assert ranked(both, 10, 5) == ["a", "a"]


def test_more_points_are_requested_while_the_last_score_continues() -> None:
    tied = points(("a", 1.0), ("b", 1.0), ("c", 1.0))

    assert ranked(tied, 3, 2) == 4  # full, and the third has the score of the second
    assert ranked(tied, 4, 2) == ["a", "b"]  # all that share the score are known
    assert ranked(points(("a", 3.0), ("b", 2.0), ("c", 1.0)), 3, 2) == ["a", "b"]


def test_more_points_are_requested_while_windows_hide_documents() -> None:
    assert ranked(points(("a", 3.0), ("a", 2.0), ("a", 1.0)), 3, 2) == 6


def test_more_ties_than_are_followed_are_cut_by_the_engine_and_have_no_second_page() -> None:
    many = points(*((f"{n:04}", 1.0) for n in range(4098)))

    assert ranked(many[:4097], 4097, 1) == 1 + 2 * 4096
    assert ranked(many, len(many), 1) == ["0000"]
    with pytest.raises(InputError, match=r"More than 4,096 documents beyond place 1 .* score 1,.*offset=1 "):
        rank_documents(many, len(many), 1, LAYOUT, offset=1)


def test_branches_have_ranks_and_scores() -> None:
    branches = branches_of({"sparse": points(("a", 2.0), ("b", 1.0)), "dense": points(("a", 0.5))})

    assert (branches[0]["sparse"].rank, branches[0]["dense"].score, branches[1]["sparse"].rank) == (1, 0.5, 2)
    assert "dense" not in branches[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "x", "k": 0}, "k is 0"),
        ({"query": "x", "k": True}, "k is True"),
        ({"query": 5}, "query is an int in mode 'sparse'"),
        ({"query": "\ud800"}, "half a surrogate pair"),
        ({"query": SPARSE, "options": SearchOptions(mode="hybrid")}, "SparseEmbedding in mode 'hybrid'"),
    ],
)
def test_a_request_that_is_not_valid_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchRequest(**arguments)


def test_a_hybrid_query_fuses_its_branches_each_with_the_filter() -> None:
    filter = models.Filter(must=[models.FieldCondition(key="n", match=models.MatchValue(value=1))])
    options = SearchOptions(mode="hybrid", fusion=Fusion(weights=(3.0, 1.0), rrf_k=7, depth=50))
    request = SearchRequest("moon", filter=filter, options=options)

    query = engine_query(EncodedQuery(SPARSE, [0.5]), NAMES, request, limit=4)

    assert query.query == models.RrfQuery(rrf=models.Rrf(k=7, weights=[3.0, 1.0]))
    assert isinstance(query.prefetch, list)
    assert [(part.using, part.limit, part.filter) for part in query.prefetch] == [
        ("splade", 50, filter),
        ("dense", 50, filter),
    ]
    assert (query.limit, query.filter) == (4, None)


def test_a_query_of_one_branch_has_its_vector_and_the_filter() -> None:
    query = engine_query(EncodedQuery(SPARSE), NAMES, SearchRequest("moon"), limit=11)

    assert (query.using, query.limit, query.prefetch, query.with_payload) == ("splade", 11, None, True)
