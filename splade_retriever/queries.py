"""Searches as pure functions: what is asked -> the engine's request; the engine's answer -> ranked hits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qdrant_client import models

from splade_retriever.documents import Branch, Hit
from splade_retriever.errors import InputError
from splade_retriever.sparse import SparseEmbedding

__all__ = [
    "Fusion",
    "Mode",
    "Query",
    "branches_of",
    "check_page",
    "page",
    "query_request",
    "to_sparse_vector",
]

Mode: TypeAlias = Literal["sparse", "dense", "hybrid"]

_MOST_TIES = 1024
"""How far beyond the page ties of its last score are followed; past that the engine's order decides."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How a hybrid search joins its two rankings, inside the engine.

    Source:
        RRF: Cormack, Clarke, Buettcher, SIGIR 2009: sum over branches of weight / (k + rank).
        DBSF: scores normalised by mean and three standard deviations of each branch, then summed (Qdrant).
    """

    method: Literal["rrf", "dbsf"] = "rrf"
    rrf_k: int = 60
    """Large values make the two rankings agree to win; small ones let one ranking's first place win."""
    weights: tuple[float, float] | None = None
    """Weight of the sparse and of the dense ranking; RRF only."""
    depth: int = 200
    """How deep each branch is read, whatever k and offset are, so that pages of one ranking fit together."""

    def __post_init__(self) -> None:
        if self.method not in ("rrf", "dbsf"):
            raise InputError(f"fusion method is {self.method!r}, expected 'rrf' or 'dbsf'.")
        if self.rrf_k < 1 or self.depth < 1:
            raise InputError(f"fusion has rrf_k={self.rrf_k} and depth={self.depth}, expected 1 or more.")
        if self.weights is not None:
            if self.method == "dbsf":
                raise InputError("fusion weights are given with method 'dbsf', which has none. Use 'rrf'.")
            if len(self.weights) != 2 or min(self.weights) < 0 or not any(self.weights):
                raise InputError(
                    f"fusion weights are {self.weights!r}, expected (sparse, dense), each >= 0 and not "
                    f"both 0."
                )


@dataclass(frozen=True, slots=True)
class Query:
    """A query as the engine needs it; a side that is None is not asked."""

    sparse: SparseEmbedding | None = None
    dense: Sequence[float] | None = None


def to_sparse_vector(embedding: SparseEmbedding) -> models.SparseVector:
    """Convert for the engine."""
    return models.SparseVector(indices=embedding.indices.tolist(), values=embedding.values.tolist())


def check_page(k: int, offset: int) -> None:
    """Check the size and start of a page of hits.

    Raises:
        InputError: If k < 1 or offset < 0, or they are no ints.
    """
    for name, value, least in (("k", k, 1), ("offset", offset, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"search got {name}={value!r}, expected an int of {least} or more.")


def query_request(
    query: Query,
    names: Mapping[str, str],
    filter: models.Filter | None,
    *,
    limit: int,
    fusion: Fusion,
    score_threshold: float | None = None,
    with_payload: bool = True,
    with_vector: list[str] | bool = False,
) -> models.QueryRequest:
    """Build the engine's request.

    Args:
        query: With one side, a search by it; with both, a fused search.
        names: "sparse" and "dense" -> the vector's name in the collection.
        filter: Applied in each branch.
        limit: How many points are asked for.
        fusion: How two sides are joined.
        score_threshold: Lowest score; of the fused score where there are two sides.
        with_payload: Whether payloads come along.
        with_vector: Names of vectors that come along.
    """
    sides: list[tuple[str, Any]] = []
    if query.sparse is not None:
        sides.append((names["sparse"], to_sparse_vector(query.sparse)))
    if query.dense is not None:
        sides.append((names["dense"], list(query.dense)))
    shared: dict[str, Any] = {
        "limit": limit,
        "score_threshold": score_threshold,
        "with_payload": with_payload,
        "with_vector": with_vector,
    }
    if len(sides) == 1:
        ((using, vector),) = sides
        return models.QueryRequest(
            query=models.NearestQuery(nearest=vector), using=using, filter=filter, **shared
        )
    prefetch = [
        models.Prefetch(
            query=models.NearestQuery(nearest=vector), using=using, filter=filter, limit=fusion.depth
        )
        for using, vector in sides
    ]
    fused: models.RrfQuery | models.FusionQuery
    if fusion.method == "rrf":
        weights = None if fusion.weights is None else list(fusion.weights)
        fused = models.RrfQuery(rrf=models.Rrf(k=fusion.rrf_k, weights=weights))
    else:
        fused = models.FusionQuery(fusion=models.Fusion.DBSF)
    return models.QueryRequest(prefetch=prefetch, query=fused, **shared)


def branches_of(rankings: Mapping[str, Iterable[models.ScoredPoint]]) -> dict[Any, dict[str, Branch]]:
    """Collect, for each point id, its rank and score in each branch."""
    found: dict[Any, dict[str, Branch]] = {}
    for name, ranking in rankings.items():
        for rank, point in enumerate(ranking, start=1):
            found.setdefault(point.id, {})[name] = Branch(rank=rank, score=float(point.score))
    return found


def page(fetch: Callable[[int], list[Hit]], k: int, offset: int) -> list[Hit]:
    """Take one page of a ranking whose order is the same each time: by score, then by id.

    Engines order equal scores as they like. So the page is read with one more place, and, where the score of
    the last place goes on beyond it, further, until all that share it are seen and the ids can decide.

    Args:
        fetch: The best n hits for a given n, at most one a document, best first.
        k: Hits of the page.
        offset: Hits before it.
    """
    want = offset + k
    limit = want + 1
    while True:
        hits = fetch(limit)
        exhausted = len(hits) < limit
        tied = not exhausted and hits[-1].score == hits[want - 1].score
        if not tied or limit > want + _MOST_TIES:
            return sorted(hits, key=lambda hit: (-hit.score, hit.id))[offset:want]
        limit = want + 2 * (limit - want)
