"""Indexes that are opened to read only, and folders that are opened several times in one process."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import EdgeClient, EdgeProcess, RetrieverConfig, reindex
from splade_retriever import langchain as for_langchain
from splade_retriever import llama_index as for_llama_index
from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    IndexLockedError,
    InputError,
    NotSupportedError,
)
from splade_retriever.index.splade_index import SpladeIndex
from tests.index.parts import MOON
from tests.words import WordEncoder


@pytest.fixture(name="folder")
def index_folder(tmp_path: Path) -> Path:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        index.add(MOON, ids=["pole", "rover", "orbit"])
    return tmp_path / "index"


@pytest.fixture(name="large", scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose engine moves to a child process at its first asynchronous call."""
    folder = tmp_path_factory.mktemp("large") / "index"
    with SpladeIndex(folder, model=WordEncoder()) as index:
        texts = [f"document {n} about herons" for n in range(1_500)]
        index.add(texts, [{"notes": "x" * 3_000}] * len(texts))
    assert disk_usage(folder) > 5 * 2**20
    return folder


def opened(folder: Path, **options: Any) -> SpladeIndex:
    return SpladeIndex(folder, model=WordEncoder(), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- reading only --------------------------------------------------------------------------------------------


def test_a_read_only_index_reads_and_refuses_every_write(folder: Path) -> None:
    before = contents(folder)
    with opened(folder, read_only=True) as index:
        assert [hit.id for hit in index.search("rover")] == ["rover"]
        assert index.count() == 3
        for write in (
            lambda: index.add(["more"]),
            lambda: asyncio.run(index.aadd(["more"])),
            lambda: index.update_metadata("pole", {"a": 1}),
            lambda: index.delete(["pole"]),
            lambda: index.delete(filter={"a": 1}),
            index.clear,
            index.optimize,
            lambda: index.index_payload(["metadata.a"]),
            lambda: index.client.delete_collection("splade"),
        ):
            with pytest.raises(NotSupportedError, match="read-only"):
                write()
    assert contents(folder) == before


def test_a_read_only_index_is_not_created_or_adopted(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError):
        opened(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(CollectionNotFoundError):
        opened(folder, collection="other", read_only=True)
    with pytest.raises(InputError, match="adopt"):
        opened(folder, adopt=True, read_only=True)
    with pytest.raises(InputError, match="memory"):
        SpladeIndex(read_only=True)


def test_a_read_only_index_with_a_client_refuses_writes() -> None:
    with EdgeClient() as client:
        SpladeIndex(client=client, model=WordEncoder()).add(["moon"], ids=["a"])
        index = SpladeIndex(client=client, model=WordEncoder(), read_only=True)
        with pytest.raises(NotSupportedError, match="read-only"):
            index.delete(["a"])
        assert index.count() == 1


def test_refresh_shows_later_writes(folder: Path) -> None:
    with opened(folder, read_only=True) as reader:
        with opened(folder) as writer:
            writer.add(["A heron."], ids=["heron"])
        assert reader.count() == 3
        reader.refresh()
        assert [hit.id for hit in reader.search("heron")] == ["heron"]
        with opened(folder) as writer:  # of this process: its engine is shared
            writer.delete(["heron"])
            reader.refresh()
            assert reader.count() == 3
            writer.delete(["pole"])
            assert reader.count() == 2


def test_refresh_of_an_index_that_is_not_read_only_does_nothing(folder: Path) -> None:
    with opened(folder) as index:
        client = index.client
        index.refresh()
        assert index.client is client
        assert index.count() == 3


def test_refresh_keeps_the_old_copy_if_the_collection_was_made_again_or_is_locked(folder: Path) -> None:
    with opened(folder, read_only=True) as reader:
        reindex(folder, WordEncoder("other words"))
        with pytest.raises(CollectionMismatchError, match="Open the index again"):
            reader.refresh()
        assert reader.count() == 3
        with EdgeProcess(folder), pytest.raises(IndexLockedError):
            reader.refresh()
        with EdgeClient(folder) as client:
            client.delete_collection("splade")
        with pytest.raises(CollectionNotFoundError):
            reader.refresh()
        assert [hit.id for hit in reader.search("rover")] == ["rover"]


def test_several_read_only_indexes_are_open_at_once(folder: Path) -> None:
    with opened(folder, read_only=True) as one, opened(folder, read_only=True) as other:
        assert one.client is not other.client
        assert one.count() == other.count() == 3


def test_the_adapters_and_a_configuration_open_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with SpladeIndex(folder) as index:
        index.add(MOON, ids=["pole", "rover", "orbit"])
    config = RetrieverConfig(location=str(folder), index={"read_only": True}, k=1)
    assert RetrieverConfig.from_dict(config.to_dict()) == config
    retriever = for_langchain.SpladeRetriever(location=folder, read_only=True, k=1)
    with config.langchain() as one, retriever as other, config.llama_index() as third:
        assert [document.id for document in one.invoke("rover")] == ["rover"]
        assert [document.id for document in other.invoke("rover")] == ["rover"]
        assert [node.node_id for node in third.retrieve("rover")] == ["rover"]
        with pytest.raises(NotSupportedError, match="read-only"):
            other.open().add(["more"])
    store = for_langchain.SpladeVectorStore(folder, read_only=True)
    with store, pytest.raises(NotSupportedError, match="read-only"):
        store.add_texts(["more"])
    nodes = for_llama_index.SpladeVectorStore(folder, read_only=True)
    with nodes, pytest.raises(NotSupportedError, match="read-only"):
        nodes.delete_nodes(["rover"])


@pytest.mark.asyncio
async def test_a_large_read_only_index_moves_its_copy_to_a_child(large: Path) -> None:
    async with await SpladeIndex.aopen(large, model=WordEncoder(), read_only=True) as index:
        assert isinstance(index.client, EdgeProcess)
        assert len(await index.asearch("herons", 3)) == 3
        with pytest.raises(NotSupportedError, match="read-only"):
            index.client.delete_collection("splade")
        with opened(large) as writer:
            writer.add(["A crane."], ids=["crane"])
        assert not await index.aget(["crane"])
        await index.run_in_thread(index.refresh)
        assert await index.aget(["crane"])
        assert isinstance(index.client, EdgeProcess)
        with opened(large) as writer:
            writer.delete(["crane"])


# -- sharing -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_engine_in_a_child_process_is_shared(large: Path) -> None:
    first = await SpladeIndex.aopen(large, model=WordEncoder())
    assert isinstance(first.client, EdgeProcess)
    second = opened(large)
    reader = opened(large, read_only=True)
    assert second.client is reader.client is first.client
    second.add(["A crane."], ids=["crane"])
    assert await first.aget(["crane"])
    assert reader.get(["crane"])
    with pytest.raises(NotSupportedError, match="read-only"):
        reader.delete(["crane"])
    first.close()
    reader.close()
    second.delete(["crane"])
    assert second.count() == 1_500
    second.close()
    with EdgeClient(large) as client:  # nobody has it any more
        assert client.count("splade").count == 1_500


@pytest.mark.asyncio
async def test_a_shared_engine_moves_for_all_its_users(large: Path) -> None:
    with opened(large) as one, opened(large) as other:
        assert type(one.client) is EdgeClient
        assert one.client is other.client
        assert len(await one.asearch("herons", 3)) == 3
        assert isinstance(other.client, EdgeProcess)
        assert one.client is other.client
        assert other.count() == 1_500


def test_a_forgotten_index_releases_its_share(folder: Path) -> None:
    forgotten, kept = opened(folder), opened(folder)
    del forgotten
    gc.collect()
    kept.add(["more"], ids=["more"])
    del kept
    gc.collect()
    with EdgeProcess(folder) as client:
        assert client.count("splade").count == 4
