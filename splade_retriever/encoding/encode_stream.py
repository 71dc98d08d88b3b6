"""Encodes a stream of texts: reads a bounded window ahead, uses all cores, keeps the order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from splade_retriever.encoding.batching import TokenBatch, batches
from splade_retriever.encoding.tokenizer import TokenIds, Tokenizer, check_text
from splade_retriever.errors import NotSupportedError
from splade_retriever.sparse import SparseEmbedding

__all__ = ["cores", "encode_stream"]

# Texts read ahead and sorted by length: enough for full batches on all cores, few enough to bound memory.
_TEXTS_PER_WORKER: Final = 256
_CHARACTERS_PER_WORKER: Final = 500_000
# Window sizes grow with the workers only between these numbers of workers.
_MIN_WINDOW_WORKERS: Final = 2
_MAX_WINDOW_WORKERS: Final = 16
# One window is computed while the results of the one before it are consumed.
_MAX_WINDOWS: Final = 2
_EMPTY: Final = SparseEmbedding.from_dict({})


@dataclass(slots=True)
class _Window:
    """Texts that are being encoded: the rows of each batch, and a function that waits for its vectors."""

    texts: int
    batches: list[tuple[Sequence[int], Callable[[], list[SparseEmbedding]]]] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)

    def results(self) -> Iterator[SparseEmbedding]:
        """Wait for all batches and yield the vectors in the order of the texts."""
        # A text without any token, if the model adds no special ones, has no batch and no weights.
        vectors = [_EMPTY] * self.texts
        for rows, wait in self.batches:
            if os.getpid() != self.process:
                raise NotSupportedError(
                    "This iterator of embeddings was started before the process was forked, and its threads "
                    "exist only in the parent. Call embed() in this process."
                )
            for row, vector in zip(rows, wait(), strict=True):
                vectors[row] = vector
        yield from vectors


def encode_stream(
    texts: Iterable[str],
    encode: Callable[[TokenBatch], list[SparseEmbedding]],
    *,
    tokenizer: Tokenizer,
    workers: int,
    max_tokens: int,
    min_tokens: int,
    max_texts: int | None,
    on_window: Callable[[Sequence[TokenIds]], None],
) -> Generator[SparseEmbedding, None, None]:
    """Encode texts, in order.

    Texts are read in the caller's thread, in windows of at most 512 texts or about a million characters
    (for up to two workers; in proportion for more, up to 16), and at most two windows are in memory. A
    window is sorted by length and split into batches of at most `max_tokens`, which `workers` threads
    compute.
    Closing the iterator early ends the threads.

    Args:
        texts: Any iterable.
        encode: Computes one batch; called from several threads.
        tokenizer: The tokenizer of the model.
        workers: Batches that are computed at once.
        max_tokens: Tokens per batch, padding included.
        min_tokens: The smallest limit of the last batches, see `batches`.
        max_texts: Texts per batch; None for no limit.
        on_window: Called with the token ids of each window.

    Raises:
        InputError: If an item is not text, after everything before it has been yielded.
    """
    size = min(max(workers, _MIN_WINDOW_WORKERS), _MAX_WINDOW_WORKERS)
    source = _windows(texts, size * _TEXTS_PER_WORKER, size * _CHARACTERS_PER_WORKER)
    waiting: deque[_Window] = deque()
    pool: ThreadPoolExecutor | None = None
    failure: Exception | None = None
    try:
        for item in source:
            if isinstance(item, Exception):
                failure = item
                break
            token_ids = tokenizer.encode_truncated(item)
            on_window(token_ids)
            work = list(
                batches(
                    token_ids,
                    token_budget=max_tokens,
                    workers=workers,
                    min_tokens=min_tokens,
                    max_texts=max_texts,
                    pad_id=tokenizer.pad_id,
                )
            )
            if pool is None and len(work) <= 1:
                # For a query or a single text, starting a thread costs more than it saves.
                waiting.append(_Window(len(item), [(batch.rows, _done(encode(batch))) for batch in work]))
            else:
                pool = pool or ThreadPoolExecutor(workers, thread_name_prefix="splade-encode")
                waiting.append(
                    _Window(len(item), [(batch.rows, pool.submit(encode, batch).result) for batch in work])
                )
            if len(waiting) == _MAX_WINDOWS:
                yield from waiting.popleft().results()
        while waiting:
            yield from waiting.popleft().results()
        if failure is not None:
            raise failure
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _windows(texts: Iterable[str], max_texts: int, max_characters: int) -> Iterator[list[str] | Exception]:
    """Yield lists of texts; if reading fails, the texts before the failure and then the exception."""
    window: list[str] = []
    characters = 0
    try:
        for position, text in enumerate(texts):
            check_text(text, position)
            window.append(text)
            characters += len(text)
            if len(window) == max_texts or characters >= max_characters:
                yield window
                window, characters = [], 0
    except Exception as error:  # noqa: BLE001 - raised by the caller, after the texts before it
        if window:
            yield window
        yield error
        return
    if window:
        yield window


def _done(vectors: list[SparseEmbedding]) -> Callable[[], list[SparseEmbedding]]:
    return lambda: vectors


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
