"""Parts that the tests of an index share: texts, and the stores an index runs on, as fixtures."""

import os
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


@pytest.fixture(name="server", scope="module")
def server_client() -> Iterator[QdrantClient]:
    client = QdrantClient(url=os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"))
    found = [collection.name for collection in client.get_collections().collections]
    assert not found, f"these tests delete collections: use a server without any, this one has {found}"
    yield client
    client.close()


@pytest.fixture(
    name="client", params=["edge", "local", "rest", pytest.param("server", marks=pytest.mark.server)]
)
def every_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every store an index runs on: "rest" is the way to a server, "server" a Qdrant server proper."""
    if request.param in ("edge", "local"):
        opened = client_of(request.param)
        yield opened
        opened.close()
        return
    client: QdrantClient = request.getfixturevalue(request.param)
    yield client
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)


@pytest.fixture(name="index")
def empty_index(client: Any) -> SpladeIndex:
    return SpladeIndex(client=client, model=WordEncoder())
