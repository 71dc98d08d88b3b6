"""Relevance scores: any score of a search mapped onto 0..1."""

import math

from splade_retriever.index.search_request import Fusion, Mode

__all__ = ["relevance"]


def relevance(
    score: float, *, mode: Mode, fusion: Fusion, reference_score: float, branches: int = 2
) -> float:
    """Map a score onto 0..1, keeping the order of the scores of one query.

    - sparse, second: tanh(score / the score of a document with exactly the query's text), see
      `SpladeIndex.reference_score`. The scale is the same for all queries and models: 0.76 is as good as the
      query's own words, and different scores have different relevance.
    - dense: (1 + cosine) / 2.
    - hybrid by RRF: score / the score of a document that is first in all rankings.
    - hybrid by DBSF: score / the number of rankings, cut to 0..1, since each normalised score is at most
      about 1.

    Args:
        score: The score that the index returned.
        mode: The mode of the search.
        fusion: The fusion of a hybrid search.
        reference_score: `SpladeIndex.reference_score` of the query; used in modes "sparse" and "second" only.
        branches: Number of rankings of a hybrid search.
    """
    if mode in ("sparse", "second"):
        return math.tanh(score / reference_score) if reference_score > 0.0 else 0.0
    if mode == "dense":
        return _bounded((1.0 + score) / 2.0)
    if fusion.method == "dbsf":
        return _bounded(score / branches)
    return _bounded(score / fusion.best_score(branches))


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
