"""SpladeVectorStore: writing, reading, the kinds of search, LangChain's indexing API and standard suite."""

import asyncio
import copy
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex
from langchain_core.indexing import index as index_documents
from langchain_core.vectorstores import VectorStore
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from qdrant_client import QdrantClient, models

from splade_retriever import SpladeIndex
from splade_retriever.errors import CollectionMismatchError, FilterError, IndexClosedError, InputError
from splade_retriever.index.mmr import diverse
from splade_retriever.index.search_request import Fusion
from splade_retriever.langchain import (
    METADATA_KEY,
    SpladeRetriever,
    SpladeSparseEmbeddings,
    SpladeVectorStore,
)
from splade_retriever.langchain.relevance import relevance
from tests.index.parts import opened_store
from tests.langchain.chains import QUESTIONS, passages
from tests.langchain.parts import BackgroundEncoder, LetterEmbeddings, mark_async_tests
from tests.words import WordEncoder

MOON = [
    Document(id="south", page_content="Chandrayaan-3 landed near the south pole.", metadata={"year": 2023}),
    Document(
        id="rover", page_content="The rover left the lander.", metadata={"year": 2023, "tags": ["wheels"]}
    ),
    Document(id="again", page_content="The rover left the lander!", metadata={"year": 2024}),
    Document(
        id="orbit",
        page_content="A rocket took the lander up.",
        metadata={"year": 2022, "by": {"name": "ISRO"}},
    ),
]


@pytest.fixture
def empty(client: Any) -> SpladeVectorStore:
    return SpladeVectorStore(client=client, model=WordEncoder())


@pytest.fixture
def store(empty: SpladeVectorStore) -> SpladeVectorStore:
    empty.add_documents(MOON)
    return empty


@pytest.fixture
def hybrid(client: Any) -> SpladeVectorStore:
    return SpladeVectorStore.from_documents(MOON, LetterEmbeddings(), client=client, model=WordEncoder())


