"""A collection's settings: read from arguments, described and changed as a server does."""

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from splade_retriever.edge.convert_points import HNSW_DEFAULTS, UNNAMED, names_in
from splade_retriever.errors import InputError

__all__ = [
    "add_vector_name",
    "change_settings",
    "described",
    "index_params",
    "index_schema",
    "remove_vector_name",
    "stored_schema",
]

# -- payload indexes -----------------------------------------------------------------------------------------


def index_schema(field_name: str, given: Any) -> Any:
    """Read which index a payload field is to have.

    Args:
        field_name: Path of the field, for the message.
        given: The name of a kind, such as "keyword", a `models.PayloadSchemaType`, or a
            `models....IndexParams`.

    Raises:
        InputError: There is no index of that kind.
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
            f"the index of field {field_name!r} has the schema {given!r}, expected one of {allowed}, or "
            "models.KeywordIndexParams(...) and the like."
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


# -- all settings --------------------------------------------------------------------------------------------


def described(config: models.CreateCollection) -> models.CollectionConfig:
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
        hnsw_config=models.HnswConfig(**{**HNSW_DEFAULTS, **hnsw}),
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
            told = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"update_collection names the vector {name!r}, there are: {told}. Nothing was changed."
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
