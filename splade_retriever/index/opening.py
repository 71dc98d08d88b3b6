"""Opening a collection, or creating it: its store, its settings, its payload indexes."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InputError,
    NotSupportedError,
)
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import (
    COMPARED_SETTINGS,
    CollectionSettings,
    check_settings,
    modifier_of,
)
from splade_retriever.index.options import CreateOptions, ServerOptions
from splade_retriever.index.payload import ID_PATH, WINDOW_NUMBER_PATH, Layout
from splade_retriever.index.payload_indexes import exact_kind
from splade_retriever.index.server_client import check_same_server, connect
from splade_retriever.validation import is_url, type_name

if TYPE_CHECKING:
    from splade_retriever.edge.engine import SharedEngine

__all__ = [
    "adopt_collection",
    "check_client",
    "check_tenant_field",
    "check_vector_names",
    "create_collection",
    "index_fields",
    "index_own_filters",
    "index_paths",
    "load_settings",
    "open_store",
    "refuses_unindexed_filters",
]

_NAME_OPTIONS: Final = {"sparse": "vector_name", "second": "second_name", "dense": "dense_name"}
_LOOKED_AT: Final = 64
"""Points by which the layout of another program's collection is recognised."""

logger = logging.getLogger(__name__)


def check_client(client: object) -> None:
    """Check that an object is a client whose calls are not awaited.

    Raises:
        InputError: It is not.
    """
    search = getattr(client, "query_batch_points", None)
    if search is None or inspect.iscoroutinefunction(search):
        raise InputError(
            f"client is {type_name(client)}, expected a QdrantClient or an EdgeClient. The async "
            "methods of the index (asearch, aadd, ...) work with these too."
        )


def open_store(
    location: str, *, create: bool, server: ServerOptions, read_only: bool = False
) -> "QdrantBase | SharedEngine":
    """Open the store at a location: the client of a server, or the engine of a folder.

    Raises:
        InputError: The location is neither a folder's path nor an http(s) URL.
        CollectionNotFoundError: There is no such folder, and `create` is False.
    """
    if not location or ("://" in location and not is_url(location)):
        raise InputError(f"location is {location!r}, expected a folder, ':memory:', or an http(s) URL.")
    if is_url(location):
        remote = connect(location, server)
        try:
            check_same_server(remote, location, server)
        except BaseException:
            remote.close()
            raise
        return remote
    if not create and location != ":memory:" and not Path(location).is_dir():
        raise CollectionNotFoundError(
            f"There is no index folder at {location!r}{_absolute(location)}. Check the path, or make an "
            "index: `splade index FILES --to FOLDER`."
        )
    from splade_retriever.edge.engine import SharedEngine

    return SharedEngine(location, create=create, read_only=read_only)


def _absolute(location: str) -> str:
    """Return a relative path's place in brackets, since it depends on the working folder."""
    path = Path(location)
    return "" if path.is_absolute() else f" ({path.absolute()})"


def load_settings(
    collection: Collection,
    *,
    requested: Mapping[str, Any],
    vector_names: Mapping[str, str | None],
    layout: Layout | None = None,
) -> None:
    """Read the settings of a collection that exists, and check them.

    Args:
        collection: Its `settings` and `layout` are set.
        requested: Field of `CollectionSettings` -> requested value.
        vector_names: "sparse", "second" and "dense" -> name of the vector that is needed; None where none is.
        layout: Where the payload of a collection of another program keeps text and metadata; None to
            recognise it.

    Raises:
        CollectionMismatchError: The settings differ, or a vector is missing.
    """
    config = collection.describe().config
    check_vector_names(collection, vector_names, params=config.params)
    collection.settings = CollectionSettings.from_metadata(config.metadata, collection.name)
    if collection.settings is None:
        recognised = layout or _recognised_layout(collection)
        # Another program made it, so its point ids are the documents' ids.
        collection.layout = replace(recognised, native_ids=True)
    else:
        collection.layout = collection.settings.layout
        check_settings(collection.settings, requested, collection.name)


def check_vector_names(
    collection: Collection,
    vector_names: Mapping[str, str | None],
    *,
    params: models.CollectionParams | None = None,
) -> None:
    """Check that a collection has the vectors that are needed.

    Args:
        collection: The collection.
        vector_names: As for `load_settings`.
        params: Its parameters, where they were read.

    Raises:
        CollectionMismatchError: A vector is missing.
    """
    params = params or collection.describe().config.params
    sparse, dense = sorted(params.sparse_vectors or {}), _dense_names(params.vectors)
    for branch, name in vector_names.items():
        if name is not None and name not in (dense if branch == "dense" else sparse):
            listing = ", ".join(map(repr, [*sparse, *dense])) or "none"
            kind = "dense" if branch == "dense" else "sparse"
            raise CollectionMismatchError(
                f"Collection {collection.name!r} has no {kind} vector named {name!r} (found: {listing}). "
                f"Pass {_NAME_OPTIONS[branch]}=... or use a new collection."
            )


