"""A collection's settings: read from arguments, converted for the engine, described and changed.

Settings are kept as qdrant-client's `CreateCollection`. Nearly every type of theirs has a counterpart of the
same name in Qdrant Edge.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.errors import InputError, NotSupportedError

__all__ = [
    "UNNAMED",
    "Names",
    "Shard",
    "add_vector_name",
    "change_settings",
    "check_vector_names",
    "create_shard",
    "describe_config",
    "from_schema_type",
    "index_operation",
    "index_params",
    "index_schema",
    "load_shard",
    "names_in",
    "remove_vector_name",
    "same_name",
    "stored_schema",
    "vector_name_operation",
]

Shard: TypeAlias = edge.EdgeShard
Names: TypeAlias = Mapping[str, models.VectorParams | models.SparseVectorParams]
"""A collection's vectors by name; "" for the unnamed one."""

UNNAMED: Final = ""
"""The engine's name of the unnamed dense vector."""
_HNSW_DEFAULTS: Final[Mapping[str, int]] = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "max_indexing_threads": 0,
}
"""The engine's values of HNSW settings that are not given."""

# -- shards --------------------------------------------------------------------------------------------------


def create_shard(path: Path, config: models.CreateCollection) -> Shard:
    """Create a shard in a folder that does not exist yet."""
    return edge.EdgeShard.create(str(path), _engine_config(config))


def load_shard(path: Path, config: models.CreateCollection | None = None) -> Shard:
    """Load a shard; a config replaces the one that it was stored with."""
    return edge.EdgeShard.load(str(path), None if config is None else _engine_config(config))


# -- all settings --------------------------------------------------------------------------------------------


def describe_config(config: models.CreateCollection) -> models.CollectionConfig:
    """Describe settings as a server does: what was left open has the engine's defaults."""
    hnsw = {} if config.hnsw_config is None else config.hnsw_config.model_dump(exclude_none=True)
    optimizers = (
        {} if config.optimizers_config is None else config.optimizers_config.model_dump(exclude_none=True)
    )
    return models.CollectionConfig(
        params=models.CollectionParams(
            vectors=config.vectors,
            sparse_vectors=config.sparse_vectors,
            shard_number=1,
            replication_factor=1,
            write_consistency_factor=1,
            on_disk_payload=True if config.on_disk_payload is None else config.on_disk_payload,
            payload=config.payload,
            id_tracker=config.id_tracker,
        ),
        hnsw_config=models.HnswConfig(**{**_HNSW_DEFAULTS, **hnsw}),
        optimizer_config=models.OptimizersConfig(
            **{
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 0,
                **optimizers,
            }
        ),
        wal_config=models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0),
        quantization_config=config.quantization_config,
        metadata=config.metadata,
    )


def change_settings(
    config: models.CreateCollection,
    settings: Mapping[str, Any],
    *,
    vectors: Mapping[str, models.VectorParamsDiff],
    sparse: Mapping[str, models.SparseVectorParams],
) -> None:
    """Change settings in place; what a diff leaves open stays.

    Args:
        config: The settings.
        settings: Diffs of the collection as a whole, by the setting's name; None leaves it.
        vectors: Diffs of dense vectors, by the vector's name.
        sparse: Diffs of sparse vectors, by the vector's name.

    Raises:
        InputError: For a vector that there is not.
    """
    there = names_in(config)
    for name in [*vectors, *sparse]:
        if name not in there or isinstance(there[name], models.SparseVectorParams) != (name in sparse):
            existing = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"update_collection names the vector {name!r}, existing: {existing}. Nothing was changed."
            )
    _change(config, settings)
    for name, diff in [*vectors.items(), *sparse.items()]:
        _change(there[name], {key: getattr(diff, key) for key in type(diff).model_fields})


def _change(target: Any, changes: Mapping[str, Any]) -> None:
    for key, diff in changes.items():
        if diff is None:
            continue
        if isinstance(diff, models.Disabled):
            setattr(target, key, None)
        elif isinstance(diff, models.HnswConfigDiff | models.OptimizersConfigDiff | models.SparseIndexParams):
            old = getattr(target, key)
            fields = diff.model_dump(exclude_none=True)
            setattr(target, key, diff if old is None else old.model_copy(update=fields))
        else:
            setattr(target, key, diff)


