"""What docs/web_servers.md says about worker processes."""

import multiprocessing
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import EdgeClient, SpladeIndex
from tests.words import WordEncoder

METHODS = [method for method in ("spawn", "fork") if method in multiprocessing.get_all_start_methods()]


def search_in_worker(folder: Path, read_only: bool, opened: Any, answers: Any) -> None:
    """Open the folder, wait until all workers have tried to, and search."""
    try:
        client = EdgeClient(folder, read_only=read_only)
    except Exception as error:  # noqa: BLE001 - sent to the test
        answers.put(type(error).__name__)
        opened.wait(60)
        return
    with client, SpladeIndex(client=client, model=WordEncoder()) as index:
        opened.wait(60)
        answers.put([hit.id for hit in index.search("moon")])


def run_workers(
    context: SpawnContext | ForkContext, folder: Path, *, count: int, read_only: bool
) -> list[Any]:
    opened, answers = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=search_in_worker, args=(folder, read_only, opened, answers))
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    results = [answers.get(timeout=60) for _ in workers]
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

    assert run_workers(context, folder, count=3, read_only=True) == [["moon"]] * 3
    answers = run_workers(context, folder, count=3, read_only=False)
    assert sorted(answers, key=str) == ["IndexLockedError", "IndexLockedError", ["moon"]]


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
