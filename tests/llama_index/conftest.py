"""Fixtures that the tests of the LlamaIndex adapter share: an encoder, and a store with and without nodes."""

from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SpladeVectorStore
from tests.llama_index.parts import NODES
from tests.words import WordEncoder


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def model() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def store(client: QdrantClient, model: WordEncoder) -> SpladeVectorStore:
    return SpladeVectorStore(client=client, model=model)


@pytest.fixture
def filled(store: SpladeVectorStore) -> SpladeVectorStore:
    store.add(NODES)
    return store
