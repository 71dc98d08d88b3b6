"""The batcher: what gathers, what fails, and what a forked child gets."""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from splade_retriever.errors import IndexClosedError
from splade_retriever.index.batcher import Batcher
from splade_retriever.index.per_process import PerProcess

WAIT_S = 20


class Held:
    """Doubles numbers, in batches that wait until they are released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.released = threading.Event()

    def run(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.entered.set()
        assert self.released.wait(WAIT_S)
        return [2 * number for number in numbers]


def test_requests_that_come_while_a_batch_runs_form_the_next_one() -> None:
    held = Held()
    batcher = Batcher(held.run, max_batch_size=3)
    futures = [batcher.submit(0)]
    assert held.entered.wait(WAIT_S)
    futures += [batcher.submit(number) for number in range(1, 6)]
    held.released.set()

    assert [future.result(WAIT_S) for future in futures] == [0, 2, 4, 6, 8, 10]
    assert held.batches == [[0], [1, 2, 3], [4, 5]]
    batcher.close()


def test_a_request_after_close_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(list)
    assert batcher.submit(1).result(WAIT_S) == 1
    batcher.close()

    with pytest.raises(IndexClosedError, match="Open it again"):
        batcher.submit(2)


def test_a_cancelled_request_is_not_run() -> None:
    held = Held()
    batcher = Batcher(held.run)
    first = batcher.submit(0)
    assert held.entered.wait(WAIT_S)
    cancelled, last = batcher.submit(1), batcher.submit(2)
    assert cancelled.cancel()
    held.released.set()

    assert (first.result(WAIT_S), last.result(WAIT_S)) == (0, 4)
    assert held.batches == [[0], [2]]
    batcher.close()


class RustPanicError(BaseException):
    """Like pyo3's PanicException, which is no Exception."""


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, RustPanicError, StopIteration])
def test_after_an_error_of_any_kind_the_next_request_is_answered(error: type[BaseException]) -> None:
    def run(numbers: Sequence[int]) -> list[int]:
        if numbers[0] < 0:
            raise error("as the test says")
        return list(numbers)

    batcher = Batcher(run)

    async def main() -> None:
        expected = RuntimeError if error is StopIteration else error
        with pytest.raises(expected):
            await asyncio.wait_for(asyncio.wrap_future(batcher.submit(-1)), WAIT_S)
        assert await asyncio.wait_for(asyncio.wrap_future(batcher.submit(7)), WAIT_S) == 7

    asyncio.run(main())
    batcher.close()


def test_each_request_gets_its_own_error() -> None:
    failed = ValueError("minus one")
    batcher: Batcher[int, int] = Batcher(lambda numbers: [failed if n < 0 else n for n in numbers])
    futures: list[Future[int]] = [batcher.submit(n) for n in (1, -1, 2)]

    assert futures[0].result(WAIT_S) == 1
    assert futures[1].exception(WAIT_S) is failed
    assert futures[2].result(WAIT_S) == 2
    batcher.close()


def test_too_few_results_are_an_error_of_every_request() -> None:
    batcher: Batcher[int, int] = Batcher(lambda _: [])

    with pytest.raises(RuntimeError, match="0 results for 1 requests"):
        batcher.submit(1).result(WAIT_S)
    with pytest.raises(RuntimeError, match="0 results"):
        batcher.submit(2).result(WAIT_S)
    batcher.close()


def test_a_forked_child_makes_its_own_value_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(os.getpid())
        return os.getpid()

    value = PerProcess(make)
    child = os.fork()
    if child == 0:
        os._exit(0 if value.get() == value.get() == os.getpid() and len(made) == 2 else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert value.get() == os.getpid()
    assert made == [os.getpid()]
