"""Maximal marginal relevance over sparse vectors, which Qdrant Edge 0.9.0 has for dense ones only."""

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

__all__ = ["diversified", "is_sparse_mmr", "widened"]


def is_sparse_mmr(request: models.QueryRequest) -> bool:
    """Say whether a query asks for MMR by a sparse vector."""
    query = request.query
    if not isinstance(query, models.NearestQuery) or query.mmr is None:
        return False
    return isinstance(query.nearest, models.SparseVector)


def widened(request: models.QueryRequest) -> models.QueryRequest:
    """Turn it into the plain search for its candidates, with the vectors that MMR compares."""
    query: Any = request.query
    candidates = request.limit if query.mmr.candidates_limit is None else query.mmr.candidates_limit
    asked = request.with_vector
    return request.model_copy(
        update={
            "query": models.NearestQuery(nearest=query.nearest),
            "limit": max(1, candidates or 10),
            "offset": 0,
            "with_vector": True if asked is True else [*(asked or []), request.using],
        }
    )


def diversified(
    request: models.QueryRequest, candidates: Sequence[models.ScoredPoint]
) -> list[models.ScoredPoint]:
    """Pick from the candidates, again and again the one that is relevant and unlike those picked already.

    The value of a candidate is (1 - diversity) * (query . candidate) - diversity * max(picked . candidate).

    Source:
        Carbonell and Goldstein, SIGIR 1998; ties go to the later candidate, as in Qdrant.
    """
    query: Any = request.query
    diversity = 0.5 if query.mmr.diversity is None else query.mmr.diversity
    weights = [_weights(point.vector, request.using) for point in candidates]
    asked = _as_dict(query.nearest)
    relevance = [_dot(asked, own) for own in weights]
    likeness = [float("-inf")] * len(candidates)
    pending = list(range(len(candidates)))
    picked: list[int] = []
    offset = request.offset or 0
    while pending and len(picked) < offset + (10 if request.limit is None else request.limit):

        def value(n: int) -> float:
            return (1 - diversity) * relevance[n] - diversity * likeness[n] if picked else relevance[n]

        place = max(range(len(pending)), key=lambda at: (value(pending[at]), at))
        # The last takes the place of the one that goes, on which ties further on depend.
        pending[place], pending[-1] = pending[-1], pending[place]
        best = pending.pop()
        picked.append(best)
        for n in pending:
            likeness[n] = max(likeness[n], _dot(weights[best], weights[n]))
    return [_with_asked(candidates[n], request.with_vector) for n in picked[offset:]]


def _with_asked(point: models.ScoredPoint, with_vector: Any) -> models.ScoredPoint:
    if with_vector is True:
        return point
    named = point.vector if isinstance(point.vector, Mapping) else {}
    kept = {name: named[name] for name in with_vector or () if name in named}
    return point.model_copy(update={"vector": kept if with_vector else None})


def _weights(vector: Any, using: str | None) -> dict[int, float]:
    return _as_dict(vector[using])


def _as_dict(vector: models.SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices, vector.values, strict=True))


def _dot(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    return sum(weight * other[index] for index, weight in one.items() if index in other)
