"""One collection of a store: the requests that an index sends to it, each by a method."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.local.qdrant_local import QdrantLocal
from qdrant_client.qdrant_remote import QdrantRemote

from splade_retriever.errors import (
    CollectionMismatchError,
    IndexClosedError,
    NotSupportedError,
    StorageError,
)
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.connection import Connection, RequestTooLargeError
from splade_retriever.index.grpc_queries import query_over_grpc
from splade_retriever.index.options import ServerOptions
from splade_retriever.index.payload import Layout
from splade_retriever.index.payload_indexes import PayloadIndexes
from splade_retriever.index.per_process import PerProcess
from splade_retriever.index.points import Point, to_struct
from splade_retriever.index.request_limits import (
    NO_LIMITS,
    PagedQuery,
    StrictLimits,
    cut_groups,
)
from splade_retriever.index.server_client import connection_to
from splade_retriever.index.server_floats import restored_payload, stored_payload, widened
from splade_retriever.index.server_points import (
    encode_for_grpc,
    encode_for_rest,
    upsert_over_grpc,
    upsert_over_rest,
)
from splade_retriever.index.server_version import check_conditions
from splade_retriever.index.upload import Upload
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from splade_retriever.edge.engine import SharedEngine

__all__ = ["Collection", "PreparedPoint"]

T = TypeVar("T")
ReadPoint = TypeVar("ReadPoint", models.Record, models.ScoredPoint)

PreparedPoint = models.PointStruct | bytes
"""A point as a store takes it: a server takes bytes."""

_POINTS_PER_CALL: Final = 64
"""Small, since the embedded engine holds the GIL for the length of a call (about 5 ms for 64 points)."""
_SERVER_WRITES: Final = 2
_LONG_CALLS_FROM: Final = 4 * 2**20
"""Bytes on disk from which calls of the embedded engine may hold the GIL too long for an event loop: about
2,000 documents, which load in 30 ms."""

_READS_CHECKED_EVERY_S: Final = 1.0
"""How often a read checks that the name still belongs to the same collection."""

logger = logging.getLogger(__name__)


class Collection:
    """A collection through its client. Every method that sends a request raises these errors.

    Raises:
        IndexClosedError: After `close`.
        ServerError: The server cannot be reached.
        StorageError: The store refused or failed.
    """

    def __init__(
        self,
        store: "QdrantBase | SharedEngine",
        name: str,
        location: str,
        *,
        owned: bool,
        read_only: bool = False,
        server: ServerOptions | None = None,
        connection: Connection | None = None,
    ) -> None:
        self._engine = None if isinstance(store, QdrantBase) else store
        client = store if isinstance(store, QdrantBase) else store.client
        self._client = client
        server = server or ServerOptions()
        self._connection = connection or _connection(location, server, owned=owned)
        self._connections = (
            PerProcess(partial(_reconnected, client), first=client) if _is_remote(client) else None
        )
        self.read_only = read_only
        """Whether this object refuses writes, also if the store accepts them."""
        self.name = name
        self.target = name
        """The collection that requests name: where `name` is an alias, what it pointed to on opening."""
        self.location = location
        self.owned = owned
        self.closed = False
        self.single_thread = _is_local_mode(client)
        """True for qdrant-client's local mode: plain Python over lists, and SQLite bound to one thread."""
        self.layout = Layout()
        self.settings: CollectionSettings | None = None
        """What the collection stores about how it was made; None for one of another program."""
        self._has_aliases = self.is_remote or self.single_thread
        self._checked_at = -math.inf
        self._payload_indexes = PayloadIndexes(
            name,
            schema=lambda: self.describe().payload_schema,
            create=self.create_payload_index if self.is_remote else None,
        )
        self._limits: StrictLimits | None = None
        self._upload = self._remote_upload(client) if self.is_remote else None
        self._lock = PerProcess(threading.Lock)

    @property
    def client(self) -> QdrantBase:
        """The store's client. In a forked child, that of a server is a new one with the same arguments."""
        if self._engine is not None:
            return self._engine.client
        return self._client if self._connections is None else self._connections.get()

    @property
    def is_remote(self) -> bool:
        """Whether the store is a server, which changes some floats of payloads."""
        return self._connections is not None

    def beside(self, name: str) -> "Collection":
        """Return another collection of the same store."""
        store = self._engine or self.client
        return Collection(store, name, self.location, owned=False, connection=self._connection)

    def only_loads(self) -> None:
        """Repeat all requests to this store for as long as those of a load."""
        self._connection.only_loads = True

    def loading(self) -> contextlib.AbstractContextManager[None]:
        """Repeat the requests that this thread sends inside for as long as those of a load."""
        return self._connection.loading()

    @property
    def write_threads(self) -> int:
        """How many batches of a load are written at once, each in a thread; 0 to use the calling thread.

        A server reads one request while it applies another. The embedded engine makes one call at a time.
        """
        if self.single_thread:
            return 0
        return _SERVER_WRITES if self.is_remote else 1

    @property
    def max_request_bytes(self) -> int | None:
        """Largest request that the store takes; None where no limit is known."""
        return None if self._upload is None else self._upload.max_bytes

    @property
    def limits(self) -> StrictLimits:
        """What the server's strict mode allows, as it was when the collection was described last."""
        if not self.is_remote:
            return NO_LIMITS
        if self._limits is None:
            self.describe()
        return self._limits or NO_LIMITS

    # -- the collection --------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether the store has this collection."""
        return self._request("look for", lambda client: bool(client.collection_exists(self.name)))

    def resolve_alias(self) -> None:
        """Send all requests from now on to the collection that the name is an alias of."""
        if self._has_aliases:
            self.target = self.aliases_in_store().get(self.name, self.name)
            self._checked_at = time.monotonic()

    def aliases_in_store(self) -> dict[str, str]:
        """Return all aliases of the store: alias -> collection."""
        answer = self._send("list the aliases of", lambda client: client.get_aliases())
        return {alias.alias_name: alias.collection_name for alias in answer.aliases}

    def names_in_store(self) -> list[str]:
        """Return the names of all collections of the store."""
        answer = self._send("list the collections beside", lambda client: client.get_collections())
        return [collection.name for collection in answer.collections]

    def switch_alias(self, target: str) -> None:
        """Make the name of this collection, which is an alias, one of another collection, in one call."""
        operations: list[Any] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self.name)),
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=target, alias_name=self.name)
            ),
        ]
        self._connection.send(
            lambda: self.client.update_collection_aliases(change_aliases_operations=operations),
            doing=f"switch alias {self.name!r} to collection {target!r}",
        )

    def check_before_read(self) -> None:
        """Check as `confirmed_write` does, at most once in a second."""
        if time.monotonic() - self._checked_at > _READS_CHECKED_EVERY_S:
            self._check_unchanged()

    def _check_unchanged(self) -> None:
        """Check that the name still belongs to the collection that was opened.

        Another process may switch an alias to a collection of another model, or delete the collection and
        give its name to an alias.

        Raises:
            CollectionMismatchError: If the name belongs to another collection.
        """
        if not self._has_aliases:
            return
        if self.target == self.name:
            unchanged = self._has_stored_settings()
        else:
            unchanged = self.name in self._aliases_of_target()
        if not unchanged:
            raise CollectionMismatchError(
                f"Collection {self.name!r} is no longer the one that this index opened: its alias "
                "was switched, or the collection was replaced. Nothing was written to the new one. Open the "
                "index again."
            )
        self._checked_at = time.monotonic()

    def check_writable(self) -> None:
        """Raise NotSupportedError if the index was opened to read only."""
        if self.read_only:
            raise NotSupportedError(
                f"The index at {self.location!r} is read-only, and nothing was written. Open it without "
                "read_only=True to write to it."
            )

    @contextlib.contextmanager
    def confirmed_write(self, *, checked_for_s: float = 0.0) -> Iterator[None]:
        """Check on a write that the name still belongs to the collection that was opened.

        An alias is checked after the write, which goes to the collection that the alias pointed to: what is
        acknowledged was written while the alias still pointed there.

        Args:
            checked_for_s: Seconds for which an earlier check counts, where the name is no alias.

        Raises:
            CollectionMismatchError: If the name belongs to another collection.
        """
        self.check_writable()
        is_alias = self.target != self.name
        if not is_alias and not time.monotonic() - self._checked_at < checked_for_s:
            self._check_unchanged()
        yield
        if is_alias:
            self._check_unchanged()

    def _has_stored_settings(self) -> bool:
        try:
            config = self._send("describe", lambda client: client.get_collection(self.name)).config
        except StorageError:  # it does not exist, which the request to come reports in its own words
            return True
        return CollectionSettings.from_metadata(config.metadata, self.name) == self.settings

    def _aliases_of_target(self) -> list[str]:
        try:
            answer = self._send(
                "list the aliases of", lambda client: client.get_collection_aliases(self.target)
            )
        except StorageError:  # the collection is gone
            return []
        return [alias.alias_name for alias in answer.aliases]

    def describe(self) -> models.CollectionInfo:
        """Read its configuration and state."""
        info = self._request("describe", lambda client: client.get_collection(self.target))
        self._limits = StrictLimits.of(info.config.strict_mode_config)
        return info

    def create(self, **arguments: Any) -> None:
        """Create it; `arguments` are those of `QdrantClient.create_collection`."""
        self._write("create", lambda client: client.create_collection(self.name, **arguments))

    def drop(self) -> None:
        """Delete it with all it holds."""
        self._write("delete", lambda client: client.delete_collection(self.target))

    def update(self, **changes: Any) -> None:
        """Change its parameters; `changes` are the arguments of `QdrantClient.update_collection`."""
        self._write("change the settings of", lambda client: client.update_collection(self.target, **changes))

    def create_payload_index(self, path: str, schema: Any) -> None:
        """Index a path of the payload; `schema` is what `QdrantClient.create_payload_index` takes."""
        self._write(
            "index a field of",
            lambda client: client.create_payload_index(self.target, field_name=path, field_schema=schema),
        )
        self._payload_indexes.expire()

    @property
    def has_windows(self) -> bool:
        """Whether a document may take several points."""
        return self.settings is not None and self.settings.windows == "points"

    # -- writing points --------------------------------------------------------------------------------------

    def prepared(self, groups: Sequence[Sequence[Point]]) -> list[list[PreparedPoint]]:
        """Return points as `upsert` takes them; nothing is sent."""
        if not self.is_remote:
            return [[to_struct(point) for point in points] for points in groups]
        encode = encode_for_grpc if self._uses_grpc else encode_for_rest
        key = self.layout.metadata_key
        return [
            [encode(Point(p.id, stored_payload(p.payload, key), p.vector)) for p in points]
            for points in groups
        ]

    def upsert(self, groups: Sequence[Sequence[PreparedPoint]]) -> list[int]:
        """Write groups of points, such as the windows of a document; to a server several requests at once.

        The points are those that `prepared` returned.

        A group is complete where its first point is there: that one is written last.

        Returns:
            The positions of the groups that a server does not take, since a point of them is too large. All
            others are written.
        """
        if self._upload is not None:
            return self._upload.write(cast(Sequence[Sequence[bytes]], groups), self.limits)
        for request in cut_groups(groups, max_points=_POINTS_PER_CALL, max_bytes=None):
            points = [point for position in request for point in reversed(groups[position])]
            self._write("write to", partial(_upsert, self.target, cast(list[models.PointStruct], points)))
        return []

    @property
    def _uses_grpc(self) -> bool:
        return bool(self._client._client._prefer_grpc)  # type: ignore[attr-defined]

    def _remote_upload(self, client: QdrantBase) -> Upload:
        upsert = upsert_over_grpc if self._uses_grpc else upsert_over_rest

        def write(points: list[bytes], seconds: int) -> None:
            seconds = min(seconds, self.limits.max_timeout or seconds)
            self._write(
                "write to",
                lambda client: upsert(cast(QdrantClient, client), self.target, points, timeout_s=seconds),
                can_be_cut=True,
            )

        return Upload(
            self._connection,
            write,
            timeout_s=client._client._timeout,  # type: ignore[attr-defined]
            uses_grpc=self._uses_grpc,
        )

    def set_payload(
        self, payload: Mapping[str, Any], points: Sequence[models.ExtendedPointId], *, key: str | None = None
    ) -> None:
        """Set keys of the payload of points, or of the object that they keep under `key`."""
        inside = {} if key is None else {"key": key}
        self._write(
            "change metadata in",
            lambda client: client.set_payload(
                self.target, payload=dict(payload), points=list(points), wait=True, **inside
            ),
        )

    def overwrite_payload(self, payload: Mapping[str, Any], point: models.ExtendedPointId) -> None:
        """Replace the payload of a point."""
        self._write(
            "change metadata in",
            lambda client: client.overwrite_payload(
                self.target, payload=dict(payload), points=[point], wait=True
            ),
        )

    def delete_points(self, points: Sequence[models.ExtendedPointId]) -> None:
        """Delete points by the engine's ids."""
        if points:
            self._delete(models.PointIdsList(points=list(points)))

    def delete_matching(self, filter: models.Filter) -> None:
        """Delete all points that match a filter; an empty one matches all."""
        self._delete(models.FilterSelector(filter=self._engine_filter(filter) or filter))

    def _delete(self, selector: models.PointsSelector) -> None:
        self._write(
            "delete from", lambda client: client.delete(self.target, points_selector=selector, wait=True)
        )

    # -- reading points --------------------------------------------------------------------------------------

    def retrieve(
        self,
        points: Sequence[models.ExtendedPointId],
        *,
        payload: bool | list[str] = True,
        vectors: bool | list[str] = False,
    ) -> list[models.Record]:
        """Read points by the engine's ids, in any order; missing ones are left out.

        Args:
            points: The ids.
            payload: False for none of it, or the keys to read.
            vectors: True for all of them, or their names.
        """
        if not points:
            return []
        records = self._request(
            "read from",
            lambda client: client.retrieve(
                self.target, ids=list(points), with_payload=payload, with_vectors=vectors
            ),
        )
        return self._restored(records)

    def scroll(
        self,
        filter: models.Filter | None = None,
        *,
        batch_size: int = 256,
        payload: bool | list[str] = True,
        vectors: bool | list[str] = False,
    ) -> Iterator[models.Record]:
        """Read all points that match a filter, page after page, in the engine's order.

        Args:
            filter: None for all points.
            batch_size: Points of a page.
            payload: As for `retrieve`.
            vectors: As for `retrieve`.
        """

        engine_filter = self._engine_filter(filter)

        def page(client: QdrantBase) -> tuple[list[models.Record], Any]:
            return client.scroll(
                self.target,
                scroll_filter=engine_filter,
                limit=batch_size,
                offset=offset,
                with_payload=payload,
                with_vectors=vectors,
            )

        offset: Any = None
        batch_size = self.limits.page(batch_size)
        while True:
            records, offset = self._request("read through", page)
            yield from self._restored(records)
            if offset is None:
                return

    def is_empty(self) -> bool:
        """Return whether it has no point at all."""
        return next(self.scroll(batch_size=1, payload=False), None) is None

    def count(self, filter: models.Filter | None = None) -> int:
        """Count points, all or those that match a filter."""
        if not self.limits.allows_exact:  # as exact counts are not allowed either
            return sum(1 for _ in self.scroll(filter, batch_size=1024, payload=False))
        engine_filter = self._engine_filter(filter)
        return self._request(
            "count the documents of",
            lambda client: int(client.count(self.target, count_filter=engine_filter, exact=True).count),
        )

    def query_batch(self, requests: Sequence[models.QueryRequest]) -> list[models.QueryResponse]:
        """Run queries, in as few requests as the store allows; the answers have the order of the queries."""
        requests = [self._with_engine_filters(request) for request in requests]
        if not self.is_remote:
            return self._query(requests)
        limits = self.limits
        queries = [PagedQuery(request, limits) for request in requests]
        size = limits.search_max_batchsize or len(queries)
        while pages := [(query, page) for query in queries if (page := query.next_page()) is not None]:
            for start in range(0, len(pages), size):
                part = pages[start : start + size]
                answers = self._query([page for _, page in part])
                for (query, _), answer in zip(part, answers, strict=True):
                    query.take(answer)
        responses = [query.answer() for query in queries]
        for response in responses:
            self._restored(response.points)
        return responses

    def _query(self, requests: Sequence[models.QueryRequest]) -> list[models.QueryResponse]:
        def send(client: QdrantBase) -> list[models.QueryResponse]:
            if not self.is_remote:
                return client.query_batch_points(self.target, requests=list(requests))
            if self._uses_grpc:
                timeout_s = client._client._timeout  # type: ignore[attr-defined]
                return query_over_grpc(cast(QdrantClient, client), self.target, requests, timeout_s=timeout_s)
            # A client copies all queries, to look for texts that it would encode.
            remote = cast(QdrantBase, client._client)  # type: ignore[attr-defined]
            return remote.query_batch_points(self.target, requests=list(requests))

        return self._request("search", send)

    def _with_engine_filters(self, request: models.QueryRequest) -> models.QueryRequest:
        if request.filter is None and request.prefetch is None:
            return request
        changes: dict[str, Any] = {"filter": self._engine_filter(request.filter)}
        if isinstance(request.prefetch, list):
            changes["prefetch"] = [
                prefetch.model_copy(update={"filter": self._engine_filter(prefetch.filter)})
                for prefetch in request.prefetch
            ]
        return request.model_copy(update=changes)

    # -- the same answers from every store -------------------------------------------------------------------

    def _engine_filter(self, filter: models.Filter | None) -> models.Filter | None:
        """Return a filter that finds the same in every store, with payload indexes and without."""
        if self.single_thread:  # local mode has no payload indexes
            return filter
        if self.is_remote:
            check_conditions(filter, self.server_version)
        filter = self._payload_indexes.exact(filter)
        return widened(filter) if self.is_remote else filter

    def server_version(self) -> str:
        """Return the version of the server, such as "1.18.2"."""
        return self._request("read the version of the server of", lambda client: str(client.info().version))

    def _restored(self, points: list[ReadPoint]) -> list[ReadPoint]:
        if self.is_remote:
            for point in points:
                point.payload = restored_payload(point.payload, self.layout.metadata_key)
        return points

    # -- the client ------------------------------------------------------------------------------------------

    def _write(self, verb: str, send: Callable[[QdrantBase], object], *, can_be_cut: bool = False) -> None:
        self.check_writable()
        self._request(verb, send, can_be_cut=can_be_cut)

    def _request(self, verb: str, send: Callable[[QdrantBase], T], *, can_be_cut: bool = False) -> T:
        """Send a request; where it fails because an alias was switched, say so."""
        try:
            return self._send(verb, send, can_be_cut=can_be_cut)
        except RequestTooLargeError:
            raise
        except StorageError:
            if self.target != self.name:
                self._check_unchanged()
            raise

    def _send(self, verb: str, send: Callable[[QdrantBase], T], *, can_be_cut: bool = False) -> T:
        """Send a request; try again where that can help.

        Args:
            verb: What a message puts before "collection 'docs'": "write to".
            send: Sends it by the client that it is given; safe to repeat.
            can_be_cut: Raise at once where a smaller request may succeed.
        """
        self.check_open()
        client = self.client
        with self._lock.get() if self.single_thread else contextlib.nullcontext():
            try:
                doing = f"{verb} collection {self.name!r}"
                return self._connection.send(lambda: send(client), doing=doing, can_be_cut=can_be_cut)
            except IndexClosedError:
                if self._engine is None or not self._engine.was_replaced(client):
                    raise
        return self._send(verb, send, can_be_cut=can_be_cut)

    def engine_in_subprocess(self) -> None:
        """Move the embedded engine of a large collection to a child process, where it stops no thread here.

        The calls of a small collection are short, and those of a server run elsewhere: these stay. The move
        is final. It may take a second, in which the collection can be used.
        """
        if self._engine is None or self.closed:
            return
        self._engine.move_to_child(
            lambda client: (
                client.collection_exists(self.name) and client.stored_bytes(self.name) >= _LONG_CALLS_FROM
            )
        )

    def optimize(self) -> bool:
        """Merge and index what was written to a folder; return whether there was anything to do."""
        self.check_writable()
        if not hasattr(self.client, "optimize"):
            return False
        return self._request("optimise", lambda client: bool(client.optimize(self.target)))  # type: ignore[attr-defined]

    def refresh(self) -> None:
        """Read a new copy of a folder that was opened to read only; other stores show all writes.

        Raises:
            IndexLockedError: Another process has the folder open to write; the old copy stays in use.
            CollectionNotFoundError: The collection was deleted; the old copy stays in use.
            CollectionMismatchError: The collection was made again with other settings; the same.
        """
        self.check_open()
        if self._engine is not None:
            self._engine.refresh(self._check_same_settings)

    def _check_same_settings(self, client: QdrantBase) -> None:
        config = client.get_collection(self.name).config
        if CollectionSettings.from_metadata(config.metadata, self.name) != self.settings:
            raise CollectionMismatchError(
                f"Collection {self.name!r} at {self.location!r} was made again with another model or other "
                "settings. Open the index again."
            )

    def check_open(self) -> None:
        """Raise IndexClosedError after `close`."""
        if self.closed:
            raise IndexClosedError(
                f"The index at {self.location!r} is closed. Open it again with SpladeIndex(...)."
            )

    def close(self) -> None:
        """Close the client, if the index opened it; a second call does nothing."""
        if not self.closed:
            self.closed = True
            if self.owned:
                (self._engine or self.client).close()


def _connection(location: str, server: ServerOptions, *, owned: bool) -> Connection:
    if owned and is_url(location):
        return connection_to(location, server)
    return Connection(location, retry_for=server.retry_for)


def _upsert(collection: str, points: list[models.PointStruct], client: QdrantBase) -> None:
    client.upsert(collection, points=points, wait=True)


def _is_remote(client: QdrantBase) -> bool:
    return isinstance(getattr(client, "_client", None), QdrantRemote)


def _reconnected(client: QdrantBase) -> QdrantBase:
    return QdrantClient(**{**client.init_options, "check_compatibility": False})  # type: ignore[attr-defined]


def _is_local_mode(client: QdrantBase) -> bool:
    return isinstance(getattr(client, "_client", None), QdrantLocal)
