"""qdrant-client's models -> Qdrant Edge's types, and Edge's answers back; the only module with `qdrant_edge`.

Both speak of the same engine, so nearly every type has its twin. What a server works out before it reaches
the engine is worked out here: ids given in place of vectors, the average vector of a recommendation, defaults.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.documents import fault_of_json
from splade_retriever.errors import InputError, NotSupportedError

__all__ = [
    "Shard",
    "VectorOf",
    "create_shard",
    "from_record",
    "from_scored",
    "index_operation",
    "load_shard",
    "names_in",
    "point_id",
    "to_config",
    "to_filter",
    "to_ids",
    "to_order_by",
    "to_payload",
    "to_point",
    "to_point_vectors",
    "to_request",
    "to_with_payload",
    "to_with_vectors",
    "update",
]

Shard: TypeAlias = edge.EdgeShard
Id: TypeAlias = int | str
VectorOf: TypeAlias = Callable[[Id, str, models.LookupLocation | None], tuple[Any, bool]]
"""Reads a stored vector: (point id, vector name, where to look or None for this collection) -> the vector, and
whether the point is one of this collection."""

UNNAMED: Final = ""
"""The engine's name of the unnamed dense vector."""
_MOST_INDEX: Final = 2**32 - 1
_MOST_ID: Final = 2**64 - 1
update = edge.UpdateOperation


def create_shard(path: Path, config: models.CreateCollection) -> Shard:
    """Create a shard in a folder that is not there yet."""
    return edge.EdgeShard.create(str(path), to_config(config))


def load_shard(path: Path, config: models.CreateCollection | None = None) -> Shard:
    """Load a shard; a config replaces the one that it was stored with."""
    return edge.EdgeShard.load(str(path), None if config is None else to_config(config))


# -- collection settings -------------------------------------------------------------------------------------


def to_config(config: models.CreateCollection) -> edge.EdgeConfig:
    """Convert what `create_collection` was given."""
    vectors = config.vectors
    dense: Any = None
    if isinstance(vectors, models.VectorParams):
        dense = _dense_params(vectors)
    elif vectors:
        dense = {name: _dense_params(params) for name, params in vectors.items()}
    payload, id_tracker = config.payload, config.id_tracker
    optimizers = config.optimizers_config
    return edge.EdgeConfig(
        vectors=dense,
        sparse_vectors={
            name: _sparse_params(params) for name, params in (config.sparse_vectors or {}).items()
        }
        or None,
        on_disk_payload=config.on_disk_payload,
        hnsw_config=_hnsw(config.hnsw_config),
        quantization_config=_quantization(config.quantization_config),
        optimizers=None
        if optimizers is None
        else edge.EdgeOptimizersConfig(
            deleted_threshold=optimizers.deleted_threshold,
            vacuum_min_vector_number=optimizers.vacuum_min_vector_number,
            default_segment_number=optimizers.default_segment_number,
            max_segment_size=optimizers.max_segment_size,
            indexing_threshold=optimizers.indexing_threshold,
        ),
        payload_memory=None if payload is None else _same_name(edge.Memory, payload.memory),
        id_tracker_memory=None if id_tracker is None else _same_name(edge.Memory, id_tracker.memory),
    )


def _same_name(kind: Any, value: Any) -> Any:
    """Find the member of an Edge enum that a qdrant-client enum's value names ("float16" -> Float16).

    Raises:
        NotSupportedError: If Edge has no such member.
    """
    if value is None:
        return None
    wanted = str(getattr(value, "value", value)).replace("_", "").replace("-", "").lower()
    for name in dir(kind):
        if name.replace("_", "").lower() == wanted:
            return getattr(kind, name)
    found = ", ".join(name for name in dir(kind) if not name.startswith("_"))
    raise NotSupportedError(
        f"Qdrant Edge has no {kind.__name__} {getattr(value, 'value', value)!r} (it has: {found}). Choose one of "
        "these, or use a Qdrant server."
    )


