"""Searches as pure functions: a request -> the engine's query; the engine's answer -> ranked documents."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.documents import Branch
from splade_retriever.index.options import Fusion, Mode, SearchOptions
from splade_retriever.index.payload import Layout, metadata_of, package_fields, window_count
from splade_retriever.index.points import to_sparse_vector
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_int, text_fault, type_name

__all__ = [
    "EncodedQuery",
    "Fusion",
    "Mode",
    "SearchRequest",
    "branches_of",
    "engine_query",
    "just_below",
    "rank_documents",
]

_MAX_TIES: Final = 4096
"""How far beyond the page ties of its last score are followed; past that there are no further pages."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search, checked."""

    query: str | SparseEmbedding
    k: int = 10
    filter: models.Filter | None = None
    options: SearchOptions = field(default_factory=SearchOptions)
    dense_vector: Sequence[float] | None = None
    """The query's dense vector, where it is encoded already."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", checked_int("k", self.k, minimum=1))
        if isinstance(self.query, str):
            fault = text_fault("query", self.query)
            if fault:
                raise InputError(f"{fault}.")
        elif not isinstance(self.query, SparseEmbedding) or self.mode != "sparse":
            raise InputError(
                f"query is {type_name(self.query)} in mode {self.mode!r}, expected a string, or a "
                f"SparseEmbedding in mode 'sparse'. {_remedy(self.query)}".rstrip()
            )

    @property
    def mode(self) -> Mode:
        """The mode of the search; "sparse" unless set."""
        return self.options.mode or "sparse"

    @property
    def text(self) -> str | None:
        """The text to encode; None for a vector, and for a blank text, which finds nothing.

        A model may give weight to its special tokens even in a blank text.
        """
        return str(self.query) if isinstance(self.query, str) and self.query.strip() else None

    def searches(self, branch: str) -> bool:
        """Return whether the mode has a branch: "sparse", "second" or "dense"."""
        return self.mode in (branch, "hybrid")

    @property
    def needs_dense(self) -> bool:
        """Whether the query is yet to be encoded by the dense encoder, if the index has one."""
        return self.text is not None and self.searches("dense") and self.dense_vector is None

    @property
    def depth(self) -> int:
        """Documents to rank: those of the page and those before it."""
        return self.options.offset + self.k

    def accepts(self, point: models.ScoredPoint) -> bool:
        """Return whether a point's score reaches the threshold."""
        threshold = self.options.score_threshold
        return threshold is None or float(point.score) >= threshold


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """The vectors of a query; a branch that is None is not searched."""

    sparse: SparseEmbedding | None = None
    dense: Sequence[float] | None = None
    second: SparseEmbedding | None = None

    @property
    def vectors(self) -> dict[str, Any]:
        """The engine's vector of each branch that is searched, in the order of the weights of a fusion."""
        vectors: dict[str, Any] = {}
        if self.sparse is not None:
            vectors["sparse"] = to_sparse_vector(self.sparse)
        if self.second is not None:
            vectors["second"] = to_sparse_vector(self.second)
        if self.dense is not None:
            vectors["dense"] = list(self.dense)
        return vectors

    @property
    def branches(self) -> "dict[str, EncodedQuery]":
        """Each branch that is searched, alone."""
        return {name: EncodedQuery(**{name: getattr(self, name)}) for name in self.vectors}


def _remedy(query: object) -> str:
    return "Pass several queries to search_batch." if isinstance(query, list | tuple) else ""


def engine_query(
    query: EncodedQuery,
    names: Mapping[str, str],
    request: SearchRequest,
    *,
    limit: int,
    only_branch: bool = False,
) -> models.QueryRequest:
    """Build the engine's query.

    Args:
        query: Its branches: in mode "hybrid" a query without tokens has the dense branch alone, and is fused
            all the same, so that its scores are comparable.
        names: Each branch that the index has, in the order of the weights -> the vector's name.
        request: Its filter applies to each branch, its threshold to the final score.
        limit: Points to return.
        only_branch: True for the ranking of one branch as it enters the fusion: ids and scores alone.
    """
    options = request.options
    weights = options.fusion.weights or (1.0,) * len(names)
    weight_of = dict(zip(names, weights, strict=False))  # a search of one branch has no use for the weights
    branches = [(names[name], vector, weight_of.get(name, 1.0)) for name, vector in query.vectors.items()]
    threshold = None if only_branch else options.score_threshold
    shared: dict[str, Any] = {
        "limit": limit,
        "score_threshold": None if threshold is None else just_below(threshold),
        "with_payload": not only_branch,
        "with_vector": [names["sparse"]] if options.with_vectors and not only_branch else False,
    }
    if only_branch or request.mode != "hybrid":
        ((using, vector, _),) = branches
        return models.QueryRequest(
            query=models.NearestQuery(nearest=vector), using=using, filter=request.filter, **shared
        )
    prefetch = [
        models.Prefetch(
            query=models.NearestQuery(nearest=vector),
            using=using,
            filter=request.filter,
            limit=options.fusion.depth,
        )
        for using, vector, _ in branches
    ]
    return models.QueryRequest(prefetch=prefetch, query=_fusion_query(options.fusion, branches), **shared)


