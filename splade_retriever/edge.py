# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""EdgeClient: qdrant-client's interface, served in this process by Qdrant Edge, without a server."""

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

# `qdrant_client.models` has fastembed's class of this name in its place.
from qdrant_client.http.models import QueryResponse

from splade_retriever import edge_convert as convert
from splade_retriever import edge_mmr as mmr
from splade_retriever import edge_query as ask
from splade_retriever.edge_folder import EdgeFolder, StoredCollection
from splade_retriever.edge_groups import Groups, deepened
from splade_retriever.errors import InputError, NotSupportedError

__all__ = ["EdgeClient"]

_POINTS_PER_CALL: Final = 64
"""The engine holds the GIL for the length of a call: small calls let the other threads, and an event loop,
live."""
_POINTS_AT_ONCE: Final = 1024
"""Points that a caller puts into one write are written by one call, and so all or none, up to this many."""
_IDS_PER_CALL: Final = 256

_IGNORED: Final = frozenset(
    {"wait", "ordering", "timeout", "consistency", "batch_size", "parallel", "method"}
)
_IGNORED_MORE: Final = frozenset({"max_retries", "strict_mode_config", "wal_config"})
"""Options that mean nothing with one copy in one process: every write is done, and kept, when its call
returns."""
_OF_CLUSTERS: Final = frozenset(
    {
        "collection_params",
        "shard_key_selector",
        "shard_number",
        "sharding_method",
        "replication_factor",
        "write_consistency_factor",
    }
)


def _server_only(method: str, what: str) -> Callable[..., NoReturn]:
    def refuse(self: "EdgeClient", *args: Any, **kwargs: Any) -> NoReturn:
        raise NotSupportedError(
            f"EdgeClient has no {method}: Qdrant Edge keeps no {what}. Use a Qdrant server: "
            "QdrantClient(url=...)."
        )

    refuse.__name__ = refuse.__qualname__ = method
    refuse.__doc__ = f"Raise NotSupportedError: {what} need a Qdrant server."
    return refuse


