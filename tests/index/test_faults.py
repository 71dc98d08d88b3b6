"""Real faults: killed processes, a locked, read-only or full folder, a server that stops, bad streams."""

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.storage import EdgeFolder
from splade_retriever.errors import IndexLockedError, InputError, ServerError, SpladeError, StorageError
from splade_retriever.index import connection as server
from splade_retriever.index.splade_index import SpladeIndex
from tests.python_process import PythonProcess, run_python
from tests.rest_server import CuttingProxy, RestServer
from tests.words import WordEncoder

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]

ADDING = """
import sys
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

def acknowledged(ids):
    print(*ids, flush=True)

start = int(sys.argv[2])
with SpladeIndex(sys.argv[1], model=WordEncoder()) as index:
    print("open", flush=True)
    index.add(
        (f"moon text {n}" for n in range(start, 1_000_000)),
        ({"n": n} for n in range(start, 1_000_000)),
        (f"id {n}".replace(" ", "_") for n in range(start, 1_000_000)),
        batch_size=16,
        on_written=acknowledged,
    )
"""

HOLDING = """
import sys
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

with SpladeIndex(sys.argv[1], model=WordEncoder()) as index:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_after_a_kill_at_any_moment_the_index_opens_with_every_acknowledged_document(tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    acknowledged: list[str] = []
    moments = random.Random(7)
    for _ in range(4):
        with PythonProcess(ADDING, folder, str(len(acknowledged))) as process:
            assert process.stdout.readline() == "open\n"
            # From the first acknowledgement on, kill it somewhere in the middle of the work.
            acknowledged += process.stdout.readline().split()
            time.sleep(moments.uniform(0.0, 0.3))
            process.kill()
            # The kill may have cut the last line short.
            acknowledged += [id for line in process.stdout if line.endswith("\n") for id in line.split()]

        with SpladeIndex(folder, model=WordEncoder()) as index:
            found = {hit.id: hit for hit in index.get(acknowledged)}
            assert set(found) == set(acknowledged)
            assert all(hit.text == f"moon text {hit.metadata['n']}" for hit in found.values())
            assert len(index.search("moon", k=len(acknowledged))) == len(acknowledged)
            assert index.count() >= len(acknowledged)
            # Documents that were written and not yet acknowledged may be stored too, but completely.
            assert all(hit.text.startswith("moon text") and hit.metadata for hit in index.scroll())
    assert len(acknowledged) >= 64

    encoder = WordEncoder()
    with SpladeIndex(folder, model=encoder) as index:
        there = index.count()
        numbers = range(there + 100)
        index.add(
            [f"moon text {n}" for n in numbers], [{"n": n} for n in numbers], [f"id_{n}" for n in numbers]
        )
        assert index.count() == there + 100
    assert encoder.encoded == 100, "what a killed process has written is not encoded again"


def test_an_interrupted_add_encodes_only_what_is_missing(tmp_path: Path) -> None:
    def texts(until: int) -> Iterator[str]:
        for n in range(1000):
            if n == until:
                raise KeyboardInterrupt
            yield f"text {n}"

    with SpladeIndex(tmp_path, model=WordEncoder()) as index, pytest.raises(KeyboardInterrupt):
        index.add(texts(600), ids=(str(n) for n in range(1000)), batch_size=50)

    encoder = WordEncoder()
    with SpladeIndex(tmp_path, model=encoder) as index:
        index.add(texts(-1), ids=(str(n) for n in range(1000)), batch_size=50)
        assert index.count() == 1000
    assert encoder.encoded == 400


OPTIMISING = """
import sys
from splade_retriever.edge.client import EdgeClient

with EdgeClient(sys.argv[1]) as client:
    client.count("splade")
    print("optimising", flush=True)
    client.optimize("splade")
    print("done", flush=True)
    sys.stdin.read()
