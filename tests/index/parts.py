"""Parts that the tests of an index share: texts, and the stores an index runs on, as fixtures."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from splade_retriever.index.splade_index import SpladeIndex
from tests.rest_server import RestServer
from tests.words import WordEncoder

MOON = [
    "Chandrayaan-3 landed near the south pole of the Moon.",
    "The rover Pragyan left the lander Vikram.",
    "A rocket lifted the lander to a lunar orbit.",
]


def client_of(engine: str) -> Any:
    """Open an empty engine in memory, "edge" or "local"."""
    if engine == "local":
        return QdrantClient(":memory:")
    from splade_retriever.edge.client import EdgeClient

    return EdgeClient(":memory:")


def is_local(client: Any) -> bool:
    return isinstance(client, QdrantClient) and isinstance(client._client, QdrantLocal)


@pytest.fixture(name="rest", scope="module")
def rest_client() -> Iterator[QdrantClient]:
    """A client of a server's REST interface; opening one takes a quarter of a second."""
    with RestServer() as server:
        client = QdrantClient(url=server.url, check_compatibility=False)
        yield client
        client.close()


STORES = ["edge", "local", "rest", pytest.param("server", marks=pytest.mark.server)]
"""Every store an index runs on: "rest" is the way to a server, "server" a Qdrant server proper."""


@pytest.fixture(name="client", params=STORES)
def every_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every store an index runs on, empty."""
    with opened_store(request.param, request) as client:
        yield client


@contextlib.contextmanager
def opened_store(engine: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open one of `STORES` without collections, and leave it without any."""
    if engine in ("edge", "local"):
        opened = client_of(engine)
        yield opened
        opened.close()
        return
    if engine == "server":
        request.getfixturevalue("empty_server")
        yield request.getfixturevalue("server_client")
        return
    client: QdrantClient = request.getfixturevalue(engine)
    yield client
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)


@pytest.fixture(name="index")
def empty_index(client: Any) -> SpladeIndex:
    return SpladeIndex(client=client, model=WordEncoder())
