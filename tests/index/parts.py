"""What the tests of an index share beside their fixtures: texts, and engines in memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

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


@contextlib.contextmanager
def opened_store(engine: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open a store by name ("edge", "local", "rest", "server"), empty, and empty it at the end."""
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
