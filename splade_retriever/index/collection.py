"""One collection of a store: opened or created, checked against what it remembers, and called."""

import contextlib
import inspect
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
    NotSupportedError,
)
from splade_retriever.index.collection_settings import COMPARED_SETTINGS, CollectionSettings, check_settings
from splade_retriever.index.connection import call_with_retry, connect, side_by_side
from splade_retriever.index.documents import OWN_KEY, Document, Layout, point_id
from splade_retriever.index.ingest import Batch, Stored
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase

    from splade_retriever.filters import FilterLike

__all__ = ["Collection", "CreateOptions", "check_client", "open_client"]

_POINTS_PER_CALL: Final = 64
"""Small, since the embedded engine holds the GIL for the length of a call (about 5 ms for 64 points)."""
_LONG_CALLS_FROM: Final = 4 * 2**20
"""Bytes on the disk from which the embedded engine's calls may hold the GIL too long for an event loop: about
2,000 documents, which are loaded in 30 ms."""
_WINDOW_NUMBER: Final = f"{OWN_KEY}.window.n"

logger = logging.getLogger(__name__)

_DOING: Final = {
    "collection_exists": "look for",
    "count": "count the documents of",
    "create_collection": "create",
    "create_payload_index": "index a field of",
    "delete": "delete from",
    "delete_collection": "delete",
    "get_collection": "describe",
    "query_batch_points": "search",
    "retrieve": "read from",
    "scroll": "read through",
    "set_payload": "change metadata in",
    "update_collection": "change the settings of",
    "upsert": "write to",
}
"""Method of the client -> what a message says of it, before "collection 'docs'"."""
_DATATYPES: Final = ("float32", "float16", "uint8")


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """How a new collection is laid down in the engine."""

    datatype: str | None = None
    on_disk: bool | None = None
    shard_number: int | None = None
    replication_factor: int | None = None

    def __post_init__(self) -> None:
        if self.datatype not in (None, *_DATATYPES):
            raise InputError(f"datatype is {self.datatype!r}, expected one of: {', '.join(_DATATYPES)}.")


def check_client(client: object) -> None:
    """Refuse what is no client, or one whose calls must be awaited.

    Raises:
        InputError: Naming what to pass.
    """
    search = getattr(client, "query_batch_points", None)
    if search is None or inspect.iscoroutinefunction(search):
        raise InputError(
            f"client is a {type(client).__name__}, expected a QdrantClient or an EdgeClient. The index's own "
            "async methods (asearch, aadd, ...) work with these too."
        )


def open_client(
    location: str, *, create: bool, api_key: str | None, prefer_grpc: bool, timeout_s: int | None
) -> "QdrantBase":
    """Open the store at a location.

    Raises:
        InputError: If the location is neither a folder's path nor an http(s) URL.
        CollectionNotFoundError: If the folder is not there and may not be made.
    """
    if not location or ("://" in location and not is_url(location)):
        raise InputError(f"location is {location!r}, expected a folder, ':memory:', or an http(s) URL.")
    if is_url(location):
        return connect(location, api_key=api_key, prefer_grpc=prefer_grpc, timeout_s=timeout_s)
    if not create and location != ":memory:" and not Path(location).is_dir():
        raise CollectionNotFoundError(
            f"there is no index folder at {location!r}. Check the path, or pass create=True."
        )
    from splade_retriever.edge.client import EdgeClient

    client: QdrantBase = EdgeClient(location)
    return client


