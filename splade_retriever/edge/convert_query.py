"""qdrant-client's filters and queries -> Qdrant Edge's.

What a server works out before it reaches the engine is worked out here: ids given in place of vectors, the
average vector of a recommendation, defaults.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.edge.convert_points import (
    UNNAMED,
    Id,
    point_id,
    refuse_inference,
    same_name,
    to_ids,
    to_sparse,
    to_with_payload,
    to_with_vectors,
)
from splade_retriever.errors import InputError, NotSupportedError

__all__ = ["VectorOf", "to_batch", "to_count", "to_facet", "to_filter", "to_request", "to_scroll"]

VectorOf: TypeAlias = Callable[[Id, str, models.LookupLocation | None], tuple[Any, bool]]
"""Reads a stored vector: (point id, vector name, where to look or None for this collection) -> the vector,
and whether the point is one of this collection."""

_SLICE: Final[Any] = getattr(edge, "SliceCondition")  # noqa: B009 - the stubs of 0.9.0 leave it out

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
    """Put queries together, to be answered in one call."""
    return edge.QueryBatchRequest(list(requests))


# -- filters -------------------------------------------------------------------------------------------------


def to_filter(filter: models.Filter | None) -> edge.Filter | None:
    """Convert a filter; an empty one finds everything."""
    if filter is None:
        return None
    least = filter.min_should
    return edge.Filter(
        must=_conditions(filter.must),
        should=_conditions(filter.should),
        must_not=_conditions(filter.must_not),
        min_should=None
        if least is None
        else edge.MinShould([_condition(item) for item in least.conditions], least.min_count),
    )


def _conditions(conditions: Any) -> list[Any] | None:
    if not conditions:
        return None
    return [_condition(item) for item in (conditions if isinstance(conditions, list) else [conditions])]


def _condition(condition: models.Condition) -> Any:  # noqa: PLR0911 - one a kind
    if isinstance(condition, models.FieldCondition):
        return _field_condition(condition)
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if isinstance(condition, models.IsNullCondition):
        return edge.IsNullCondition(condition.is_null.key)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition(set(to_ids(condition.has_id)))
    if isinstance(condition, models.HasVectorCondition):
        return edge.HasVectorCondition(condition.has_vector)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested
        return edge.NestedCondition(nested.key, to_filter(nested.filter) or edge.Filter())
    if isinstance(condition, models.SliceCondition):
        return _SLICE(condition.slice.total, condition.slice.index)
    if isinstance(condition, models.Filter):
        return to_filter(condition)
    raise InputError(
        f"a filter holds a {type(condition).__name__}, expected a condition of qdrant_client.models."
    )


def _field_condition(condition: models.FieldCondition) -> edge.FieldCondition:
    count = condition.values_count
    return edge.FieldCondition(
        condition.key,
        match=_match(condition.match),
        range=_range(condition.range),
        geo_bounding_box=_geo_box(condition.geo_bounding_box),
        geo_radius=_geo_radius(condition.geo_radius),
        geo_polygon=_geo_polygon(condition.geo_polygon),
        values_count=None
        if count is None
        else edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
        is_empty=condition.is_empty,
        is_null=condition.is_null,
    )


def _match(match: models.Match | None) -> Any:
    if match is None:
        return None
    # Each has one field, and its Edge twin takes it as its one argument.
    (value,) = (getattr(match, name) for name in type(match).model_fields)
    if isinstance(value, bool):
        # Edge 0.9.0 tries integers first, so that True would look for 1; NumPy's bool is no integer to it.
        value = np.bool_(value)
    return getattr(edge, type(match).__name__)(value)


def _range(range: models.RangeInterface | None) -> Any:
    if range is None:
        return None
    bounds = {name: getattr(range, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(range, models.Range):
        return edge.RangeFloat(**bounds)
    return edge.RangeDateTime(**{name: _iso(value) for name, value in bounds.items()})


def _iso(moment: datetime | date | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _geo_point(point: models.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(lon=point.lon, lat=point.lat)


def _geo_box(box: models.GeoBoundingBox | None) -> edge.GeoBoundingBox | None:
    if box is None:
        return None
    return edge.GeoBoundingBox(_geo_point(box.top_left), _geo_point(box.bottom_right))


def _geo_radius(circle: models.GeoRadius | None) -> edge.GeoRadius | None:
    return None if circle is None else edge.GeoRadius(_geo_point(circle.center), circle.radius)


def _geo_polygon(polygon: models.GeoPolygon | None) -> edge.GeoPolygon | None:
    if polygon is None:
        return None
    rings = [[_geo_point(point) for point in ring.points] for ring in polygon.interiors or ()]
    return edge.GeoPolygon([_geo_point(point) for point in polygon.exterior.points], rings or None)


# -- queries -------------------------------------------------------------------------------------------------


def to_request(request: models.QueryRequest, vector_of: VectorOf) -> edge.QueryRequest:
    """Convert a query with its prefetches.

    Args:
        request: As `query_batch_points` takes it.
        vector_of: Reads the vectors of points that are given by id; such points are not found themselves.

    Raises:
        InputError: For a query that makes no sense.
    """
    prefetches = _prefetches(request.prefetch, vector_of)
    limit = 10 if request.limit is None else request.limit
    _check_query(request.query, request.using, bool(prefetches), request.score_threshold)
    query, mentioned = to_query(request.query, request.using, request.lookup_from, vector_of, limit)
    if limit < 1 or (request.offset or 0) < 0:
        raise InputError(
            f"a query has limit={limit} and offset={request.offset}, expected a limit of 1 and an offset of "
            "0 or more."
        )
    return edge.QueryRequest(
        limit,
        offset=request.offset or 0,
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
            raise InputError(f"a prefetch has limit={limit}, expected 1 or more.")
        _check_query(item.query, item.using, bool(nested), item.score_threshold)
        query, mentioned = to_query(item.query, item.using, item.lookup_from, vector_of, limit)
        if isinstance(query, edge.Mmr) and isinstance(query.vector, edge.SparseVector):
            raise NotSupportedError(
                "a prefetch asks for MMR by a sparse vector, which Qdrant Edge has not. Ask for it in the "
                "query "
                "itself, or use a Qdrant server."
            )
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
    """Refuse what a server refuses and Edge may not."""
    fuses = isinstance(query, models.FusionQuery | models.RrfQuery)
    fault = None
    if query is None and has_prefetch:
        fault = "has prefetches and nothing to join them with; pass a query, such as a fusion"
    elif query is None and score_threshold is not None:
        fault = "has a score_threshold and gives no scores; pass a query"
    elif isinstance(query, models.OrderByQuery) and score_threshold is not None:
        fault = "orders by a field, which gives no scores for a score_threshold; leave one out"
    elif fuses and not has_prefetch:
        fault = "fuses, and has no prefetches to fuse; pass prefetch="
    elif fuses and using:
        fault = f"fuses, which is not done by one vector; leave using={using!r} out"
    elif isinstance(query, models.RrfQuery) and query.rrf.k is not None and query.rrf.k < 1:
        fault = f"has an RRF k of {query.rrf.k}, expected 1 or more"
    if fault:
        raise InputError(f"a query {fault}.")


def _without(filter: models.Filter | None, ids: Iterable[Id]) -> models.Filter | None:
    """Narrow a filter to points other than these."""
    named = list(ids)
    if not named:
        return filter
    others = models.Filter(must_not=[models.HasIdCondition(has_id=[*named])])
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
        Edge's query, and the points of this collection that it names, which are not to be found.
    """
    named: list[Id] = []
    name = using or UNNAMED

    def vector(value: Any) -> Any:
        if isinstance(value, int | str | UUID) and not isinstance(value, bool):
            id = point_id(value)
            found, own = vector_of(id, name, lookup_from)
            if own:
                named.append(id)
            return query_vector(found)
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
        converted = edge.Formula(_expression(query.formula), query.defaults or {})
    elif isinstance(query, models.TextQuery):
        converted = _text_query(query, name)
    else:
        converted = edge.Query.Nearest(vector(query), name)
    return converted, named


