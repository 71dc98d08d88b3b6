"""Groups tokenised texts of similar length into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splade_retriever.encoding.tokenizer import TokenIds

__all__ = ["TokenBatch", "batches"]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Texts of similar length, padded to the longest.

    Attributes:
        rows: Shape (texts,): positions in the input.
        input_ids: Shape (texts, tokens), int64.
        attention_mask: Shape (texts, tokens), int64; 1 for a token, 0 for padding.
    """

    rows: list[int]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


def batches(
    texts: Sequence[TokenIds],
    *,
    token_budget: int,
    workers: int = 1,
    min_tokens: int = 1,
    max_texts: int | None = None,
    pad_id: int = 0,
) -> Iterator[TokenBatch]:
    """Group texts of similar length into batches of about `token_budget` tokens, the longest first.

    For several workers the batches get smaller towards the end (guided self-scheduling), down to
    `min_tokens`: a few texts are split among all workers, and no worker computes a large last batch while
    the others wait.

    Args:
        texts: Tokenised texts, in input order; one without any token is in no batch.
        token_budget: Tokens per batch, padding included; a longer text is a batch by itself.
        workers: Batches that are computed at once.
        min_tokens: The smallest budget of the last batches.
        max_texts: Texts per batch; None for no limit.
        pad_id: The id that fills short rows.
    """
    order = [row for row, text in enumerate(texts) if text.ids]
    order.sort(key=lambda row: -len(texts[row].ids))
    start, remaining = 0, sum(len(texts[row].ids) for row in order)
    while start < len(order):
        longest = len(texts[order[start]].ids)
        share = token_budget if workers == 1 else max(min_tokens, remaining // (2 * workers))
        size = max(1, min(share, token_budget) // longest)
        rows = order[start : start + (min(size, max_texts) if max_texts else size)]
        start += len(rows)
        remaining -= sum(len(texts[row].ids) for row in rows)
        yield _padded([texts[row].ids for row in rows], rows, pad_id)


def _padded(id_lists: list[list[int]], rows: list[int], pad_id: int) -> TokenBatch:
    longest = max(map(len, id_lists))
    # Two calls of NumPy for any number of texts: for a query, whose caches are cold, each takes 5 to 10 µs.
    input_ids = np.array([ids + [pad_id] * (longest - len(ids)) for ids in id_lists], dtype=np.int64)
    real = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in id_lists]
    return TokenBatch(rows=rows, input_ids=input_ids, attention_mask=np.array(real, dtype=np.int64))