"""


def test_after_a_kill_during_optimize_every_document_is_found_as_before(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "0") as client:
        index = SpladeIndex(client=client, model=WordEncoder())
        index.add((f"moon text {n} of {n % 7}" for n in range(3000)), ids=(str(n) for n in range(3000)))
        # From one kilobyte on there is something to do; else it is from about 10,000 documents on.
        small = models.OptimizersConfigDiff(indexing_threshold=1)
        client.update_collection("splade", optimizers_config=small)
        before = index.search("moon text 5 of 3", k=3000)
    killed = 0
    for n, wait_s in enumerate((0.02, 0.08, 0.01, 0.005, 0.0), 1):
        if n > 2 and killed:
            break
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "0", folder)
        with PythonProcess(OPTIMISING, str(folder)) as process:
            assert process.stdout.readline() == "optimising\n"
            time.sleep(wait_s)
            process.kill()
            killed += "done" not in process.stdout.read()

        with EdgeClient(folder) as client:
            index = SpladeIndex(client=client, model=WordEncoder())
            assert index.count() == 3000
            assert index.search("moon text 5 of 3", k=3000) == before
            index.add(["moon again"], ids=["after"])
            client.optimize("splade")
            assert len(index.search("moon", k=4000)) == 3001
    assert killed > 0, "the processes were killed too late"


class KilledError(BaseException):
    pass


def windows(count: int, word: str) -> str:
    """A text of so many windows of two words."""
    return " ".join(f"{word} {word}{n}" for n in range(count))


@pytest.mark.parametrize(("before", "after"), [(0, 70), (3, 2), (100, 70), (70, 100), (100, 1)], ids=str)
@pytest.mark.parametrize("again", ["before", "after"])
def test_after_a_kill_between_two_writes_the_next_add_completes_and_cleans_all_windows(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int, again: str
) -> None:
    texts = {"before": windows(before, "old") or "old", "after": windows(after, "new")}
    write = EdgeFolder.write
    left: list[int] = []

    def dying(self: EdgeFolder, *arguments: Any) -> Any:
        if left and not left[0]:
            raise KilledError
        if left:
            left[0] -= 1
        return write(self, *arguments)

    monkeypatch.setattr(EdgeFolder, "write", dying)
    for moment in range(20):
        with EdgeClient() as client:
            index = SpladeIndex(
                client=client, model=WordEncoder(max_length=2), windows="points", window_overlap=0
            )
            if before:
                index.add([texts["before"]], ids=["a"])
            left[:] = [moment]
            try:
                index.add([texts["after"]], ids=["a"])
            except KilledError:
                reached_the_end = False
            else:
                reached_the_end = True
            left.clear()

            index.add([texts[again]], ids=["a"])
            (whole,) = index.get(["a"])
            assert whole.text == texts[again]
            assert client.count("splade").count == max(1, len(texts[again].split()) // 2)
            found = index.search("old new", k=10)
            assert [hit.text.split()[0][:3] for hit in found] == [texts[again][:3]]
        if reached_the_end:
            break
    assert moment == (3 if before > after else 1)  # writes: forget the hash, delete what is over, upsert


def test_opening_a_folder_in_a_second_process_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    with PythonProcess(HOLDING, str(tmp_path / "index")) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(IndexLockedError, match="another process"):
            SpladeIndex(tmp_path / "index", model=WordEncoder())
        process.finish()

    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        assert index.count() == 0


def test_a_file_in_place_of_the_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("not a folder")

    with pytest.raises(StorageError, match="index"):
        SpladeIndex(tmp_path / "index", model=WordEncoder())


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    if shutil.which("mount") is None or not mounted(folder, "size=256m"):
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_is_an_error_and_is_not_changed(small_disk: Path) -> None:
    with SpladeIndex(small_disk / "index", model=WordEncoder()) as index:
        index.add(["moon"], ids=["a"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(StorageError, match=r"read-only|Read-only|written"):
        SpladeIndex(small_disk / "index", model=WordEncoder()).add(["more"], ids=["b"])
    with pytest.raises(StorageError):
        SpladeIndex(small_disk / "new", model=WordEncoder())

    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with SpladeIndex(small_disk / "index", model=WordEncoder()) as index:
        assert [hit.id for hit in index.search("moon")] == ["a"]


FILLING = """
import os, sys
from pathlib import Path
from splade_retriever.errors import StorageError
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

