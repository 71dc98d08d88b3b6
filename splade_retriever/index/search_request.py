"""Searches as pure functions: what is asked -> the engine's request; the engine's answer -> ranked hits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.documents import OWN_KEY, Branch
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import check_int, json_fault

__all__ = [
    "Fusion",
    "Mode",
    "Query",
    "branches_of",
    "own_id",
    "query_request",
    "rank_documents",
    "to_sparse_vector",
]

Mode: TypeAlias = Literal["sparse", "dense", "hybrid"]

_MOST_TIES = 1024
"""How far beyond the page ties of its last score are followed; past that the engine's order decides."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How a hybrid search joins its two rankings, inside the engine.

    Source:
        RRF: Cormack, Clarke, Buettcher, SIGIR 2009; with weights as Qdrant has it: sum over branches of
        1 / (rank / weight + k - 1), ranks from 1.
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

    @property
    def best_score(self) -> float:
        """The RRF score of a document that is first in both rankings: no hybrid score is higher."""
        weights = self.weights or (1.0, 1.0)
        return sum(1.0 / (1.0 / weight + self.rrf_k - 1.0) for weight in weights if weight > 0.0)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search, checked."""

    query: str | SparseEmbedding
    k: int = 10
    filter: models.Filter | None = None
    offset: int = 0
    score_threshold: float | None = None
    with_vectors: bool = False
    mode: Mode = "sparse"
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        check_int("k", self.k, minimum=1)
        check_int("offset", self.offset, minimum=0)
        least_score = self.score_threshold
        if least_score is not None and not (isinstance(least_score, Real) and math.isfinite(least_score)):
            raise InputError(f"search got score_threshold={least_score!r}, expected a finite number or None.")
        if self.mode not in ("sparse", "dense", "hybrid"):
            raise InputError(f"search got mode={self.mode!r}, expected 'sparse', 'dense' or 'hybrid'.")
        if not isinstance(self.fusion, Fusion):
            raise InputError(f"search got fusion={self.fusion!r}, expected a Fusion.")
        if isinstance(self.query, str):
            fault = json_fault("query", self.query)
            if fault:
                raise InputError(f"search: {fault}.")
        elif not isinstance(self.query, SparseEmbedding) or self.mode != "sparse":
            raise InputError(
                f"search got a query of type {type(self.query).__name__} in mode {self.mode!r}, expected "
                "a string, or a SparseEmbedding in mode 'sparse'."
            )

    def keeps(self, point: models.ScoredPoint) -> bool:
        """Say whether a hit's score is high enough."""
        return self.score_threshold is None or float(point.score) >= self.score_threshold

    @property
    def text(self) -> str | None:
        """The words that are asked for; None for a vector, and for a blank text.

        A model may weigh its special tokens, but who asks nothing is to find nothing.
        """
        return self.query if isinstance(self.query, str) and self.query.strip() else None

    @property
    def want(self) -> int:
        """Documents to rank: those of the page and those before it."""
        return self.offset + self.k


@dataclass(frozen=True, slots=True)
class Query:
    """A query as the engine needs it; a side that is None is not asked."""

    sparse: SparseEmbedding | None = None
    dense: Sequence[float] | None = None

    @property
    def sides(self) -> "dict[str, Query]":
        """Each side that is asked, by itself."""
        found = {}
        if self.sparse is not None:
            found["sparse"] = Query(sparse=self.sparse)
        if self.dense is not None:
            found["dense"] = Query(dense=self.dense)
        return found


def to_sparse_vector(embedding: SparseEmbedding) -> models.SparseVector:
    """Convert for the engine."""
    return models.SparseVector(indices=embedding.indices.tolist(), values=embedding.values.tolist())


