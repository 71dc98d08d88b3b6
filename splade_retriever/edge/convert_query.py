"""qdrant-client's queries, scrolls, counts and facets -> Qdrant Edge's.

A server computes some things before it calls the engine. They are computed here: the vectors of points that
a query names by id, the average vector of a recommendation, defaults.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.edge.convert_config import UNNAMED, same_name
from splade_retriever.edge.convert_filter import to_filter, to_iso
from splade_retriever.edge.convert_formula import to_formula
from splade_retriever.edge.convert_points import (
    Id,
    point_id,
    refuse_inference,
    to_sparse,
    to_with_payload,
    to_with_vectors,
)
from splade_retriever.errors import InputError, NotSupportedError
from splade_retriever.validation import type_name

__all__ = ["VectorOf", "to_batch", "to_count", "to_facet", "to_request", "to_scroll"]

VectorOf: TypeAlias = Callable[[Id, str, models.LookupLocation | None], tuple[Any, bool]]
"""Reads a stored vector: (point id, vector name, where to look or None for this collection) -> the vector,
and whether the point is in this collection."""

# -- requests ------------------------------------------------------------------------------------------------


def to_scroll(
    *,
    filter: models.Filter | None,
    limit: int,
    order_by: Any,
    offset: Any,
    with_payload: Any,
    with_vectors: Any,
) -> edge.ScrollRequest:
    """Convert a scroll."""
    return edge.ScrollRequest(
        offset=None if offset is None else point_id(offset),
        limit=limit,
        filter=to_filter(filter),
        with_payload=to_with_payload(with_payload),
        with_vector=to_with_vectors(with_vectors),
        order_by=None if order_by is None else to_order_by(order_by),
    )


def to_count(filter: models.Filter | None, *, exact: bool) -> edge.CountRequest:
    """Convert a count."""
    return edge.CountRequest(exact=exact, filter=to_filter(filter))


def to_facet(key: str, filter: models.Filter | None, *, limit: int, exact: bool) -> edge.FacetRequest:
    """Convert a facet."""
    return edge.FacetRequest(key, limit=limit, exact=exact, filter=to_filter(filter))


def to_batch(requests: Sequence[edge.QueryRequest]) -> edge.QueryBatchRequest:
    """Join queries into one request of the engine."""
    return edge.QueryBatchRequest(list(requests))


# -- queries -------------------------------------------------------------------------------------------------


def to_request(request: models.QueryRequest, vector_of: VectorOf) -> edge.QueryRequest:
    """Convert a query with its prefetches.

    Args:
        request: As `query_batch_points` takes it.
        vector_of: Reads the vectors of points that the query names by id. It does not find these points.

    Raises:
        InputError: If the query is not valid.
        NotSupportedError: If Qdrant Edge does not have the query.
    """
    prefetches = _prefetches(request.prefetch, vector_of)
    limit = 10 if request.limit is None else request.limit
    _check_query(request.query, request.using, bool(prefetches), request.score_threshold)
    query, mentioned = to_query(request.query, request.using, request.lookup_from, vector_of, limit)
    if limit < 1 or (request.offset or 0) < 0:
        raise InputError(
            f"A query has limit={limit} and offset={request.offset}, expected a limit of 1 or more and an "
            "offset of 0 or more."
        )
    return edge.QueryRequest(
        limit,
        offset=0 if isinstance(request.query, models.SampleQuery) else request.offset or 0,
        query=query,
        prefetches=prefetches,
        with_vector=to_with_vectors(request.with_vector),
        with_payload=to_with_payload(request.with_payload),
        filter=to_filter(_without(request.filter, mentioned)),
        score_threshold=request.score_threshold,
        params=_search_params(request.params),
    )


def _prefetches(prefetch: Any, vector_of: VectorOf) -> list[edge.Prefetch]:
    if not prefetch:
        return []
    converted = []
    for item in prefetch if isinstance(prefetch, Sequence) else [prefetch]:
        nested = _prefetches(item.prefetch, vector_of)
        limit = 10 if item.limit is None else item.limit
        if limit < 1:
            raise InputError(f"A prefetch has limit={limit}, expected 1 or more.")
        _check_query(item.query, item.using, bool(nested), item.score_threshold)
        query, mentioned = to_query(item.query, item.using, item.lookup_from, vector_of, limit)
        converted.append(
            edge.Prefetch(
                limit,
                query=query,
                prefetches=nested or None,
                params=_search_params(item.params),
                filter=to_filter(_without(item.filter, mentioned)),
                score_threshold=item.score_threshold,
            )
        )
    return converted


def _check_query(query: Any, using: str | None, has_prefetch: bool, score_threshold: float | None) -> None:
    """Refuse queries that a server refuses and the engine may not."""
    fuses = isinstance(query, models.FusionQuery | models.RrfQuery)
    fault = None
    if query is None and has_prefetch:
        fault = "has prefetches and no query that joins them; pass a query, such as a fusion"
    elif query is None and score_threshold is not None:
        fault = "has a score_threshold and computes no scores; pass a query"
    elif isinstance(query, models.OrderByQuery) and score_threshold is not None:
        fault = "orders by a field, which computes no scores for a score_threshold; remove one"
    elif fuses and not has_prefetch:
        fault = "fuses, and has no prefetches to fuse; pass prefetch=..."
    elif fuses and using:
        fault = f"fuses, which does not use a vector; remove using={using!r}"
    elif isinstance(query, models.RrfQuery) and query.rrf.k is not None and query.rrf.k < 1:
        fault = f"has an RRF k of {query.rrf.k}, expected 1 or more"
    if fault:
        raise InputError(f"A query {fault}.")


def _without(filter: models.Filter | None, ids: Iterable[Id]) -> models.Filter | None:
    """Narrow a filter to points other than these."""
    excluded = list(ids)
    if not excluded:
        return filter
    others = models.Filter(must_not=[models.HasIdCondition(has_id=[*excluded])])
    return others if filter is None else models.Filter(must=[filter, others])


def _search_params(params: Any) -> edge.SearchParams | None:
    if params is None:
        return None
    if isinstance(params, Mapping):
        params = models.SearchParams(**params)
    quantization, acorn, idf = params.quantization, params.acorn, params.idf
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=bool(params.exact),
        quantization=None
        if quantization is None
        else edge.QuantizationSearchParams(
            ignore=bool(quantization.ignore),
            rescore=quantization.rescore,
            oversampling=quantization.oversampling,
        ),
        indexed_only=bool(params.indexed_only),
        acorn=None
        if acorn is None
        else edge.AcornSearchParams(enable=bool(acorn.enable), max_selectivity=acorn.max_selectivity),
        idf=edge.IdfParams(to_filter(idf.corpus)) if isinstance(idf, models.IdfCorpusParams) else None,
    )


def to_query(
    query: Any, using: str | None, lookup_from: models.LookupLocation | None, vector_of: VectorOf, limit: int
) -> tuple[Any, list[Id]]:
    """Convert a query.

    Returns:
        Edge's query, and the ids of this collection that it names, which it must not find.
    """
    named: list[Id] = []
    name = using or UNNAMED

    def vector(value: Any) -> Any:
        if isinstance(value, int | str | UUID) and not isinstance(value, bool):
            id = point_id(value)
            stored, in_this_collection = vector_of(id, name, lookup_from)
            if in_this_collection:
                named.append(id)
            return query_vector(stored)
        return query_vector(value)

    def pairs(context: Any) -> list[edge.ContextPair]:
        listed = context if isinstance(context, list) else [context]
        return [edge.ContextPair(vector(pair.positive), vector(pair.negative)) for pair in listed]

    converted: Any
    if query is None:
        converted = None
    elif isinstance(query, models.NearestQuery):
        nearest = vector(query.nearest)
        converted = edge.Query.Nearest(nearest, name)
        if query.mmr is not None:
            if isinstance(nearest, edge.SparseVector):
                raise NotSupportedError(
                    "A query asks for MMR by a sparse vector, which Qdrant Edge does not have. Select from "
                    "the results of a plain query, or use a Qdrant server."
                )
            diversity = 0.5 if query.mmr.diversity is None else query.mmr.diversity
            candidates = limit if query.mmr.candidates_limit is None else query.mmr.candidates_limit
            converted = edge.Mmr(nearest, 1.0 - diversity, candidates, name)
    elif isinstance(query, models.RecommendQuery):
        recommend = query.recommend
        positives = [vector(value) for value in recommend.positive or ()]
        negatives = [vector(value) for value in recommend.negative or ()]
        converted = _recommend(recommend.strategy, positives, negatives, name)
    elif isinstance(query, models.DiscoverQuery):
        discover = query.discover
        context = pairs(discover.context)
        converted = edge.Query.Discover(edge.DiscoverQuery(vector(discover.target), context), name)
    elif isinstance(query, models.ContextQuery):
        converted = edge.Query.Context(edge.ContextQuery(pairs(query.context)), name)
    elif isinstance(query, models.RelevanceFeedbackQuery):
        feedback = query.relevance_feedback
        naive = feedback.strategy.naive
        items = [edge.FeedbackItem(vector(item.example), item.score) for item in feedback.feedback]
        strategy = edge.NaiveFeedbackStrategy(naive.a, naive.b, naive.c)
        converted = edge.Query.FeedbackNaive(
            edge.FeedbackNaiveQuery(vector(feedback.target), items, strategy), name
        )
    elif isinstance(query, models.OrderByQuery | models.FusionQuery | models.RrfQuery | models.SampleQuery):
        converted = _ranking(query)
    elif isinstance(query, models.FormulaQuery):
        converted = to_formula(query)
    elif isinstance(query, models.TextQuery):
        converted = _text_query(query, name)
    else:
        converted = edge.Query.Nearest(vector(query), name)
    return converted, named


def query_vector(vector: Any) -> Any:
    """Check a vector to search with, and convert it.

    Raises:
        InputError: If the vector holds NaN or repeats an index. An empty sparse vector is allowed and finds
            nothing.
    """
    refuse_inference(vector)
    if isinstance(vector, models.SparseVector):
        return to_sparse(vector, lambda found: InputError(f"The query's sparse vector {found}."), minimum=0)
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"A query is {type_name(vector)}, expected a vector, a point id or a query of "
            "qdrant_client.models."
        ) from None
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"The query's vector has the shape {array.shape}, expected finite numbers of shape (size,) or "
            "(rows, size)."
        )
    return array.tolist()


def _recommend(
    strategy: models.RecommendStrategy | None, positives: list[Any], negatives: list[Any], name: str
) -> Any:
    if not positives and (not negatives or strategy in (None, models.RecommendStrategy.AVERAGE_VECTOR)):
        raise InputError(
            "A recommendation has no positive example, expected at least one (or negative ones, with "
            "strategy "
            "'best_score' or 'sum_scores')."
        )
    examples = edge.RecommendQuery(positives, negatives)
    if strategy == models.RecommendStrategy.BEST_SCORE:
        return edge.Query.RecommendBestScore(examples, name)
    if strategy == models.RecommendStrategy.SUM_SCORES:
        return edge.Query.RecommendSumScores(examples, name)
    return edge.Query.Nearest(_average(positives, negatives), name)


def _average(positives: list[Any], negatives: list[Any]) -> Any:
    """Average examples as a server does: the mean of positives, moved away from the mean of negatives."""
    if isinstance(positives[0], edge.SparseVector):
        plus, minus = _sparse_mean(positives), _sparse_mean(negatives)
        if negatives:
            plus = {
                index: 2 * plus.get(index, 0.0) - minus.get(index, 0.0) for index in sorted({*plus, *minus})
            }
        return edge.SparseVector(list(plus), list(plus.values()))
    if isinstance(positives[0][0], list):
        rows = [row for example in positives for row in example]
        return rows + [[-value for value in row] for example in negatives for row in example]
    mean = np.mean(positives, axis=0)
    return (mean + mean - np.mean(negatives, axis=0) if negatives else mean).tolist()


def _sparse_mean(vectors: list[Any]) -> dict[int, float]:
    total: dict[int, float] = {}
    for vector in vectors:
        for index, value in zip(vector.indices, vector.values, strict=True):
            total[index] = total.get(index, 0.0) + value
    return {index: value / len(vectors) for index, value in sorted(total.items())}


def _ranking(query: models.OrderByQuery | models.FusionQuery | models.RrfQuery | models.SampleQuery) -> Any:
    if isinstance(query, models.OrderByQuery):
        return to_order_by(query.order_by)
    if isinstance(query, models.SampleQuery):
        return edge.Sample.Random
    if isinstance(query, models.FusionQuery) and query.fusion == models.Fusion.DBSF:
        return edge.Fusion.Dbsf()
    rrf = query.rrf if isinstance(query, models.RrfQuery) else models.Rrf()
    return edge.Fusion.Rrf(k=2 if rrf.k is None else rrf.k, weights=rrf.weights)


def to_order_by(order_by: models.OrderByInterface) -> edge.OrderBy:
    """Convert an order by a payload field."""
    if isinstance(order_by, str):
        return edge.OrderBy(order_by)
    start: Any = order_by.start_from
    return edge.OrderBy(
        order_by.key,
        direction=same_name(edge.Direction, order_by.direction),
        start_from=to_iso(start) if isinstance(start, date) else start,
    )


def _text_query(query: models.TextQuery, field: str) -> edge.TextQuery:
    if isinstance(query.text, str):
        return edge.TextQuery(field, query.text)
    scoring: Any = query.text.scoring
    params = getattr(scoring, "bm25", None)
    bm25 = None if params is None else edge.Bm25Params(k=params.k, b=params.b)
    return edge.TextQuery(field, query.text.query, scoring=bm25)
