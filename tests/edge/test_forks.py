"""A forked child cannot use the clients of its parent, and the parent is not affected."""

import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import ForkedProcessError, IndexLockedError
from tests.edge.conftest import DENSE, SPARSE, point, weights

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.fixture(params=[EdgeClient, EdgeProcess])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path) as client:
        client.create_collection("c", DENSE, SPARSE)
        client.upsert("c", [point(n) for n in range(100)])
        yield client


def in_child(work: Callable[[], object], *, within_s: float = 20) -> int:
    """Run something in a forked child and return its exit code; 99 if it takes too long."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            work()
            code = 0
        except ForkedProcessError:
            code = 7
        except IndexLockedError:
            code = 8
        finally:
            os._exit(code)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 99


USES: dict[str, Callable[[Any], object]] = {
    "count": lambda client: client.count("c"),
    "search": lambda client: client.query_points("c", weights(i1=1.0), using="sparse"),
    "scroll": lambda client: client.scroll("c"),
    "upsert": lambda client: client.upsert("c", [point(1000)]),
    "delete": lambda client: client.delete("c", [1]),
    "create": lambda client: client.create_collection("d", DENSE),
    "drop": lambda client: client.delete_collection("c"),
    "replace": lambda client: client.replace_collection("x", "c"),
    "optimize": lambda client: client.optimize("c"),
    "hand over": lambda client: client.hand_over(),
}


def test_every_call_in_a_forked_child_raises_at_once(opened: Any) -> None:
    for name, use in USES.items():
        assert in_child(partial(use, opened)) == 7, name
    assert opened.count("c").count == 100


def test_a_call_raises_while_another_thread_of_the_parent_held_the_locks(opened: Any) -> None:
    stop = threading.Event()

    def write() -> None:
        n = 1000
        while not stop.is_set():
            opened.upsert("c", [point(n)])
            opened.create_collection(f"d{n}", DENSE)
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: opened.upsert("c", [point(1)])) == 7
            assert in_child(opened.close) == 0
    finally:
        stop.set()
        thread.join()


def test_the_end_of_a_child_leaves_the_folder_to_its_parent(opened: Any, tmp_path: Path) -> None:
    def collect() -> None:
        opened.close()
        gc.collect()

    assert in_child(collect) == 0
    # A child that ends as Python does, with its finalizers and exit handlers.
    process = multiprocessing.get_context("fork").Process(target=gc.collect)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    script = os.fork()
    if script == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - pytest's are the parent's
        threading._shutdown = lambda: None  # type: ignore[attr-defined]
        del opened
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(script, 0)[1]) == 0
    opened.upsert("c", [point(500)])
    assert opened.count("c").count == 101


def test_the_exit_handlers_of_a_child_do_not_touch_the_parents_folder(tmp_path: Path) -> None:
    import subprocess

    from tests.edge.conftest import ROOT

    script = """
import os, sys
from splade_retriever.edge.client import EdgeClient
from tests.edge.conftest import DENSE, SPARSE, point
kept, temporary = EdgeClient(sys.argv[1]), EdgeClient()
for client in (kept, temporary):
    client.create_collection("c", DENSE, SPARSE)
    client.upsert("c", [point(n) for n in range(100)])
if os.fork() == 0:
    sys.exit(0)  # with every finalizer and exit handler
os.wait()
for client in (kept, temporary):
    client.upsert("c", [point(n) for n in range(200)])
    assert client.count("c").count == 200
assert temporary._folder.path.is_dir()
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr
    with EdgeClient(tmp_path) as client:
        assert client.count("c").count == 200


def test_a_living_child_does_not_keep_the_folder_locked(opened: Any, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent is done
        os._exit(0)
    os.close(reader)
    try:
        before = time.monotonic()
        opened.close()
        assert time.monotonic() - before < 20  # an engine in a child process ends with its pipe
        for kind in (EdgeClient, EdgeProcess):
            with kind(tmp_path) as again:
                again.upsert("c", [point(2000)])
                assert again.count("c").count == 101
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_child_that_is_being_forked_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    client = EdgeClient(tmp_path)
    copy = os.dup(client._folder._open.lock_file)  # the child has it until its first Python code runs
    try:
        client.close()
        EdgeClient(tmp_path).close()
    finally:
        os.close(copy)


def test_a_child_opens_the_folder_after_the_parent_closed_it(opened: Any, tmp_path: Path) -> None:
    def count() -> None:
        with EdgeClient(tmp_path) as client:
            assert client.count("c").count == 100

    assert in_child(count) == 8  # the parent has it
    opened.close()
    assert in_child(count) == 0


def test_a_child_can_open_other_folders(opened: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")

    def use() -> None:
        with EdgeClient(other) as client, EdgeClient() as temporary:
            client.create_collection("c", DENSE, SPARSE)
            client.upsert("c", [point(1)])
            temporary.create_collection("c", DENSE, SPARSE)

    assert in_child(use) == 0
    with EdgeClient(other) as client:
        assert client.count("c").count == 1
