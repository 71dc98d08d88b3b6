"""`reindex` of an alias on a Qdrant server while other programs write through the alias."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.errors import CollectionMismatchError
from splade_retriever.index.collection import Collection
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.reindex import reindex
from splade_retriever.maintenance.staging import finish
from tests.maintenance.conftest import DoublingEncoder
from tests.qdrant_server import ServerAddress
from tests.words import WordEncoder

pytestmark = pytest.mark.server

N = 60
Opened = Callable[..., SpladeIndex]


@pytest.fixture
def opened(empty_server: ServerAddress, server_client: QdrantClient) -> Opened:
    """Open the alias "docs" of a collection with documents, with a separate connection each."""

    def open_index(**options: Any) -> SpladeIndex:
        return SpladeIndex(empty_server.url, collection="docs", api_key=empty_server.api_key, **options)

    with SpladeIndex(
        empty_server.url, collection="docs.1", api_key=empty_server.api_key, model=WordEncoder()
    ) as index:
        index.add([f"moon {n}" for n in range(N)], [{"n": n} for n in range(N)], [str(n) for n in range(N)])
    alias = models.CreateAlias(collection_name="docs.1", alias_name="docs")
    server_client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    return open_index


def test_what_is_written_between_the_last_pass_and_the_switch_is_in_the_new_collection(
    opened: Opened, server_client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = opened(model=WordEncoder())
    switch_alias = Collection.switch_alias

    def write_late(*arguments: Any) -> None:
        old.add(["late", "corrected", "old text"], [{"n": -1}] * 3, ["new", "1", "2"])
        old.update_metadata("3", {"n": -3})
        old.delete(["4", "5"])
        finish(*arguments)

    def switch_and_write(collection: Collection, target: str) -> None:
        switch_alias(collection, target)
        with opened(model=DoublingEncoder()) as index:
            index.add(["newest", "back"], ids=["2", "5"])
            index.delete(["3"])
            index.add(["another"], ids=["other"])

    monkeypatch.setattr("splade_retriever.maintenance.reindex.finish", write_late)
    monkeypatch.setattr(Collection, "switch_alias", switch_and_write)

    report = reindex(server_client, DoublingEncoder(), collection="docs")

    assert (report.switch, report.carried_over) == ("alias", 3)  # "new", "1" and the deletion of "4"
    with opened(model=DoublingEncoder()) as index:
        texts = {hit.id: hit.text for hit in index.scroll()}
        assert texts == {
            **{str(n): f"moon {n}" for n in range(N) if n not in (3, 4)},
            "new": "late",
            "1": "corrected",
            "2": "newest",
            "5": "back",
            "other": "another",
        }
        assert [hit.metadata for hit in index.get(["1"])] == [{"n": -1}]
        assert index.search("corrected", 1)[0].id == "1"
    with pytest.raises(CollectionMismatchError, match="Open the index again"):
        old.add(["lost"], ids=["lost"])


def test_a_writer_through_the_alias_loses_nothing_that_was_acknowledged(
    opened: Opened, server_client: QdrantClient
) -> None:
    acknowledged: dict[str, str] = {}
    refused: dict[str, str] = {}
    started, noticed = threading.Event(), threading.Event()

    def write() -> None:
        index = opened(model=WordEncoder())
        for n in range(10_000):
            id = f"w{n // 2}"
            try:
                index.add([f"written {n}"], ids=[id])
            except CollectionMismatchError:
                refused[id] = f"written {n}"
                noticed.set()
                return
            acknowledged[id] = f"written {n}"
            started.set()
            threading.Event().wait(0.12)

    writer = threading.Thread(target=write)
    writer.start()
    assert started.wait(10)
    report = reindex(server_client, DoublingEncoder(), collection="docs")
    writer.join(20)

    assert report.switch == "alias"
    assert noticed.is_set()
    with opened(model=DoublingEncoder()) as index:
        stored = {hit.id: hit.text for hit in index.scroll() if hit.id.startswith("w")}
    # A write that was refused because of the switch may have reached the old collection before it.
    assert stored in (acknowledged, {**acknowledged, **refused})
