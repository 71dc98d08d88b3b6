"""What docs/web_servers.md says about worker processes."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import EdgeClient, SpladeIndex
from tests.words import WordEncoder

METHODS = [method for method in ("spawn", "fork") if method in multiprocessing.get_all_start_methods()]


def search_in_worker(folder: Path, opened: Any, answers: Any) -> None:
    """Open the folder to read, then to write. Each time wait until all workers have tried to, and search."""
    for read_only in (True, False):
        try:
            client = EdgeClient(folder, read_only=read_only)
        except Exception as error:  # noqa: BLE001 - sent to the test
            opened.wait(60)
            answers.put((read_only, type(error).__name__))
        else:
            with client, SpladeIndex(client=client, model=WordEncoder()) as index:
                opened.wait(60)
                answers.put((read_only, [hit.id for hit in index.search("moon")]))
        opened.wait(60)


def run_workers(context: SpawnContext | ForkContext, folder: Path, *, count: int) -> list[tuple[bool, Any]]:
    opened, answers = context.Barrier(count), context.Queue()
    workers = [context.Process(target=search_in_worker, args=(folder, opened, answers)) for _ in range(count)]
    for worker in workers:
        worker.start()
    results = [answers.get(timeout=60) for _ in range(2 * count)]
    for worker in workers:
        worker.join(60)
    return results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        index.add(["the moon"], ids=["moon"])
    return tmp_path / "index"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_several_workers_read_at_once_and_only_one_opens_to_write(method: str, folder: Path) -> None:
    context = SpawnContext() if method == "spawn" else ForkContext()

    answers = run_workers(context, folder, count=3)

    assert [answer for read_only, answer in answers if read_only] == [["moon"]] * 3
    written = [answer for read_only, answer in answers if not read_only]
    assert sorted(written, key=str) == ["IndexLockedError", "IndexLockedError", ["moon"]]


def test_a_notebook_cell_that_opens_the_folder_again_shares_it(folder: Path) -> None:
    first = SpladeIndex(folder, model=WordEncoder())
    second = SpladeIndex(folder, model=WordEncoder())

    first.add(["the moon again"], ids=["again"])

    assert [hit.id for hit in second.search("again")] == ["again"]
    first.close()
    assert second.count() == 2
    second.close()
    with SpladeIndex(folder, model=WordEncoder()) as third:
        assert third.count() == 2


APPLICATION = """
import json, os
from splade_retriever import SpladeIndex
from tests.words import WordEncoder

opened = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        opened["index"] = await SpladeIndex.aopen("index", read_only=True, model=WordEncoder())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await opened["index"].aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    ids = [hit.id for hit in await opened["index"].asearch("moon")]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([os.getpid(), ids]).encode()})
"""


def answers_of(port: int, *, within_s: float = 60) -> Iterator[tuple[int, list[str]]]:
    """Send requests for a time; yield the worker's process and the ids that it found."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
                process, ids = json.load(response)
            yield process, ids
        except OSError:  # no worker listens yet, or the killed one had the request
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.faults
def test_workers_of_uvicorn_search_one_folder_and_a_killed_one_is_replaced(folder: Path) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    (folder.parent / "application.py").write_text(APPLICATION, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "uvicorn", "application:app", "--workers", "2", "--port", str(port)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, *command], cwd=folder.parent, env=os.environ | {"PYTHONPATH": path}
    )
    workers: list[int] = []
    try:
        for process, ids in answers_of(port):
            assert ids == ["moon"]
            if process not in workers:
                workers.append(process)
                if len(workers) == 3:
                    break
                if len(workers) == 2:
                    os.kill(process, signal.SIGKILL)
    finally:
        server.terminate()
        assert server.wait(60) == 0

    assert len(workers) == 3, "two workers, and the one that replaced the killed one"
