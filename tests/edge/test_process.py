"""EdgeProcess: the answers of EdgeClient, an event loop that keeps running, and killed processes."""

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from splade_retriever import SpladeIndex
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.engine import SharedEngine
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    IndexLockedError,
    InputError,
    NotSupportedError,
    StorageError,
)
from splade_retriever.sparse import SparseEmbedding
from tests.python_process import PythonProcess
from tests.words import WordEncoder

ROOT = Path(__file__).parents[2]
SPARSE = {"sparse": models.SparseVectorParams()}
LONGEST_GAP_S = 0.05
LONGEST_GAP_ON_A_BUSY_MACHINE_S = 0.2


def sparse_vector(number: int) -> models.SparseVector:
    indices = sorted({number % 997, number % 89 + 1000, number % 7 + 2000})
    return models.SparseVector(
        indices=indices, values=[weight + number / 1000 for weight in (1.0, 0.5, 0.25)]
    )


def point(number: int) -> models.PointStruct:
    return models.PointStruct(id=number, vector={"sparse": sparse_vector(number)}, payload={"number": number})


@pytest.fixture(scope="module")
def process() -> Iterator[EdgeProcess]:
    with EdgeProcess() as client:
        client.create_collection("docs", sparse_vectors_config=SPARSE)
        client.upsert("docs", [point(number) for number in range(300)])
        yield client


def ended(process_id: int, *, within_s: float = 20) -> bool:
    """Wait for a process that is no child of ours to end."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


# -- the same client -----------------------------------------------------------------------------------------


def test_the_child_returns_the_answers_of_a_client_in_this_process(process: EdgeProcess) -> None:
    query = models.SparseVector(indices=[5, 1005, 2001], values=[1.0, 2.0, 0.5])
    with EdgeClient() as here:
        here.create_collection("docs", sparse_vectors_config=SPARSE)
        here.upsert("docs", [point(number) for number in range(300)])
        asks: list[Callable[[Any], object]] = [
            lambda client: client.query_points("docs", query, using="sparse", limit=20),
            lambda client: client.scroll("docs", limit=30, with_vectors=True),
            lambda client: client.retrieve("docs", [3, 4], with_payload=True),
            lambda client: client.get_collection("docs"),
            lambda client: client.count("docs"),
        ]
        for ask in asks:
            assert ask(process) == ask(here)


def test_it_has_the_public_methods_of_the_client_in_this_process() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(EdgeProcess) == public(EdgeClient) | {"ended", "process_id", "taking_over"}


def test_streams_are_sent_in_parts(process: EdgeProcess) -> None:
    process.create_collection("streams", sparse_vectors_config=SPARSE)
    process.upload_points("streams", (point(number) for number in range(200)))
    process.upload_collection(
        "streams", ({"sparse": sparse_vector(n)} for n in range(100)), ids=itertools.count(1000)
    )
    assert process.count("streams").count == 300
    process.delete_collection("streams")


def test_errors_come_back_as_they_were_raised(process: EdgeProcess) -> None:
    with pytest.raises(CollectionNotFoundError, match="Collection 'nowhere' does not exist"):
        process.count("nowhere")
    with pytest.raises(InputError, match="unknown argument"):
        process.count("docs", nonsense=1)
    with pytest.raises(InputError):
        process.upsert("docs", [models.PointStruct(id=1, vector={"nowhere": [1.0]})])
    with pytest.raises(NotSupportedError, match="Qdrant server"):
        process.get_aliases()
    with pytest.raises(InputError, match="cannot be sent"):
        process.upsert("docs", [models.PointStruct(id=1, vector={}, payload={"a": threading.Lock()})])
    assert process.count("docs").count == 300


def test_each_thread_gets_the_answer_to_its_request(process: EdgeProcess) -> None:
    wrong: list[int] = []

    def ask(first: int) -> None:
        for number in range(first, first + 40):
            if process.retrieve("docs", [number])[0].id != number:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 240, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_close_ends_the_child_and_later_calls_raise(tmp_path: Path) -> None:
    client = EdgeProcess(tmp_path / "store")
    child = client.process_id
    client.close()
    client.close()
    assert client.closed
    assert ended(child)
    with pytest.raises(IndexClosedError, match="closed"):
        client.get_collections()
    with EdgeClient(tmp_path / "store") as again:
        assert again.get_collections().collections == []


def test_a_garbage_collected_client_ends_its_child() -> None:
    client = EdgeProcess()
    child = client.process_id
    del client
    gc.collect()
    assert ended(child)


def test_the_error_of_a_locked_folder_names_its_holder(tmp_path: Path) -> None:
    with (
        EdgeProcess(tmp_path / "store"),
        pytest.raises(IndexLockedError, match="already open in this process"),
    ):
        EdgeClient(tmp_path / "store")
    with EdgeClient(tmp_path / "store"), pytest.raises(IndexLockedError, match=str(os.getpid())):
        EdgeProcess(tmp_path / "store")


def test_a_location_of_the_wrong_type_is_refused() -> None:
    for opened in (EdgeClient, EdgeProcess):
        with pytest.raises(InputError, match="Location is an int, expected a folder"):
            opened(5)  # type: ignore[arg-type]


# -- taking over ---------------------------------------------------------------------------------------------


def test_a_folder_is_taken_over_with_its_collections(tmp_path: Path) -> None:
    client = EdgeClient(tmp_path / "store")
    client.create_collection("docs", sparse_vectors_config=SPARSE)
    client.upsert("docs", [point(number) for number in range(100)])
    with EdgeProcess.taking_over(client) as process:
        assert client.closed
        assert process.count("docs").count == 100
        assert process.location == str(tmp_path / "store")


def test_a_temporary_folder_is_kept_until_the_child_closes() -> None:
    client = EdgeClient()
    client.create_collection("docs", sparse_vectors_config=SPARSE)
    client.upsert("docs", [point(1)])
    process = EdgeProcess.taking_over(client)
    folder = process._child.temporary
    assert folder is not None
    assert process.count("docs").count == 1
    assert folder.is_dir()
    process.close()
    assert not folder.exists()


def test_a_child_that_does_not_start_leaves_the_client_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with EdgeClient() as client:
        client.create_collection("docs", sparse_vectors_config=SPARSE)
        with pytest.raises(NotSupportedError, match="ended with code 1"):
            EdgeProcess.taking_over(client)
        assert client.count("docs").count == 0


# -- killed processes --------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_killed_child_raises_and_loses_nothing(tmp_path: Path) -> None:
    client = EdgeProcess(tmp_path / "store")
    client.create_collection("docs", sparse_vectors_config=SPARSE)
    client.upsert("docs", [point(number) for number in range(200)])
    os.kill(client.process_id, signal.SIGKILL)
    with pytest.raises(StorageError, match="ended by signal 9"):
        client.count("docs")
    client.close()
    with EdgeProcess(tmp_path / "store") as again:
        assert again.count("docs").count == 200


@pytest.mark.faults
def test_an_index_whose_child_was_killed_is_opened_again_while_others_still_use_it(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path, model=WordEncoder()) as first:
        first.add(["moon"], ids=["a"])
        assert isinstance(first.store._engine, SharedEngine)
        first.store._engine.move_to_child(lambda _: True)
        assert isinstance(first.client, EdgeProcess)
        os.kill(first.client.process_id, signal.SIGKILL)
        with pytest.raises(StorageError, match="Open the index again"):
            first.count()

        with SpladeIndex(tmp_path, model=WordEncoder()) as again:
            assert again.count() == 1


@pytest.mark.faults
def test_a_killed_parent_ends_its_child_and_loses_nothing(tmp_path: Path) -> None:
    script = f"""
