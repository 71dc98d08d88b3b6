"""An index is searched: by its sparse side, and by both sides as one."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.errors import CollectionMismatchError, FilterError, InputError
from splade_retriever.index.documents import Branch
from splade_retriever.index.search_request import Fusion
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import MOON
from tests.words import LetterEncoder, WordEncoder

# -- sparse --------------------------------------------------------------------------------------------------


def test_equal_scores_are_ordered_by_id_for_any_order_of_adding(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    names = [f"{n:03}" for n in range(60)]
    for name in [*names[1::2], *names[::2]]:
        index.add(["same words"], ids=[name])

    assert [hit.id for hit in index.search("same", k=10)] == names[:10]
    assert [hit.id for hit in index.search("same", k=10, offset=25)] == names[25:35]


def test_pages_join_to_the_complete_ranking(index: SpladeIndex) -> None:
    index.add(["moon " * (1 + n % 7) for n in range(40)])

    whole = [hit.id for hit in index.search("moon", k=40)]

    assert [hit.id for at in range(0, 40, 6) for hit in index.search("moon", k=6, offset=at)] == whole


def test_a_query_without_tokens_finds_nothing(index: SpladeIndex) -> None:
    index.add(MOON)

    assert index.search("") == []
    assert index.search("?!") == []
    assert index.search("zebra") == []


class MarkedEncoder(WordEncoder):
    """Weighs a mark in every text, as a network weighs its special tokens."""

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        yield from map(self._marked, super().passage_embed(texts))

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        yield from map(self._marked, super().query_embed(query))

    def _marked(self, vector: SparseEmbedding) -> SparseEmbedding:
        return SparseEmbedding.from_dict({**vector.as_dict(), 2**30: 0.5})


def test_a_blank_query_finds_nothing_even_if_the_model_weighs_it() -> None:
    with SpladeIndex(model=MarkedEncoder(), dense=LetterEncoder()) as index:
        index.add(MOON)

        assert len(index.search("zebra", mode="sparse")) == len(MOON)  # the mark alone
        for mode in ("sparse", "dense", "hybrid"):
            assert index.search(" \n", mode=mode) == []
            assert [len(hits) for hits in index.search_batch(["", "rover"], mode=mode)] == [0, len(MOON)]


def test_a_text_without_tokens_is_stored_and_never_found(index: SpladeIndex) -> None:
    index.add(["", "moon"], ids=["empty", "moon"])

    assert [hit.text for hit in index.get(["empty"])] == [""]
    assert [hit.id for hit in index.search("moon")] == ["moon"]


def test_a_vector_can_be_the_query(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])
    vector = next(WordEncoder().query_embed("rover lander"))

    assert index.search(vector) == index.search("rover lander")


def test_a_score_threshold_drops_lower_hits(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    assert [(hit.id, hit.score) for hit in index.search("rover lander")] == [("b", 2.0), ("c", 1.0)]
    for threshold, found in ((1.0, "bc"), (1.000001, "b"), (2.0, "b"), (2.000001, "")):
        assert "".join(hit.id for hit in index.search("rover lander", score_threshold=threshold)) == found
    for refused in ("high", float("nan")):
        with pytest.raises(InputError, match="score_threshold is"):
            index.search("rover lander", score_threshold=refused)  # type: ignore[arg-type]


def test_a_fusion_of_another_type_is_refused(index: SpladeIndex) -> None:
    with pytest.raises(InputError, match="fusion is 'rrf', expected a Fusion"):
        index.search("rover", fusion="rrf")  # type: ignore[arg-type]


def test_only_the_text_of_a_query_can_be_explained(index: SpladeIndex) -> None:
    index.add(MOON)
    vector = next(iter(index.model.query_embed("rover")))
    (hit, *_) = index.search(vector)

    with pytest.raises(InputError, match="explain got a SparseEmbedding and a Hit"):
        index.explain(vector, hit)  # type: ignore[arg-type]


def test_hits_have_their_vectors_on_request(index: SpladeIndex) -> None:
    index.add(MOON[:1], ids=["a"])
    expected = next(WordEncoder().passage_embed(MOON[:1]))

    assert index.search("moon")[0].vector is None
    assert index.search("moon", with_vectors=True)[0].vector == expected
    assert index.get(["a"], with_vectors=True)[0].vector == expected


def test_search_filters_by_metadata_or_by_the_engines_own_filter(index: SpladeIndex) -> None:
    index.add(["moon"] * 4, [{"year": 2019}, {"year": 2023}, {"year": 2024}, {}], list("abcd"))
    own = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2019))]
    )

    assert [hit.id for hit in index.search("moon", filter={"year": {"$gte": 2020}})] == ["b", "c"]
    assert [hit.id for hit in index.search("moon", filter=own)] == ["a"]
    assert index.count({"year": [2019, 2023]}) == 2
    with pytest.raises(FilterError, match=r"\$near"):
        index.search("moon", filter={"year": {"$near": 1}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 2.0}, "k is 2.0"),
        ({"offset": -1}, "offset is -1"),
        ({"query": 5}, "query is an int"),
        ({"query": "\ud800"}, "surrogate"),
        ({"mode": "fuzzy"}, "'fuzzy'"),
        ({"mode": "hybrid"}, "no dense encoder"),
    ],
)
def test_bad_arguments_of_a_search_are_named(index: SpladeIndex, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search(**{"query": "moon", **arguments})


def test_search_batch_returns_the_same_as_single_searches(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])
    queries: list[str | SparseEmbedding] = [
        "moon",
        "",
        "rover lander",
        "zebra",
        next(WordEncoder().query_embed("lander")),
    ]

    assert index.search_batch(queries, k=2) == [index.search(query, k=2) for query in queries]
    assert index.search_batch([]) == []


# -- hybrid --------------------------------------------------------------------------------------------------


@pytest.fixture
def hybrid(client: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add(["moon rover", "moan over", "lunar dust", "zzz"], ids=["both", "letters", "other", "none"])
    return index


def test_hybrid_hits_have_the_rank_and_score_of_each_branch(hybrid: SpladeIndex) -> None:
    hits = hybrid.search("moon rover")

    assert hits[0].id == "both"
    assert hits[0].branches["sparse"] == Branch(rank=1, score=2.0)
    assert hits[0].branches["dense"].rank == 1
    assert hits[0].branches["dense"].score == pytest.approx(1.0, abs=1e-5)
    letters = next(hit for hit in hits if hit.id == "letters")
    assert set(letters.branches) == {"dense"}


def test_sparse_only_and_dense_only_need_no_second_index(hybrid: SpladeIndex) -> None:
    assert [hit.id for hit in hybrid.search("moon", mode="sparse")] == ["both"]
    assert len(hybrid.search("moon", mode="dense")) == 4
    assert hybrid.search("moon", mode="dense")[0].score <= 1.0 + 1e-6


def test_the_fused_score_is_reciprocal_rank_fusion_with_k_and_weights(hybrid: SpladeIndex) -> None:
    equal = hybrid.search("moon rover")[0]
    assert equal.score == pytest.approx(2 / 60, rel=0.02)

    sparse_only = hybrid.search("moon rover", fusion=Fusion(weights=(1.0, 0.0)))
    assert sparse_only[0].id == "both"
    assert sparse_only[0].score == pytest.approx(1 / 60, rel=0.02)


def test_the_dense_encoders_of_both_frameworks_can_be_passed(client: Any) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from llama_index.core.embeddings import BaseEmbedding

    class Letters(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return LetterEncoder().embed_query(text)

        def _get_query_embedding(self, query: str) -> list[float]:
            return LetterEncoder().embed_query(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return LetterEncoder().embed_query(query)

    for name, dense in (("lc", DeterministicFakeEmbedding(size=26)), ("li", Letters())):
        index = SpladeIndex(client=client, collection=name, model=WordEncoder(), dense=dense)
        index.add(["moon rover", "lunar dust"])
        (best, _) = index.search("moon rover")
        assert best.text == "moon rover"
        assert {side: branch.rank for side, branch in best.branches.items()} == {"sparse": 1, "dense": 1}
    with pytest.raises(InputError, match=r"dense is a str.*embed_documents.*get_text_embedding_batch"):
        SpladeIndex(client=client, model=WordEncoder(), dense="bge")  # type: ignore[arg-type]


def test_a_threshold_is_the_lowest_score_of_every_kind_of_search(hybrid: SpladeIndex) -> None:
    settings: list[dict[str, Any]] = [
        {"mode": "sparse"},
        {"mode": "dense"},
        {"mode": "hybrid"},
        {"fusion": Fusion("dbsf")},
    ]
    for asked in settings:
        whole = hybrid.search("moon over", **asked)
        for hit in whole:
            found = hybrid.search("moon over", score_threshold=hit.score, **asked)
            assert found == [other for other in whole if other.score >= hit.score], asked


def test_a_hybrid_query_without_tokens_is_ranked_by_the_dense_side_on_the_same_scale(
    hybrid: SpladeIndex,
) -> None:
    hits = hybrid.search("!?")

    assert [hit.branches["dense"].rank for hit in hits] == [1, 2, 3, 4]
    assert all(set(hit.branches) == {"dense"} for hit in hits)
    assert [hit.score for hit in hits] == pytest.approx([1 / 60, 1 / 61, 1 / 62, 1 / 63])


def test_dbsf_is_available(hybrid: SpladeIndex) -> None:
    assert hybrid.search("moon rover", fusion=Fusion("dbsf"))[0].id == "both"


def test_hybrid_pages_continue_beyond_k(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add([f"moon {n}" for n in range(50)])

    whole = [hit.id for hit in index.search("moon", k=50)]

    assert len(whole) == 50
    assert [hit.id for hit in index.search("moon", k=5, offset=10)] == whole[10:15]


def test_the_depth_of_each_branch_does_not_depend_on_the_page(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    # Every text has "moon"; letters and words rank them otherwise.
    index.add([f"moon {'o' * (n % 13)} {'x ' * (n % 7)}" for n in range(90)], ids=[str(n) for n in range(90)])
    for fusion in (Fusion(depth=20), Fusion(depth=20, weights=(1.0, 3.0)), Fusion("dbsf", depth=20)):
        whole = index.search("moon x", k=100, fusion=fusion)

        assert 20 <= len(whole) <= 40, "the first 20 of either side"
        for k, offset in ((1, 0), (7, 0), (7, 7), (5, 19), (50, 10)):
            page = index.search("moon x", k=k, offset=offset, fusion=fusion)
            # Local mode adds in another order each time, and so has other last digits.
            expected = whole[offset : offset + k]
            assert [hit.id for hit in page] == [hit.id for hit in expected]
            assert [hit.score for hit in page] == pytest.approx([hit.score for hit in expected], rel=1e-4)
        assert {branch.rank for hit in whole for branch in hit.branches.values()} == {*range(1, 21)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "max"},
        {"rrf_k": 0},
        {"depth": 0},
        {"weights": (1.0, -1.0)},
        {"weights": (0.0, 0.0)},
        {"method": "dbsf", "weights": (1.0, 1.0)},
    ],
)
def test_a_fusion_that_is_not_valid_is_refused(arguments: Any) -> None:
    with pytest.raises(InputError):
        Fusion(**arguments)


def test_adding_to_a_hybrid_collection_without_its_dense_encoder_writes_nothing(hybrid: SpladeIndex) -> None:
    sparse_only = SpladeIndex(client=hybrid.client, model=WordEncoder())

    assert sparse_only.search("moon")[0].id == "both"
    with pytest.raises(CollectionMismatchError, match="no dense="):
        sparse_only.add(["more"])
    assert sparse_only.count() == 4