def ids_of(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


# -- making and writing --------------------------------------------------------------------------------------


def test_documents_come_back_equal(store: SpladeVectorStore) -> None:
    assert store.get_by_ids(["orbit", "missing", "south"]) == [MOON[3], MOON[0]]
    assert store.similarity_search("rocket") == [MOON[3]]


def test_lists_and_iterators_of_texts_are_stored(empty: SpladeVectorStore) -> None:
    first = empty.add_texts(["one", "two"], [{"n": 1}, {"n": 2}], ids=["a", "b"])
    second = empty.add_texts((text for text in ["three"]), ({"n": 3} for _ in range(1)))

    assert first == ["a", "b"]
    assert [found.metadata for found in empty.get_by_ids([*first, *second])] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_an_iterator_of_documents_is_read_once_and_stored_with_its_ids(empty: SpladeVectorStore) -> None:
    ids = empty.add_documents(
        (Document(id=f"id {n}", page_content=f"text {n}", metadata={"n": n}) for n in range(600)),
        batch_size=64,
    )

    assert ids == [f"id {n}" for n in range(600)]
    assert empty.get_by_ids(["id 599"])[0].metadata == {"n": 599}


def test_an_id_may_be_any_string(empty: SpladeVectorStore) -> None:
    ids = [
        "docs/a.md#1",
        "7",
        "a" * 64,
        "Überblick 日本 🚀",
        "two  blanks",
        "00000000-0000-0000-0000-000000000000",
    ]

    assert empty.add_texts(["moon"] * len(ids), ids=ids) == ids
    assert ids_of(empty.get_by_ids(ids)) == ids
    assert sorted(map(str, ids_of(empty.similarity_search("moon", k=9)))) == sorted(ids)
    empty.delete(ids[:2])
    assert ids_of(empty.get_by_ids(ids)) == ids[2:]


def test_ids_of_the_call_override_those_of_the_documents(empty: SpladeVectorStore) -> None:
    assert empty.add_documents(MOON[:2], ids=["x", "y"]) == ["x", "y"]
    assert empty.get_by_ids(["south"]) == []


def test_one_bad_document_in_a_list_leaves_nothing_written(empty: SpladeVectorStore) -> None:
    bad = Document(page_content="text", metadata={"when": {1, 2}})

    with pytest.raises(InputError, match=r"Input 1 of add: metadata.when is a set"):
        empty.add_documents([MOON[0], bad])
    assert empty.index.count() == 0


@pytest.mark.parametrize("documents", [MOON[0], "a text"])
def test_one_document_instead_of_several_is_an_error(empty: SpladeVectorStore, documents: Any) -> None:
    with pytest.raises(InputError, match="expected several"):
        empty.add_documents(documents)


def test_texts_make_a_store(client: Any) -> None:
    store = SpladeVectorStore.from_texts(
        ["one", "two"], metadatas=[{"n": 1}, {"n": 2}], ids=["a", "b"], client=client, model=WordEncoder()
    )

    assert store.similarity_search("two") == [Document(id="b", page_content="two", metadata={"n": 2})]
    assert store.embeddings is None


@pytest.mark.asyncio
async def test_async_constructors_and_writes_store_the_same_as_sync_ones(client: Any) -> None:
    made = await SpladeVectorStore.afrom_documents(MOON, client=client, model=WordEncoder())
    more = await SpladeVectorStore.afrom_texts(["five"], ids=["five"], index=made.index)

    assert await more.aget_by_ids(["south", "five"]) == [MOON[0], Document(id="five", page_content="five")]
    await more.aadd_texts(["six"], ids=["six"])
    await more.aadd_documents([Document(id="seven", page_content="seven")])
    await more.adelete(["five"])
    assert await made.index.acount() == 6


def test_a_store_writes_to_an_open_index(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())

    SpladeVectorStore(index=index).add_documents(MOON)

    assert index.count() == 4


@pytest.mark.parametrize("mode", [RetrievalMode.SPARSE, RetrievalMode.HYBRID])
def test_a_collection_of_langchain_qdrant_is_searched_and_after_adopting_written(mode: RetrievalMode) -> None:
    client = QdrantClient(":memory:")
    dense = LetterEmbeddings() if mode is RetrievalMode.HYBRID else None
    client.create_collection(
        "docs",
        vectors_config={} if dense is None else models.VectorParams(size=26, distance=models.Distance.COSINE),
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()},
    )
    other_store = QdrantVectorStore(
        client=client,
        collection_name="docs",
        embedding=dense,
        sparse_embedding=SpladeSparseEmbeddings(WordEncoder()),
        retrieval_mode=mode,
    )
    (uuid,) = map(str, other_store.add_texts(["a rover"], [{"n": 1}]))
    settings: dict[str, Any] = {
        "client": client,
        "collection": "docs",
        "vector_name": "langchain-sparse",
        "dense_name": "",
        "embedding": dense,
        "model": WordEncoder(),
    }

    read = SpladeVectorStore(**settings)
    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        read.add_texts(["a lander"])
    written = SpladeVectorStore(**settings, adopt=True)
    written.add_texts(["a lander"], ids=["new"])

    # langchain-qdrant writes UUIDs without dashes, the engine returns them with dashes; both are accepted.
    expected = Document(id=str(UUID(uuid)), page_content="a rover", metadata={"n": 1})
    assert read.similarity_search("rover", k=1) == [expected]
    assert read.get_by_ids([uuid]) == [expected]
    assert [found.page_content for found in other_store.similarity_search("lander", k=1)] == ["a lander"]
    assert written.get_by_ids(["new"])[0].page_content == "a lander"


def test_an_index_together_with_arguments_for_opening_one_is_an_error(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="index= is passed together with"):
        SpladeVectorStore(index=store.index, model=WordEncoder())


def test_a_sparse_encoder_as_embedding_is_an_error(client: Any) -> None:
    with pytest.raises(InputError, match=r"embedding is a SpladeSparseEmbeddings.*model="):
        SpladeVectorStore(client=client, embedding=SpladeSparseEmbeddings(WordEncoder()))  # type: ignore[arg-type]


def test_an_unknown_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match="colection"):
        SpladeVectorStore(colection="docs")