class EdgeClient(QdrantBase):
    """qdrant-client's interface on a folder of Qdrant Edge shards: an index without a server.

    Takes the arguments and gives the types that `QdrantClient` does, so code written for one works with the
    other. Safe to use from several threads. A folder is open in one client at a time.

    A write is in the engine's log when its call returns, and survives a killed process; the log is worked off
    every 256 calls and on `close`. Of an upsert of up to 1,024 points a killed process leaves all or none;
    a larger one and a stream (`upload_points`) are made in several calls of the engine.

    Nothing is optimised without being asked, see `optimize`.

    What differs from a server: an empty sparse vector is refused (leave it out), and payload floats may come
    back changed in the 17th digit, since the engine does not read its own JSON exactly.
    """

    def __init__(
        self, location: str | Path = ":memory:", *, temporary: bool = False, holder: int | None = None
    ) -> None:
        """Open a folder, or make it.

        Args:
            location: The folder, or ":memory:" for a temporary one, which is removed on `close` or with the
                client.
            temporary: Remove this folder, too.
            holder: The process for which the folder is held, named to others that want it; None for this one.

        Raises:
            IndexLockedError: It is open already, here or in another process.
            StorageError: It cannot be read or written, or holds something else.
        """
        super().__init__()
        self._folder = EdgeFolder(location, temporary=temporary, holder=holder)

    @property
    def location(self) -> str:
        """The folder as it was given, or ":memory:"."""
        return self._folder.location

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._folder.closed

    def close(self, **kwargs: Any) -> None:
        """Write everything out and let go of the folder; a second call does nothing."""
        self._folder.close()

    def hand_over(self) -> tuple[Path, bool]:
        """Close, and leave the folder to whoever opens it next, also a temporary one.

        Returns:
            The folder, and whether it is a temporary one, to be removed by the next client.
        """
        return self._folder.hand_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EdgeClient({self.location!r}{', closed' if self.closed else ''})"

    def info(self) -> models.VersionInfo:
        """Name the engine and its version."""
        return models.VersionInfo(title="Qdrant Edge", version=version("qdrant-edge-py"))

    # -- collections -----------------------------------------------------------------------------------------

    def get_collections(self, **kwargs: Any) -> models.CollectionsResponse:
        """Name all collections."""
        _check_options("get_collections", kwargs)
        names = self._folder.names
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in names]
        )

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        """Say whether there is such a collection."""
        _check_options("collection_exists", kwargs)
        return self._folder.has(collection_name)

    def create_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        quantization_config: models.QuantizationConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload: models.PayloadStorageParams | None = None,
        id_tracker: models.IdTrackerParams | None = None,
        **kwargs: Any,
    ) -> bool:
        """Create a collection; killed on the way, none is there.

        Raises:
            InputError: A bad or taken name, or bad settings.
            NotSupportedError: More shards or copies than one.
        """
        _check_options("create_collection", kwargs)
        vectors = (
            vectors_config if isinstance(vectors_config, models.VectorParams) else dict(vectors_config or {})
        )
        sparse = None if sparse_vectors_config is None else dict(sparse_vectors_config)
        if sparse and "" in sparse:
            raise InputError(
                "a sparse vector has the name '', which is the unnamed dense vector's. Give it a name."
            )
        settings = partial(
            models.CreateCollection,
            vectors=vectors,
            sparse_vectors=sparse,
            on_disk_payload=on_disk_payload,
            hnsw_config=hnsw_config,
            optimizers_config=optimizers_config,
            quantization_config=quantization_config,
            metadata=None if metadata is None else convert.to_payload(metadata),
            payload=payload,
            id_tracker=id_tracker,
        )
        config = self._folder.told(f"create collection {collection_name!r}", settings)
        self._folder.create(collection_name, config)
        return True

    def recreate_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete a collection, where there is one, and create it anew."""
        self._folder.delete(collection_name)
        return self.create_collection(collection_name, vectors_config, **kwargs)

    def delete_collection(self, collection_name: str, **kwargs: Any) -> bool:
        """Delete a collection; False where there is none."""
        _check_options("delete_collection", kwargs)
        return self._folder.delete(collection_name)

    def replace_collection(
        self, collection_name: str, by: str, *, metadata: Mapping[str, Any] | None = None
    ) -> bool:
        """Give the collection `by` the name of another, which is deleted; what a server does with aliases.

        Killed at any moment, either both are as they were or it is done when the folder is opened next.

        Args:
            collection_name: The name to take; a collection that has it is deleted.
            by: The collection that takes it.
            metadata: All metadata that it has from then on; None to leave them.

        Raises:
            CollectionNotFoundError: There is no collection `by`.
        """
        kept = self._folder.get(by).config.metadata if metadata is None else convert.to_payload(metadata)
        self._folder.replace(collection_name, by, kept)
        return True

    def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """Describe a collection: settings, metadata, payload indexes, counts."""
        _check_options("get_collection", kwargs)
        collection = self._folder.get(collection_name)
        info = self._folder.read(collection, "describe", lambda shard: shard.info())
        schema = {
            name: models.PayloadIndexInfo(
                data_type=convert.from_schema_type(index.data_type),
                params=_index_params(collection.indexes.get(name)),
                points=index.points,
            )
            for name, index in info.payload_schema.items()
        }
        return models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            indexed_vectors_count=info.indexed_vectors_count,
            points_count=info.points_count,
            segments_count=info.segments_count,
            payload_schema=schema,
            config=_described(collection.config.model_copy(deep=True)),
        )

    def update_collection(
        self,
        collection_name: str,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        metadata: Mapping[str, Any] | None = None,
        vectors_config: Mapping[str, models.VectorParamsDiff] | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> bool:
        """Change a collection's metadata (keys join or replace the old, None removes) or settings; False
        where nothing is asked for."""
        _check_options("update_collection", kwargs)
        collection = self._folder.get(collection_name)
        with collection.lock:
            before = collection.config
            changed = before.model_copy(deep=True)
            settings = {
                "hnsw_config": hnsw_config,
                "optimizers_config": optimizers_config,
                "quantization_config": quantization_config,
            }
            _change_settings(changed, settings, vectors_config or {}, sparse_vectors_config or {})
            for_engine = changed != before
            if metadata is not None:
                merged = {**(changed.metadata or {}), **convert.to_payload(metadata)}
                changed.metadata = {key: value for key, value in merged.items() if value is not None}
            if not for_engine and metadata is None:
                return False
            collection.config = changed
            try:
                if for_engine:
                    self._folder.reload(collection)
                self._folder.save(collection)
            except BaseException:
                collection.config = before
                raise
        return True

    def create_vector_name(
        self,
        collection_name: str,
        vector_name: str,
        vector_name_config: models.VectorNameConfig,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Add a named vector to a collection."""
        _check_options("create_vector_name", kwargs)
        collection = self._folder.get(collection_name)
        with collection.lock:
            operation = partial(convert.vector_name_operation, vector_name, vector_name_config)
            self._update(collection, f"add vector {vector_name!r} to", operation)
            convert.add_vector_name(collection.config, vector_name, vector_name_config)
            self._folder.save(collection)
        return _done()

    def delete_vector_name(
        self, collection_name: str, vector_name: str, **kwargs: Any
    ) -> models.UpdateResult:
        """Remove a named vector, with all its values, from a collection."""
        _check_options("delete_vector_name", kwargs)
        collection = self._folder.get(collection_name)
        with collection.lock:
            _check_vector_names(collection, [vector_name])
            operation = partial(convert.update.delete_vector_name, vector_name)
            self._update(collection, f"remove vector {vector_name!r} of", operation)
            for named in (collection.config.vectors, collection.config.sparse_vectors):
                if isinstance(named, dict):
                    named.pop(vector_name, None)
            self._folder.save(collection)
        return _done()

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: Any = None,
        field_type: Any = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Give a payload field an index, in place of one it has.

        Args:
            collection_name: The collection.
            field_name: Path of the field.
            field_schema: "keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid", a
                `models.PayloadSchemaType`, or a `models....IndexParams`.
            field_type: An old name of field_schema.
            kwargs: qdrant-client's options.
        """
        _check_options("create_payload_index", kwargs)
        schema = field_schema if field_schema is not None else field_type
        if isinstance(schema, str) and not isinstance(schema, models.PayloadSchemaType):
            try:
                schema = models.PayloadSchemaType(schema)
            except ValueError:
                schema = None
        if schema is None:
            allowed = ", ".join(kind.value for kind in models.PayloadSchemaType)
            raise InputError(
                f"the index of field {field_name!r} has the schema {field_schema!r}, expected one of "
                f"{allowed}, or "
                "models.KeywordIndexParams(...) and the like."
            )
        collection = self._folder.get(collection_name)
        with collection.lock:
            operation = partial(convert.index_operation, field_name, schema)
            self._update(collection, f"index field {field_name!r} of", operation)
            known = schema.value if isinstance(schema, models.PayloadSchemaType) else schema
            as_json = known if isinstance(known, str) else known.model_dump(mode="json", exclude_none=True)
            collection.indexes = {**collection.indexes, field_name: as_json}
            self._folder.save(collection)
        return _done()

    def delete_payload_index(
        self, collection_name: str, field_name: str, **kwargs: Any
    ) -> models.UpdateResult:
        """Remove the index of a payload field, where it has one; the field stays."""
        _check_options("delete_payload_index", kwargs)
        collection = self._folder.get(collection_name)
        with collection.lock:
            operation = partial(convert.update.delete_field_index, field_name)
            self._update(collection, f"drop the index of {field_name!r} in", operation)
            collection.indexes = {k: v for k, v in collection.indexes.items() if k != field_name}
            self._folder.save(collection)
        return _done()

    def optimize(self, collection_name: str) -> bool:
        """Let the engine merge and index what was written; True if it found something to do.

        It pays for a collection that is opened often, not for one that is searched: 20,000 SPLADE-like
        documents were opened in 1.6 s before and in 0.15 s after 4 s of optimising, and a search took
        0.13 ms before and 0.12 ms after (2 shared cores, Edge 0.9.0). Under about 10,000 new documents the
        engine finds nothing to do. It blocks the whole process while it works, since the engine holds the
        GIL, and so neither `close` nor any write calls it: call it at the end of a large import.

        Raises:
            StorageError: The disk has no room for a second copy of the collection, beside which the first is
                kept until it is done.
        """
        collection = self._folder.get(collection_name)
        self._folder.check_space(beside=self._folder.stored_bytes(collection))
        return bool(self._folder.write(collection, "optimise", lambda shard: shard.optimize()))

    def stored_bytes(self, collection_name: str) -> int:
        """Say what a collection takes on the disk, in bytes; it is not opened for that."""
        return self._folder.stored_bytes(self._folder.get(collection_name))

    def flush(self, collection_name: str) -> None:
        """Write everything out to the disk, so that it also survives a power cut; `close` does it too."""
        self._folder.write(self._folder.get(collection_name), "flush", lambda shard: shard.flush())

    # -- writing ---------------------------------------------------------------------------------------------

    def upsert(
        self,
        collection_name: str,
        points: models.Batch | Sequence[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Add points, or replace those of the same ids.

        Args:
            collection_name: The collection.
            points: A list of points, or a batch.
            update_filter: Replace only points that pass; new ones are added all the same.
            update_mode: Whether to add, to replace, or both.
            kwargs: qdrant-client's options.

        Raises:
            InputError: A bad id, vector or payload; nothing was written.
        """
        _check_options("upsert", kwargs)
        self._folder.get(collection_name)
        rows = list(_rows(points))
        if not rows:
            raise InputError("upsert got no points, expected at least one.")
        self.upsert_rows(collection_name, rows, update_filter, update_mode)
        return _done()

    def upsert_rows(
        self,
        collection_name: str,
        rows: Sequence[tuple[Any, Any, Any]],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
    ) -> None:
        """Do what `upsert` does with points given as (id, vector or vectors by name, payload)."""
        collection = self._folder.get(collection_name)
        names = convert.names_in(collection.config)
        made = self._folder.told(
            f"write to collection {collection.name!r}",
            lambda: [convert.to_point(id, vector, payload, names) for id, vector, payload in rows],
        )
        for chunk in _chunks(made, _POINTS_AT_ONCE):
            operation = partial(_upsert_points, chunk, update_filter, update_mode)
            self._update(collection, "write to", operation)

    def _update(self, collection: StoredCollection, doing: str, operation: Callable[[], Any]) -> None:
        """Make a write; `operation` builds it, so that what the engine cannot build is told like the rest."""
        self._folder.write(collection, doing, lambda shard: shard.update(operation()))

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a stream of points of any length in bounded memory; see `upsert`.

        Raises:
            InputError: A bad point; those before its group of 64 are written.
        """
        _check_options("upload_points", kwargs)
        rows = ((point.id, point.vector, point.payload) for point in points)
        for chunk in _chunks(rows, _POINTS_PER_CALL):
            self.upsert_rows(collection_name, chunk, update_filter, update_mode)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add columns: an array of vectors, or a dict of arrays by name, or an iterable of vectors.

        Without ids each point gets a random UUID4. Ends with the shortest column.
        """
        _check_options("upload_collection", kwargs)
        rows = zip(
            (str(uuid.uuid4()) for _ in itertools.count()) if ids is None else ids,
            _vector_rows(vectors),
            itertools.repeat(None) if payload is None else payload,
            strict=False,
        )
        for chunk in _chunks(rows, _POINTS_PER_CALL):
            self.upsert_rows(collection_name, chunk, update_filter, update_mode)

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[models.PointVectors],
        update_filter: models.Filter | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the vectors that are named here of points that are there; the others stay.

        Raises:
            InputError: A bad vector (nothing was written), or a point that is not there (the others are).
        """
        _check_options("update_vectors", kwargs)
        collection = self._folder.get(collection_name)
        if not points:
            raise InputError("update_vectors got no points, expected at least one.")
        names = convert.names_in(collection.config)
        condition = self._folder.told("convert a filter", lambda: ask.to_filter(update_filter))
        made = [convert.to_point_vectors(point.id, point.vector, names) for point in points]
        self._each(
            collection, made, lambda part: convert.update.update_vectors(part, condition), _POINTS_PER_CALL
        )
        return _done()

    def delete_vectors(
        self, collection_name: str, vectors: Sequence[str], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Delete named vectors of points; "" names the unnamed one."""
        _check_options("delete_vectors", kwargs)
        collection = self._folder.get(collection_name)
        names = list(vectors)
        if not names:
            raise InputError("delete_vectors got no vector names, expected at least one.")
        _check_vector_names(collection, names)
        make = convert.update
        self._select(
            collection,
            points,
            lambda ids: make.delete_vectors(ids, names),
            lambda filter: make.delete_vectors_by_filter(filter, names),
        )
        return _done()

    def delete(self, collection_name: str, points_selector: Any, **kwargs: Any) -> models.UpdateResult:
        """Delete points by ids (those not there are passed over) or by filter."""
        _check_options("delete", kwargs)
        make = convert.update
        self._select(
            self._folder.get(collection_name),
            points_selector,
            make.delete_points,
            make.delete_points_by_filter,
        )
        return _done()

    def set_payload(
        self,
        collection_name: str,
        payload: Mapping[str, Any],
        points: Any,
        key: str | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Set payload fields of points; other fields stay.

        Args:
            collection_name: The collection.
            payload: Fields and values.
            points: Ids, a filter, or a selector of qdrant_client.models.
            key: Path under which the fields go; None for the top.
            kwargs: qdrant-client's options.
        """
        _check_options("set_payload", kwargs)
        given, make = convert.to_payload(payload), convert.update
        self._select(
            self._folder.get(collection_name),
            points,
            lambda ids: make.set_payload(ids, given, key),
            lambda filter: make.set_payload_by_filter(filter, given, key),
        )
        return _done()

    def overwrite_payload(
        self, collection_name: str, payload: Mapping[str, Any], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Replace the whole payload of points."""
        _check_options("overwrite_payload", kwargs)
        given, make = convert.to_payload(payload), convert.update
        self._select(
            self._folder.get(collection_name),
            points,
            lambda ids: make.overwrite_payload(ids, given),
            lambda filter: make.overwrite_payload_by_filter(filter, given),
        )
        return _done()

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Delete payload fields of points."""
        _check_options("delete_payload", kwargs)
        paths, make = list(keys), convert.update
        self._select(
            self._folder.get(collection_name),
            points,
            lambda ids: make.delete_payload(ids, paths),
            lambda filter: make.delete_payload_by_filter(filter, paths),
        )
        return _done()

    def clear_payload(self, collection_name: str, points_selector: Any, **kwargs: Any) -> models.UpdateResult:
        """Delete the whole payload of points."""
        _check_options("clear_payload", kwargs)
        make = convert.update
        self._select(
            self._folder.get(collection_name),
            points_selector,
            make.clear_payload,
            make.clear_payload_by_filter,
        )
        return _done()

    def _select(
        self,
        collection: StoredCollection,
        selector: Any,
        by_ids: Callable[[list[Any]], Any],
        by_filter: Callable[[Any], Any],
    ) -> None:
        """Make a write to the points that a selector of qdrant-client names."""
        if isinstance(selector, models.FilterSelector):
            selector = selector.filter
        elif isinstance(selector, models.PointIdsList):
            selector = selector.points
        if isinstance(selector, models.Filter):
            self._update(collection, "write to", lambda: by_filter(ask.to_filter(selector)))
        elif isinstance(selector, list | tuple):
            if not selector:
                raise InputError("a write names no points, expected at least one id, or a filter.")
            self._each(collection, convert.to_ids(selector), by_ids, _IDS_PER_CALL)
        else:
            raise InputError(
                f"a write selects points by a {type(selector).__name__}, expected a list of ids, a "
                "models.Filter, "
                "models.PointIdsList or models.FilterSelector."
            )

    def _each(
        self,
        collection: StoredCollection,
        items: Sequence[Any],
        operation: Callable[[list[Any]], Any],
        size: int,
    ) -> None:
        """Write in small calls; a point that is not there does not keep the others from being written."""
        missing: InputError | None = None
        for chunk in _chunks(items, size):
            try:
                self._update(collection, "write to", partial(operation, chunk))
            except InputError as error:
                missing = missing or error
        if missing is not None:
            raise missing

    def batch_update_points(
        self, collection_name: str, update_operations: Sequence[models.UpdateOperation], **kwargs: Any
    ) -> list[models.UpdateResult]:
        """Make several writes, one after another."""
        _check_options("batch_update_points", kwargs)
        return [self._operate(collection_name, operation) for operation in update_operations]

    def _operate(self, name: str, operation: models.UpdateOperation) -> models.UpdateResult:  # noqa: PLR0911 - one a kind
        if isinstance(operation, models.UpsertOperation):
            upsert = operation.upsert
            points = upsert.batch if isinstance(upsert, models.PointsBatch) else upsert.points
            return self.upsert(name, points, upsert.update_filter, upsert.update_mode)
        if isinstance(operation, models.DeleteOperation):
            return self.delete(name, operation.delete)
        if isinstance(operation, models.SetPayloadOperation):
            put = operation.set_payload
            return self.set_payload(name, put.payload, _either(put), put.key)
        if isinstance(operation, models.OverwritePayloadOperation):
            over = operation.overwrite_payload
            return self.overwrite_payload(name, over.payload, _either(over))
        if isinstance(operation, models.DeletePayloadOperation):
            drop = operation.delete_payload
            return self.delete_payload(name, drop.keys, _either(drop))
        if isinstance(operation, models.ClearPayloadOperation):
            return self.clear_payload(name, operation.clear_payload)
        if isinstance(operation, models.UpdateVectorsOperation):
            vectors = operation.update_vectors
            return self.update_vectors(name, vectors.points, vectors.update_filter)
        if isinstance(operation, models.DeleteVectorsOperation):
            gone = operation.delete_vectors
            return self.delete_vectors(name, gone.vector, _either(gone))
        raise InputError(
            f"batch_update_points got a {type(operation).__name__}, expected an operation of "
            "qdrant_client.models."
        )

    # -- reading ---------------------------------------------------------------------------------------------

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: Any = False,
        **kwargs: Any,
    ) -> list[models.Record]:
        """Read points by id, in the order asked for, each once; ids that are not there are passed over."""
        _check_options("retrieve", kwargs)
        collection = self._folder.get(collection_name)
        payload, vectors = convert.to_with_payload(with_payload), convert.to_with_vectors(with_vectors)
        records: list[models.Record] = []
        for chunk in _chunks(dict.fromkeys(convert.to_ids(ids)), _IDS_PER_CALL):
            read = partial(_retrieve, ids=chunk, with_payload=payload, with_vectors=vectors)
            found = self._folder.read(collection, "read from", read)
            records.extend(map(convert.from_record, found))
        return records

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **kwargs: Any,
    ) -> tuple[list[models.Record], Any]:
        """Read a page of points, by id or ordered by an indexed field.

        Returns:
            The page, and the id to pass as offset for the next one; None at the end, and with order_by.
        """
        _check_options("scroll", kwargs)
        _check_limit(limit)
        collection = self._folder.get(collection_name)
        asked = partial(
            ask.to_scroll,
            filter=scroll_filter,
            limit=limit,
            order_by=order_by,
            offset=offset,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        records, following = self._folder.read(collection, "read from", lambda shard: shard.scroll(asked()))
        return [convert.from_record(record) for record in records], (
            None if following is None else convert.point_id(following)
        )

    def count(
        self,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        **kwargs: Any,
    ) -> models.CountResult:
        """Count the points that a filter finds."""
        _check_options("count", kwargs)
        asked = partial(ask.to_count, count_filter, exact=exact)
        counted = self._folder.read(self._folder.get(collection_name), "count in", lambda s: s.count(asked()))
        return models.CountResult(count=counted)

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """Count the points of each value of a field, the most frequent first; the field needs an index."""
        _check_options("facet", kwargs)
        _check_limit(limit)
        asked = partial(ask.to_facet, key, facet_filter, limit=limit, exact=exact)
        found = self._folder.read(self._folder.get(collection_name), "count in", lambda s: s.facet(asked()))
        return models.FacetResponse(
            hits=[models.FacetValueHit(value=hit.value, count=hit.count) for hit in found.hits]
        )

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: Any = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
        **kwargs: Any,
    ) -> QueryResponse:
        """Search, recommend, discover, fuse, order, sample: what a server's query endpoint does.

        Raises:
            InputError: A query that makes no sense here.
        """
        _check_options("query_points", kwargs)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **kwargs: Any
    ) -> list[QueryResponse]:
        """Answer several queries in one call of the engine, in their order; see `query_points`."""
        _check_options("query_batch_points", kwargs)
        collection = self._folder.get(collection_name)
        if not requests:
            return []

        def vector_of(id: Any, name: str, lookup: models.LookupLocation | None) -> tuple[Any, bool]:
            return self._vector_of(collection_name, id, name, lookup)

        engine_requests = [
            mmr.widened(request) if mmr.is_sparse_mmr(request) else request for request in requests
        ]
        answers = self._folder.read(
            collection,
            "search",
            lambda shard: shard.query_batch(
                ask.to_batch([ask.to_request(request, vector_of) for request in engine_requests])
            ),
        )
        responses = []
        for request, asked, found in zip(requests, engine_requests, answers, strict=True):
            points = [convert.from_scored(point, with_vectors=bool(asked.with_vector)) for point in found]
            if asked is not request:
                points = mmr.diversified(request, points)
            responses.append(QueryResponse.model_construct(points=points))
        return responses

    def _vector_of(
        self, collection_name: str, id: Any, name: str, lookup: models.LookupLocation | None
    ) -> tuple[Any, bool]:
        """Read the vector of a point that a query names by its id."""
        place = collection_name if lookup is None else lookup.collection
        name = lookup.vector if lookup is not None and lookup.vector is not None else name
        records = self.retrieve(place, [id], with_payload=False, with_vectors=[name])
        vector = records[0].vector if records else None
        found = vector.get(name) if isinstance(vector, dict) else vector
        if not found:
            raise InputError(
                f"a query names point {id!r}, which collection {place!r} does not hold with a vector "
                f"{name!r}. Pass a "
                "point that is there, or a vector."
            )
        return found, place == collection_name

    def query_points_groups(
        self,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: Any = None,
        limit: int = 10,
        group_size: int = 3,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        with_lookup: Any = None,
        lookup_from: models.LookupLocation | None = None,
        **kwargs: Any,
    ) -> models.GroupsResult:
        """Search and keep the best `group_size` points of each of the best `limit` values of a field.

        Reads deeper into the ranking, twice as far each time, until the groups are full or the ranking ends.
        """
        _check_options("query_points_groups", kwargs)
        _check_limit(limit)
        _check_limit(group_size, "group_size")
        asked: dict[str, Any] = {
            "query": query,
            "using": using,
            "prefetch": deepened(prefetch, group_size),
            "query_filter": query_filter,
            "search_params": search_params,
            "score_threshold": score_threshold,
            "lookup_from": lookup_from,
        }
        take = limit * group_size
        while True:
            ranked = self.query_points(collection_name, limit=take, with_payload=[group_by], **asked).points
            groups = Groups(group_by, limit, group_size)
            groups.add(ranked)
            if len(ranked) < take or groups.full:
                break
            take *= 2
        wanted = groups.point_ids()
        records = self.retrieve(collection_name, wanted, with_payload, with_vectors) if wanted else []
        lookups: dict[Any, models.Record] = {}
        if with_lookup is not None:
            lookups = self._lookups(with_lookup, groups.values())
        return groups.result({record.id: record for record in records}, lookups)

    def _lookups(self, with_lookup: Any, values: Sequence[Any]) -> dict[Any, models.Record]:
        """Read the points, of another collection, whose ids the groups' values are."""
        lookup = models.WithLookup(collection=with_lookup) if isinstance(with_lookup, str) else with_lookup
        ids: dict[Any, Any] = {}
        for value in values:
            try:
                ids[convert.point_id(value)] = value
            except InputError:  # a value that is no id has nothing to look up
                continue
        if not ids:
            return {}
        payload = True if lookup.with_payload is None else lookup.with_payload
        records = self.retrieve(lookup.collection, list(ids), payload, lookup.with_vectors or False)
        return {ids[record.id]: record for record in records}

    def search_matrix_pairs(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixPairsResponse:
        """Draw a sample of points and find, for each, its nearest in the sample."""
        _check_options("search_matrix_pairs", kwargs)
        ids, nearest = self._matrix(collection_name, query_filter, limit, sample, using)
        pairs = [
            models.SearchMatrixPair(a=id, b=point.id, score=point.score)
            for id, points in zip(ids, nearest, strict=True)
            for point in points
        ]
        return models.SearchMatrixPairsResponse(pairs=pairs)

    def search_matrix_offsets(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixOffsetsResponse:
        """Do what `search_matrix_pairs` does; the answer is a sparse matrix over the ids."""
        _check_options("search_matrix_offsets", kwargs)
        ids, nearest = self._matrix(collection_name, query_filter, limit, sample, using)
        place = {id: n for n, id in enumerate(ids)}
        cells = [(row, place[p.id], p.score) for row, points in enumerate(nearest) for p in points]
        return models.SearchMatrixOffsetsResponse(
            offsets_row=[row for row, _, _ in cells],
            offsets_col=[column for _, column, _ in cells],
            scores=[score for _, _, score in cells],
            ids=ids,
        )

    def _matrix(
        self, name: str, filter: models.Filter | None, limit: int, sample: int, using: str | None
    ) -> tuple[list[Any], list[list[models.ScoredPoint]]]:
        _check_limit(limit)
        _check_limit(sample, "sample", least=2)
        with_vector = models.HasVectorCondition(has_vector=using or "")
        drawn = self.query_points(
            name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=models.Filter(must=[with_vector, *([] if filter is None else [filter])]),
            limit=sample,
            with_payload=False,
        ).points
        ids = sorted((point.id for point in drawn), key=lambda id: (isinstance(id, str), id))
        requests = [
            models.QueryRequest(
                query=id,
                using=using,
                limit=limit,
                filter=models.Filter(must=[models.HasIdCondition(has_id=ids)]),
                with_payload=False,
            )
            for id in ids
        ]
        return ids, [answer.points for answer in self.query_batch_points(name, requests)]

    def migrate(
        self,
        dest_client: QdrantBase,
        collection_names: list[str] | None = None,
        batch_size: int = 100,
        recreate_on_collision: bool = False,
    ) -> None:
        """Copy collections into another client, such as one of a server."""
        from qdrant_client.migrate.migrate import migrate

        migrate(
            self,
            dest_client,
            collection_names=collection_names,
            batch_size=batch_size,
            recreate_on_collision=recreate_on_collision,
        )

    # -- what needs a server ---------------------------------------------------------------------------------

    update_collection_aliases = _server_only("update_collection_aliases", "aliases")
    get_collection_aliases = _server_only("get_collection_aliases", "aliases")
    get_aliases = _server_only("get_aliases", "aliases")
    list_snapshots = _server_only("list_snapshots", "snapshots")
    create_snapshot = _server_only("create_snapshot", "snapshots")
    delete_snapshot = _server_only("delete_snapshot", "snapshots")
    list_full_snapshots = _server_only("list_full_snapshots", "snapshots")
    create_full_snapshot = _server_only("create_full_snapshot", "snapshots")
    delete_full_snapshot = _server_only("delete_full_snapshot", "snapshots")
    recover_snapshot = _server_only("recover_snapshot", "snapshots")
    list_shard_snapshots = _server_only("list_shard_snapshots", "snapshots")
    create_shard_snapshot = _server_only("create_shard_snapshot", "snapshots")
    delete_shard_snapshot = _server_only("delete_shard_snapshot", "snapshots")
    recover_shard_snapshot = _server_only("recover_shard_snapshot", "snapshots")
    create_shard_key = _server_only("create_shard_key", "shard keys")
    delete_shard_key = _server_only("delete_shard_key", "shard keys")
    list_shard_keys = _server_only("list_shard_keys", "shard keys")
    cluster_collection_update = _server_only("cluster_collection_update", "cluster")
    collection_cluster_info = _server_only("collection_cluster_info", "cluster")
    cluster_status = _server_only("cluster_status", "cluster")
    cluster_telemetry = _server_only("cluster_telemetry", "cluster")
    recover_current_peer = _server_only("recover_current_peer", "cluster")
    remove_peer = _server_only("remove_peer", "cluster")
    get_optimizations = _server_only("get_optimizations", "queue of optimisations")


def _upsert_points(points: list[Any], filter: models.Filter | None, mode: models.UpdateMode | None) -> Any:
    return convert.update.upsert_points(points, ask.to_filter(filter), convert.to_update_mode(mode))


def _retrieve(shard: convert.Shard, *, ids: list[Any], with_payload: Any, with_vectors: Any) -> list[Any]:
    return shard.retrieve(ids, with_payload, with_vectors)


def _done() -> models.UpdateResult:
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    """Pass over options that mean nothing here, refuse those that need a cluster and those that nobody
    knows."""
    for name, value in options.items():
        if name in _OF_CLUSTERS:
            if value is None or (value == 1 and not isinstance(value, bool)):
                continue
            raise NotSupportedError(
                f"{method} got {name}={value!r}, but Qdrant Edge keeps one copy in one shard. Leave {name} "
                "out, or use a "
                "Qdrant server: QdrantClient(url=...)."
            )
        if name not in _IGNORED and name not in _IGNORED_MORE:
            raise InputError(f"{method} got the unknown argument {name}={value!r}. Leave it out.")


def _check_limit(value: int, name: str = "limit", *, least: int = 1) -> None:
    if value < least:
        raise InputError(f"{name} is {value}, expected {least} or more.")


def _check_vector_names(collection: StoredCollection, names: Sequence[str]) -> None:
    there = convert.names_in(collection.config)
    for name in names:
        if name not in there:
            told = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"collection {collection.name!r} has no vector {name!r} (it has: {told}). Name one of these."
            )


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    walk = iter(items)
    while chunk := list(itertools.islice(walk, size)):
        yield chunk


def _rows(points: models.Batch | Iterable[models.PointStruct]) -> Iterator[tuple[Any, Any, Any]]:
    """Give points as (id, vector, payload)."""
    if not isinstance(points, models.Batch):
        yield from ((point.id, point.vector, point.payload) for point in points)
        return
    columns: dict[str, Sequence[Any]] = {"ids": points.ids}
    if points.payloads is not None:
        columns["payloads"] = points.payloads
    named = points.vectors if isinstance(points.vectors, dict) else {"": points.vectors}
    columns.update({f"vectors {name!r}": column for name, column in named.items()})
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(
            f"a batch has columns of different lengths: {told}. Nothing was written; make them equal."
        )
    for n, id in enumerate(points.ids):
        yield id, {name: column[n] for name, column in named.items()}, (points.payloads or {n: None})[n]


def _vector_rows(vectors: Any) -> Iterable[Any]:
    if not isinstance(vectors, Mapping):
        rows: Iterable[Any] = iter(vectors)
        return rows
    sizes = {name: len(column) for name, column in vectors.items()}
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{size} of {name!r}" for name, size in sizes.items()) or "none"
        raise InputError(f"upload_collection got vectors of different numbers: {told}. Nothing was written.")
    columns = [np.asarray(column) if not isinstance(column, list) else column for column in vectors.values()]
    return (dict(zip(vectors, row, strict=True)) for row in zip(*columns, strict=True))


def _either(operation: Any) -> Any:
    """Give the ids of an operation, or else its filter."""
    chosen = operation.points if operation.points is not None else operation.filter
    if chosen is None:
        raise InputError(f"a {type(operation).__name__} selects nothing, expected points or a filter.")
    return chosen


def _index_params(schema: Any) -> Any:
    """Read an index's parameters; None for one that was asked for by its kind alone."""
    if not isinstance(schema, Mapping):
        return None
    kind = str(schema["type"]).capitalize()
    return getattr(models, f"{kind}IndexParams")(**schema)


def _described(config: models.CreateCollection) -> models.CollectionConfig:
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
        hnsw_config=models.HnswConfig(
            **{"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, "max_indexing_threads": 0, **hnsw}
        ),
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


def _change_settings(
    config: models.CreateCollection,
    settings: Mapping[str, Any],
    vectors: Mapping[str, models.VectorParamsDiff],
    sparse: Mapping[str, models.SparseVectorParams],
) -> None:
    """Change settings in place; what a diff leaves open stays.

    Raises:
        InputError: For a vector that there is not.
    """
    there = convert.names_in(config)
    for name in [*vectors, *sparse]:
        if name not in there or isinstance(there[name], models.SparseVectorParams) != (name in sparse):
            told = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"update_collection names the vector {name!r}, there are: {told}. Nothing was changed."
            )
    targets: list[tuple[Any, Mapping[str, Any]]] = [(config, settings)]
    targets += [
        (there[name], {key: getattr(diff, key) for key in type(diff).model_fields})
        for name, diff in vectors.items()
    ]
    targets += [
        (there[name], {key: getattr(diff, key) for key in type(diff).model_fields})
        for name, diff in sparse.items()
    ]
    for target, changes in targets:
        for key, diff in changes.items():
            if diff is None:
                continue
            if isinstance(diff, models.Disabled):
                setattr(target, key, None)
            elif isinstance(
                diff, models.HnswConfigDiff | models.OptimizersConfigDiff | models.SparseIndexParams
            ):
                old = getattr(target, key)
                fields = diff.model_dump(exclude_none=True)
                setattr(target, key, diff if old is None else old.model_copy(update=fields))
            else:
                setattr(target, key, diff)