def query_vector(vector: Any) -> Any:
    """Check a vector to search with, and convert it.

    Raises:
        InputError: For a vector with NaN or repeated indices; an empty sparse one is allowed and finds
        nothing.
    """
    refuse_inference(vector)
    if isinstance(vector, models.SparseVector):
        return to_sparse(vector, lambda found: InputError(f"the query's sparse vector {found}."), least=0)
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"a query is a {type(vector).__name__}, expected a vector, a point id or a query of "
            "qdrant_client.models."
        ) from None
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"the query's vector has the shape {array.shape}, expected finite numbers of shape (size,) or "
            "(rows, size)."
        )
    return array.tolist()


def _recommend(
    strategy: models.RecommendStrategy | None, positives: list[Any], negatives: list[Any], name: str
) -> Any:
    if not positives and (not negatives or strategy in (None, models.RecommendStrategy.AVERAGE_VECTOR)):
        raise InputError(
            "a recommendation has no positive example, expected at least one (or negative ones, with "
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
    """Join examples as a server does: mean of positives, moved by its distance from the mean of negatives."""
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
        start_from=_iso(start) if isinstance(start, date) else start,
    )


def _text_query(query: models.TextQuery, field: str) -> edge.TextQuery:
    if isinstance(query.text, str):
        return edge.TextQuery(field, query.text)
    scoring: Any = query.text.scoring
    params = getattr(scoring, "bm25", None)
    bm25 = None if params is None else edge.Bm25Params(k=params.k, b=params.b)
    return edge.TextQuery(field, query.text.query, scoring=bm25)


