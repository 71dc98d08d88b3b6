"""The dense vectors of queries: several at once, by an encoder's async methods where it has them."""

import asyncio
import dis
import inspect
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from splade_retriever.errors import ModelOutputError
from splade_retriever.index.batcher import Batcher, without_stop_iteration
from splade_retriever.index.per_process import PerProcess
from splade_retriever.protocols import BatchQueryEncoder, DenseEncoder, NodeEncoder, as_dense

__all__ = ["DenseQueries"]

Vector = Sequence[float]

_MAX_THREADS: Final = 64
"""Requests to an encoder's server that may wait at the same time; they cost a thread each and no CPU."""
_ASYNC_METHODS: Final = (
    ("aembed_query", "embed_query", "aembed_query"),
    ("aget_query_embedding", "get_query_embedding", "_aget_query_embedding"),
)
"""LangChain's and LlamaIndex's: async method, its sync counterpart, the method that a class implements."""


class DenseQueries:
    """Encodes queries with a dense encoder."""

    def __init__(self, encoder: DenseEncoder | NodeEncoder) -> None:
        self._encoder = as_dense(encoder)
        self._embed_natively = _native_method(encoder)
        self._batch = encoder.embed_queries if isinstance(encoder, BatchQueryEncoder) else None
        self._batcher: Batcher[str, Vector] = Batcher(self.embed, name="splade-dense")
        self._threads = PerProcess(lambda: ThreadPoolExecutor(_MAX_THREADS, "splade-dense"))

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Encode queries, in one call where the encoder can.

        Raises:
            ModelOutputError: The encoder returns another number of vectors.
        """
        if self._batch is None:
            return [self._encoder.embed_query(text) for text in texts]
        vectors = list(self._batch(list(texts)))
        if len(vectors) != len(texts):
            raise ModelOutputError(
                f"The dense encoder returned {len(vectors)} vectors for {len(texts)} queries, expected "
                "one per query. Fix its embed_queries."
            )
        return vectors

    async def aembed(self, text: str) -> Vector:
        """Encode a query; many calls run at the same time.

        The encoder's async method runs on the loop. Else queries that wait at the same time are encoded in
        one call where the encoder can do that, or each in a thread.
        """
        if self._embed_natively is not None:
            return await self._embed_natively(text)
        if self._batch is not None:
            return await asyncio.wrap_future(self._batcher.submit(text))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads.get(), without_stop_iteration, self._encoder.embed_query, text
        )

    def close(self) -> None:
        """End the threads when their queries are encoded."""
        self._batcher.close()
        self._threads.get().shutdown(wait=False)


def _native_method(encoder: object) -> Callable[[str], Awaitable[Vector]] | None:
    """Return the async method of an encoder, unless it only calls the sync one.

    The default of a framework's base class runs the sync method in the few threads of the loop. And many
    classes implement the async method by a call of the sync one, which would stop the loop.
    """
    for name, sync_name, implemented in _ASYNC_METHODS:
        owner = next((cls for cls in type(encoder).__mro__ if name in vars(cls)), None)
        if owner is None:
            continue
        is_default = getattr(vars(owner).get(sync_name), "__isabstractmethod__", False)
        if is_default or not _awaits(getattr(type(encoder), implemented, None)):
            return None
        method: Callable[[str], Awaitable[Vector]] = getattr(encoder, name)
        return method
    return None


def _awaits(method: Any) -> bool:
    """Return whether a coroutine function awaits anything; True where its code cannot be read."""
    function = inspect.unwrap(method) if callable(method) else None
    code = getattr(function, "__code__", None)
    return code is None or any(step.opname == "GET_AWAITABLE" for step in dis.get_instructions(code))
