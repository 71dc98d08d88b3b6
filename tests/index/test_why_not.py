"""Why a search does not return a document."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from splade_retriever import SparseEmbedding, SpladeIndex
from splade_retriever.errors import InputError
from tests.index.parts import opened_store
from tests.qdrant_server import ServerAddress
from tests.words import LetterEncoder, WordEncoder


@pytest.fixture(params=["edge", "local", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened_store(request.param, request) as opened:
        yield opened


def filled(client: Any, **options: Any) -> SpladeIndex:
    """Open an index of 40 documents, in which "00" to "39" contain "moon" 1 to 7 times."""
    index = SpladeIndex(client=client, model=WordEncoder(), **options)
    index.add(
        ["moon " * (1 + n % 7) + f"w{n}" for n in range(40)],
        [{"year": n % 3} for n in range(40)],
        [f"{n:02d}" for n in range(40)],
    )
    return index


@pytest.mark.parametrize("filter", [None, {"year": 0}])
def test_the_rank_is_that_of_a_search_for_all_documents(client: Any, filter: Any) -> None:
    index = filled(client)
    ranked = [hit.id for hit in index.search("moon w12", 40, filter)]

    ranks = {id: index.why_not("moon w12", id, 1, filter).rank for id in ranked}

    assert ranks == {id: rank for rank, id in enumerate(ranked, 1)}


def test_the_rank_counts_a_document_of_several_windows_once(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=3), windows="points", window_overlap=0)
    index.add(
        ["moon moon moon " * 5, "moon moon x " * 4 + "moon moon moon", "sun moon", "moon moon"],
        ids=["a", "b", "c", "d"],
    )
    ranked = [hit.id for hit in index.search("moon", 4)]

    assert ranked == ["a", "b", "d", "c"]
    assert [index.why_not("moon", id, 1).rank for id in ranked] == [1, 2, 3, 4]


def test_a_document_behind_the_last_hit_is_compared_with_it_token_by_token(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(["moon rover rover", "moon orbit"], ids=["hit", "missing"])

    found = index.why_not("moon rover", "missing", 1)

    assert (found.rank, found.score, found.cut_id, found.cut_score, found.needed) == (2, 1.0, "hit", 3.0, 2.0)
    assert [(d.token, d.score, d.other_score, d.difference) for d in found.differences] == [
        ("rover", 0.0, 2.0, 2.0),
        ("moon", 1.0, 1.0, 0.0),
    ]
    assert [(reason.kind, reason.message) for reason in found.reasons] == [
        (
            "rank",
            "It is on rank 2 with a score of 1.000; the search returns 1 hits. It needs 2.000 more to reach "
            "'hit', the last hit. That hit has more from rover (+2.000).",
        )
    ]


def test_the_failing_conditions_of_a_filter_are_named_with_the_values_of_the_document(client: Any) -> None:
    index = filled(client)

    found = index.why_not("moon", "04", 40, {"year": 2, "$text": "w4"})

    assert [(r.kind, r.message) for r in found.reasons] == [
        ("filter", "The filter {'year': 2} does not match the document. It has year=1.")
    ]
    assert found.rank == 1, "no document matches"
    assert not found.found


def test_a_score_below_the_threshold_is_a_reason(client: Any) -> None:
    found = filled(client).why_not("moon", "01", 40, score_threshold=3)

    assert [(r.kind, r.message) for r in found.reasons] == [
        ("score threshold", "Its score of 2.000 is below score_threshold=3.")
    ]


def test_a_document_without_a_shared_token_has_no_rank(client: Any) -> None:
    found = filled(client).why_not("sun", "01")

    assert (found.rank, found.score, found.needed) == (None, 0.0, None)
    assert [(r.kind, r.message) for r in found.reasons] == [
        ("no shared token", "It shares no token with the query (sun, ...).")
    ]


def test_pruned_tokens_of_document_and_query_are_reasons(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), max_active_dims=1, query_max_active_dims=1)
    index.add(["moon moon rover", "sun"], ids=["a", "b"])

    found = index.why_not("rover rover sun moon", "a", 1)
    of_query = index.why_not("rover rover sun", "b", 1)

    assert [r.kind for r in found.reasons] == ["no shared token", "query pruning", "document pruning"]
    assert found.reasons[1].message.endswith("With them its score would be 2.000.")
    assert found.reasons[2].message == (
        "max_active_dims=1 removed tokens of the document that the query has. With them its score would be "
        "2.000."
    )
    assert [r.kind for r in of_query.reasons] == ["no shared token", "query pruning"]


def test_a_vector_of_another_text_is_not_taken_for_a_pruned_one(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), max_active_dims=2)
    index.add(["moon rover"], ids=["a"], vectors=[SparseEmbedding.from_dict({7: 1.0})])

    assert [r.kind for r in index.why_not("moon", "a").reasons] == ["no shared token"]


def test_a_part_of_the_text_that_was_not_read_is_a_reason(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=2))
    index.add(["moon orbit rover rover"], ids=["a"])

    (reason, truncation) = index.why_not("rover", "a").reasons

    assert reason.kind == "no shared token"
    assert truncation.kind == "truncation"
    assert "the first 10 of 22 characters. The complete text would score 2.000" in truncation.message


def test_a_document_that_is_found_has_no_reasons(client: Any) -> None:
    found = filled(client).why_not("moon", "06", 10)

    assert (found.found, found.rank, found.reasons) == (True, 1, ())


def test_a_hybrid_search_reports_the_place_in_each_branch(client: Any) -> None:
    from splade_retriever import Fusion

    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add(["moon moon", "moon o", "zzz moon", "zzzz"], ids=["a", "b", "c", "d"])

    found = index.why_not("moon", "d", 1, fusion=Fusion(depth=1))
    ranked = index.why_not("moon", "c", 1)

    assert found.rank is None
    assert found.places["sparse"].rank is None
    assert found.places["dense"].rank == 4
    assert found.reasons[0].kind == "fusion depth"
    assert (
        "on place 4 of the dense ranking; a hybrid search reads the first 1 of each"
        in found.reasons[0].message
    )
    assert ranked.rank == 1 + [hit.id for hit in index.search("moon", 4)].index("c")
    assert {name: place.rank for name, place in ranked.places.items()} == {"sparse": 3, "dense": 3}


def test_an_id_that_is_not_stored_is_an_error_that_names_it(client: Any) -> None:
    with pytest.raises(InputError, match="has no document with the id 'nothing'"):
        filled(client).why_not("moon", "nothing")


@pytest.mark.server
@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_windows_of_a_document_are_one_place_on_a_server(
    empty_server: ServerAddress, prefer_grpc: bool
) -> None:
    options: dict[str, Any] = {"prefer_grpc": prefer_grpc, "grpc_port": empty_server.grpc_port}
    with SpladeIndex(empty_server.url, model=WordEncoder(), windows="points", **options) as index:
        index.add(["moon moon moon", "rover rover moon"], ids=["a", "b"])
        assert [index.why_not("moon", id, 1).rank for id in ("a", "b")] == [1, 2]


@pytest.mark.parametrize("call", [lambda index: index.query_vector(5), lambda index: index.get(None)])
def test_a_wrong_type_is_an_error(client: Any, call: Callable[[SpladeIndex], object]) -> None:
    with pytest.raises(InputError, match="expected"):
        call(filled(client))


def test_a_vector_as_query_is_an_error(client: Any) -> None:
    with pytest.raises(InputError, match="expected a text"):
        filled(client).why_not(SparseEmbedding.from_dict({1: 1.0}), "01")  # type: ignore[arg-type]


def test_awhy_not_returns_the_same_as_why_not() -> None:
    index = SpladeIndex(model=WordEncoder())
    index.add(["moon", "moon moon"], ids=["a", "b"])

    assert asyncio.run(index.awhy_not("moon", "a", 1)) == index.why_not("moon", "a", 1)


def test_tenants_with_the_same_id_have_separate_ranks() -> None:
    index = SpladeIndex(model=WordEncoder(), tenant_field="org")
    index.add(["moon moon", "moon"], [{"org": "x"}, {"org": "y"}], ["1", "1"])

    assert [index.why_not("moon", "1", 1, tenant=org).rank for org in ("x", "y")] == [1, 2]


def test_why_not_is_drawn_and_returned_as_json() -> None:
    index = SpladeIndex(model=WordEncoder())
    index.add(["moon moon", "moon <b>"], ids=["a", "b"])

    found = index.why_not("moon", "b", 1)

    console = Console(width=80, record=True, file=None)
    with console.capture() as captured:
        console.print(found)
    assert "rank 2" in captured.get()
    assert "+1.000" in captured.get()
    assert "&lt;b&gt;" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["reasons"][0]["kind"] == "rank"
