"""Fixtures that the tests of the LlamaIndex adapter share: an encoder, and a store with and without nodes."""

import asyncio
from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SpladeVectorStore
from tests.index.parts import opened_store
from tests.llama_index.parts import NODES
from tests.words import WordEncoder


@pytest.fixture(scope="package", autouse=True)
def _no_event_loop_is_left_open() -> None:
    """Let LlamaIndex run coroutines with `asyncio.run`.

    Where a thread never had an event loop, its `asyncio_run` makes one and leaves it open.
    """
    asyncio.set_event_loop(None)


@pytest.fixture(params=["local", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    with opened_store(request.param, request) as opened:
        yield opened


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