# -- named vectors -------------------------------------------------------------------------------------------


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


def remove_vector_name(config: models.CreateCollection, name: str) -> None:
    """Strike a named vector that was removed out of a collection's settings, in place."""
    for named in (config.vectors, config.sparse_vectors):
        if isinstance(named, dict):
            named.pop(name, None)


def names_in(config: models.CreateCollection) -> Names:
    """Return a collection's vectors by name; "" for the unnamed one."""
    vectors = config.vectors
    dense = {UNNAMED: vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})
    return {**dense, **(config.sparse_vectors or {})}


def check_vector_names(collection: str, config: models.CreateCollection, names: Sequence[str]) -> None:
    """Raise InputError for a vector that a collection does not have."""
    existing = names_in(config)
    for name in names:
        if name not in existing:
            found = ", ".join(map(repr, existing)) or "none"
            raise InputError(
                f"Collection {collection!r} has no vector {name!r} (found: {found}). Name one of these."
            )


# -- payload indexes -----------------------------------------------------------------------------------------


def index_schema(field_name: str, given: Any) -> Any:
    """Return the settings of the index of a payload field.

    Args:
        field_name: Path of the field, for the message.
        given: The name of a kind, such as "keyword", a `models.PayloadSchemaType`, or a
            `models....IndexParams`.

    Raises:
        InputError: If no index has that name or class.
    """
    schema = given
    if isinstance(schema, str) and not isinstance(schema, models.PayloadSchemaType):
        try:
            schema = models.PayloadSchemaType(schema)
        except ValueError:
            schema = None
    if schema is None:
        allowed = ", ".join(kind.value for kind in models.PayloadSchemaType)
        raise InputError(
            f"The index of field {field_name!r} has the schema {given!r}, expected one of {allowed}, or "
            "an object such as models.KeywordIndexParams(...)."
        )
    return schema


def stored_schema(schema: Any) -> Any:
    """Write what `index_schema` read as JSON has it: a kind's name, or all parameters."""
    if isinstance(schema, models.PayloadSchemaType):
        return schema.value
    return schema.model_dump(mode="json", exclude_none=True)


def index_params(stored: Any) -> Any:
    """Read the parameters of an index from JSON; None for one that was asked for by its kind alone."""
    if not isinstance(stored, Mapping):
        return None
    kind = str(stored["type"]).capitalize()
    return getattr(models, f"{kind}IndexParams")(**stored)


def from_schema_type(data_type: Any) -> models.PayloadSchemaType:
    """Convert the kind of a payload index."""
    return next(
        kind for kind in models.PayloadSchemaType if same_name(edge.PayloadSchemaType, kind) == data_type
    )


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
        return edge.UpdateOperation.create_field_index(field, same_name(edge.PayloadSchemaType, schema))
    given = {
        name: getattr(schema, name)
        for name in type(schema).model_fields
        if name != "type" and getattr(schema, name) is not None
    }
    converted = {name: _index_option(name, value) for name, value in given.items()}
    return edge.UpdateOperation.create_field_index(field, _INDEX_PARAMS[type(schema)](**converted))


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


# -- the engine's settings -----------------------------------------------------------------------------------


def _engine_config(config: models.CreateCollection) -> edge.EdgeConfig:
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
    chosen = {name: getattr(config, name) for name in _HNSW_DEFAULTS}
    return edge.HnswIndexConfig(
        **{name: _HNSW_DEFAULTS[name] if value is None else value for name, value in chosen.items()},
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
        return edge.UpdateOperation.create_dense_vector(
            name,
            dense.size,
            same_name(edge.Distance, dense.distance),
            multivector_config=_multivector(dense.multivector_config),
            datatype=same_name(edge.VectorStorageDatatype, dense.datatype),
        )
    sparse = config.sparse
    return edge.UpdateOperation.create_sparse_vector(
        name,
        modifier=_modifier(sparse.modifier),
        datatype=same_name(edge.VectorStorageDatatype, sparse.datatype),
    )
