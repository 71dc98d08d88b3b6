"""A Qdrant server: ingest and search through SpladeIndex and through langchain-qdrant, over REST and gRPC.

    python -m benchmarks.server --url http://localhost:6333
    python -m benchmarks.server --url http://localhost:6333 --write    # into docs/benchmarks.md

Both write the same texts with the same vectors and ids, which were made beforehand: encoding is not measured.
Each run is a separate process on a new collection of the same server. The order of the two rotates from run
to run, and the table has medians. A search reads the best 10 documents with their texts.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from benchmarks import page
from benchmarks.machine import in_a_process, peak_memory_mb, processor, report, versions
from splade_retriever.sparse import SparseEmbedding

DIMS, QUERY_DIMS, VOCABULARY, WORDS, QUERIES = 120, 25, 30_522, 60, 300
WAYS: Final = ("splade-retriever", "langchain-qdrant")
PROTOCOLS: Final = ("REST", "gRPC")
STEP: Final = "from benchmarks.server import step; import sys; step(*sys.argv[1:])"


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", required=True, help="a Qdrant server; its gRPC port is the next one")
    parser.add_argument("--grpc-port", type=int, default=0, help="the gRPC port, if it is another one")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args(argv)
    content = "\n".join(benchmark(arguments))
    print(content)
    if arguments.write:
        page.write("server", "A Qdrant server", content)


def benchmark(arguments: argparse.Namespace) -> Iterator[str]:
    """Measure each way and protocol; yields the lines of the table."""
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    for run in range(arguments.runs):
        for protocol in PROTOCOLS:
            for way in WAYS if run % 2 == 0 else reversed(WAYS):
                report(f"run {run + 1}: {way}, {protocol}")
                port = str(arguments.grpc_port or (urlsplit(arguments.url).port or 6333) + 1)
                found, _ = in_a_process(STEP, arguments.url, port, way, protocol, str(arguments.documents))
                figures.setdefault((way, protocol), []).append(found)
    yield from table(figures)
    yield ""
    yield (
        f"{arguments.documents:,} documents of {DIMS} weights and {WORDS} words, {QUERIES} queries of "
        f"{QUERY_DIMS}; medians of {arguments.runs} runs. {processor()}, the server on the same machine. "
        f"{versions('langchain-qdrant', 'qdrant-client')}."
    )


def table(figures: dict[tuple[str, str], list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table: a row per protocol and way, and the ratios."""
    yield "| protocol | | documents/s | search p50 | peak memory |"
    yield "|---|---|---|---|---|"
    for protocol in PROTOCOLS:
        ours, other = (
            {key: statistics.median(f[key] for f in figures[way, protocol]) for key in KEYS} for way in WAYS
        )
        for way, found in zip(WAYS, (ours, other), strict=True):
            yield (
                f"| {protocol} | {way} | {found['per_second']:,.0f} | {found['p50_ms']:.2f} ms | "
                f"{found['memory_mb']:.0f} MB |"
            )
        yield (
            f"| {protocol} | ratio | {page.ratio(ours['per_second'] / other['per_second'])} faster | "
            f"{page.ratio(other['p50_ms'] / ours['p50_ms'])} faster | "
            f"{ours['memory_mb'] / other['memory_mb']:.2f}x |"
        )


KEYS: Final = ("per_second", "p50_ms", "memory_mb")