def _fusion_query(
    fusion: Fusion, branches: Sequence[tuple[str, Any, float]]
) -> models.RrfQuery | models.FusionQuery:
    if fusion.method == "dbsf":
        return models.FusionQuery(fusion=models.Fusion.DBSF)
    weights = None if fusion.weights is None else [weight for _, _, weight in branches]
    return models.RrfQuery(rrf=models.Rrf(k=fusion.rrf_k, weights=weights))


def just_below(score: float) -> float:
    """Return a 32-bit number below a score, one place lower than the 32-bit number closest to it.

    Engines keep what is above the threshold in a single ranking, and what is not below it in a fused one.
    With this threshold both return every score that is not below the one meant. Over REST a score is the
    shortest decimal of a 32-bit number, which may be above that number or below it.
    """
    return float(np.nextafter(np.float32(score), np.float32(-np.inf)))


def branches_of(rankings: Mapping[str, Iterable[models.ScoredPoint]]) -> dict[Any, dict[str, Branch]]:
    """Collect, for each point id, its rank and score in each branch."""
    branches: dict[Any, dict[str, Branch]] = {}
    for name, ranking in rankings.items():
        for rank, point in enumerate(ranking, start=1):
            branches.setdefault(point.id, {})[name] = Branch(rank=rank, score=float(point.score))
    return branches


def rank_documents(
    points: Sequence[models.ScoredPoint], limit: int, depth: int, layout: Layout, *, offset: int = 0
) -> list[models.ScoredPoint] | int:
    """Reduce an answer to one point per document, in an order that is the same each time.

    Engines order equal scores as they like. So one place more than needed is read, and, where the score of
    the last place continues beyond it, further, until all that share it are seen and the ids can decide.
    More than 4,096 equal scores beyond a first page are cut as the engine likes, and there is no second page.

    Args:
        points: The engine's answer, best first.
        limit: How many points were requested.
        depth: How many documents are needed.
        layout: Where the payload keeps the tenant, whose ids are not those of other tenants.
        offset: How many of the documents needed are those of pages before.

    Returns:
        Points by score, then by id; or how many to request in order to know.

    Raises:
        InputError: The page could repeat documents of the pages before it, or miss some.
    """
    best: dict[Any, models.ScoredPoint] = {}
    for point in points:
        best.setdefault(_document_of(point, layout), point)
    ranked = list(best.values())
    if len(points) == limit:
        if len(ranked) <= depth:
            return 2 * limit
        if ranked[-1].score == ranked[depth - 1].score:
            if limit <= depth + _MAX_TIES:
                return depth + 2 * (limit - depth)
            if offset > 0:
                raise InputError(
                    f"More than {_MAX_TIES:,} documents beyond place {depth:,} have the score "
                    f"{ranked[-1].score:g}, and their order is not fixed: with offset={offset} the page "
                    "could repeat documents of earlier pages. Ask for a larger k without offset, narrow "
                    "the search by a filter, or read all documents with scroll."
                )
    ranked.sort(key=lambda point: (-point.score, _id_of(point), str(point.id)))
    return ranked[:depth]


def _document_of(point: models.ScoredPoint, layout: Layout) -> object:
    """Return what all points of a document share: its only point, or its id and tenant."""
    if window_count(point) == 1:
        return point.id
    return _id_of(point), layout.tenant_of(metadata_of(point.payload, layout))


def _id_of(point: models.ScoredPoint) -> str:
    return str(package_fields(point).get("id", point.id))
