"""Maximal marginal relevance over sparse vectors: hits that match the query and differ from each other."""

from collections.abc import Sequence

import numpy as np

from splade_retriever.index.documents import Hit
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_float

__all__ = ["diverse"]


def diverse(hits: Sequence[Hit], k: int, *, lambda_mult: float = 0.5) -> list[Hit]:
    """Choose among hits, one after another, the one with the highest

        lambda * score / best score  -  (1 - lambda) * largest cosine to one already chosen.

    Both terms lie in 0..1 (weights of sparse vectors are above zero). The score is the search's own, so with
    lambda 1 the search's order stays as it is, in hybrid searches too.

    Args:
        hits: With vectors, best first.
        k: Maximum number of hits.
        lambda_mult: 1 for relevance alone, 0 for diversity alone.

    Returns:
        Hits in the order they were chosen; on ties the one that came first.

    Raises:
        InputError: `lambda_mult` is not in 0..1.

    Source:
        Carbonell, Goldstein, SIGIR 1998.
    """
    checked_float("lambda_mult", lambda_mult, "a number in 0..1", minimum=0.0, maximum=1.0)
    if not hits:
        return []
    best = hits[0].score
    relevance = np.array([hit.score / best if best > 0 else 0.0 for hit in hits])
    nearest = np.zeros(len(hits))
    left = np.ones(len(hits), dtype=bool)
    chosen: list[Hit] = []
    for _ in range(min(k, len(hits))):
        value = np.where(left, lambda_mult * relevance - (1.0 - lambda_mult) * nearest, -np.inf)
        n = int(np.argmax(value))
        left[n] = False
        chosen.append(hits[n])
        nearest = np.maximum(nearest, [_cosine(hits[n].vector, other.vector) for other in hits])
    return chosen


def _cosine(one: SparseEmbedding | None, other: SparseEmbedding | None) -> float:
    """Compare directions, 0.0 where one of the two has no tokens."""
    if one is None or other is None or not len(one) or not len(other):
        return 0.0
    lengths = float(np.linalg.norm(one.values) * np.linalg.norm(other.values))
    return one.dot(other) / lengths
