"""Opening a collection, or creating it: its store and its settings."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from splade_retriever.encoding.windows import WindowTokenizer
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InputError,
    NotSupportedError,
)
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import (
    COMPARED_SETTINGS,
    SECOND_NAME,
    CollectionSettings,
    check_settings,
    modifier_of,
)
from splade_retriever.index.field_indexes import index_fields, index_kinds, index_own_filters
from splade_retriever.index.options import CreateOptions, IndexOptions, ServerOptions
from splade_retriever.index.payload import Layout
from splade_retriever.index.server_client import check_same_server, connect
from splade_retriever.protocols import DenseEncoder
from splade_retriever.validation import is_url, type_name

if TYPE_CHECKING:
    from splade_retriever.edge.engine import SharedEngine

__all__ = [
    "adopt_collection",
    "check_client",
    "create_collection",
    "load_settings",
    "open_collection",
    "open_store",
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


def open_collection(
    collection: Collection,
    options: IndexOptions,
    *,
    model: CollectionModel,
    second: CollectionModel,
    dense: DenseEncoder | None,
    create: bool,
    adopt: bool,
) -> None:
    """Open a collection, or create it, and check that it has what is requested.

    Args:
        collection: Its `settings` and `layout` are set.
        options: The options of the index.
        model: Its model, and whether it was passed.
        second: Its second model, and whether it was passed.
        dense: Its dense encoder, if there is one.
        create: Whether to create a collection that does not exist.
        adopt: Whether to store in a collection of another program how its vectors are made.

    Raises:
        CollectionNotFoundError: It does not exist, and `create` is False.
        CollectionMismatchError: It was made by another model, or with other settings.
        InputError: There is no such kind of payload index; nothing was created.
    """
    kinds = index_kinds(options.indexed_fields)
    if collection.exists():
        collection.resolve_alias()
        names = {
            "sparse": options.vector_name,
            "second": options.second_name,
            "dense": None if dense is None else options.dense_name,
        }
        load_settings(collection, requested=options.vectors.set(), vector_names=names, layout=options.layout)
        if adopt and collection.settings is None:
            adopt_collection(collection, _new_settings(options, model, second, dense))
        _check_second(collection, options, second)
    elif create:
        create_collection(
            collection,
            _new_settings(options, model, second, dense),
            options.create,
            check_created=partial(_check_server, collection, options.server),
        )
    else:
        raise CollectionNotFoundError(
            f"There is no collection {collection.name!r} at {collection.location!r}. Check both names."
        )
    for passed in (model, second):
        if passed.is_passed:
            _ = passed.encoder  # reports a mismatch now
    check_tenant_field(collection, options.tenant_field)
    index_fields(collection, kinds, options.tenant_field)


def _new_settings(
    options: IndexOptions, model: CollectionModel, second: CollectionModel, dense: DenseEncoder | None
) -> CollectionSettings:
    encoder = model.unchecked
    vectors = options.vectors.set()
    if isinstance(getattr(encoder, "tokenizer", None), WindowTokenizer):
        vectors = {"windows": options.default_windows, **vectors}
    settings = CollectionSettings(
        encoder=dict(encoder.fingerprint),
        second_encoder=dict(second.unchecked.fingerprint) if second.is_passed else None,
        second_name=options.second_name or SECOND_NAME if second.is_passed else None,
        vector_name=options.vector_name,
        layout=replace(options.layout or Layout(), tenant_field=options.tenant_field),
        dense_name=None if dense is None else options.dense_name,
        dense_size=None if dense is None else len(dense.embed_query("how long is a vector?")),
        **vectors,
    )
    settings.check()
    return settings


def _check_second(collection: Collection, options: IndexOptions, second: CollectionModel) -> None:
    """Check that a collection has the vectors of the second model that is passed."""
    settings = collection.settings
    if settings is None:
        if second.is_passed:
            check_vector_names(collection, {"second": options.second_name or SECOND_NAME})
    elif second.is_passed and settings.second_name is None:
        passed = second.unchecked.fingerprint.get("model")
        raise CollectionMismatchError(
            f"Collection {collection.name!r} has no vectors of a second model, but second_model={passed!r} "
            "is passed. Leave it out, or add its vectors with `splade reindex --second-model`."
        )
    elif options.second_name not in (None, settings.second_name):
        raise CollectionMismatchError(
            f"Collection {collection.name!r} has its second model's vectors under the name "
            f"{settings.second_name!r}, but second_name={options.second_name!r} is passed. Leave it out."
        )


def _check_server(collection: Collection, server: ServerOptions) -> None:
    if collection.owned and isinstance(collection.client, QdrantClient) and is_url(collection.location):
        check_same_server(collection.client, collection.location, server)


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