def step(url: str, grpc_port: str, way: str, protocol: str, count: str) -> None:
    """Ingest and search once, and print the figures as JSON; run in a separate process."""
    vectors = made(np.random.default_rng(0), int(count), DIMS)
    queries = made(np.random.default_rng(1), QUERIES, QUERY_DIMS)
    words = np.random.default_rng(2).integers(0, 5000, (int(count), WORDS))
    texts = [" ".join(f"word{n}" for n in row) for row in words.tolist()]
    ids = [str(uuid.UUID(int=n)) for n in range(int(count))]
    metadatas = [{"source": f"file{n % 100}.md", "page": n} for n in range(int(count))]
    name = f"benchmark-{uuid.uuid4().hex}"
    port = int(grpc_port)
    opened = _ours if way == WAYS[0] else _langchain
    add, search, close = opened(url, port, name, protocol == "gRPC", vectors)
    search_forms = [_as_given(query, way) for query in queries]
    gc.collect()  # what the lines above left behind is not collected in the middle of a measurement
    started = time.perf_counter()
    add(texts, metadatas, ids)
    seconds = time.perf_counter() - started
    memory_mb = peak_memory_mb()
    times = []
    for query in search_forms:
        before = time.perf_counter()
        found = search(query)
        times.append(time.perf_counter() - before)
        assert len(found) == 10
    close()
    figures = {
        "per_second": int(count) / seconds,
        "p50_ms": 1000 * statistics.median(times[10:]),
        "memory_mb": memory_mb,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def made(generator: np.random.Generator, count: int, dims: int) -> list[SparseEmbedding]:
    """Make sparse vectors whose entries are frequent and rare as those of words are."""
    frequency = 1.0 / np.arange(1, VOCABULARY + 1) ** 0.7
    frequency /= frequency.sum()
    vectors = []
    for _ in range(count):
        indices = np.unique(generator.choice(VOCABULARY, dims, p=frequency))
        values = generator.random(len(indices), dtype=np.float32) + np.float32(0.1)
        vectors.append(SparseEmbedding(values=values, indices=indices))
    return vectors


def _as_given(query: SparseEmbedding, way: str) -> Any:
    return query if way == WAYS[0] else str(query.indices[0])


Opened = tuple[Callable[..., object], Callable[[Any], list[Any]], Callable[[], object]]


def _ours(url: str, port: int, name: str, grpc: bool, vectors: list[SparseEmbedding]) -> Opened:
    from splade_retriever import SpladeIndex

    index = SpladeIndex(url, collection=name, prefer_grpc=grpc, grpc_port=port, timeout=60)

    def add(texts: Any, metadatas: Any, ids: Any) -> None:
        index.add(texts, metadatas, ids, vectors=vectors)

    def close() -> None:
        index.client.delete_collection(name)
        index.close()

    _ = index.model  # loaded before the clock starts
    return add, lambda query: index.search(query, k=10), close


def _langchain(url: str, port: int, name: str, grpc: bool, vectors: list[SparseEmbedding]) -> Opened:
    from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
    from langchain_qdrant import SparseVector as GivenVector
    from qdrant_client import QdrantClient, models

    def given(vector: SparseEmbedding) -> GivenVector:
        return GivenVector(indices=vector.indices.tolist(), values=vector.values.tolist())

    ready = iter([given(vector) for vector in vectors])
    query_vectors = {
        str(query.indices[0]): given(query) for query in made(np.random.default_rng(1), QUERIES, QUERY_DIMS)
    }

    class Given(SparseEmbeddings):
        """Returns the vectors that were made beforehand."""

        def embed_documents(self, texts: list[str]) -> list[GivenVector]:
            return [next(ready) for _ in texts]

        def embed_query(self, text: str) -> GivenVector:
            return query_vectors[text]

    client = QdrantClient(url=url, grpc_port=port, prefer_grpc=grpc, timeout=60, check_compatibility=False)
    client.create_collection(name, {}, sparse_vectors_config={"splade": models.SparseVectorParams()})
    store = QdrantVectorStore(
        client,
        name,
        sparse_embedding=Given(),
        retrieval_mode=RetrievalMode.SPARSE,
        sparse_vector_name="splade",
        validate_collection_config=False,
    )

    def close() -> None:
        client.delete_collection(name)
        client.close()

    return store.add_texts, lambda query: store.similarity_search_with_score(query, k=10), close


if __name__ == "__main__":
    main()
