"""Run the suite for sparse stores of LlamaIndex on this package's store and on LlamaIndex's own Qdrant store.

python -m benchmarks.llama_index_conformance            # the table, in Markdown
python -m benchmarks.llama_index_conformance --reasons  # with the message of each failure
"""

import argparse
import contextlib
import io
from collections import defaultdict
from importlib.metadata import version
from typing import Any, ClassVar, TypeAlias

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

from splade_retriever.llama_index import sparse_encoders
from tests.llama_index.suite import SparseStoreSuite
from tests.llama_index.test_suite import TestOverEdge, TestOverLocalMode
from tests.words import WordEncoder

__all__ = ["STORES", "TestOverEdge", "TestOverLocalMode", "run", "table", "versions"]

STORES = {
    "TestOverEdge": "SpladeVectorStore over Edge",
    "TestOverLocalMode": "SpladeVectorStore over local mode",
    "TestQdrantVectorStore": "QdrantVectorStore over local mode",
}


class TestQdrantVectorStore(SparseStoreSuite):
    """LlamaIndex's own store, set up as its documentation says, with a user's sparse model."""

    dense_size: ClassVar[int | None] = 4

    def make(self, encoder: WordEncoder) -> QdrantVectorStore:
        return self._made(encoder, client=QdrantClient(":memory:"))

    def make_async(self, encoder: WordEncoder) -> QdrantVectorStore:
        return self._made(encoder, aclient=AsyncQdrantClient(":memory:"))

    def make_hybrid(self, encoder: WordEncoder, dense: MockEmbedding) -> QdrantVectorStore:
        return self.make(encoder)

    def make_hybrid_async(self, encoder: WordEncoder, dense: MockEmbedding) -> QdrantVectorStore:
        return self.make_async(encoder)

    def make_limited(self, encoder: WordEncoder) -> tuple[QdrantVectorStore, VectorStoreQueryMode]:
        store = QdrantVectorStore(collection_name="test", client=QdrantClient(":memory:"))
        return store, VectorStoreQueryMode.SPARSE

    def _made(self, encoder: WordEncoder, **clients: Any) -> QdrantVectorStore:
        documents, queries = sparse_encoders(encoder)
        return QdrantVectorStore(
            collection_name="test",
            enable_hybrid=True,
            sparse_doc_fn=documents,
            sparse_query_fn=queries,
            **clients,
        )


Results: TypeAlias = dict[str, dict[str, str]]
"""Test -> store -> "passed", or the message of the failure."""


def run(only: str = "") -> Results:
    """Run the suite on all stores by pytest, in this process.

    Args:
        only: Key of the one store in `STORES` to run it on; empty for all.
    """
    recorder = _Recorder()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "filterwarnings=ignore"]
    if only:
        options += ["-k", only]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([__file__, *options], plugins=[recorder])
    return recorder.results


class _Recorder:
    """A plugin of pytest that keeps how each test ended."""

    def __init__(self) -> None:
        self.results: Results = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, store, test = report.nodeid.split("::", 2)
        if report.failed:
            self.results[test][store] = report.longreprtext.strip().rpartition("\n")[2]
        elif report.when == "call":
            self.results[test].setdefault(store, "passed")


def table(results: Results) -> str:
    """Format one line per test that a store failed, and one for all that every store passed."""
    lines = ["| test | " + " | ".join(STORES.values()) + " |", "|---|" + "---|" * len(STORES)]
    passed_by_all = 0
    for test, ends in results.items():
        marks = ["passed" if ends[store] == "passed" else "**failed**" for store in STORES]
        if set(marks) == {"passed"}:
            passed_by_all += 1
        else:
            name = test.removeprefix("test_").replace("_", " ").replace("|", "\\|")
            lines.append(f"| {name} | " + " | ".join(marks) + " |")
    lines.append(f"| {passed_by_all} other tests |" + " passed |" * len(STORES))
    counts = [sum(ends[store] == "passed" for ends in results.values()) for store in STORES]
    lines.append("| **passed** | " + " | ".join(f"**{n} of {len(results)}**" for n in counts) + " |")
    return "\n".join(lines)


def versions() -> str:
    """Return the versions of the packages that decide the results."""
    packages = ("llama-index-core", "llama-index-vector-stores-qdrant", "qdrant-client", "qdrant-edge-py")
    return ", ".join(f"{name} {version(name)}" for name in packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reasons", action="store_true", help="show the message of each failure")
    wanted = parser.parse_args()
    results = run()
    print(versions(), end="\n\n")
    print(table(results))
    if wanted.reasons:
        for test, ends in results.items():
            for store, end in ends.items():
                if end != "passed":
                    print(f"\n{store} {test}\n    " + end.replace("\n", "\n    ")[:400])


if __name__ == "__main__":
    main()
