"""The stores an index runs on, as fixtures."""

from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient

from splade_retriever.index.splade_index import SpladeIndex
from tests.index.parts import opened_store
from tests.rest_server import RestServer
from tests.words import WordEncoder


@pytest.fixture(name="rest", scope="module")
def rest_client() -> Iterator[QdrantClient]:
    """A client of a server's REST interface; opening one takes a quarter of a second."""
    with RestServer() as server:
        client = QdrantClient(url=server.url, check_compatibility=False)
        yield client
        client.close()


STORES = ["edge", "local", "rest", pytest.param("server", marks=pytest.mark.server)]
"""Every store an index runs on: "rest" is a stand-in for a server, "server" a Qdrant server."""


@pytest.fixture(name="client", params=STORES)
def every_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every store an index runs on, empty."""
    with opened_store(request.param, request) as client:
        yield client


@pytest.fixture(name="index")
def empty_index(client: Any) -> SpladeIndex:
    return SpladeIndex(client=client, model=WordEncoder())
