"""Verifies a copied collection: equal counts, and equal hits for stored vectors used as queries."""

import math
import random
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.index.collection import Collection
from splade_retriever.maintenance.points import count_points, is_queryable, vectors_by_name

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["Sample", "verification_fault"]

_QUERIES: Final = 20
"""Points whose stored vectors are used as queries on both sides."""
_HITS: Final = 10
_TOLERANCE: Final = 1e-4
"""Maximum difference of the scores of the two sides."""


class Sample:
    """A random sample of the points of a stream of unknown length, equal for equal streams."""

    def __init__(self) -> None:
        self.ids: list[Any] = []
        self._seen = 0
        self._random = random.Random(0)

    def offer(self, batch: "list[models.Record]") -> None:
        """Add some points of a batch to the sample."""
        for record in batch:
            self._seen += 1
            if len(self.ids) < _QUERIES:
                self.ids.append(record.id)
            elif (place := self._random.randrange(self._seen)) < _QUERIES:
                self.ids[place] = record.id


def verification_fault(source: Collection, target: Collection, sample: Sample) -> tuple[str | None, int]:
    """Compare two collections by counts and searches.

    Returns:
        What differs, None for no difference; and the number of points that were used as queries.
    """
    expected, actual = count_points(source), count_points(target)
    if expected != actual:
        return f"the source holds {expected} points and the target {actual}, expected equal numbers", 0
    queries = 0
    for record in source.retrieve(sample.ids, payload=False, vectors=True):
        vectors = {name: vector for name, vector in vectors_by_name(record).items() if is_queryable(vector)}
        queries += bool(vectors)
        for name, vector in vectors.items():
            hits, hits_of_target = _hits(source, name, vector), _hits(target, name, vector)
            if not _are_equal(hits, hits_of_target):
                return (
                    f"vector {name!r} of point {record.id} finds {hits_of_target} in the target, expected "
                    f"{hits} as in the source"
                ), queries
    return None, queries


def _hits(store: Collection, name: str, vector: Any) -> list[tuple[Any, float]]:
    from qdrant_client import models

    # The graphs of a dense vector differ between the sides; the exact ranking is the same.
    exact = not store.single_thread and not hasattr(vector, "indices") and store.limits.allows_exact
    request = models.QueryRequest(
        query=models.NearestQuery(nearest=vector),
        using=name or None,
        limit=_HITS,
        with_payload=False,
        params=models.SearchParams(exact=True) if exact else None,
    )
    (answer,) = store.query_batch([request])
    return [(point.id, float(point.score)) for point in answer.points]


def _are_equal(one: list[tuple[Any, float]], other: list[tuple[Any, float]]) -> bool:
    """Compare two rankings; points of equal score may change places, also across the end of the list."""
    if len(one) != len(other):
        return False
    if not all(_is_near(left, right) for (_, left), (_, right) in zip(one, other, strict=True)):
        return False
    last = one[-1][1] if len(one) == _HITS else -math.inf
    scores = dict(other)
    return all(_is_near(score, last) or (id in scores and _is_near(score, scores[id])) for id, score in one)


def _is_near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=_TOLERANCE)
