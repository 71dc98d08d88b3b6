"""Sparse vectors to measure with: SPLADE-like ones, and real ones in files that are read in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splade_retriever.sparse import SparseEmbedding

VOCABULARY = 30_522
_DRAWN_TOGETHER = 1000


def splade_like(
    count: int, active_dims: int, *, seed: int = 0, spread: float = 0.0
) -> Iterator[SparseEmbedding]:
    """Draw vectors whose tokens have the frequencies of natural text; no model is needed.

    A text's candidates are four draws a dimension from a Zipf-Mandelbrot distribution over the vocabulary,
    p(rank) ~ 1 / (rank + 10); its tokens are drawn from the distinct candidates, each as likely, which
    flattens the head as a trained SPLADE does. Weights are gamma(2, 0.4): 0.8 on average.

    Args:
        count: How many; the first of many are the same as those of few.
        active_dims: Active dimensions of a vector, on average.
        seed: Another number for another sample.
        spread: Standard deviation of the active dimensions, as a share of their mean; they stay between a
            quarter and the double of it.
    """
    share = 1.0 / np.arange(10, VOCABULARY + 10)
    up_to = np.cumsum(share / share.sum())[:-1]
    for start in range(0, count, _DRAWN_TOGETHER):
        draw = np.random.default_rng([seed, start])
        size = (_DRAWN_TOGETHER, 4 * active_dims)
        dims = np.clip(
            np.rint(draw.normal(active_dims, spread * active_dims, _DRAWN_TOGETHER)).astype(int),
            max(1, active_dims // 4),
            2 * active_dims,
        )
        ranks = np.sort(np.searchsorted(up_to, draw.random(size)).astype(np.int32), axis=1)
        order = draw.random(size, np.float32)
        order[:, 1:][ranks[:, 1:] == ranks[:, :-1]] = np.inf  # a token is drawn once
        dims = np.minimum(dims, np.isfinite(order).sum(axis=1))
        chosen = np.argsort(order, axis=1)
        for row in range(min(_DRAWN_TOGETHER, count - start)):
            indices = np.sort(ranks[row, chosen[row, : dims[row]]])
            values = draw.gamma(2.0, 0.4, len(indices)).astype(np.float32)
            yield SparseEmbedding(values=values, indices=indices)


def expected_products(documents: Iterable[SparseEmbedding], queries: Iterable[SparseEmbedding]) -> float:
    """Return the FLOPS of two samples, as `splade_retriever.evaluation.evaluate` defines them."""
    one, two = (_shares(vectors) for vectors in (documents, queries))
    shared = min(len(one), len(two))
    return float(one[:shared] @ two[:shared])


def _shares(vectors: Iterable[SparseEmbedding]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return, for each token, the share of vectors in which it is active."""
    indices = [vector.indices for vector in vectors]
    return np.bincount(np.concatenate(indices)) / len(indices)


@dataclass(frozen=True)
class VectorFile:
    """Vectors in a folder: `starts`, `indices` and `values`, flat arrays in numpy's `tofile` form.

    They are read in parts, so that all vectors need not be in memory.
    """

    folder: Path

    @classmethod
    def write(cls, folder: Path, vectors: Iterable[SparseEmbedding]) -> VectorFile:
        """Write a stream of vectors; existing ones are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        starts = [0]
        with (folder / "indices").open("wb") as indices, (folder / "values").open("wb") as values:
            for vector in vectors:
                vector.indices.tofile(indices)
                vector.values.tofile(values)
                starts.append(starts[-1] + len(vector))
        np.asarray(starts, dtype=np.int64).tofile(folder / "starts")
        return cls(folder)

    def __len__(self) -> int:
        return (self.folder / "starts").stat().st_size // 8 - 1

    def read(self, start: int = 0, end: int | None = None) -> list[SparseEmbedding]:
        """Read some of the vectors, or all."""
        last = len(self) if end is None else min(end, len(self))
        starts = np.fromfile(self.folder / "starts", np.int64, offset=8 * start, count=last - start + 1)
        first, count = int(starts[0]), int(starts[-1] - starts[0])
        indices = np.fromfile(self.folder / "indices", np.int32, offset=4 * first, count=count)
        values = np.fromfile(self.folder / "values", np.float32, offset=4 * first, count=count)
        cuts = starts[1:-1] - first
        return [
            SparseEmbedding(values=weights, indices=ids)
            for weights, ids in zip(np.split(values, cuts), np.split(indices, cuts), strict=True)
        ]

    def parts(self, size: int, *, limit: int | None = None) -> Iterator[list[SparseEmbedding]]:
        """Read the first `limit` vectors in parts of `size`."""
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, size):
            yield self.read(start, min(start + size, count))