def create_collection(
    collection: Collection,
    settings: CollectionSettings,
    options: CreateOptions,
    *,
    check_created: Callable[[], object] = lambda: None,
) -> None:
    """Create a collection that stores its settings.

    Where another process creates it first, that collection is opened by the rules of `load_settings`.

    Args:
        collection: The collection, which does not exist.
        settings: How its vectors are made.
        options: How the engine stores it.
        check_created: Called when this call has created it; what it raises undoes the creation.

    Raises:
        NotSupportedError: The store does not keep the metadata of collections.
        CollectionMismatchError: Another process created it with other settings.
    """
    if _created(collection, settings, options):
        try:
            check_created()
        except BaseException:
            collection.drop()
            raise
        stored = CollectionSettings.from_metadata(collection.describe().config.metadata, collection.name)
        if stored is None:
            collection.drop()
            raise NotSupportedError(
                f"The store at {collection.location!r} does not keep a collection's metadata, in which the "
                "model is stored. Use a Qdrant server of version 1.16 or newer."
            )
        collection.settings, collection.layout = stored, stored.layout
    else:
        load_settings(
            collection,
            requested={name: getattr(settings, name) for name in COMPARED_SETTINGS},
            vector_names={
                "sparse": settings.vector_name,
                "second": settings.second_name,
                "dense": settings.dense_name,
            },
        )
    index_own_filters(collection)


def index_own_filters(collection: Collection) -> None:
    """Index what this package filters by: a server's strict mode may refuse filters without an index."""
    if collection.has_windows:
        index_paths(collection, {WINDOW_NUMBER_PATH: "integer", ID_PATH: "keyword"})


def _created(collection: Collection, settings: CollectionSettings, options: CreateOptions) -> bool:
    """Create the collection; return False if it already exists."""
    vectors = {}
    if settings.dense_name is not None and settings.dense_size is not None:
        vectors[settings.dense_name] = models.VectorParams(
            size=settings.dense_size, distance=models.Distance.COSINE
        )
    datatype = None if options.datatype is None else models.Datatype(options.datatype)
    sparse_vectors = {
        name: models.SparseVectorParams(
            index=models.SparseIndexParams(datatype=datatype, on_disk=options.on_disk),
            modifier=modifier_of(encoder),
        )
        for name, encoder in settings.sparse_encoders.items()
    }
    cluster = {"shard_number": options.shard_number, "replication_factor": options.replication_factor}
    try:
        collection.create(
            vectors_config=vectors,
            sparse_vectors_config=sparse_vectors,
            metadata=settings.to_metadata(),
            **{name: value for name, value in cluster.items() if value is not None},
        )
    except Exception:
        if not collection.exists():
            raise
        return False
    return True


def adopt_collection(collection: Collection, settings: CollectionSettings) -> None:
    """Store in a collection of another program how its vectors are made."""
    adopted = replace(settings, layout=collection.layout)
    collection.update(metadata=adopted.to_metadata())
    collection.settings = adopted
    index_own_filters(collection)


def check_tenant_field(collection: Collection, tenant_field: str | None) -> None:
    """Check that a collection separates tenants by the requested field; warn where it does not at all.

    Raises:
        CollectionMismatchError: It separates them by another field.
    """
    stored = collection.layout.tenant_field
    if tenant_field is None or tenant_field == stored:
        return
    if stored is None:
        logger.warning(
            "Collection %r was created without tenant_field=%r: documents of two tenants with the same id "
            "overwrite each other. Use ids that differ, or add the documents to a new collection.",
            collection.name,
            tenant_field,
        )
        return
    raise CollectionMismatchError(
        f"Collection {collection.name!r} separates tenants by {stored!r}, but tenant_field={tenant_field!r} "
        "was requested. Leave it out, or use a new collection."
    )


def index_fields(collection: Collection, fields: Mapping[str, str], tenant_field: str | None) -> None:
    """Create payload indexes for metadata fields that have none.

    An index of a requested kind that would change what a filter finds is replaced by one of another kind.

    Args:
        collection: The collection.
        fields: Metadata key -> kind of index.
        tenant_field: Metadata key whose values separate tenants.

    Raises:
        InputError: There is no such kind of index.
    """
    if not fields and tenant_field is None:
        return
    from splade_retriever.filters import field_path

    schemas: dict[str, Any] = {}
    for key, kind in fields.items():
        try:
            schemas[key] = models.PayloadSchemaType(kind)
        except ValueError:
            allowed = ", ".join(item.value for item in models.PayloadSchemaType)
            raise InputError(f"indexed_fields has {key!r}: {kind!r}, expected one of: {allowed}.") from None
    info = collection.describe()
    present, strict = info.payload_schema, refuses_unindexed_filters(info.config.strict_mode_config)
    layout = collection.layout
    roots = {"metadata_key": layout.metadata_key, "escaped_path": layout.escaped_path}
    paths: dict[str, Any] = {}
    requested: dict[str, str] = {}
    for key, kind in schemas.items():
        path = field_path(key, **roots)
        requested[path] = kind.value
        if path not in present or present[path].data_type is not kind:
            paths[path] = exact_kind(kind, strict=strict)
    if tenant_field is not None:
        path = field_path(tenant_field, **roots)
        requested.pop(path, None)
        paths[path] = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    index_paths(collection, paths, requested=requested)


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


def _dense_names(vectors: models.VectorsConfig | None) -> list[str]:
    if vectors is None:
        return []
    # A collection with one dense vector need not name it: the engine's name for it is "".
    return sorted(vectors) if isinstance(vectors, dict) else [""]


def _recognised_layout(collection: Collection) -> Layout:
    """Recognise the layout by the first points, some of which may have no text."""
    points = islice(collection.scroll(batch_size=_LOOKED_AT), _LOOKED_AT)
    found = (Layout.of_payload(point.payload or {}) for point in points)
    return next((layout for layout in found if layout is not None), Layout())
