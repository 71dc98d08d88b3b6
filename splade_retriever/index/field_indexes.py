"""Creates payload indexes: for fields that users name, and for what this package filters by."""

import logging
from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.filters import field_path
from splade_retriever.index.collection import Collection
from splade_retriever.index.payload import ID_PATH, WINDOW_NUMBER_PATH
from splade_retriever.index.payload_indexes import exact_kind
from splade_retriever.validation import type_name

__all__ = ["index_fields", "index_kinds", "index_own_filters", "index_paths", "refuses_unindexed_filters"]

logger = logging.getLogger(__name__)


def index_kinds(fields: Mapping[str, str]) -> dict[str, models.PayloadSchemaType]:
    """Return the kind of index of each metadata key.

    Raises:
        InputError: The fields are no mapping, or there is no such kind of index.
    """
    if not isinstance(fields, Mapping):
        raise InputError(
            f'indexed_fields is {type_name(fields)}, expected a dict such as {{"year": "integer"}}.'
        )
    kinds = {}
    for key, kind in fields.items():
        try:
            kinds[key] = models.PayloadSchemaType(kind)
        except ValueError:
            allowed = ", ".join(item.value for item in models.PayloadSchemaType)
            raise InputError(f"indexed_fields has {key!r}: {kind!r}, expected one of: {allowed}.") from None
    return kinds


def index_fields(
    collection: Collection, kinds: Mapping[str, models.PayloadSchemaType], tenant_field: str | None
) -> None:
    """Create payload indexes for metadata fields that have none.

    An index of a requested kind that would change what a filter finds is replaced by one of another kind.

    Args:
        collection: The collection.
        kinds: Metadata key -> kind of index.
        tenant_field: Metadata key whose values separate tenants.
    """
    if not kinds and tenant_field is None:
        return
    info = collection.describe()
    present, strict = info.payload_schema, refuses_unindexed_filters(info.config.strict_mode_config)
    layout = collection.layout
    roots = {"metadata_key": layout.metadata_key, "escaped_path": layout.escaped_path}
    paths: dict[str, Any] = {}
    requested: dict[str, str] = {}
    for key, kind in kinds.items():
        path = field_path(key, **roots)
        requested[path] = kind.value
        if path not in present or present[path].data_type is not kind:
            paths[path] = exact_kind(kind, strict=strict)
    if tenant_field is not None:
        path = field_path(tenant_field, **roots)
        requested.pop(path, None)
        paths[path] = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    index_paths(collection, paths, requested=requested)


def index_own_filters(collection: Collection) -> None:
    """Index what this package filters by: a server's strict mode may refuse filters without an index."""
    if collection.has_windows:
        index_paths(collection, {WINDOW_NUMBER_PATH: "integer", ID_PATH: "keyword"})


def refuses_unindexed_filters(strict: models.StrictModeConfigOutput | None) -> bool:
    """Return whether a server with this strict mode refuses filters on fields without a payload index."""
    return strict is not None and bool(strict.enabled) and strict.unindexed_filtering_retrieve is False


def index_paths(
    collection: Collection, schemas: Mapping[str, Any], *, requested: Mapping[str, str] | None = None
) -> None:
    """Create payload indexes for paths of the payload that have none; warn of those of another kind.

    Args:
        collection: The collection.
        schemas: Path -> what `QdrantClient.create_payload_index` takes.
        requested: Path -> the kind that the user asked for, where it is not that of the schema.
    """
    if collection.single_thread:  # local mode has no payload indexes, finds the same without, and warns
        return
    present = collection.describe().payload_schema
    for path, schema in schemas.items():
        if path not in present:
            collection.create_payload_index(path, schema)
        elif _kind(schema) != _kind_of_index(present[path]):
            logger.warning(
                "Collection %r has a payload index of kind %s for %r, but %s was requested. The present one "
                "is kept. To replace it, call client.delete_payload_index(%r, %r) and open the index again.",
                collection.name,
                _kind_of_index(present[path]),
                path,
                (requested or {}).get(path, _kind(schema)),
                collection.target,
                path,
            )


def _kind(schema: Any) -> str:
    if isinstance(schema, models.KeywordIndexParams):
        return "keyword (tenant)" if schema.is_tenant else "keyword"
    return models.PayloadSchemaType(schema).value


def _kind_of_index(index: models.PayloadIndexInfo) -> str:
    is_tenant = isinstance(index.params, models.KeywordIndexParams) and index.params.is_tenant
    return "keyword (tenant)" if is_tenant else index.data_type.value