def _dense_params(params: models.VectorParams) -> edge.EdgeVectorParams:
    multivector = params.multivector_config
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_same_name(edge.Distance, params.distance),
        on_disk=params.on_disk,
        multivector_config=_multivector(multivector),
        datatype=_same_name(edge.VectorStorageDatatype, params.datatype),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=_hnsw(params.hnsw_config),
        memory=_same_name(edge.Memory, params.memory),
    )


def _multivector(config: models.MultiVectorConfig | None) -> edge.MultiVectorConfig | None:
    if config is None:
        return None
    return edge.MultiVectorConfig(_same_name(edge.MultiVectorComparator, config.comparator))


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index or models.SparseIndexParams()
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        modifier=_modifier(params.modifier),
        datatype=_same_name(edge.VectorStorageDatatype, index.datatype),
        memory=_same_name(edge.Memory, index.memory),
    )


def _modifier(modifier: models.Modifier | None) -> Any:
    return edge.Modifier.Idf if modifier == models.Modifier.IDF else None


def _hnsw(config: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if config is None:
        return None
    return edge.HnswIndexConfig(
        m=16 if config.m is None else config.m,
        ef_construct=100 if config.ef_construct is None else config.ef_construct,
        full_scan_threshold=10_000 if config.full_scan_threshold is None else config.full_scan_threshold,
        max_indexing_threads=config.max_indexing_threads or 0,
        on_disk=config.on_disk,
        payload_m=config.payload_m,
        inline_storage=config.inline_storage,
        memory=_same_name(edge.Memory, config.memory),
    )


def _quantization(config: models.QuantizationConfig | None) -> Any:
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        return edge.ScalarQuantizationConfig(
            _same_name(edge.ScalarType, scalar.type),
            quantile=scalar.quantile,
            always_ram=scalar.always_ram,
            memory=_same_name(edge.Memory, scalar.memory),
        )
    if isinstance(config, models.ProductQuantization):
        product = config.product
        return edge.ProductQuantizationConfig(
            _same_name(edge.CompressionRatio, product.compression),
            always_ram=product.always_ram,
            memory=_same_name(edge.Memory, product.memory),
        )
    if isinstance(config, models.BinaryQuantization):
        binary = config.binary
        return edge.BinaryQuantizationConfig(
            always_ram=binary.always_ram,
            encoding=_same_name(edge.BinaryQuantizationEncoding, binary.encoding),
            query_encoding=_same_name(edge.BinaryQuantizationQueryEncoding, binary.query_encoding),
            memory=_same_name(edge.Memory, binary.memory),
        )
    if isinstance(config, models.TurboQuantization):
        turbo = config.turbo
        return edge.TurboQuantQuantizationConfig(
            always_ram=turbo.always_ram,
            bits=_same_name(edge.TurboQuantBitSize, turbo.bits),
            memory=_same_name(edge.Memory, turbo.memory),
        )
    return None


def vector_name_operation(name: str, config: models.VectorNameConfig) -> edge.UpdateOperation:
    """Build the operation that adds a named vector to a collection."""
    if isinstance(config, models.DenseVectorNameConfig):
        dense = config.dense
        return update.create_dense_vector(
            name,
            dense.size,
            _same_name(edge.Distance, dense.distance),
            multivector_config=_multivector(dense.multivector_config),
            datatype=_same_name(edge.VectorStorageDatatype, dense.datatype),
        )
    sparse = config.sparse
    return update.create_sparse_vector(
        name,
        modifier=_modifier(sparse.modifier),
        datatype=_same_name(edge.VectorStorageDatatype, sparse.datatype),
    )


def add_vector_name(config: models.CreateCollection, name: str, added: models.VectorNameConfig) -> None:
    """Enter a named vector that was added into a collection's settings, in place."""
    if isinstance(added, models.DenseVectorNameConfig):
        dense = added.dense
        datatype = None if dense.datatype is None else models.Datatype(dense.datatype.value)
        params = models.VectorParams(
            size=dense.size,
            distance=dense.distance,
            multivector_config=dense.multivector_config,
            datatype=datatype,
        )
        vectors = config.vectors
        named = {UNNAMED: vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})
        config.vectors = {**named, name: params}
    else:
        sparse = added.sparse
        index = None
        if sparse.datatype is not None:
            index = models.SparseIndexParams(datatype=models.Datatype(sparse.datatype.value))
        entry = models.SparseVectorParams(index=index, modifier=sparse.modifier)
        config.sparse_vectors = {**(config.sparse_vectors or {}), name: entry}