# -- formulas ------------------------------------------------------------------------------------------------

_ONE_OPERAND: Final[Mapping[type, str]] = {
    models.NegExpression: "Neg",
    models.AbsExpression: "Abs",
    models.SqrtExpression: "Sqrt",
    models.ExpExpression: "Exp",
    models.Log10Expression: "Log10",
    models.LnExpression: "Ln",
    models.AcoshExpression: "Acosh",
}
_MANY_OPERANDS: Final[Mapping[type, str]] = {
    models.MultExpression: "Mult",
    models.SumExpression: "Sum",
    models.MaxExpression: "Max",
    models.MinExpression: "Min",
}
_DECAYS: Final[Mapping[type, edge.DecayKind]] = {
    models.LinDecayExpression: edge.DecayKind.Lin,
    models.GaussDecayExpression: edge.DecayKind.Gauss,
    models.ExpDecayExpression: edge.DecayKind.Exp,
}


def _expression(expression: Any) -> Any:  # noqa: PLR0911 - one a kind
    make = edge.Expression
    kind = type(expression)
    if isinstance(expression, int | float):
        return make.Constant(float(expression))
    if isinstance(expression, str):
        return make.Variable(expression)
    if kind in _ONE_OPERAND or kind in _MANY_OPERANDS or kind in _DECAYS:
        (operand,) = (getattr(expression, name) for name in kind.model_fields)
        if kind in _ONE_OPERAND:
            return getattr(make, _ONE_OPERAND[kind])(_expression(operand))
        if kind in _MANY_OPERANDS:
            return getattr(make, _MANY_OPERANDS[kind])([_expression(item) for item in operand])
        return make.Decay(
            _DECAYS[kind],
            _expression(operand.x),
            target=None if operand.target is None else _expression(operand.target),
            midpoint=operand.midpoint,
            scale=operand.scale,
        )
    if isinstance(expression, models.DivExpression):
        parts = expression.div
        return make.Div(_expression(parts.left), _expression(parts.right), parts.by_zero_default)
    if isinstance(expression, models.PowExpression):
        return make.Pow(_expression(expression.pow.base), _expression(expression.pow.exponent))
    if isinstance(expression, models.GeoDistance):
        distance = expression.geo_distance
        return make.GeoDistance(_geo_point(distance.origin), distance.to)
    if isinstance(expression, models.DatetimeExpression):
        return make.Datetime(expression.datetime)
    if isinstance(expression, models.DatetimeKeyExpression):
        return make.DatetimeKey(expression.datetime_key)
    return make.Condition(_condition(expression))
