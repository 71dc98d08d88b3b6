"""Concurrent requests, answered together: while one batch runs, the next one gathers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Runs requests of many callers in batches, in one thread.

    No request waits for others to come: a batch is what gathered while the one before it ran.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Sequence[R | Exception]], *, max_batch_size: int = 32
    ) -> None:
        """Prepare; the thread starts with the first request.

        Args:
            run: Answers a batch, one result or exception per request, in order; never raises.
            max_batch_size: Requests of one batch.
        """
        self._run = run
        self._max_batch_size = max_batch_size
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
        """End the thread when all queued requests are answered."""
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
                results = self._run([request for request, _ in live])
                for (_, future), result in zip(live, results, strict=True):
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
