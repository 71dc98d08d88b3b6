"""Relevance scores: any score of a search mapped onto 0..1."""

from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.sparse import SparseEmbedding

__all__ = ["relevance"]


def relevance(score: float, *, mode: Mode, fusion: Fusion, query: SparseEmbedding | None) -> float:
    """Map a score onto 0..1, keeping the order of the scores of one query.

    - sparse: score / sum of the query's weights, at most 1: the average weight that the document gives to
      the query's tokens. The scale is the same for all queries, also for models whose queries come from a
      table.
    - dense: (1 + cosine) / 2.
    - hybrid by RRF: score / the score of a document that is first in both rankings.
    - hybrid by DBSF: score / 2, cut to 0..1, since each of the two normalised scores is at most about 1.

    Args:
        score: The score that the index returned.
        mode: The mode of the search.
        fusion: The fusion of a hybrid search.
        query: The query's vector, in mode "sparse".
    """
    if mode == "sparse":
        max_score = 0.0 if query is None else float(query.values.sum(dtype="float64"))
        return min(1.0, score / max_score) if max_score > 0.0 else 0.0
    if mode == "dense":
        return _bounded((1.0 + score) / 2.0)
    if fusion.method == "dbsf":
        return _bounded(score / 2.0)
    return _bounded(score / fusion.best_score)


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