# -- payload indexes -----------------------------------------------------------------------------------------

_INDEX_PARAMS: Final[Mapping[type, Any]] = {
    getattr(models, f"{kind}IndexParams"): getattr(edge, f"{kind}IndexParams")
    for kind in ("Keyword", "Integer", "Float", "Geo", "Text", "Bool", "Datetime", "Uuid")
}
_INDEX_ENUMS: Final = {"memory": edge.Memory, "tokenizer": edge.TokenizerType}


def index_operation(
    field: str, schema: models.PayloadSchemaType | models.PayloadSchemaParams
) -> edge.UpdateOperation:
    """Build the operation that gives a payload field an index."""
    if isinstance(schema, models.PayloadSchemaType):
        return update.create_field_index(field, _same_name(edge.PayloadSchemaType, schema))
    given = {
        name: getattr(schema, name)
        for name in type(schema).model_fields
        if name != "type" and getattr(schema, name) is not None
    }
    converted = {name: _index_option(name, value) for name, value in given.items()}
    return update.create_field_index(field, _INDEX_PARAMS[type(schema)](**converted))


def _index_option(name: str, value: Any) -> Any:
    if name in _INDEX_ENUMS:
        return _same_name(_INDEX_ENUMS[name], value)
    if isinstance(value, models.Language):
        return _same_name(edge.Language, value)
    if isinstance(value, models.StopwordsSet):
        languages = {_same_name(edge.Language, language) for language in value.languages or ()}
        return edge.StopwordsSet(languages=languages or None, custom=set(value.custom or ()) or None)
    if isinstance(value, models.SnowballParams):
        return edge.SnowballParams(_same_name(edge.SnowballLanguage, value.language))
    if isinstance(value, models.DisabledStemmerParams):
        return edge.DisabledStemmer()
    if isinstance(value, models.TextScoringParams):
        return edge.TextScoringParams(_same_name(edge.TextScoringType, value.type))
    return value


# -- points --------------------------------------------------------------------------------------------------


def point_id(id: object) -> Id:
    """Check an id and give its canonical form: an int of 64 bits without sign, or a UUID as a string.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(id, int) and not isinstance(id, bool) and 0 <= id <= _MOST_ID:
        return id
    if isinstance(id, UUID):
        return str(id)
    if isinstance(id, str):
        try:
            return str(UUID(id))
        except ValueError:
            pass
    raise InputError(f"point id {id!r} is no id, expected an int from 0 to 2**64 - 1 or a UUID. Mend the id.")


def to_ids(ids: Iterable[object]) -> list[Id]:
    """Check ids; see `point_id`."""
    return [point_id(id) for id in ids]


def to_payload(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """Turn a payload into what JSON has, as a server does with the request's body (datetimes become strings).

    Raises:
        InputError: If it holds what JSON does not have, such as NaN.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if not payload:
        return {}
    if fault_of_json("payload", payload) is None:
        return dict(payload)
    try:
        jsonable: dict[str, Any] = to_jsonable_python(payload)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise InputError(f"a payload cannot be stored: {error}. Nothing was written.") from error
    fault = fault_of_json("payload", jsonable)
    if fault is not None:
        raise InputError(f"a payload cannot be stored: {fault}. Nothing was written.")
    return jsonable