disk = Path(sys.argv[1])
with SpladeIndex(disk / "index", model=WordEncoder()) as index:
    index.add([f"moon {n}" for n in range(100)], ids=[str(n) for n in range(100)])
    free = os.statvfs(disk)
    with open(disk / "ballast", "wb") as ballast:
        ballast.write(b"x" * max(0, free.f_bavail * free.f_frsize - 3_000_000))
    acknowledged = []
    try:
        index.add(
            ("moon " + " ".join(f"w{n}x{i}" for i in range(300)) for n in range(100, 100_000)),
            ids=(str(n) for n in range(100, 100_000)),
            batch_size=64,
            on_written=acknowledged.extend,
        )
    except StorageError as error:
        print("StorageError", len(acknowledged), error, flush=True)
    os._exit(0)
"""


def test_a_full_disk_is_an_error_and_loses_nothing_acknowledged(small_disk: Path) -> None:
    done = run_python(FILLING, str(small_disk), timeout=120)
    assert "StorageError" in done.stdout, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    acknowledged = int(done.stdout.split()[1])

    (small_disk / "ballast").unlink()
    with SpladeIndex(small_disk / "index", model=WordEncoder()) as index:
        found = {hit.id for hit in index.get([str(n) for n in range(100 + acknowledged)])}
        assert len(found) == 100 + acknowledged
        index.add(["moon again"], ids=["after"])
        assert index.get(["after"])[0].text == "moon again"


def test_a_disk_without_space_for_optimize_is_an_error_before_it_starts(small_disk: Path) -> None:
    with EdgeClient(small_disk / "index") as client:
        index = SpladeIndex(client=client, model=WordEncoder())
        index.add([f"moon text {n}" for n in range(300)])
        stored, disk = client.stored_bytes("splade"), os.statvfs(small_disk)
        room = (32 << 20) + stored // 2
        (small_disk / "ballast").write_bytes(b"x" * (disk.f_bavail * disk.f_frsize - room))

        with pytest.raises(StorageError, match=f"are free, {(32 << 20) + stored >> 20} are needed"):
            client.optimize("splade")
        assert len(index.search("moon", k=1000)) == 300
        (small_disk / "ballast").unlink()
        client.optimize("splade")
        assert len(index.search("moon", k=1000)) == 300


# -- a server that goes away ---------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CuttingProxy, RestServer]]:
    monkeypatch.setattr(server, "_WAITS_S", (0.01, 0.02, 0.05))
    with RestServer() as rest, CuttingProxy(rest.port) as proxy:
        yield proxy, rest


@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_connection_that_is_cut_during_a_write_loses_and_duplicates_nothing(
    proxied: tuple[CuttingProxy, RestServer], cut: str
) -> None:
    proxy, rest = proxied
    acknowledged: list[str] = []
    ids = [f"id {n}" for n in range(600)]
    with SpladeIndex(proxy.url, model=WordEncoder(), timeout=20) as index:
        proxy.cuts = ["pass", cut, "pass", "pass", cut, cut]
        index.add(
            (f"moon text {n}" for n in range(600)), ids=ids, batch_size=150, on_written=acknowledged.extend
        )

        assert proxy.cuts == []
        assert proxy.upserts == 7, "4 calls of at most 256, 3 of them made again"
        assert acknowledged == ids
        assert rest.store.count("splade").count == 600
        assert len(index.search("moon", k=1000)) == 600


def test_a_server_that_stops_is_an_error_and_acknowledged_documents_are_stored_when_it_is_back(
    proxied: tuple[CuttingProxy, RestServer],
) -> None:
    proxy, rest = proxied
    acknowledged: list[str] = []

    def written(ids: list[str]) -> None:
        acknowledged.extend(ids)
        if len(acknowledged) >= 300:
            proxy.go_away()

    ids = [f"id {n}" for n in range(1000)]
    index = SpladeIndex(proxy.url, model=WordEncoder(), timeout=20, retry_for=0.5)
    with (
        index,
        pytest.raises(ServerError, match=r"Could not .*collection 'splade'.*tries within [0-7](\.\d)? s"),
    ):
        index.add((f"moon text {n}" for n in range(1000)), ids=ids, batch_size=50, on_written=written)
    assert 300 <= len(acknowledged) < 1000

    proxy.come_back()
    encoder = WordEncoder()
    with SpladeIndex(proxy.url, model=encoder) as index:
        assert {hit.id for hit in index.get(acknowledged)} == set(acknowledged)
        there = index.count()
        index.add((f"moon text {n}" for n in range(1000)), ids=ids, batch_size=50)
        assert encoder.encoded == 1000 - there
        assert rest.store.count("splade").count == index.count() == 1000


# -- bad input -----------------------------------------------------------------------------------------------


def test_a_stream_with_bad_inputs_is_stored_without_them(tmp_path: Path) -> None:
    poison: list[Any] = [None, b"bytes", "\ud800", 5, ["list"], float("nan")]
    texts: Any = (poison[n % len(poison)] if n % 10 == 3 else f"moon {n}" for n in range(500))
    bad: list[Any] = []

    with SpladeIndex(tmp_path, model=WordEncoder()) as index:
        ids = index.add(texts, on_error=bad.append, batch_size=32)

        assert [fault.position for fault in bad] == list(range(3, 500, 10))
        assert len(ids) == index.count() == 450


def test_an_encoder_that_fails_during_add_leaves_complete_documents(tmp_path: Path) -> None:
    class Failing(WordEncoder):
        def passage_embed(self, texts: Any) -> Any:
            for vector in super().passage_embed(texts):
                if self.encoded == 150:
                    raise RuntimeError("out of memory")
                yield vector

    acknowledged: list[str] = []
    with SpladeIndex(tmp_path, model=Failing()) as index:
        with pytest.raises(RuntimeError, match="out of memory"):
            index.add([f"moon {n}" for n in range(300)], batch_size=32, on_written=acknowledged.extend)
        assert len(acknowledged) == index.count() == 128


def test_an_encoder_that_returns_too_few_vectors_is_an_error(tmp_path: Path) -> None:
    class Short(WordEncoder):
        def passage_embed(self, texts: Any) -> Any:
            return iter(list(super().passage_embed(texts))[1:])

    with SpladeIndex(tmp_path, model=Short()) as index:
        with pytest.raises(InputError, match="2 vectors for 3 texts"):
            index.add(["a", "b", "c"])
        assert index.count() == 0


def test_closing_while_another_thread_adds_ends_that_add_with_an_index_closed_error(tmp_path: Path) -> None:
    index = SpladeIndex(tmp_path, model=WordEncoder())
    faults: list[BaseException] = []
    acknowledged: list[str] = []
    begun = threading.Event()

    def written(ids: list[str]) -> None:
        acknowledged.extend(ids)
        begun.set()

    def adding() -> None:
        try:
            index.add((f"moon {n}" for n in range(1_000_000)), batch_size=16, on_written=written)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            faults.append(error)

    thread = threading.Thread(target=adding)
    thread.start()
    begun.wait(30)
    index.close()
    thread.join(30)

    assert len(faults) == 1
    assert isinstance(faults[0], SpladeError)
    with SpladeIndex(tmp_path, model=WordEncoder()) as again:
        assert len(again.get(acknowledged)) == len(acknowledged)