class WaitingEmbeddings(LetterEmbeddings):
    """Answers queries only when `count` of them wait at the same time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.waiting = 0
        self.all_wait = asyncio.Event()

    async def aembed_query(self, text: str) -> list[float]:
        self.waiting += 1
        if self.waiting == self.count:
            self.all_wait.set()
        await asyncio.wait_for(self.all_wait.wait(), 20)
        return self.embed_query(text)


@pytest.mark.asyncio
async def test_concurrent_hybrid_searches_await_the_dense_encoder_together(client: Any) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), embedding=WaitingEmbeddings(40))
    store.add_documents(MOON)

    found = await asyncio.gather(*(store.asimilarity_search("rocket", k=1) for _ in range(40)))

    assert [ids_of(documents) for documents in found] == [["orbit"]] * 40


@pytest.mark.asyncio
async def test_a_sparse_search_does_not_wait_for_a_dense_encoder(client: Any) -> None:
    embedding = WaitingEmbeddings(2)
    store = SpladeVectorStore(client=client, model=WordEncoder(), embedding=embedding)
    store.add_documents(MOON)
    hybrid = asyncio.create_task(store.asimilarity_search("rocket", k=1))
    while not embedding.waiting:
        await asyncio.sleep(0)

    assert ids_of(await store.asimilarity_search("rocket", mode="sparse")) == ["orbit"]
    assert not hybrid.done()
    assert ids_of(await store.asimilarity_search("rocket", k=1)) == ["orbit"]
    assert ids_of(await hybrid) == ["orbit"]


@pytest.mark.asyncio
async def test_a_with_block_closes_the_store(tmp_path: Path) -> None:
    with SpladeVectorStore(tmp_path / "index", model=WordEncoder()) as store:
        store.add_documents(MOON)
    with pytest.raises(IndexClosedError):
        store.similarity_search("lander")
    async with SpladeVectorStore(tmp_path / "index", model=WordEncoder()) as again:
        assert len(await again.asimilarity_search("lander")) == 3
    with pytest.raises(IndexClosedError):
        await again.asimilarity_search("lander")


@pytest.mark.asyncio
async def test_a_store_closes_only_the_index_it_opened(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        with SpladeVectorStore(index=index) as store:
            store.add_documents(MOON)
        await SpladeVectorStore(index=index).aclose()
        with pytest.raises(InputError):
            SpladeVectorStore.from_texts(["a"], metadatas=[{"at": {1}}], index=index)
        assert index.count() == len(MOON)
    opened = SpladeVectorStore(tmp_path / "index", model=WordEncoder())
    for duplicate in (copy.copy(opened), copy.deepcopy(opened)):
        duplicate.close()
        assert len(opened.similarity_search("lander")) == 3
    opened.close()
    with pytest.raises(IndexClosedError):
        opened.similarity_search("lander")


@pytest.mark.parametrize("wrong", [lambda: ["x"], lambda: iter(["x"]), lambda: {"a": 1}, lambda: 5])
def test_wrong_metadata_of_from_texts_and_add_texts_is_the_same_error(wrong: Callable[[], Any]) -> None:
    store = SpladeVectorStore(model=WordEncoder())
    with pytest.raises(InputError, match="metadata") as added:
        store.add_texts(["a"], wrong())
    store.close()

    for make in (SpladeVectorStore.from_texts, SpladeRetriever.from_texts):
        with pytest.raises(InputError) as made:
            make(["a"], metadatas=wrong(), model=WordEncoder())
        assert str(made.value) == str(added.value)


@pytest.mark.asyncio
async def test_async_iterators_of_documents_and_texts_are_stored(empty: SpladeVectorStore) -> None:
    async def documents() -> AsyncIterator[Document]:
        for n in range(300):
            await asyncio.sleep(0)
            yield Document(id=f"d{n}", page_content=f"text {n}", metadata={"n": n})

    async def texts() -> AsyncIterator[str]:
        yield "moon"

    ids = await empty.aadd_documents(documents(), batch_size=64)
    (text_id,) = await empty.aadd_texts(texts())

    assert ids == [f"d{n}" for n in range(300)]
    assert [found.metadata for found in empty.get_by_ids(["d299"])] == [{"n": 299}]
    assert [found.id for found in empty.similarity_search("moon")] == [text_id]


@pytest.mark.asyncio
async def test_an_error_of_an_async_iterator_is_raised(empty: SpladeVectorStore) -> None:
    async def documents() -> AsyncIterator[Document]:
        yield MOON[0]
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        await empty.aadd_documents(documents())


def test_adding_a_found_document_again_does_not_store_the_report(
    store: SpladeVectorStore,
) -> None:
    found = store.similarity_search("rocket", with_scores=True)
    assert METADATA_KEY in found[0].metadata

    store.add_documents(found)
    store.add_documents(document for document in store.similarity_search("south", with_scores=True))

    assert store.get_by_ids(["orbit", "south"]) == [MOON[3], MOON[0]]


def test_a_time_weighted_retriever_works_with_coerced_metadata(client: Any) -> None:
    pytest.importorskip("langchain_classic")
    from langchain_classic.retrievers import TimeWeightedVectorStoreRetriever

    store = SpladeVectorStore(client=client, model=WordEncoder(), metadata="coerce")
    retriever = TimeWeightedVectorStoreRetriever(vectorstore=store, decay_rate=0.01, k=1)

    retriever.add_documents([Document(page_content="a rover"), Document(page_content="a rocket")])

    assert [found.page_content for found in retriever.invoke("rocket")] == ["a rocket"]
    (stored,) = store.similarity_search("rover")
    assert datetime.fromisoformat(stored.metadata["last_accessed_at"])


# -- deleting ------------------------------------------------------------------------------------------------


def test_documents_are_deleted_by_id_and_by_filter(store: SpladeVectorStore) -> None:
    assert store.delete(["south", "missing"]) is True
    assert store.delete(filter={"year": {"$gte": 2024}}) is True

    assert sorted(hit.id for hit in store.index.scroll()) == ["orbit", "rover"]


def test_delete_without_ids_and_filter_deletes_all_documents(store: SpladeVectorStore) -> None:
    assert store.delete() is True
    assert store.index.count() == 0


@pytest.mark.parametrize(
    "filter",
    [
        {},
        models.Filter(),
        models.Filter(must=[]),
        models.Filter(must=[models.Filter(should=[])]),
        {"$and": [models.Filter()]},
        {"$or": [{}]},
    ],
    ids=repr,
)
@pytest.mark.asyncio
async def test_an_empty_filter_deletes_nothing(store: SpladeVectorStore, filter: Any) -> None:
    with pytest.raises((InputError, FilterError)):
        store.delete(filter=filter)
    with pytest.raises((InputError, FilterError)):
        await store.adelete(filter=filter)
    assert store.index.count() == 4


def test_delete_with_a_misspelt_argument_deletes_nothing(store: SpladeVectorStore) -> None:
    with pytest.raises(TypeError, match="fliter"):
        store.delete(fliter={"year": 2023})  # type: ignore[call-arg]
    assert store.index.count() == 4


# -- searching -----------------------------------------------------------------------------------------------


def test_scores_are_the_dot_products(store: SpladeVectorStore) -> None:
    found = store.similarity_search_with_score("rover lander", k=2)

    assert [(document.id, score) for document, score in found] == [("again", 2.0), ("rover", 2.0)]


def test_scores_and_explanations_are_under_one_metadata_key_on_request(store: SpladeVectorStore) -> None:
    (scored,) = store.similarity_search("wheels rocket", with_scores=True)
    (explained,) = store.similarity_search("rocket", with_explanations=True)

    assert scored.metadata == {**MOON[3].metadata, METADATA_KEY: {"score": 1.0}}
    report = explained.metadata[METADATA_KEY]["explanation"]
    assert [part["token"] for part in report["contributions"]] == ["rocket"]
    json.dumps(explained.metadata)


def test_every_kind_of_search_returns_scores_and_explanations(hybrid: SpladeVectorStore) -> None:
    wanted = {"with_explanations": True, "k": 2}
    found = [
        *hybrid.max_marginal_relevance_search("rocket lander", **wanted),
        *(document for document, _ in hybrid.similarity_search_with_relevance_scores("rocket", **wanted)),
        *hybrid.as_retriever(search_kwargs=wanted).invoke("rocket"),
    ]

    assert len(found) == 6
    for document in found:
        report = document.metadata[METADATA_KEY]
        sparse = report["branches"].get("sparse", {"score": 0.0})["score"]
        assert sum(part["score"] for part in report["explanation"]["contributions"]) == pytest.approx(sparse)


def test_explaining_several_hits_encodes_the_query_once(store: SpladeVectorStore) -> None:
    encoded: list[Any] = []

    class Counting(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            encoded.append(query)
            return super().query_embed(query)

    counting = SpladeVectorStore(client=store.index.client, model=Counting())

    assert len(counting.similarity_search("lander", with_explanations=True)) == 3
    assert len(encoded) == 2


@pytest.mark.parametrize(
    "filter",
    [
        {"year": 2023},
        {"year": {"$in": [2023, 1999]}},
        models.Filter(must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2023))]),
    ],
)
def test_every_kind_of_search_applies_the_filter(store: SpladeVectorStore, filter: Any) -> None:
    kinds: list[Callable[..., list[Document]]] = [
        store.similarity_search,
        store.max_marginal_relevance_search,
        lambda query, **options: [
            document for document, _ in store.similarity_search_with_relevance_scores(query, **options)
        ],
        lambda query, **options: store.as_retriever(search_kwargs=options).invoke(query),
    ]
    assert [ids_of(search("lander", filter=filter)) for search in kinds] == [["rover"]] * 4


def test_an_unknown_filter_operator_is_an_error(store: SpladeVectorStore) -> None:
    with pytest.raises(FilterError, match=r"\$near"):
        store.similarity_search("lander", filter={"year": {"$near": 2023}})


def test_pages_follow_each_other(store: SpladeVectorStore) -> None:
    pages = [ids_of(store.similarity_search("the lander", k=1, offset=n)) for n in range(5)]

    assert [id for page in pages for id in page] == ids_of(store.similarity_search("the lander", k=5))


def test_an_unknown_argument_is_an_error_that_names_it(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"unknown argument scores; allowed: k, filter"):
        store.similarity_search("lander", scores=True)


def test_search_by_vector_takes_a_sparse_vector(store: SpladeVectorStore) -> None:
    (vector,) = WordEncoder().query_embed("rocket")

    assert store.similarity_search_by_vector(vector) == [MOON[3]]
    assert store.max_marginal_relevance_search_by_vector(vector) == [MOON[3]]


@pytest.mark.asyncio
async def test_search_by_a_dense_vector_is_an_error_that_says_what_to_do(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"got a list, expected a SparseEmbedding.*mode='dense'"):
        store.similarity_search_by_vector([0.1, 0.2])
    with pytest.raises(InputError, match="got a list"):
        await store.amax_marginal_relevance_search_by_vector([0.1, 0.2])


def test_mode_selects_one_branch_of_a_hybrid_store(hybrid: SpladeVectorStore) -> None:
    assert len(hybrid.similarity_search("rocket", mode="dense")) == 4
    assert hybrid.similarity_search("rocket", mode="sparse") == [MOON[3]]
    assert ids_of(hybrid.similarity_search("rocket"))[0] == "orbit"
    (vector,) = WordEncoder().query_embed("rocket")
    assert hybrid.similarity_search_by_vector(vector) == [MOON[3]]


def test_fusion_is_an_option_of_a_search(hybrid: SpladeVectorStore) -> None:
    only_sparse = Fusion("rrf", weights=(1.0, 0.0))

    (first, score), *_ = hybrid.similarity_search_with_score("rocket", fusion=only_sparse)

    assert first == MOON[3]
    assert score == pytest.approx(1 / 60)


@pytest.mark.asyncio
async def test_async_searches_return_the_same_as_sync_ones(store: SpladeVectorStore) -> None:
    query, options = "the lander", {"k": 3, "with_explanations": True}
    (vector,) = WordEncoder().query_embed(query)

    assert await store.asimilarity_search(query, **options) == store.similarity_search(query, **options)
    assert await store.asimilarity_search_with_relevance_scores(query) == (
        store.similarity_search_with_relevance_scores(query)
    )
    assert await store.amax_marginal_relevance_search(query, k=2) == (
        store.max_marginal_relevance_search(query, k=2)
    )
    assert await store.asimilarity_search_by_vector(vector) == store.similarity_search_by_vector(vector)
    assert await store.amax_marginal_relevance_search_by_vector(vector, k=2) == (
        store.max_marginal_relevance_search_by_vector(vector, k=2)
    )


# -- relevance, thresholds, diversity ------------------------------------------------------------------------


def test_relevance_compares_a_score_with_the_score_of_the_query_itself(
    store: SpladeVectorStore,
) -> None:
    found = store.similarity_search_with_relevance_scores("rover lander rocket", k=4)

    # A document "rover lander rocket" would score 3; each of these has two of the three words: tanh(2 / 3).
    assert [(document.id, round(score, 6)) for document, score in found] == [
        ("again", 0.582783),
        ("orbit", 0.582783),
        ("rover", 0.582783),
    ]


@pytest.fixture(scope="module")
def textbook() -> Iterator[SpladeVectorStore]:
    """Passages of a textbook on astronomy, encoded by the bundled model."""
    with SpladeVectorStore.from_documents(passages(60)) as store:
        yield store


@pytest.mark.parametrize("question", QUESTIONS)
def test_relevance_of_an_answered_question_is_high(textbook: SpladeVectorStore, question: str) -> None:
    retriever = textbook.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.6}
    )

    assert retriever.invoke(question)


@pytest.mark.parametrize(
    "query",
    ["blorp fnord quux", "football transfer news", "best pizza in Naples", "xylophone lessons"],
)
def test_relevance_of_an_unrelated_query_is_low(textbook: SpladeVectorStore, query: str) -> None:
    scores = [score for _, score in textbook.similarity_search_with_relevance_scores(query, k=10)]

    assert max(scores) < 0.3


def test_relevance_tells_documents_of_a_short_query_apart(textbook: SpladeVectorStore) -> None:
    scores = [score for _, score in textbook.similarity_search_with_relevance_scores("Moon", k=10)]

    assert scores == sorted(set(scores), reverse=True)
    assert scores[0] < 1.0
    assert scores[-1] < 0.7 * scores[0]


def test_relevance_uses_the_query_as_it_is_pruned() -> None:
    with SpladeVectorStore(query_max_active_dims=1, model=WordEncoder()) as store:
        store.add_texts(["rover rover", "rover"])
        scores = [score for _, score in store.similarity_search_with_relevance_scores("rover rover lander")]

    # The query is pruned to rover: 2. Against its own text 2 * 2, against the documents 2 * 2 and 2 * 1.
    assert scores == pytest.approx([0.761594, 0.462117], abs=1e-6)


def test_relevance_of_an_empty_query_is_an_empty_list(textbook: SpladeVectorStore) -> None:
    assert textbook.similarity_search(" ") == []
    assert textbook.similarity_search_with_relevance_scores(" ") == []


@pytest.mark.parametrize("mode", ["sparse", "dense", "hybrid"])
@pytest.mark.parametrize("fusion", [Fusion(), Fusion("rrf", rrf_k=2, weights=(0.3, 4.0)), Fusion("dbsf")])
def test_relevance_lies_in_0_to_1_and_keeps_the_order(
    hybrid: SpladeVectorStore, mode: str, fusion: Fusion
) -> None:
    found = hybrid.similarity_search_with_relevance_scores(
        "The rover left the lander.", k=4, mode=mode, fusion=fusion
    )

    scores = [score for _, score in found]
    assert found
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)


@pytest.mark.parametrize(
    "fusion", [Fusion(), Fusion(rrf_k=1), Fusion(rrf_k=2, weights=(0.3, 1.7)), Fusion(weights=(0.0, 1.0))]
)
def test_a_document_that_is_first_in_both_rankings_has_relevance_1(
    hybrid: SpladeVectorStore, fusion: Fusion
) -> None:
    (_, score), *_ = hybrid.similarity_search_with_relevance_scores(
        "A rocket took the lander up.", fusion=fusion
    )

    assert score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("score", "mode", "fusion", "expected"),
    [
        (9.0, "sparse", Fusion(), 0.995055),  # tanh(3)
        (1.5, "sparse", Fusion(), 0.462117),  # tanh(0.5)
        (-1.0, "dense", Fusion(), 0.0),
        (0.0, "dense", Fusion(), 0.5),
        (2 / 60, "hybrid", Fusion(), 1.0),
        (1 / 60, "hybrid", Fusion(), 0.5),
        # (1/13 + 1/9.25) / (1/11 + 1/9.25): ranks 2 and 1, against 1 and 1.
        (1 / 13 + 1 / 9.25, "hybrid", Fusion(rrf_k=10, weights=(0.5, 4.0)), 0.929725),
        (2.2, "hybrid", Fusion("dbsf"), 1.0),  # cut
    ],
)
def test_relevance_is_computed_as_documented(
    score: float, mode: Any, fusion: Fusion, expected: float
) -> None:
    assert relevance(score, mode=mode, fusion=fusion, reference_score=3.0) == pytest.approx(
        expected, abs=1e-6
    )


def test_a_query_without_tokens_finds_nothing_relevant(store: SpladeVectorStore) -> None:
    assert store.similarity_search_with_relevance_scores("!?") == []


def test_every_search_type_of_as_retriever_works(store: SpladeVectorStore) -> None:
    similar = store.as_retriever(search_kwargs={"k": 1})
    varied = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1})
    relevant = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.7, "k": 9}
    )

    assert ids_of(similar.invoke("rover")) == ["again"]
    assert ids_of(varied.invoke("the rover left")) == ["again", "south"]
    assert ids_of(relevant.invoke("rover left")) == ["again", "rover"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"filter": {"tenant": "acme"}, "k": 1},
            r"argument filter, k; .* search_kwargs=\{'filter': ..., 'k'",
        ),
        ({"search_kwarg": {}}, "argument search_kwarg; allowed: .*search_kwargs"),
        (
            {"search_kwargs": {"fliter": {"tenant": "acme"}}},
            "argument fliter in search_kwargs; allowed: .*filter",
        ),
        ({"search_kwargs": {"fetch_k": 3}}, "argument fetch_k in search_kwargs"),
    ],
)
def test_as_retriever_refuses_arguments_that_langchain_would_ignore(
    store: SpladeVectorStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        store.as_retriever(**arguments)


def test_as_retriever_passes_on_its_own_arguments(store: SpladeVectorStore) -> None:
    retriever = store.as_retriever(
        search_type="mmr", search_kwargs={"k": 1, "fetch_k": 3, "filter": {"year": 2022}}, tags=["mine"]
    )

    assert ids_of(retriever.invoke("lander")) == ["orbit"]
    assert "mine" in (retriever.tags or [])


def test_mmr_skips_a_near_copy_of_a_chosen_document(store: SpladeVectorStore) -> None:
    plain = store.similarity_search("the rover left the lander", k=2)
    varied = store.max_marginal_relevance_search("the rover left the lander", k=2, lambda_mult=0.3)

    assert ids_of(plain) == ["again", "rover"]
    # "rover" is the same words as "again"; "south" shares one word with it, "orbit" two.
    assert ids_of(varied) == ["again", "south"]


@pytest.mark.asyncio
async def test_async_mmr_chooses_in_another_thread(
    store: SpladeVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.get_ident())
        return diverse(*args, **kwargs)

    monkeypatch.setattr("splade_retriever.langchain.vector_store.diverse", watched)
    await store.amax_marginal_relevance_search("lander")

    assert threads
    assert threading.get_ident() not in threads


def test_mmr_with_lambda_1_returns_the_same_as_a_plain_search(hybrid: SpladeVectorStore) -> None:
    query = "The rover left the lander."

    assert hybrid.max_marginal_relevance_search(query, k=3, lambda_mult=1.0) == (
        hybrid.similarity_search(query, k=3)
    )


# -- LangChain's indexing API --------------------------------------------------------------------------------


def sourced(*texts: str, source: str = "a") -> list[Document]:
    return [Document(page_content=text, metadata={"source": source}) for text in texts]


@pytest.mark.parametrize("key_encoder", ["sha1", "sha256", "sha512", "blake2b", lambda d: d.page_content])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.filterwarnings("ignore:Using SHA-1 for document hashing")
@pytest.mark.asyncio
async def test_documents_are_indexed_under_keys_of_every_encoder(
    empty: SpladeVectorStore, key_encoder: Any, is_async: bool
) -> None:
    records = InMemoryRecordManager(namespace="splade")
    records.create_schema()

    async def run() -> Any:
        if is_async:
            return await aindex(sourced("one", "two"), records, empty, key_encoder=key_encoder)
        return index_documents(sourced("one", "two"), records, empty, key_encoder=key_encoder)

    first, second = await run(), await run()

    assert (first["num_added"], second["num_skipped"], empty.index.count()) == (2, 2, 2)


@pytest.mark.parametrize(
    ("cleanup", "left"),
    [
        (None, {"one", "two", "new", "other"}),
        ("incremental", {"one", "new", "other"}),
        ("scoped_full", {"one", "new", "other"}),
        ("full", {"one", "new"}),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.asyncio
async def test_every_cleanup_mode_keeps_the_right_documents(
    empty: SpladeVectorStore, cleanup: Any, left: set[str], is_async: bool
) -> None:
    records = InMemoryRecordManager(namespace="splade")
    records.create_schema()

    async def run(documents: list[Document]) -> None:
        settings: dict[str, Any] = {
            "cleanup": cleanup,
            "source_id_key": "source",
            "key_encoder": "sha256",
        }
        if is_async:
            await aindex(documents, records, empty, **settings)
        else:
            index_documents(documents, records, empty, **settings)

    await run(sourced("one", "two") + sourced("other", source="b"))
    await run(sourced("one", "new"))

    assert {hit.text for hit in empty.index.scroll()} == left


# -- LangChain's standard suite ------------------------------------------------------------------------------

mark_async_tests(VectorStoreIntegrationTests)


class VectorStoreSuite(VectorStoreIntegrationTests):
    """The suite's 25 tests; made for each engine and each mode below."""

    engine: str
    dense: bool

    @pytest.fixture
    def vectorstore(self, request: pytest.FixtureRequest) -> Iterator[VectorStore]:
        embedding = self.get_embeddings() if self.dense else None
        with opened_store(self.engine, request) as client:
            yield SpladeVectorStore(client=client, model=BackgroundEncoder(), embedding=embedding)


