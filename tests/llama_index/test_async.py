"""No async method of the adapter for LlamaIndex works in the event loop's thread and so stops the loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from qdrant_client import QdrantClient

from splade_retriever.index.collection import Collection
from splade_retriever.llama_index import (
    SpladeRerank,
    SpladeRetriever,
    SpladeSparseEmbedding,
    SpladeVectorStore,
)
from tests.llama_index.suite import LoopWatcher, runs_a_loop
from tests.words import LetterEncoder

NODES = [TextNode(id_="a", text="The lander stood."), TextNode(id_="b", text="The rover drove.")]
NEW = [TextNode(id_="c", text="A rocket lifted off.")]
ALL = MetadataFilters(filters=[MetadataFilter(key="year", value=2023)])


class Watched(LetterEncoder):
    """A dense encoder that notes whether it is called in the loop's thread."""

    def __init__(self, in_a_loop: list[bool]) -> None:
        self.in_a_loop = in_a_loop

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.in_a_loop.append(runs_a_loop())
        return [LetterEncoder().embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.in_a_loop.append(runs_a_loop())
        return super().embed_query(text)


class Parts:
    """What the adapter is made of, over a model and a collection that are watched."""

    def __init__(self, client: QdrantClient) -> None:
        self.model = LoopWatcher()
        dense = Watched(self.model.in_a_loop)
        self.client = client
        self.store = SpladeVectorStore(client=client, model=self.model, dense=dense)
        self.embedding = SpladeSparseEmbedding(model=self.model)
        self.store.add(NODES)

    def query(self, mode: str) -> Awaitable[Any]:
        return self.store.aquery(VectorStoreQuery(query_str="the rover", mode=mode))  # type: ignore[arg-type]

    def retrieve(self, **settings: Any) -> Awaitable[Any]:
        return SpladeRetriever(self.store, **settings).aretrieve("the rover")

    def made(self, way: str, sources: list[Any]) -> Awaitable[Any]:
        dense, collection = Watched(self.model.in_a_loop), "made"
        make = getattr(SpladeRetriever, way)
        made: Awaitable[Any] = make(
            sources, client=self.client, collection=collection, model=self.model, dense=dense
        )
        return made

    def rerank(self) -> Awaitable[Any]:
        scored = [NodeWithScore(node=node) for node in NODES]
        return SpladeRerank(model=self.model).apostprocess_nodes(scored, query_str="rover")

    async def search_and_close(self) -> None:
        await self.query("sparse")
        await self.store.aclose()

    def ingest(self) -> Awaitable[Any]:
        pipeline = IngestionPipeline(transformations=[self.embedding], vector_store=self.store)
        return pipeline.arun(documents=[Document(text="A comet came.")])


CALLS: dict[str, Callable[[Parts], Awaitable[Any]]] = {
    "async_add": lambda parts: parts.store.async_add(NEW),
    "aquery": lambda parts: parts.query("sparse"),
    "aquery, text_search": lambda parts: parts.query("text_search"),
    "aquery, hybrid": lambda parts: parts.query("hybrid"),
    "aget_nodes by id": lambda parts: parts.store.aget_nodes(["a"]),
    "aget_nodes by filter": lambda parts: parts.store.aget_nodes(filters=ALL),
    "adelete": lambda parts: parts.store.adelete("a"),
    "adelete_nodes by id": lambda parts: parts.store.adelete_nodes(["a"]),
    "adelete_nodes by filter": lambda parts: parts.store.adelete_nodes(filters=ALL),
    "aclear": lambda parts: parts.store.aclear(),
    "aclose": lambda parts: parts.search_and_close(),
    "aretrieve": lambda parts: parts.retrieve(),
    "aretrieve, explained": lambda parts: parts.retrieve(explain=True),
    "aretrieve, hybrid, explained": lambda parts: parts.retrieve(mode="hybrid", explain=True),
    "afrom_nodes": lambda parts: parts.made("afrom_nodes", NEW),
    "afrom_documents": lambda parts: parts.made("afrom_documents", [Document(text="A comet came.")]),
    "apostprocess_nodes": lambda parts: parts.rerank(),
    "aget_query_embedding": lambda parts: parts.embedding.aget_query_embedding("rover"),
    "aget_text_embedding": lambda parts: parts.embedding.aget_text_embedding("rover"),
    "aget_text_embedding_batch": lambda parts: parts.embedding.aget_text_embedding_batch(["rover", "moon"]),
    "acall": lambda parts: parts.embedding.acall(NEW),
    "a pipeline's arun": lambda parts: parts.ingest(),
}


@pytest.fixture
def parts() -> Iterator[Parts]:
    client = QdrantClient(":memory:")
    yield Parts(client)
    client.close()


@pytest.mark.parametrize("name", CALLS)
def test_an_async_method_does_not_block_the_event_loop(
    parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = parts.model.in_a_loop
    seen.clear()
    send = Collection._request

    def watched(self: Collection, *args: Any, **options: Any) -> Any:
        seen.append(runs_a_loop())
        return send(self, *args, **options)

    monkeypatch.setattr(Collection, "_request", watched)

    async def main() -> None:
        await CALLS[name](parts)

    asyncio.run(main())
    assert seen  # the model or the store was running
    assert not any(seen)


def test_every_async_method_of_the_store_is_tested() -> None:
    of_the_store = {name for name in vars(SpladeVectorStore) if name.startswith(("async_", "a"))}

    assert of_the_store - {"add"} <= {name.split()[0].rstrip(",") for name in CALLS} | {"asearch"}


def test_the_check_detects_work_in_the_event_loop(parts: Parts) -> None:
    async def main() -> None:
        parts.store.query(VectorStoreQuery(query_str="rover"))

    parts.model.in_a_loop.clear()
    asyncio.run(main())
    assert parts.model.in_a_loop == [True]