import time
from tests.edge.test_process import SPARSE, EdgeProcess, point
client = EdgeProcess({str(tmp_path / "store")!r})
client.create_collection("docs", sparse_vectors_config=SPARSE)
print(client.process_id, flush=True)
for number in range(1_000_000):
    client.upsert("docs", [point(number)])
    print(number, flush=True)
"""
    with PythonProcess(script) as parent:
        child = int(parent.stdout.readline())
        acknowledged = [int(parent.stdout.readline()) for _ in range(50)]
        parent.kill()
        acknowledged += [int(line) for line in parent.stdout.read().split("\n")[:-1]]
    with EdgeClient(tmp_path / "store") as client:  # which may have to wait a little for the child to end
        assert ended(child)
        stored = {record.id for record in client.scroll("docs", limit=1_000_000)[0]}
    assert set(acknowledged) <= stored


# -- an index and its event loop -----------------------------------------------------------------------------


class Heartbeat:
    """A task that ticks each millisecond and keeps the longest time between two ticks.

    The time in which the loop's thread could have run but other processes had the cores does not count.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        last, waited = time.perf_counter(), _waited_for_a_core_s()
        while True:
            await asyncio.sleep(0.001)
            now, waits = time.perf_counter(), _waited_for_a_core_s()
            self.longest_s = max(self.longest_s, now - last - (waits - waited))
            last, waited = now, waits


def _waited_for_a_core_s() -> float:
    stat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    return int(stat.read_text().split()[1]) * 1e-9 if stat.exists() else 0.0


async def longest_gap(work: Awaitable[object]) -> float:
    """Await something beside a heartbeat and say how long that stood still, in seconds."""
    beat = Heartbeat()
    task = asyncio.create_task(beat.run())
    try:
        await asyncio.sleep(0.01)
        await work
        await asyncio.sleep(0.01)  # for the beat that was missed
    finally:
        task.cancel()
    return beat.longest_s


def texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(3000)]
    return [" ".join(words[n] for n in row) for row in random.integers(0, 3000, (count, 40))]


def filled(location: Path, count: int) -> None:
    """Write many documents without much encoding."""
    with SpladeIndex(location, model=WordEncoder()) as ix:
        ix.add(texts(count), vectors=[vector(number) for number in range(count)], batch_size=2048)


