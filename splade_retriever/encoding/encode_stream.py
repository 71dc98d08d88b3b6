"""A stream of texts through the model: read a bounded window ahead, keep the cores busy, keep the order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from splade_retriever.encoding.tokenizer import Head, TokenBatch, Tokenizer, batches, check_text
from splade_retriever.sparse import SparseEmbedding

__all__ = ["cores", "encode_stream"]

# Texts read ahead and sorted by length: enough for full batches on all cores, little enough to stay small.
_TEXTS_PER_WORKER: Final = 256
_CHARACTERS_PER_WORKER: Final = 500_000
_WORKERS_FED: Final = (2, 16)
# One window is computed while the one before it is taken away.
_WINDOWS: Final = 2
# From 192 to 512 tokens a product takes the same time a token; with fewer or more it takes longer.
_TOKEN_BUDGET: Final = 512
_LEAST_TOKENS: Final = 192
_NOTHING: Final = SparseEmbedding.from_dict({})


@dataclass(slots=True)
class _Window:
    """Texts at work: each batch's rows in the window, and the vectors to come."""

    texts: int
    batches: list[tuple[Sequence[int], Future[list[SparseEmbedding]]]] = field(default_factory=list)

    def results(self) -> Iterator[SparseEmbedding]:
        """Wait for all batches and yield the vectors in the order of the texts."""
        # A text without any token, where the model adds no special ones, has no batch and no weights.
        found = [_NOTHING] * self.texts
        for rows, future in self.batches:
            for row, vector in zip(rows, future.result(), strict=True):
                found[row] = vector
        yield from found


def encode_stream(
    texts: Iterable[str],
    encode: Callable[[TokenBatch], list[SparseEmbedding]],
    *,
    tokenizer: Tokenizer,
    workers: int,
    max_texts: int | None,
    on_window: Callable[[Sequence[Head]], None],
) -> Generator[SparseEmbedding, None, None]:
    """Encode texts, in order.

    Texts are read from the caller's thread, in windows of at most 512 texts or about a million characters
    (for two workers or less, for more in proportion, up to 16), and no more than two windows are held. A
    window is sorted by length and cut into batches of at most 512 tokens, which `workers` threads compute.
    When the iterator is closed early, the threads end with it.

    Args:
        texts: Any iterable.
        encode: Computes one batch; called from several threads.
        tokenizer: Of the model.
        workers: Batches at once.
        max_texts: Texts a batch at most; None for as many as fit.
        on_window: Told of each window's texts when they are tokenised.

    Raises:
        InputError: If an item is not text, after everything before it has been yielded.
    """
    fed = min(max(workers, _WORKERS_FED[0]), _WORKERS_FED[1])
    source = _windows(texts, fed * _TEXTS_PER_WORKER, fed * _CHARACTERS_PER_WORKER)
    waiting: deque[_Window] = deque()
    pool: ThreadPoolExecutor | None = None
    failure: Exception | None = None
    try:
        for item in source:
            if isinstance(item, Exception):
                failure = item
                break
            heads = tokenizer.heads(item)
            on_window(heads)
            work = list(
                batches(
                    heads,
                    token_budget=_TOKEN_BUDGET,
                    workers=workers,
                    least_tokens=_LEAST_TOKENS,
                    max_texts=max_texts,
                    pad_id=tokenizer.pad_id,
                )
            )
            if pool is None and len(work) <= 1:
                # A query or a single text: no thread is worth its start.
                waiting.append(_Window(len(item), [(batch.rows, _done(encode(batch))) for batch in work]))
            else:
                pool = pool or ThreadPoolExecutor(workers, thread_name_prefix="splade-encode")
                waiting.append(
                    _Window(len(item), [(batch.rows, pool.submit(encode, batch)) for batch in work])
                )
            if len(waiting) == _WINDOWS:
                yield from waiting.popleft().results()
        while waiting:
            yield from waiting.popleft().results()
        if failure is not None:
            raise failure
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _windows(texts: Iterable[str], most_texts: int, most_characters: int) -> Iterator[list[str] | Exception]:
    """Yield lists of texts; where reading fails, what came before it and then the failure, so that it keeps
    its place in the order.
    """
    window: list[str] = []
    characters = 0
    try:
        for position, text in enumerate(texts):
            check_text(text, position)
            window.append(text)
            characters += len(text)
            if len(window) == most_texts or characters >= most_characters:
                yield window
                window, characters = [], 0
    except Exception as err:  # noqa: BLE001 - raised by the caller, in its place
        if window:
            yield window
        yield err
        return
    if window:
        yield window


def _done(result: list[SparseEmbedding]) -> Future[list[SparseEmbedding]]:
    future: Future[list[SparseEmbedding]] = Future()
    future.set_result(result)
    return future


def cores() -> int:
    """Count the cores that this process may use, which is how many batches are computed at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