class Collection:
    """A collection through its client; every request of an index passes here."""

    def __init__(self, client: "QdrantBase", name: str, location: str, *, owned: bool) -> None:
        self.client = client
        self.name = name
        self.location = location
        self.owned = owned
        self.closed = False
        self.one_thread = _is_local_mode(client)
        """qdrant-client's local mode: plain Python over lists, and SQLite bound to one thread."""
        self._remote = _is_remote(client)
        self.layout = Layout()
        self.settings: CollectionSettings | None = None
        self._lock = threading.Lock()
        self._moving = threading.Lock()
        self._can_move = owned and not is_url(location)

    # -- opening ---------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Say whether the store has it."""
        return bool(self.call("collection_exists"))

    def create(self, memory: CollectionSettings, creation: CreateOptions) -> None:
        """Create it, remembering how.

        Raises:
            NotSupportedError: If the store cannot keep the memory.
        """
        from qdrant_client import models

        vectors = {}
        if memory.dense_name is not None and memory.dense_size is not None:
            vectors[memory.dense_name] = models.VectorParams(
                size=memory.dense_size, distance=models.Distance.COSINE
            )
        datatype = None if creation.datatype is None else models.Datatype(creation.datatype)
        sparse = models.SparseVectorParams(
            index=models.SparseIndexParams(datatype=datatype, on_disk=creation.on_disk)
        )
        cluster = {"shard_number": creation.shard_number, "replication_factor": creation.replication_factor}
        try:
            self.call(
                "create_collection",
                vectors_config=vectors,
                sparse_vectors_config={memory.vector_name: sparse},
                metadata=memory.to_metadata(),
                **{name: value for name, value in cluster.items() if value is not None},
            )
        except Exception:
            # Another process may have created it since we looked; then its memory is checked below.
            if not self.exists():
                raise
        found = self._read_memory()
        if found is None:
            self.call("delete_collection")
            raise NotSupportedError(
                f"the store at {self.location!r} does not keep a collection's metadata, in which the "
                f"model is "
                "remembered. Use a Qdrant server of version 1.16 or newer."
            )
        check_settings(found, {name: getattr(memory, name) for name in COMPARED_SETTINGS}, self.name)
        self.settings, self.layout = found, found.layout
        if self.has_windows:  # which scroll and count filter by; a server may refuse to without an index
            self.index_paths({_WINDOW_NUMBER: "integer"})

    def open(self, asked: Mapping[str, Any], names: Mapping[str, str | None], layout: Layout | None) -> None:
        """Read what the collection remembers, and check it.

        Args:
            asked: Field of `CollectionSettings` -> value asked for, None where left open.
            names: "sparse" and "dense" -> name of the vector that is needed, None where it is not.
            layout: Where the payload keeps things, for a collection that another program made; None to
                recognise it.

        Raises:
            CollectionMismatchError: Another layout, other settings, or a vector is missing.
        """
        params = self.call("get_collection").config.params
        self._check_vector_names(params, names)
        self.settings = self._read_memory()
        if self.settings is None:
            self.layout = layout or self._foreign_layout()
        else:
            self.layout = self.settings.layout
            check_settings(self.settings, asked, self.name)

    def adopt(self, memory: CollectionSettings) -> None:
        """Let a collection that another program made remember how its vectors are made."""
        adopted = replace(memory, layout=self.layout)
        self.call("update_collection", metadata=adopted.to_metadata())
        self.settings = adopted

    def _read_memory(self) -> CollectionSettings | None:
        return CollectionSettings.from_metadata(self.call("get_collection").config.metadata, self.name)

    def _check_vector_names(self, params: "models.CollectionParams", names: Mapping[str, str | None]) -> None:
        found = {
            "sparse": sorted(params.sparse_vectors or {}),
            "dense": _dense_names(params.vectors),
        }
        for kind, wanted in names.items():
            if wanted is not None and wanted not in found[kind]:
                told = ", ".join(repr(name) for side in found.values() for name in side) or "none"
                option = "vector_name" if kind == "sparse" else "dense_name"
                raise CollectionMismatchError(
                    f"collection {self.name!r} has no {kind} vector named {wanted!r} (found: {told}). "
                    f"Pass {option}=... or use a new collection."
                )

    def _foreign_layout(self) -> Layout:
        points, _ = self.call("scroll", limit=1, with_payload=True)
        return Layout.of_payload(points[0].payload or {}) if points else Layout(native_ids=True)

    def index_fields(self, fields: Mapping[str, str], tenant_field: str | None) -> None:
        """Give metadata fields an index in the engine, where they have none.

        Raises:
            InputError: For a kind of index that there is not.
        """
        if not fields and tenant_field is None:
            return
        from qdrant_client import models

        from splade_retriever.filters import field_path

        schemas: dict[str, Any] = {}
        for key, kind in fields.items():
            try:
                schemas[key] = models.PayloadSchemaType(kind)
            except ValueError:
                allowed = ", ".join(item.value for item in models.PayloadSchemaType)
                raise InputError(
                    f"indexed_fields has {key!r}: {kind!r}, expected one of: {allowed}."
                ) from None
        if tenant_field is not None:
            schemas[tenant_field] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            )
        metadata_key = self.layout.metadata_key
        self.index_paths({field_path(key, metadata_key=metadata_key): schemas[key] for key in schemas})

    def index_paths(self, schemas: Mapping[str, Any]) -> None:
        """Give paths of the payload an index in the engine, where they have none.

        Args:
            schemas: Path -> what `create_payload_index` of the client takes.
        """
        if self.one_thread:  # local mode has no such indexes, finds the same without them, and warns
            return
        present = self.call("get_collection").payload_schema
        for path, schema in schemas.items():
            if path not in present:
                self.call("create_payload_index", field_name=path, field_schema=schema)

    # -- documents -------------------------------------------------------------------------------------------

    def lookup(self, documents: Sequence[Document]) -> dict[str, Stored]:
        """Read what is stored of these documents, by id."""
        return self.stored([document.id for document in documents])

    def stored(self, ids: Sequence[str]) -> dict[str, Stored]:
        """Read what is stored under these ids; missing ones are left out."""
        points = {point_id(id, self.layout): id for id in ids}
        metadata_key = self.layout.metadata_key
        found: dict[str, Stored] = {}
        fields = [OWN_KEY] if metadata_key is None else [OWN_KEY, metadata_key]
        for record in self.call("retrieve", ids=list(points), with_payload=fields):
            payload = record.payload or {}
            own = payload.get(OWN_KEY) or {}
            metadata = None if metadata_key is None else payload.get(metadata_key)
            windows = (own.get("window") or {}).get("of", 1)
            found[points[record.id]] = Stored(own.get("hash"), metadata or {}, windows)
        return found

    def write(self, batch: Batch) -> None:
        """Write a batch of `add`, so that what a kill leaves half done is done again by the next `add`.

        Whether a document is there, and by which text, is read from its first point. So that point is written
        last and deleted last, and has no hash while points of an older, longer text are being removed.
        """
        if batch.surplus:
            longer = [point_id(document.id, self.layout) for document, _, _ in batch.surplus]
            self.call("set_payload", payload={"hash": None}, points=longer, key=OWN_KEY, wait=True)
            self.delete_points(
                [
                    point_id(document.id, self.layout, n)
                    for document, first, end in batch.surplus
                    for n in range(first, end)
                ]
            )
        self.upsert(batch.points)
        for document, stored in batch.metadata:
            self.set_metadata(document.id, document.metadata, stored.windows)

    def upsert(self, documents: Sequence[Sequence["models.PointStruct"]]) -> None:
        """Write documents, each given as its points, which go in one call; to a server several at once."""
        calls: list[list[models.PointStruct]] = [[]]
        for points in documents:
            if calls[-1] and len(calls[-1]) + len(points) > _POINTS_PER_CALL:
                calls.append([])
            # Of a document of more points than the embedded engine writes at once, the first comes last.
            calls[-1].extend(reversed(points))
        writes = [partial(self.call, "upsert", points=points, wait=True) for points in calls if points]
        if self._remote:
            side_by_side(writes)
        else:
            for write in writes:
                write()

    def delete_points(self, points: Sequence[str | int]) -> None:
        """Delete points by the engine's ids."""
        if points:
            from qdrant_client import models

            self.call("delete", points_selector=models.PointIdsList(points=[*points]), wait=True)

    def delete_by(self, filter: "models.Filter") -> None:
        """Delete all points that a filter finds."""
        from qdrant_client import models

        self.call("delete", points_selector=models.FilterSelector(filter=filter), wait=True)

    def set_metadata(self, id: str, metadata: Mapping[str, Any], windows: int) -> None:
        """Replace the metadata of a document and of all its windows.

        Raises:
            NotSupportedError: Where metadata lies inside LlamaIndex nodes.
        """
        if self.layout.metadata_key is None:
            raise NotSupportedError(
                f"collection {self.name!r} keeps metadata inside LlamaIndex nodes, which are not "
                f"rewritten in "
                "place. Add the document again."
            )
        points = [point_id(id, self.layout, n) for n in reversed(range(windows))]
        payload = {self.layout.metadata_key: dict(metadata)}
        self.call("set_payload", payload=payload, points=points, wait=True)

    def scroll(
        self,
        filter: "models.Filter | None",
        *,
        batch_size: int,
        with_vectors: list[str] | bool,
        with_payload: list[str] | bool = True,
    ) -> Iterator["models.Record"]:
        """Walk over all points that a filter finds."""
        offset: Any = None
        while True:
            records, offset = self.call(
                "scroll",
                scroll_filter=filter,
                limit=batch_size,
                offset=offset,
                with_payload=with_payload,
                with_vectors=with_vectors,
            )
            yield from records
            if offset is None:
                return

    def filter(self, filter: "FilterLike | None") -> "models.Filter | None":
        """Translate a filter for this collection's layout."""
        if filter is None:
            return None
        from splade_retriever.filters import to_qdrant_filter

        return to_qdrant_filter(
            filter, metadata_key=self.layout.metadata_key, content_key=self.layout.content_key
        )

    def of_documents(self, filter: "models.Filter | None") -> "models.Filter | None":
        """Narrow a filter to one point a document."""
        if not self.has_windows:
            return filter
        from qdrant_client import models

        later = models.FieldCondition(key=_WINDOW_NUMBER, range=models.Range(gt=0))
        return models.Filter(must=None if filter is None else [filter], must_not=[later])

    @property
    def has_windows(self) -> bool:
        """Whether a document may take several points."""
        return self.settings is not None and self.settings.windows == "points"

    # -- the store -------------------------------------------------------------------------------------------

    def call(self, method: str, **arguments: Any) -> Any:
        """Call the client for this collection; the one place where a request names it.

        Raises:
            IndexClosedError: After `close`.
            ServerError: The server is away.
            StorageError: The store failed.
        """
        self.check_open()
        client = self.client
        request = getattr(client, method)
        doing = f"{_DOING.get(method, f'call {method} on')} collection {self.name!r}"
        with self._lock if self.one_thread else contextlib.nullcontext():
            try:
                return call_with_retry(lambda: request(self.name, **arguments), doing=doing)
            except IndexClosedError:
                with self._moving:  # until the engine has moved, if that is why
                    if self.client is client:
                        raise
        return self.call(method, **arguments)

    def engine_in_subprocess(self) -> None:
        """See that no long call of an embedded engine stops this process's other threads.

        The engine of a large collection is moved to a child process, for good; a small one's calls are short,
        and a server's are made elsewhere. May take a second, in which the collection can be used.
        """
        if not self._can_move:
            return
        from splade_retriever.edge.client import EdgeClient

        with self._moving:
            client = self.client
            if not self._can_move or self.closed or not isinstance(client, EdgeClient):
                return
            if not client.collection_exists(self.name) or client.stored_bytes(self.name) < _LONG_CALLS_FROM:
                return
            self._can_move = False
            from splade_retriever.edge.process import EdgeProcess

            try:
                self.client = EdgeProcess.taking_over(client)
            except NotSupportedError as error:
                logger.warning(
                    "the engine stays in this process, where its calls stop all threads: %s", error
                )

    def check_open(self) -> None:
        """Raise IndexClosedError after `close`."""
        if self.closed:
            raise IndexClosedError(
                f"the index at {self.location!r} is closed. Open it again with SpladeIndex(...)."
            )

    def close(self) -> None:
        """Close the client, if the index opened it; a second call does nothing."""
        if not self.closed:
            self.closed = True
            if self.owned:
                with self._moving:
                    self.client.close()


def _is_remote(client: "QdrantBase") -> bool:
    from qdrant_client.qdrant_remote import QdrantRemote

    return isinstance(getattr(client, "_client", None), QdrantRemote)


def _is_local_mode(client: "QdrantBase") -> bool:
    from qdrant_client.local.qdrant_local import QdrantLocal

    return isinstance(getattr(client, "_client", None), QdrantLocal)


def _dense_names(vectors: "models.VectorsConfig | None") -> list[str]:
    if vectors is None:
        return []
    # A collection with one dense vector need not name it: the engine's name for it is "".
    return sorted(vectors) if isinstance(vectors, dict) else [""]