def to_point(id: object, vector: Any, payload: Mapping[str, Any] | None, names: "Names") -> edge.Point:
    """Check a point and convert it.

    Raises:
        InputError: For an id, vector or payload that cannot be stored.
    """
    checked = point_id(id)
    return edge.Point(checked, _stored_vectors(vector, names, checked), to_payload(payload))


def to_point_vectors(id: object, vector: Any, names: "Names") -> edge.PointVectors:
    """Check new vectors of a point and convert them.

    Raises:
        InputError: For an id or vector that cannot be stored.
    """
    checked = point_id(id)
    return edge.PointVectors(checked, _stored_vectors(vector, names, checked))


Names: TypeAlias = Mapping[str, models.VectorParams | models.SparseVectorParams]
"""A collection's vectors by name; "" for the unnamed one."""


def names_in(config: models.CreateCollection) -> Names:
    """Give a collection's vectors by name; "" for the unnamed one."""
    vectors = config.vectors
    dense = {UNNAMED: vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})
    return {**dense, **(config.sparse_vectors or {})}


def _stored_vectors(vector: Any, names: Names, id: Id) -> dict[str, Any]:
    named = dict(vector) if isinstance(vector, Mapping) else {UNNAMED: vector}
    return {
        name: _stored_vector(value, name, names, id) for name, value in named.items() if value is not None
    }


def _stored_vector(vector: Any, name: str, names: Names, id: Id) -> Any:
    def fault(found: str, remedy: str) -> InputError:
        return InputError(f"vector {name!r} of point {id!r} {found}. Nothing was written. {remedy}")

    params = names.get(name)
    if params is None:
        told = ", ".join(map(repr, names)) or "none"
        raise fault(f"is none of the collection's (it has: {told})", "Name one of these.")
    if isinstance(params, models.SparseVectorParams):
        if not isinstance(vector, models.SparseVector):
            raise fault(
                f"is a {type(vector).__name__}, expected a SparseVector", "Pass models.SparseVector(...)."
            )
        return _sparse(vector, lambda found: fault(found, "Mend the vector, or leave an empty one out."))
    _refuse_inference(vector)
    if isinstance(vector, models.SparseVector):
        raise fault("is sparse, expected a dense vector", "Name a sparse vector, or pass a list of floats.")
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise fault("is not made of numbers in rows of one length", "Pass a list of floats.") from None
    wanted = 1 if params.multivector_config is None else 2
    if array.ndim != wanted or array.shape[-1] != params.size or not array.size:
        expected = str((params.size,) if wanted == 1 else ("rows", params.size))
        raise fault(f"has the shape {array.shape}, expected {expected}", "Use the encoder of the collection.")
    if not np.isfinite(array).all():
        raise fault("holds NaN or infinity, expected finite numbers", "Mend the encoder.")
    return array.tolist()


def _sparse(vector: models.SparseVector, fault: Callable[[str], InputError], *, least: int = 1) -> Any:
    """Check a sparse vector, which Edge does not, and convert it."""
    indices, values = vector.indices, vector.values
    if len(indices) != len(values):
        raise fault(f"has {len(indices)} indices and {len(values)} values, expected as many of both")
    if len(indices) < least:
        raise fault("is empty, expected at least one weight")
    if len(set(indices)) != len(indices):
        raise fault("repeats an index, expected each once")
    if indices and not (min(indices) >= 0 and max(indices) <= _MOST_INDEX):
        raise fault(f"has indices from {min(indices)} to {max(indices)}, expected 0 to 2**32 - 1")
    if not np.isfinite(np.asarray(values, dtype=np.float32)).all():
        raise fault("holds NaN or infinity, expected finite weights")
    return edge.SparseVector(indices, values)


