"""qdrant-client's settings and points -> Qdrant Edge's, and Edge's answers back.

Both speak of the same engine, so nearly every type has its twin. Filters and queries are in edge_query.py.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.errors import InputError, NotSupportedError
from splade_retriever.validation import json_fault

__all__ = [
    "HNSW_DEFAULTS",
    "UNNAMED",
    "Id",
    "Names",
    "Shard",
    "create_shard",
    "from_record",
    "from_schema_type",
    "from_scored",
    "index_operation",
    "load_shard",
    "names_in",
    "point_id",
    "refuse_inference",
    "same_name",
    "to_config",
    "to_ids",
    "to_payload",
    "to_point",
    "to_point_vectors",
    "to_sparse",
    "to_update_mode",
    "to_with_payload",
    "to_with_vectors",
    "update",
    "vector_name_operation",
]

Shard: TypeAlias = edge.EdgeShard
Id: TypeAlias = int | str

UNNAMED: Final = ""
"""The engine's name of the unnamed dense vector."""
HNSW_DEFAULTS: Final[Mapping[str, int]] = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "max_indexing_threads": 0,
}
"""What the engine takes for settings of HNSW that were left open."""
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
        payload_memory=None if payload is None else same_name(edge.Memory, payload.memory),
        id_tracker_memory=None if id_tracker is None else same_name(edge.Memory, id_tracker.memory),
    )


def same_name(kind: Any, value: Any) -> Any:
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
        f"Qdrant Edge has no {kind.__name__} {getattr(value, 'value', value)!r} (it has: {found}). Choose "
        "one of "
        "these, or use a Qdrant server."
    )


def _dense_params(params: models.VectorParams) -> edge.EdgeVectorParams:
    multivector = params.multivector_config
    return edge.EdgeVectorParams(
        size=params.size,
        distance=same_name(edge.Distance, params.distance),
        on_disk=params.on_disk,
        multivector_config=_multivector(multivector),
        datatype=same_name(edge.VectorStorageDatatype, params.datatype),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=_hnsw(params.hnsw_config),
        memory=same_name(edge.Memory, params.memory),
    )


def _multivector(config: models.MultiVectorConfig | None) -> edge.MultiVectorConfig | None:
    if config is None:
        return None
    return edge.MultiVectorConfig(same_name(edge.MultiVectorComparator, config.comparator))


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index or models.SparseIndexParams()
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        modifier=_modifier(params.modifier),
        datatype=same_name(edge.VectorStorageDatatype, index.datatype),
        memory=same_name(edge.Memory, index.memory),
    )


def _modifier(modifier: models.Modifier | None) -> Any:
    return edge.Modifier.Idf if modifier == models.Modifier.IDF else None


def _hnsw(config: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if config is None:
        return None
    chosen = {name: getattr(config, name) for name in HNSW_DEFAULTS}
    return edge.HnswIndexConfig(
        **{name: HNSW_DEFAULTS[name] if value is None else value for name, value in chosen.items()},
        on_disk=config.on_disk,
        payload_m=config.payload_m,
        inline_storage=config.inline_storage,
        memory=same_name(edge.Memory, config.memory),
    )


def _quantization(config: models.QuantizationConfig | None) -> Any:
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        return edge.ScalarQuantizationConfig(
            same_name(edge.ScalarType, scalar.type),
            quantile=scalar.quantile,
            always_ram=scalar.always_ram,
            memory=same_name(edge.Memory, scalar.memory),
        )
    if isinstance(config, models.ProductQuantization):
        product = config.product
        return edge.ProductQuantizationConfig(
            same_name(edge.CompressionRatio, product.compression),
            always_ram=product.always_ram,
            memory=same_name(edge.Memory, product.memory),
        )
    if isinstance(config, models.BinaryQuantization):
        binary = config.binary
        return edge.BinaryQuantizationConfig(
            always_ram=binary.always_ram,
            encoding=same_name(edge.BinaryQuantizationEncoding, binary.encoding),
            query_encoding=same_name(edge.BinaryQuantizationQueryEncoding, binary.query_encoding),
            memory=same_name(edge.Memory, binary.memory),
        )
    if isinstance(config, models.TurboQuantization):
        turbo = config.turbo
        return edge.TurboQuantQuantizationConfig(
            always_ram=turbo.always_ram,
            bits=same_name(edge.TurboQuantBitSize, turbo.bits),
            memory=same_name(edge.Memory, turbo.memory),
        )
    return None


def vector_name_operation(name: str, config: models.VectorNameConfig) -> edge.UpdateOperation:
    """Build the operation that adds a named vector to a collection."""
    if isinstance(config, models.DenseVectorNameConfig):
        dense = config.dense
        return update.create_dense_vector(
            name,
            dense.size,
            same_name(edge.Distance, dense.distance),
            multivector_config=_multivector(dense.multivector_config),
            datatype=same_name(edge.VectorStorageDatatype, dense.datatype),
        )
    sparse = config.sparse
    return update.create_sparse_vector(
        name,
        modifier=_modifier(sparse.modifier),
        datatype=same_name(edge.VectorStorageDatatype, sparse.datatype),
    )


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
        return update.create_field_index(field, same_name(edge.PayloadSchemaType, schema))
    given = {
        name: getattr(schema, name)
        for name in type(schema).model_fields
        if name != "type" and getattr(schema, name) is not None
    }
    converted = {name: _index_option(name, value) for name, value in given.items()}
    return update.create_field_index(field, _INDEX_PARAMS[type(schema)](**converted))


def _index_option(name: str, value: Any) -> Any:  # noqa: PLR0911 - one a kind
    if name in _INDEX_ENUMS:
        return same_name(_INDEX_ENUMS[name], value)
    if isinstance(value, models.Language):
        return same_name(edge.Language, value)
    if isinstance(value, models.StopwordsSet):
        languages = {same_name(edge.Language, language) for language in value.languages or ()}
        return edge.StopwordsSet(languages=languages or None, custom=set(value.custom or ()) or None)
    if isinstance(value, models.SnowballParams):
        return edge.SnowballParams(same_name(edge.SnowballLanguage, value.language))
    if isinstance(value, models.DisabledStemmerParams):
        return edge.DisabledStemmer()
    if isinstance(value, models.TextScoringParams):
        return edge.TextScoringParams(same_name(edge.TextScoringType, value.type))
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
    if json_fault("payload", payload) is None:
        return dict(payload)
    try:
        jsonable: dict[str, Any] = to_jsonable_python(payload)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise InputError(f"a payload cannot be stored: {error}. Nothing was written.") from error
    fault = json_fault("payload", jsonable)
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
        return to_sparse(vector, lambda found: fault(found, "Mend the vector, or leave an empty one out."))
    refuse_inference(vector)
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


def to_sparse(vector: models.SparseVector, fault: Callable[[str], InputError], *, least: int = 1) -> Any:
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


def refuse_inference(value: Any) -> None:
    """Raise NotSupportedError for what a server would encode."""
    if isinstance(value, models.Document | models.Image | models.InferenceObject):
        raise NotSupportedError(
            f"EdgeClient got a {type(value).__name__}, and does not encode. Pass the vector itself, or use "
            "a Qdrant "
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
    return same_name(edge.UpdateMode, mode)


def from_schema_type(data_type: Any) -> models.PayloadSchemaType:
    """Convert the kind of a payload index."""
    return next(
        kind for kind in models.PayloadSchemaType if same_name(edge.PayloadSchemaType, kind) == data_type
    )


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
