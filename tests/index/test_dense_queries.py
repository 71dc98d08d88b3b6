"""Dense vectors of queries: concurrent, by native async methods, in one call where the encoder can."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

from splade_retriever.errors import ModelOutputError
from splade_retriever.index.dense_queries import DenseQueries
from splade_retriever.index.documents import Hit
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import LetterEncoder, WordEncoder

SECONDS = 0.2
"""What one query takes to encode; 40 of them one after another would take 8 seconds."""
LETTERS = LetterEncoder()


class Plain(LetterEncoder):
    """Has no async method."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return LETTERS.embed_documents(texts)  # only queries are slow

    def embed_query(self, text: str) -> list[float]:
        self.threads.add(threading.current_thread().name)
        time.sleep(SECONDS)
        return super().embed_query(text)


class LangChainSync(Plain, Embeddings):
    """Inherits LangChain's async default, which runs in the few threads of the loop."""


class LangChainAsync(LangChainSync):
    async def aembed_query(self, text: str) -> list[float]:
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(SECONDS)
        return LETTERS.embed_query(text)


class Batched(Plain):
    """Encodes several queries in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(len(texts))
        self.threads.add(threading.current_thread().name)
        time.sleep(SECONDS)
        return [LETTERS.embed_query(text) for text in texts]


class LlamaIndexSync(BaseEmbedding):
    """Calls the sync method in the async one, as many classes do; that would stop the loop."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return LETTERS.embed_query(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        time.sleep(SECONDS)
        return LETTERS.embed_query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class LlamaIndexAsync(LlamaIndexSync):
    async def _aget_query_embedding(self, query: str) -> list[float]:
        await asyncio.sleep(SECONDS)
        return LETTERS.embed_query(query)


ENCODERS = [Plain, LangChainSync, LangChainAsync, Batched, LlamaIndexSync, LlamaIndexAsync]


def opened(dense: Any) -> SpladeIndex:
    index = SpladeIndex(model=WordEncoder(), dense=dense)
    index.add([f"moon {n}" for n in range(50)], ids=[str(n) for n in range(50)])
    return index


def at_once(index: SpladeIndex, queries: list[str]) -> list[list[Hit]]:
    """Search by an encoder that takes no time."""
    return SpladeIndex(client=index.client, model=WordEncoder(), dense=LETTERS).search_batch(queries)


@pytest.fixture(name="index", params=ENCODERS, ids=lambda encoder: encoder.__name__)
def hybrid_index(request: pytest.FixtureRequest) -> Iterator[SpladeIndex]:
    with opened(request.param()) as index:
        yield index


def test_forty_hybrid_searches_encode_their_queries_at_the_same_time(index: SpladeIndex) -> None:
    queries = [f"moon {n}" for n in range(40)]

    async def main() -> tuple[list[list[Hit]], float, float]:
        begun = time.perf_counter()
        searches = [asyncio.create_task(index.asearch(query)) for query in queries]
        await asyncio.sleep(0)
        await index.asearch("moon", mode="sparse")
        sparse_s = time.perf_counter() - begun
        hits = await asyncio.gather(*searches)
        return hits, sparse_s, time.perf_counter() - begun

    hits, sparse_s, all_s = asyncio.run(main())

    assert hits == at_once(index, queries)
    assert all_s < 30 * SECONDS  # 0.5 s on an idle machine, 8 s one after another
    assert sparse_s < 20 * SECONDS


def test_a_search_by_its_async_path_finds_what_the_other_one_finds(index: SpladeIndex) -> None:
    assert asyncio.run(index.asearch("moon 7", k=5)) == index.search("moon 7", k=5)


def test_queries_are_encoded_in_one_call_where_the_encoder_can() -> None:
    encoder = Batched()
    with opened(encoder) as index:
        encoder.calls.clear()
        queries = ["moon 1", "", "moon 2"]

        assert index.search_batch(queries) == at_once(index, queries)
        assert encoder.calls == [2]


@pytest.mark.parametrize("encoder", [Plain, LangChainSync, LangChainAsync, Batched])
def test_a_dense_encoder_never_runs_in_the_thread_of_the_searches(encoder: type[Plain]) -> None:
    dense = encoder()
    with opened(dense) as index:
        dense.threads.clear()
        asyncio.run(index.asearch("moon 7"))

    assert dense.threads
    assert not [name for name in dense.threads if name.startswith("splade-batch")]


def test_too_few_vectors_for_a_batch_of_queries_are_an_error() -> None:
    class Short(LetterEncoder):
        def embed_queries(self, texts: list[str]) -> list[list[float]]:
            return [LETTERS.embed_query(text) for text in texts[1:]]

    with pytest.raises(ModelOutputError, match="1 vectors for 2 queries"):
        DenseQueries(Short()).embed(["a", "b"])


class PanicError(BaseException):
    """Like pyo3's PanicException, which is no Exception."""


@pytest.mark.parametrize("error", [PanicError, asyncio.CancelledError, StopIteration])
def test_after_a_fault_of_an_encoder_the_next_search_is_answered(error: type[BaseException]) -> None:
    class Failing(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            if "poison" in str(query):
                raise error
            return super().query_embed(query)

    class FailingDense(LetterEncoder):
        def embed_query(self, text: str) -> list[float]:
            if text == "dense poison":
                raise error
            return super().embed_query(text)

    async def main() -> list[str]:
        for query in ("poison", "dense poison"):
            results = await asyncio.wait_for(
                asyncio.gather(*(index.asearch(text) for text in (query, "moon")), return_exceptions=True), 20
            )
            assert isinstance(results[0], BaseException)
            assert not isinstance(results[1], BaseException)
        found = await asyncio.wait_for(index.asearch("moon 3", k=1, mode="sparse"), 20)
        return [hit.id for hit in found]

    with SpladeIndex(model=Failing(), dense=FailingDense()) as index:
        index.add([f"moon {n}" for n in range(9)], ids=[str(n) for n in range(9)])
        assert asyncio.run(main()) == ["3"]