def query_request(
    query: Query,
    names: Mapping[str, str],
    ask: SearchRequest,
    *,
    limit: int,
    only_branch: bool = False,
) -> models.QueryRequest:
    """Build the engine's request.

    Args:
        query: Both sides, or one: in mode "hybrid" a query without tokens has the dense side alone, and is
            fused all the same, so that its scores are of the same kind.
        names: "sparse" and "dense" -> the vector's name in the collection.
        ask: What is asked for; its filter holds in each branch, its threshold for the final score.
        limit: How many points are asked for.
        only_branch: True for one branch's ranking as it enters the fusion: ids and scores alone.
    """
    weights = ask.fusion.weights or (1.0, 1.0)
    sides: list[tuple[str, Any, float]] = []
    if query.sparse is not None:
        sides.append((names["sparse"], to_sparse_vector(query.sparse), weights[0]))
    if query.dense is not None:
        sides.append((names["dense"], list(query.dense), weights[1]))
    least = None if only_branch or ask.score_threshold is None else _just_below(ask.score_threshold)
    shared: dict[str, Any] = {
        "limit": limit,
        "score_threshold": least,
        "with_payload": not only_branch,
        "with_vector": [names["sparse"]] if ask.with_vectors and not only_branch else False,
    }
    if only_branch or ask.mode != "hybrid":
        ((using, vector, _),) = sides
        return models.QueryRequest(
            query=models.NearestQuery(nearest=vector), using=using, filter=ask.filter, **shared
        )
    prefetch = [
        models.Prefetch(
            query=models.NearestQuery(nearest=vector), using=using, filter=ask.filter, limit=ask.fusion.depth
        )
        for using, vector, _ in sides
    ]
    fused: models.RrfQuery | models.FusionQuery
    if ask.fusion.method == "rrf":
        of_sides = None if ask.fusion.weights is None else [weight for _, _, weight in sides]
        fused = models.RrfQuery(rrf=models.Rrf(k=ask.fusion.rrf_k, weights=of_sides))
    else:
        fused = models.FusionQuery(fusion=models.Fusion.DBSF)
    return models.QueryRequest(prefetch=prefetch, query=fused, **shared)


def _just_below(score: float) -> float:
    """Give the largest 32-bit number below a score.

    Of one ranking engines keep what is above the threshold, of fused ones what is not below it. Asked for
    this, both give every score that is not below the one meant.
    """
    rounded = np.float32(score)
    return float(rounded if float(rounded) < score else np.nextafter(rounded, np.float32(-np.inf)))


def branches_of(rankings: Mapping[str, Iterable[models.ScoredPoint]]) -> dict[Any, dict[str, Branch]]:
    """Collect, for each point id, its rank and score in each branch."""
    found: dict[Any, dict[str, Branch]] = {}
    for name, ranking in rankings.items():
        for rank, point in enumerate(ranking, start=1):
            found.setdefault(point.id, {})[name] = Branch(rank=rank, score=float(point.score))
    return found


def rank_documents(
    points: Sequence[models.ScoredPoint], take: int, want: int
) -> list[models.ScoredPoint] | int:
    """Reduce an answer to one point a document, in an order that is the same each time.

    Engines order equal scores as they like. So one place more than wanted is read, and, where the score of
    the last place goes on beyond it, further, until all that share it are seen and the ids can decide.

    Args:
        points: The engine's answer, best first.
        take: How many points it was asked for.
        want: Documents wanted.

    Returns:
        Points by score, then by id; or how many to ask for in order to know.
    """
    best: dict[str, models.ScoredPoint] = {}
    for point in points:
        best.setdefault(own_id(point), point)
    ranked = list(best.items())
    if len(points) == take:
        if len(ranked) <= want:
            return 2 * take
        if ranked[-1][1].score == ranked[want - 1][1].score and take <= want + _MOST_TIES:
            return want + 2 * (take - want)
    ranked.sort(key=lambda item: (-item[1].score, item[0]))
    return [point for _, point in ranked[:want]]


def own_id(point: models.ScoredPoint | models.Record) -> str:
    """Give the user's id of a point's document."""
    own = (point.payload or {}).get(OWN_KEY) or {}
    return str(own.get("id", point.id))