def vector(number: int) -> SparseEmbedding:
    random = np.random.default_rng(number)
    indices = np.unique(random.integers(0, 30_000, 60))
    return SparseEmbedding(indices=indices, values=random.random(len(indices)).astype(np.float32) + 0.1)


@pytest.fixture
def frozen() -> Iterator[None]:
    """Keep Python's collector off what is imported: a round over all of it takes longer than is allowed."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.asyncio
async def test_a_heartbeat_detects_that_the_engine_blocks_the_loop_in_this_process(tmp_path: Path) -> None:
    """Without a child the loop stands still: what the tests below would see."""
    filled(tmp_path / "ix", 12_000)
    with EdgeClient(tmp_path / "ix") as client:
        assert await longest_gap(asyncio.to_thread(client.optimize, "splade")) > LONGEST_GAP_S


@pytest.mark.asyncio
@pytest.mark.usefixtures("frozen")
async def test_no_async_call_on_a_large_index_blocks_the_loop(tmp_path: Path) -> None:
    filled(tmp_path / "ix", 12_000)
    await check_heartbeats(tmp_path / "ix", added=2_000, longest_s=LONGEST_GAP_ON_A_BUSY_MACHINE_S)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.usefixtures("frozen")
async def test_no_async_call_on_100_000_documents_blocks_the_loop(tmp_path: Path) -> None:
    filled(tmp_path / "ix", 100_000)
    await check_heartbeats(tmp_path / "ix", added=50_000, longest_s=LONGEST_GAP_S)


async def check_heartbeats(location: Path, *, added: int, longest_s: float) -> None:
    """Open, search, add, optimise, read and close, each beside a heartbeat."""
    ix: SpladeIndex | None = None

    async def opened() -> None:
        nonlocal ix
        ix = await SpladeIndex.aopen(location, model=WordEncoder())

    gaps = {"open": await longest_gap(opened())}
    assert ix is not None
    assert isinstance(ix.client, EdgeProcess)
    gaps["search"] = await longest_gap(asyncio.gather(*(ix.asearch(f"word{n}", 5) for n in range(50))))
    gaps["add"] = await longest_gap(ix.aadd(texts(added)))
    gaps["optimize"] = await longest_gap(ix.run_in_thread(ix.client.optimize, "splade"))
    gaps["count"] = await longest_gap(ix.acount({"nothing": "there"}))
    gaps["close"] = await longest_gap(ix.aclose())
    print("longest stops of the loop, in seconds:", {name: round(gap, 4) for name, gap in gaps.items()})
    assert max(gaps.values()) < longest_s, gaps


@pytest.mark.asyncio
async def test_an_async_add_moves_a_growing_index_to_a_child(tmp_path: Path) -> None:
    async with await SpladeIndex.aopen(tmp_path / "ix", model=WordEncoder()) as ix:
        await ix.aadd(texts(100))
        assert type(ix.client) is EdgeClient  # small: its calls are short
        await ix.aadd(texts(4000))
        assert isinstance(ix.client, EdgeProcess)
        assert ix.count() == await ix.acount() == 4100
    with SpladeIndex(tmp_path / "ix", model=WordEncoder()) as ix:
        assert ix.count() == 4100
        assert type(ix.client) is EdgeClient  # nothing was called from a loop


@pytest.mark.asyncio
async def test_threads_keep_reading_and_writing_while_the_engine_moves(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "ix", model=WordEncoder()) as ix:
        ix.add(texts(3000))
        faults: list[Exception] = []
        done = threading.Event()
        added: list[str] = []

        def work() -> None:
            try:
                while not done.is_set():
                    added.extend(ix.add(["a text about herons"]))
                    assert ix.search("herons", 1)
            except Exception as error:  # noqa: BLE001 - the test shows it
                faults.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert len(await ix.asearch("word7", 3)) == 3
        assert isinstance(ix.client, EdgeProcess)
        done.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert not faults
        assert ix.count() == 3000 + len(added)
        assert len(ix.get(added)) == len(added)


@pytest.mark.asyncio
async def test_a_client_of_the_caller_is_not_moved() -> None:
    with EdgeClient() as client, SpladeIndex(client=client, model=WordEncoder()) as ix:
        await ix.aadd(texts(4000))
        assert ix.client is client


@pytest.mark.asyncio
async def test_an_index_accepts_an_edge_process() -> None:
    with EdgeProcess() as client, SpladeIndex(client=client, model=WordEncoder()) as ix:
        await ix.aadd(["a heron", "a crane"], ids=["1", "2"])
        assert [hit.id for hit in await ix.asearch("heron", 1)] == ["1"]


@pytest.mark.asyncio
async def test_an_index_logs_once_that_no_child_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with SpladeIndex(model=WordEncoder()) as ix:
        ix.add(texts(3000))
        for _ in range(2):
            assert len(await ix.asearch("word7", 3)) == 3
    assert caplog.text.count("The engine stays in this process") == 1
