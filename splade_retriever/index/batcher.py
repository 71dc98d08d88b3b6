"""Concurrent requests, answered together: while one batch is at work, the next one gathers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Runs requests of many callers in batches, in one thread of its own.

    No request ever waits for others to come: a batch is what gathered while the one before it ran.
    """

    def __init__(self, run: Callable[[Sequence[T]], Sequence[R | Exception]], *, most: int = 32) -> None:
        """Prepare; the thread starts with the first request.

        Args:
            run: Answers a batch, one result or exception a request, in order; never raises.
            most: Requests of one batch.
        """
        self._run = run
        self._most = most
        self._waiting: list[tuple[T, Future[R]]] = []
        self._running = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="splade-batch")

    def submit(self, request: T) -> "Future[R]":
        """Queue a request."""
        future: Future[R] = Future()
        with self._lock:
            self._waiting.append((request, future))
            if not self._running:
                self._running = True
                self._pool.submit(self._drain)
        return future

    def close(self) -> None:
        """End the thread when what is queued is done."""
        self._pool.shutdown(wait=False)

    def _drain(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                if not batch:
                    self._running = False
                    return
            # A caller that gave up (a cancelled task) is not worked for.
            live = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if live:
                for (_, future), result in zip(
                    live, self._run([request for request, _ in live]), strict=True
                ):
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
