"""Async iterators as inputs of `aadd`, which reads them in a worker thread."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Final, TypeVar

__all__ = ["as_iterator", "sync_input"]

T = TypeVar("T")

_END: Final = object()


def sync_input(items: "Iterable[T] | AsyncIterable[T] | None") -> Iterable[T] | None:
    """Return an input that a worker thread can read; all but async iterables are returned unchanged."""
    return as_iterator(items) if isinstance(items, AsyncIterable) else items


def as_iterator(items: AsyncIterable[T]) -> Iterator[T]:
    """Iterate over async items from another thread, while the loop that is running now awaits them.

    When the loop ends, the wait for the next item ends with `concurrent.futures.CancelledError`.
    """
    return _Items(aiter(items), asyncio.get_running_loop())


class _Items(Iterator[T]):
    def __init__(self, items: AsyncIterator[T], loop: asyncio.AbstractEventLoop) -> None:
        self._items = items
        self._loop = loop

    def __next__(self) -> T:
        item = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if item is _END:
            raise StopIteration
        return item  # type: ignore[return-value]  # not the end

    async def _next(self) -> object:
        return await anext(self._items, _END)
