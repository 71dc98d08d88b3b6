"""The stores of the index benchmark, each built, opened and searched as its documentation shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from splade_retriever.sparse import SparseEmbedding

COLLECTION = "docs"
VECTOR = "splade"
K = 10


@dataclass(frozen=True)
class Document:
    """A document, in the form that every store receives."""

    id: int
    vector: SparseEmbedding
    text: str

    @classmethod
    def of(cls, id: int, vector: SparseEmbedding) -> Document:
        """Return a document whose text has each token of the vector once, as a word."""
        return cls(id, vector, " ".join(words(vector)))


def words(vector: SparseEmbedding) -> list[str]:
    """Return tokens as words."""
    return [f"t{index}" for index in vector.indices.tolist()]


class Opened(Protocol):
    """An open store."""

    def search(self, query: Any) -> Any:
        """Find the best 10 documents with their texts."""
        ...


class Store(Protocol):
    """Stores and searches documents."""

    def build(self, folder: Path, documents: Iterable[list[Document]]) -> float:
        """Store the documents; return the seconds of the store, without those that made the documents."""
        ...

    def query(self, vector: SparseEmbedding) -> Any:
        """Convert a query to the store's form, which is not timed."""
        ...

    def open(self, folder: Path) -> Opened:
        """Open a built store, ready to search."""
        ...


class Qdrant:
    """A client of qdrant-client's interface: ours, or its local mode."""

    def __init__(self, connect: Callable[[Path], Any]) -> None:
        self._connect = connect

    def build(self, folder: Path, documents: Iterable[list[Document]]) -> float:
        from qdrant_client import models

        started = time.perf_counter()
        client = self._connect(folder)
        client.create_collection(
            COLLECTION, vectors_config={}, sparse_vectors_config={VECTOR: models.SparseVectorParams()}
        )
        seconds = time.perf_counter() - started
        for piece in documents:
            points = [
                models.PointStruct(
                    id=document.id,
                    vector={VECTOR: self.query(document.vector)},
                    payload={"page_content": document.text, "metadata": {}},
                )
                for document in piece
            ]
            started = time.perf_counter()
            client.upsert(COLLECTION, points)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        client.close()
        return seconds + time.perf_counter() - started

    def query(self, vector: SparseEmbedding) -> Any:
        from splade_retriever.index.points import to_sparse_vector

        return to_sparse_vector(vector)

    def open(self, folder: Path) -> Opened:
        client = self._connect(folder)
        client.count(COLLECTION)  # loads the collection
        return _OpenQdrant(client)


@dataclass(frozen=True)
class _OpenQdrant:
    client: Any

    def search(self, query: Any) -> Any:
        return self.client.query_points(COLLECTION, query=query, using=VECTOR, limit=K, with_payload=True)


class Bm25s:
    """bm25s on the words of the texts, with its defaults; it keeps the texts beside its index."""

    def build(self, folder: Path, documents: Iterable[list[Document]]) -> float:
        import bm25s

        texts = [document.text for piece in documents for document in piece]
        tokens = bm25s.tokenize(texts, stopwords=None, show_progress=False)
        started = time.perf_counter()
        index = bm25s.BM25()
        index.index(tokens, show_progress=False)
        index.save(folder, corpus=texts, show_progress=False)
        return time.perf_counter() - started

    def query(self, vector: SparseEmbedding) -> Any:
        return [words(vector)]

    def open(self, folder: Path) -> Opened:
        import bm25s

        return _OpenBm25s(bm25s.BM25.load(folder, load_corpus=True, show_progress=False))


@dataclass(frozen=True)
class _OpenBm25s:
    index: Any

    def search(self, query: Any) -> Any:
        return self.index.retrieve(query, k=K, show_progress=False)


def edge(folder: Path) -> Any:
    """Open our client."""
    from splade_retriever.edge.client import EdgeClient

    return EdgeClient(folder)


def local_mode(folder: Path) -> Any:
    """Open qdrant-client's local mode."""
    from qdrant_client import QdrantClient

    return QdrantClient(path=str(folder))


STORES: dict[str, Store] = {"edge": Qdrant(edge), "local": Qdrant(local_mode), "bm25s": Bm25s()}


def overhead(folder: Path, queries: list[SparseEmbedding]) -> dict[str, dict[str, float]]:
    """Time our layers beside the engine's bare call, on the same shard, query by query.

    Of each query the bare call is made once to warm the caches; then every layer is timed, in an order that
    rotates. The engine's request is made beforehand, and its answer left as it is: everything that Python
    does on the way counts for the layers.

    Returns:
        Layer -> `p50_ms` and `over_ms`, the median of its time less the bare call's.
    """
    import statistics

    from splade_retriever.edge.client import EdgeClient
    from splade_retriever.edge.convert_query import to_request
    from splade_retriever.index.points import to_sparse_vector
    from splade_retriever.index.search_request import (
        EncodedQuery,
        SearchRequest,
        engine_query,
    )
    from splade_retriever.index.splade_index import SpladeIndex

    client = EdgeClient(folder)
    index = SpladeIndex(client=client, collection=COLLECTION, vector_name=VECTOR, create=False)
    # The shard is not public, and its folder cannot be opened twice.
    shard = client._folder.read(client._folder.get(COLLECTION), "take", lambda shard: shard)

    def no_point(*_: Any) -> Any:
        raise AssertionError("the query is a vector")

    requests = [
        to_request(
            engine_query(
                EncodedQuery(sparse=query), {"sparse": VECTOR}, SearchRequest(query=query, k=K), limit=K
            ),
            no_point,
        )
        for query in queries
    ]
    vectors = [to_sparse_vector(query) for query in queries]
    layers: dict[str, Callable[[int], object]] = {
        "EdgeShard.query": lambda n: shard.query(requests[n]),
        "EdgeClient.query_points": lambda n: client.query_points(
            COLLECTION, query=vectors[n], using=VECTOR, limit=K, with_payload=True
        ),
        "SpladeIndex.search": lambda n: index.search(queries[n], k=K),
    }
    names = list(layers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for n in range(len(queries)):
        layers[names[0]](n)
        for place in range(len(names)):
            name = names[(n + place) % len(names)]
            started = time.perf_counter()
            layers[name](n)
            seconds[name].append(time.perf_counter() - started)
    bare = seconds[names[0]]
    client.close()
    return {
        name: {
            "p50_ms": statistics.median(seconds[name]) * 1e3,
            "over_ms": statistics.median(a - b for a, b in zip(seconds[name], bare, strict=True)) * 1e3,
        }
        for name in names
    }
