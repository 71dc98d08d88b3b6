"""The store of this package under the suite for sparse stores of LlamaIndex."""

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SpladeVectorStore
from tests.llama_index_suite import SparseStoreSuite
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
        return SpladeVectorStore(client=self._opened(), model=encoder)

    def make_hybrid(self, encoder: WordEncoder, dense: MockEmbedding) -> SpladeVectorStore:
        return SpladeVectorStore(client=self._opened(), model=encoder, dense=dense)

    def make_limited(self, encoder: WordEncoder) -> tuple[SpladeVectorStore, VectorStoreQueryMode]:
        return self.make(encoder), VectorStoreQueryMode.HYBRID


class TestOverLocalMode(OurStore):
    def client(self) -> Any:
        return QdrantClient(":memory:")


class TestOverEdge(OurStore):
    def client(self) -> Any:
        from splade_retriever.edge import EdgeClient

        return EdgeClient(":memory:")
