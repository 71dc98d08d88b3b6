"""The store of this package under the suite for sparse stores of LlamaIndex, and the docs' table of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SpladeVectorStore
from tests.llama_index.suite import SparseStoreSuite
from tests.qdrant_server import ServerAddress
from tests.words import WordEncoder


class OurStore(SparseStoreSuite):
    clients: list[Any]

    @pytest.fixture(autouse=True)
    def _closed_at_the_end(self) -> Iterator[None]:
        self.clients = []
        yield
        for client in self.clients:
            client.close()

    def client(self) -> Any:
        raise NotImplementedError

    def _opened(self) -> Any:
        self.clients.append(self.client())
        return self.clients[-1]

    def make(self, encoder: WordEncoder) -> SpladeVectorStore:
        client = self._opened()
        return SpladeVectorStore(client=client, model=encoder, collection=f"docs{len(self.clients)}")

    def make_hybrid(self, encoder: WordEncoder, dense: MockEmbedding) -> SpladeVectorStore:
        client = self._opened()
        collection = f"docs{len(self.clients)}"
        return SpladeVectorStore(client=client, model=encoder, dense=dense, collection=collection)

    def make_limited(self, encoder: WordEncoder) -> tuple[SpladeVectorStore, VectorStoreQueryMode]:
        return self.make(encoder), VectorStoreQueryMode.HYBRID


class TestOverLocalMode(OurStore):
    def client(self) -> Any:
        return QdrantClient(":memory:")


class TestOverEdge(OurStore):
    def client(self) -> Any:
        from splade_retriever.edge.client import EdgeClient

        return EdgeClient(":memory:")


@pytest.mark.server
class TestOverServer(OurStore):
    @pytest.fixture(autouse=True)
    def _server(self, empty_server: ServerAddress) -> None:
        self.address = empty_server

    def client(self) -> Any:
        return self.address.client()


def test_the_docs_have_the_table_that_the_command_prints() -> None:
    """The stores of this package are tested above, so their rows are passed."""
    from benchmarks import llama_index_conformance as conformance

    page = (Path(__file__).parents[2] / "docs" / "llama_index.md").read_text(encoding="utf-8")
    if conformance.versions() not in page:
        pytest.skip(f"the docs' table is of other versions than {conformance.versions()}")

    results = conformance.run(only="TestQdrantVectorStore")

    ours = dict.fromkeys(conformance.STORES, "passed")
    assert conformance.table({test: {**ours, **ends} for test, ends in results.items()}) in page