class TestStoreOnEdgeSparse(VectorStoreSuite):
    engine, dense = "edge", False


class TestStoreOnEdgeHybrid(VectorStoreSuite):
    engine, dense = "edge", True


class TestStoreOnLocalModeSparse(VectorStoreSuite):
    engine, dense = "local", False


class TestStoreOnLocalModeHybrid(VectorStoreSuite):
    engine, dense = "local", True


@pytest.mark.server
class TestStoreOnServerSparse(VectorStoreSuite):
    engine, dense = "server", False


@pytest.mark.server
class TestStoreOnServerHybrid(VectorStoreSuite):
    engine, dense = "server", True


@pytest.mark.parametrize("kind", [SpladeVectorStore, SpladeRetriever])
@pytest.mark.parametrize("stream", [False, True])
def test_from_documents_twice_stores_each_document_once(tmp_path: Path, kind: Any, stream: bool) -> None:
    documents = [
        Document(page_content="moon", metadata={"n": 1, "a": [2]}),
        Document(page_content="moon", metadata={"a": [2], "n": 2}),
        Document(page_content="moon", metadata={"n": 1, "a": [2]}),  # equal documents are all kept
        Document(page_content="moon", id="own"),
    ]
    for _ in range(2):
        opened = kind.from_documents(iter(documents) if stream else documents, location=tmp_path / "index")
        opened.close()
    with SpladeIndex(tmp_path / "index") as index:
        assert index.count() == 4
        assert index.get(["own"])
        assert index.delete(["own", "nowhere"]) == 1
        assert index.delete(filter={"n": 1}) == 2
        assert index.delete(filter={"n": 1}) == 0


def test_the_same_texts_from_a_list_or_an_iterator_are_stored_once(tmp_path: Path) -> None:
    texts, metadatas = ["moon", "sun", "moon", "moon"], [{"n": 1}, {}, {"n": 2}, {"n": 1}]

    for given in (texts, texts, iter(texts)):
        with SpladeVectorStore.from_texts(
            given, None, metadatas, location=tmp_path, model=WordEncoder()
        ) as store:
            assert store.index.count() == 4
    with SpladeVectorStore.from_texts(["moon"], location=tmp_path, model=WordEncoder(), ids=[None]) as store:
        assert store.index.count() == 5
