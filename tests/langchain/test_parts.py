"""The adapter's smaller parts: reranker, sparse embeddings, structured queries, MMR, missing extras."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
from qdrant_client import QdrantClient, models

from splade_retriever import Hit
from splade_retriever.errors import FilterError, InputError, UnknownModelError
from splade_retriever.index.mmr import diverse
from splade_retriever.langchain import (
    METADATA_KEY,
    SpladeReranker,
    SpladeSparseEmbeddings,
    SpladeTranslator,
    SpladeVectorStore,
)
from splade_retriever.langchain.filters import filter_from_json, filter_to_json, to_index_filter
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import client_of
from tests.langchain.parts import ENGINES, LetterEmbeddings
from tests.words import WordEncoder

# -- the reranker --------------------------------------------------------------------------------------------

FOUND = [Document(page_content=text) for text in ("bread", "a rover", "a rover on the Moon", "the Moon")]


def test_documents_of_any_retriever_are_put_in_the_order_of_their_scores() -> None:
    ranked = SpladeReranker(model=WordEncoder()).compress_documents(FOUND, "rover on the moon")

    assert ranked == [FOUND[2], FOUND[3], FOUND[1], FOUND[0]]


def test_equal_scores_stay_in_the_order_they_came_in() -> None:
    same = [Document(page_content="moon", metadata={"n": n}) for n in range(5)]

    assert SpladeReranker(model=WordEncoder()).compress_documents(same, "moon") == same


def test_the_reranker_keeps_the_best_and_writes_scores_into_copies_on_request() -> None:
    reranker = SpladeReranker(model=WordEncoder(), top_n=1, with_scores=True)

    (best,) = reranker.compress_documents(FOUND, "rover moon")

    assert best.metadata == {METADATA_KEY: {"score": 2.0}}
    assert FOUND[2].metadata == {}


@pytest.mark.asyncio
async def test_async_reranking_gives_what_sync_gives() -> None:
    reranker = SpladeReranker(model=WordEncoder())

    assert await reranker.acompress_documents(FOUND, "moon") == reranker.compress_documents(FOUND, "moon")
    assert await reranker.acompress_documents([], "moon") == []


@pytest.mark.parametrize("opened", [SpladeReranker, SpladeSparseEmbeddings])
def test_what_is_no_encoder_is_refused_at_once(opened: Any) -> None:
    with pytest.raises(ValueError, match=r"model is a LetterEmbeddings, expected a model's name"):
        opened(model=LetterEmbeddings())


def test_a_setting_that_the_reranker_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="top_k"):
        SpladeReranker(model=WordEncoder(), top_k=3)  # type: ignore[call-arg]


# -- sparse embeddings for langchain-qdrant ------------------------------------------------------------------


class TwoSided(WordEncoder):
    """Encodes queries otherwise than documents, as inference-free models do."""

    def query_embed(self, query: Any) -> Iterator[SparseEmbedding]:
        return (
            SparseEmbedding(values=[1.0] * len(vector), indices=vector.indices)
            for vector in super().query_embed(query)
        )


@pytest.mark.asyncio
async def test_sparse_embeddings_are_the_vectors_of_the_core_with_queries_encoded_as_queries() -> None:
    encoder = TwoSided()
    embeddings = SpladeSparseEmbeddings(encoder)
    document, query = (*encoder.passage_embed(["moon moon"]), *encoder.query_embed("moon moon"))

    assert isinstance(embeddings, SparseEmbeddings)
    (of_document,), of_query = embeddings.embed_documents(["moon moon"]), embeddings.embed_query("moon moon")
    assert (of_document.indices, of_document.values) == (document.indices.tolist(), [2.0])
    assert (of_query.indices, of_query.values) == (query.indices.tolist(), [1.0])
    assert await embeddings.aembed_documents(["moon moon"]) == [of_document]
    assert await embeddings.aembed_query("moon moon") == of_query


@pytest.mark.asyncio
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", [RetrievalMode.SPARSE, RetrievalMode.HYBRID])
async def test_sparse_embeddings_work_in_langchain_qdrants_own_store(
    mode: RetrievalMode, engine: str
) -> None:
    client = client_of(engine)
    hybrid = mode is RetrievalMode.HYBRID
    client.create_collection(
        "docs",
        vectors_config=models.VectorParams(size=26, distance=models.Distance.COSINE) if hybrid else {},
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()},
    )
    store = QdrantVectorStore(
        client=client,
        collection_name="docs",
        embedding=LetterEmbeddings() if hybrid else None,
        sparse_embedding=SpladeSparseEmbeddings(WordEncoder()),
        retrieval_mode=mode,
    )

    store.add_texts(["a rover on the Moon", "bread and butter"])

    assert store.similarity_search("rover Moon", k=1)[0].page_content == "a rover on the Moon"
    await store.aadd_texts(["a rocket"])
    assert [found.page_content for found in await store.asimilarity_search("rocket", k=1)] == ["a rocket"]
    client.close()


def test_an_unknown_model_is_told_by_its_name() -> None:
    with pytest.raises(UnknownModelError, match="no-such-model"):
        SpladeSparseEmbeddings("no-such-model")


# -- structured queries --------------------------------------------------------------------------------------


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


def test_a_query_without_filter_stays_one() -> None:
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
def test_a_day_is_all_of_its_day(word: str, found: set[int]) -> None:
    store = SpladeVectorStore.from_texts(
        ["text"] * 4,
        metadatas=[{"n": n, "at": time} for n, time in enumerate(TIMES)],
        client=QdrantClient(":memory:"),
        model=WordEncoder(),
    )
    day = compare(word, {"type": "date", "date": "2023-08-23"}, "at")

    assert {hit.metadata["n"] for hit in store.similarity_search("text", k=9, filter=day)} == found


def test_a_time_that_cannot_be_read_is_told() -> None:
    with pytest.raises(FilterError, match="the date '23 August', which is not ISO 8601"):
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
def test_a_filter_is_written_as_json_and_read_back_as_the_same(filter: Any, read: Any) -> None:
    written = json.dumps(filter_to_json(filter))

    assert filter_from_json(json.loads(written)) == (to_index_filter(filter) if read is None else read)


def test_an_operation_on_nothing_is_told() -> None:
    with pytest.raises(FilterError, match="'and' of nothing"):
        Operation(Operator.AND, []).accept(SpladeTranslator())


def test_days_are_compared_as_dates() -> None:
    assert compare("gte", {"type": "date", "date": "2023-08-23"}).accept(SpladeTranslator()) == {
        "year": {"$gte": date(2023, 8, 23)}
    }


# -- maximal marginal relevance ------------------------------------------------------------------------------


def hit(id: str, score: float, **weights: float) -> Hit:
    vector = SparseEmbedding.from_dict({ord(token): weight for token, weight in weights.items()})
    return Hit(id=id, text=id, metadata={}, score=score, vector=vector)


HITS = [hit("first", 10.0, a=1.0, b=1.0), hit("copy", 9.0, a=2.0, b=2.0), hit("other", 5.0, c=1.0)]


@pytest.mark.parametrize(
    ("lambda_mult", "expected"),
    [
        (1.0, ["first", "copy", "other"]),
        # copy: 0.8 * 0.9 - 0.2 * 1.0 = 0.52, other: 0.8 * 0.5 = 0.4
        (0.8, ["first", "copy", "other"]),
        # copy: 0.5 * 0.9 - 0.5 * 1.0 = -0.05, other: 0.5 * 0.5 = 0.25
        (0.5, ["first", "other", "copy"]),
        (0.0, ["first", "other", "copy"]),
    ],
)
def test_mmr_weighs_score_against_likeness(lambda_mult: float, expected: list[str]) -> None:
    assert [chosen.id for chosen in diverse(HITS, 3, lambda_mult=lambda_mult)] == expected


def test_mmr_chooses_no_more_than_there_is_or_is_asked_for() -> None:
    assert [chosen.id for chosen in diverse(HITS, 1)] == ["first"]
    assert len(diverse(HITS, 9)) == 3
    assert diverse([], 3) == []


def test_mmr_takes_a_hit_without_tokens_for_unlike_any_other() -> None:
    blank = Hit(id="blank", text="", metadata={}, score=1.0)

    assert [chosen.id for chosen in diverse([*HITS, blank], 3, lambda_mult=0.1)] == [
        "first",
        "other",
        "blank",
    ]


def test_a_lambda_outside_0_to_1_is_refused() -> None:
    with pytest.raises(InputError, match=r"lambda_mult=1.5, expected a number in 0..1"):
        diverse(HITS, 1, lambda_mult=1.5)


# -- what must be installed ----------------------------------------------------------------------------------


def run_without(package: str, code: str) -> str:
    """Run code in a Python in which a package cannot be imported; give the last line it wrote."""
    script = f"import sys; sys.modules[{package!r}] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_without_langchain_core_the_extra_is_named() -> None:
    told = run_without("langchain_core", "import splade_retriever.langchain")

    assert "MissingExtraError" in told
    assert 'pip install "splade-retriever[langchain]"' in told


def test_only_sparse_embeddings_need_langchain_qdrant() -> None:
    everything = "from splade_retriever.langchain import SpladeRetriever, SpladeVectorStore, SpladeReranker"
    sparse = "from splade_retriever.langchain import SpladeSparseEmbeddings"

    assert run_without("langchain_qdrant", f"{everything}\nprint('fine')") == "fine"
    assert 'pip install "splade-retriever[langchain]"' in run_without("langchain_qdrant", sparse)


def test_an_unknown_name_of_the_adapter_is_refused_by_name() -> None:
    from splade_retriever import langchain

    with pytest.raises(AttributeError, match="SpladeRetreiver"):
        _ = langchain.SpladeRetreiver
