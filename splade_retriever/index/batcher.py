"""Concurrent requests, answered together: while one batch runs, the next one gathers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from splade_retriever.errors import IndexClosedError
from splade_retriever.index.per_process import PerProcess

__all__ = ["Batcher", "without_stop_iteration"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Run = Callable[[Sequence[T]], Sequence[R | BaseException]]


class Batcher(Generic[T, R]):
    """Runs requests of many callers in batches, in one thread.

    No request waits for others to come: a batch is what gathered while the one before it ran. A forked child
    has a separate thread, and requests that waited in the parent are answered by the parent only.
    """

    def __init__(self, run: Run[T, R], *, name: str = "splade-batch", max_batch_size: int = 32) -> None:
        """Prepare; the thread starts with the first request.

        Args:
            run: Answers a batch, one result or error per request, in order. What it raises is the error of
                every request of the batch.
            name: Name of the thread.
            max_batch_size: Requests of one batch.
        """
        self._queue: PerProcess[_Queue[T, R]] = PerProcess(lambda: _Queue(run, name, max_batch_size))

    def submit(self, request: T) -> "Future[R]":
        """Queue a request.

        Raises:
            IndexClosedError: After `close`.
        """
        return self._queue.get().submit(request)

    def close(self) -> None:
        """End the thread when all queued requests are answered."""
        self._queue.get().close()


class _Queue(Generic[T, R]):
    def __init__(self, run: Run[T, R], name: str, max_batch_size: int) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._waiting: list[tuple[T, Future[R]]] = []
        self._running = False
        self._closed = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, request: T) -> "Future[R]":
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise IndexClosedError("The index was closed meanwhile. Open it again with SpladeIndex(...).")
            if not self._running:
                self._pool.submit(self._drain)
                self._running = True
            self._waiting.append((request, future))
        return future

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False)

    def _drain(self) -> None:
        while True:
            with self._lock:
                batch = self._waiting[: self._max_batch_size]
                self._waiting = self._waiting[self._max_batch_size :]
                if not batch:
                    self._running = False
                    return
            # A cancelled request is not run.
            live = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if live:
                results = self._results([request for request, _ in live])
                for (_, future), result in zip(live, results, strict=True):
                    if isinstance(result, BaseException):
                        future.set_exception(_deliverable(result))
                    else:
                        future.set_result(result)

    def _results(self, requests: Sequence[T]) -> Sequence[R | BaseException]:
        try:
            results = self._run(requests)
        except BaseException as error:  # noqa: BLE001 - the callers get it; the thread must continue
            return [error] * len(requests)
        if len(results) != len(requests):
            return [RuntimeError(f"{len(results)} results for {len(requests)} requests")] * len(requests)
        return results


def without_stop_iteration(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Make a call for a future of asyncio, which does not accept StopIteration and would never end."""
    try:
        return call(*args, **kwargs)
    except StopIteration as error:
        raise _deliverable(error) from error


def _deliverable(error: BaseException) -> BaseException:
    if isinstance(error, StopIteration):
        return RuntimeError("An encoder or an iterator raised StopIteration where it must return.")
    return error