def _refuse_inference(value: Any) -> None:
    if isinstance(value, models.Document | models.Image | models.InferenceObject):
        raise NotSupportedError(
            f"EdgeClient got a {type(value).__name__}, and does not encode. Pass the vector itself, or use a Qdrant "
            "server with inference."
        )


def from_record(record: edge.Record) -> models.Record:
    """Convert a point that was read."""
    return models.Record.model_construct(
        id=_from_id(record.id),
        payload=record.payload,
        vector=_from_vector(record.vector),
        shard_key=None,
        order_value=record.order_value,
    )


def from_scored(point: edge.ScoredPoint, *, with_vectors: bool) -> models.ScoredPoint:
    """Convert a point that was found."""
    return models.ScoredPoint.model_construct(
        id=_from_id(point.id),
        version=point.version,
        score=point.score,
        payload=point.payload,
        # MMR reads the vectors for itself and leaves them there unasked.
        vector=_from_vector(point.vector) if with_vectors else None,
        shard_key=None,
        order_value=point.order_value,
    )


def _from_id(id: Any) -> Id:
    return id if isinstance(id, int) else str(id)


def _from_vector(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _from_vector(value) for name, value in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)
    return vector


def to_update_mode(mode: models.UpdateMode | None) -> Any:
    """Convert what an upsert does to points that are there or not."""
    return _same_name(edge.UpdateMode, mode)


def from_schema_type(data_type: Any) -> models.PayloadSchemaType:
    """Convert the kind of a payload index."""
    return next(
        kind for kind in models.PayloadSchemaType if _same_name(edge.PayloadSchemaType, kind) == data_type
    )


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


def to_with_payload(with_payload: Any) -> Any:
    """Convert which payload fields are wanted.

    Raises:
        InputError: For a single string.
    """
    if isinstance(with_payload, str):
        raise InputError(f"with_payload is {with_payload!r}, a str, expected a bool or a list. Pass [key].")
    if isinstance(with_payload, models.PayloadSelectorInclude):
        return list(with_payload.include)
    if isinstance(with_payload, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(list(with_payload.exclude))
    return with_payload if with_payload is None or isinstance(with_payload, bool) else list(with_payload)


def to_with_vectors(with_vectors: Any) -> Any:
    """Convert which vectors are wanted.

    Raises:
        InputError: For a single string.
    """
    if isinstance(with_vectors, str):
        raise InputError(f"with_vectors is {with_vectors!r}, a str, expected a bool or a list. Pass [name].")
    return with_vectors if with_vectors is None or isinstance(with_vectors, bool) else list(with_vectors)


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


def _condition(condition: models.Condition) -> Any:
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
        return edge.SliceCondition(condition.slice.total, condition.slice.index)
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
            f"a query has limit={limit} and offset={request.offset}, expected a limit of 1 and an offset of 0 or more."
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
    others = models.Filter(must_not=[models.HasIdCondition(has_id=named)])
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
        InputError: For a vector with NaN or repeated indices; an empty sparse one is allowed and finds nothing.
    """
    _refuse_inference(vector)
    if isinstance(vector, models.SparseVector):
        return _sparse(vector, lambda found: InputError(f"the query's sparse vector {found}."), least=0)
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"a query is a {type(vector).__name__}, expected a vector, a point id or a query of qdrant_client.models."
        ) from None
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"the query's vector has the shape {array.shape}, expected finite numbers of shape (size,) or (rows, size)."
        )
    return array.tolist()


def _recommend(
    strategy: models.RecommendStrategy | None, positives: list[Any], negatives: list[Any], name: str
) -> Any:
    if not positives and (not negatives or strategy in (None, models.RecommendStrategy.AVERAGE_VECTOR)):
        raise InputError(
            "a recommendation has no positive example, expected at least one (or negative ones, with strategy "
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
        direction=_same_name(edge.Direction, order_by.direction),
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


def _expression(expression: Any) -> Any:
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
