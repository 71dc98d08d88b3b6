# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""EdgeProcess: an EdgeClient in a child process, so that no call of the engine blocks this process's threads.

Qdrant Edge holds the interpreter's lock for the length of every call: some milliseconds for a search or a
small write, seconds for opening or optimising a large collection. No other thread runs meanwhile, and an
event loop stands still. Here a child process makes the calls; a thread that waits for the answer holds
no lock.

Requests and answers are pickles through two pipes, each after its length in 8 bytes, one request at a time.
The child ends when its input does, so also when this process is killed; the engine's log keeps acknowledged
writes.
"""

import contextlib
import functools
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.arguments import check_options
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.delegation import Method
from splade_retriever.edge.forks import check_process, detach_in_child, replace_descriptors
from splade_retriever.edge.point_rows import rows_of_columns, rows_of_points
from splade_retriever.edge.write import write_stream
from splade_retriever.errors import (
    IndexClosedError,
    InputError,
    NotSupportedError,
    SpladeError,
    StorageError,
)

__all__ = ["EdgeProcess", "serve"]

P = ParamSpec("P")
R = TypeVar("R")

_LENGTH: Final = struct.Struct("<Q")
_START: Final = """
import sys
sys.path[:] = {path!r}
sys.modules["fastembed"] = None
from splade_retriever.edge.process import serve
serve()
"""
"""qdrant-client imports FastEmbed if it is installed, which takes half a second and is not needed here."""
_ENDING_TIMEOUT_S: Final = 60.0
"""Longest wait for the child to flush and end."""


def _forward(method: Callable[Concatenate[Any, P], R]) -> Method[P, R]:
    """Make a method that calls this method of the EdgeClient in the child."""

    @functools.wraps(method)
    def call(self: "EdgeProcess", /, *args: P.args, **kwargs: P.kwargs) -> R:
        answer: R = self._request(method.__name__, args, kwargs)
        return answer

    return cast("Method[P, R]", call)


@dataclass(eq=False)
class _Child:
    """A child process, which must be ended even if nobody calls `close`."""

    process: "subprocess.Popen[bytes]"
    temporary: Path | None = None
    """A folder to remove if the child did not."""
    parent: int = field(default_factory=os.getpid)
    closed: bool = False

    def detach(self) -> None:
        """Leave the child to the parent process; called in a forked child."""
        pipes = (self.process.stdin, self.process.stdout)
        replace_descriptors(pipe.fileno() for pipe in pipes if pipe is not None and not pipe.closed)


class EdgeProcess(QdrantBase):
    """qdrant-client's interface on a folder whose engine runs in a child process.

    Has the methods, answers and errors of `EdgeClient`; arguments and answers are sent as pickles, which
    costs a copy per call. Safe to use from several threads: one call is made at a time, and the threads that
    wait for it hold no lock.
    """

    def __init__(
        self,
        location: str | Path = ":memory:",
        *,
        create: bool = True,
        read_only: bool = False,
        ignore_damage: bool = False,
    ) -> None:
        """Start the child, and open or create a folder in it.

        Args:
            location: The folder, or ":memory:" for a temporary one, which is removed on `close`, or when this
                process ends, however it ends.
            create: Whether a folder that does not exist, or is empty, becomes an index.
            read_only: Open a private copy of the folder, and refuse writes; see `EdgeClient`.
            ignore_damage: Open collections whose files are damaged, to read what is left.

        Raises:
            IndexLockedError: If the folder is already open, here or in another process.
            StorageError: If the folder cannot be read or written, or is not an index.
            NotSupportedError: If no child process can be started here.
        """
        super().__init__()
        self._attach(_start(), str(location))
        self._read_only = read_only
        self._open(location, create=create, read_only=read_only, ignore_damage=ignore_damage)

    @classmethod
    def taking_over(cls, client: EdgeClient) -> Self:
        """Start a child, close a client and open its folder in the child. A temporary folder is kept.

        The client can be used until the child has started.

        Raises:
            IndexClosedError: If the client is closed.
            NotSupportedError: If no child process can be started here. The client stays open.
        """
        process = _start()
        taken = cls.__new__(cls)
        QdrantBase.__init__(taken)
        taken._attach(process, client.location)
        taken._read_only = client.read_only
        try:
            path, temporary = client.hand_over()
        except BaseException:
            taken._finalizer()
            raise
        taken._child.temporary = path if temporary else None
        taken._open(path, temporary=temporary, read_only=client.read_only)
        return taken

    def _attach(self, process: "subprocess.Popen[bytes]", location: str) -> None:
        self._location = location
        self._child = _Child(process)
        detach_in_child(self._child)
        self._finalizer = weakref.finalize(self, _end, self._child)
        self._lock = threading.Lock()

    def _open(self, folder: str | Path, **options: bool) -> None:
        try:
            self._request("open", (folder,), {"holder": os.getpid(), **options})
        except BaseException:
            self._finalizer()
            raise

    @property
    def location(self) -> str:
        """The folder as it was passed, or ":memory:"."""
        return self._location

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._child.closed

    @property
    def ended(self) -> bool:
        """Whether the child has ended, by `close` or because it was killed."""
        return self._child.closed or self._child.process.poll() is not None

    @property
    def read_only(self) -> bool:
        """Whether the client refuses writes."""
        return self._read_only

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._child.process.pid

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Write everything to the disk, release the folder and end the child. A second call does nothing.

        Raises:
            StorageError: If the engine could not write everything.
        """
        if self._child.parent != os.getpid():  # where the lock may be held by a thread of the parent
            return
        with self._lock:
            if self._child.closed:
                return
            try:
                if self._child.process.poll() is None:
                    self._exchange("close", (), {})
            finally:
                self._finalizer()

    def hand_over(self) -> tuple[Path, bool]:
        """Close, and leave the folder to the next client; see `EdgeClient.hand_over`."""
        path, temporary = self._request("hand_over", (), {})
        self._child.temporary = None
        self.close()
        return path, temporary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"EdgeProcess({self.location!r}, process {self.process_id}{state})"

    def migrate(
        self,
        dest_client: QdrantBase,
        collection_names: list[str] | None = None,
        batch_size: int = 100,
        recreate_on_collision: bool = False,
    ) -> None:
        """Copy collections into another client, such as a server's."""
        from qdrant_client.migrate.migrate import migrate

        migrate(
            self,
            dest_client,
            collection_names=collection_names,
            batch_size=batch_size,
            recreate_on_collision=recreate_on_collision,
        )

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a stream of points of any length in bounded memory; see `upsert`.

        Raises:
            InputError: If a point is not valid. The points before its group of 64 are written.
        """
        check_options("upload_points", kwargs, shard_key_selector=shard_key_selector)
        rows = rows_of_points(points)
        write_stream(self.upsert_rows, collection_name, rows, update_filter, update_mode)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add columns: an array of vectors, a dict of arrays by name, or an iterable of vectors.

        Without ids each point gets a random UUID4. Ends with the shortest column.
        """
        check_options("upload_collection", kwargs, shard_key_selector=shard_key_selector)
        rows = rows_of_columns(vectors, ids=ids, payloads=payload)
        write_stream(self.upsert_rows, collection_name, rows, update_filter, update_mode)

    info = _forward(EdgeClient.info)
    get_collections = _forward(EdgeClient.get_collections)
    collection_exists = _forward(EdgeClient.collection_exists)
    create_collection = _forward(EdgeClient.create_collection)
    recreate_collection = _forward(EdgeClient.recreate_collection)
    delete_collection = _forward(EdgeClient.delete_collection)
    replace_collection = _forward(EdgeClient.replace_collection)
    get_collection = _forward(EdgeClient.get_collection)
    update_collection = _forward(EdgeClient.update_collection)
    create_vector_name = _forward(EdgeClient.create_vector_name)
    delete_vector_name = _forward(EdgeClient.delete_vector_name)
    create_payload_index = _forward(EdgeClient.create_payload_index)
    delete_payload_index = _forward(EdgeClient.delete_payload_index)
    optimize = _forward(EdgeClient.optimize)
    stored_bytes = _forward(EdgeClient.stored_bytes)
    damaged_files = _forward(EdgeClient.damaged_files)
    unoptimized_bytes = _forward(EdgeClient.unoptimized_bytes)
    flush = _forward(EdgeClient.flush)

    upsert = _forward(EdgeClient.upsert)
    upsert_rows = _forward(EdgeClient.upsert_rows)
    update_vectors = _forward(EdgeClient.update_vectors)
    delete_vectors = _forward(EdgeClient.delete_vectors)
    delete = _forward(EdgeClient.delete)
    set_payload = _forward(EdgeClient.set_payload)
    overwrite_payload = _forward(EdgeClient.overwrite_payload)
    delete_payload = _forward(EdgeClient.delete_payload)
    clear_payload = _forward(EdgeClient.clear_payload)
    batch_update_points = _forward(EdgeClient.batch_update_points)

    retrieve = _forward(EdgeClient.retrieve)
    scroll = _forward(EdgeClient.scroll)
    count = _forward(EdgeClient.count)
    facet = _forward(EdgeClient.facet)

    query_points = _forward(EdgeClient.query_points)
    query_batch_points = _forward(EdgeClient.query_batch_points)
    query_points_groups = _forward(EdgeClient.query_points_groups)

    search_matrix_pairs = EdgeClient.search_matrix_pairs
    search_matrix_offsets = EdgeClient.search_matrix_offsets
    update_collection_aliases = EdgeClient.update_collection_aliases
    get_collection_aliases = EdgeClient.get_collection_aliases
    get_aliases = EdgeClient.get_aliases
    list_snapshots = EdgeClient.list_snapshots
    create_snapshot = EdgeClient.create_snapshot
    delete_snapshot = EdgeClient.delete_snapshot
    list_full_snapshots = EdgeClient.list_full_snapshots
    create_full_snapshot = EdgeClient.create_full_snapshot
    delete_full_snapshot = EdgeClient.delete_full_snapshot
    recover_snapshot = EdgeClient.recover_snapshot
    list_shard_snapshots = EdgeClient.list_shard_snapshots
    create_shard_snapshot = EdgeClient.create_shard_snapshot
    delete_shard_snapshot = EdgeClient.delete_shard_snapshot
    recover_shard_snapshot = EdgeClient.recover_shard_snapshot
    create_shard_key = EdgeClient.create_shard_key
    delete_shard_key = EdgeClient.delete_shard_key
    list_shard_keys = EdgeClient.list_shard_keys
    cluster_collection_update = EdgeClient.cluster_collection_update
    collection_cluster_info = EdgeClient.collection_cluster_info
    cluster_status = EdgeClient.cluster_status
    cluster_telemetry = EdgeClient.cluster_telemetry
    recover_current_peer = EdgeClient.recover_current_peer
    remove_peer = EdgeClient.remove_peer
    get_optimizations = EdgeClient.get_optimizations

    def _request(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        check_process(self._child.parent, f"The EdgeProcess at {self.location!r}")
        with self._lock:
            if self._child.closed:
                raise IndexClosedError(
                    f"The EdgeProcess at {self.location!r} is closed. Open the folder again with "
                    "EdgeProcess(...)."
                )
            return self._exchange(method, args, kwargs)

    def _exchange(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        doing = method.replace("_", " ")
        process = self._child.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            request = pickle.dumps((method, args, kwargs), protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InputError(
                f"Could not {doing}: an argument cannot be sent to the engine's process ({error}). Pass "
                "lists and plain values."
            ) from error
        try:
            _send(process.stdin, request)
            answer = _receive(process.stdout)
        except OSError:
            answer = None
        except BaseException:  # after an interruption the next answer would be this call's: stop the child
            process.kill()
            raise
        if answer is None:
            code = process.wait()
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            raise StorageError(
                f"Could not {doing} at {self.location!r}: the engine's process ended {how}. Open the index "
                "again; acknowledged writes are kept."
            )
        succeeded, value = pickle.loads(answer)
        try:
            if not succeeded:
                raise value
            return value
        finally:
            del value  # a traceback that refers to itself would keep this client


def _start() -> "subprocess.Popen[bytes]":
    """Start a child and wait until it takes requests.

    Raises:
        NotSupportedError: If it does not start.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert process.stdout is not None
        ready = _receive(process.stdout)
    except OSError as error:
        raise NotSupportedError(
            f"No process for the engine can be started here ({error}). Use EdgeClient, or a Qdrant server."
        ) from error
    if ready is None:
        code = process.wait()
        _close_pipes(process)
        raise NotSupportedError(
            f"The engine's process ended with code {code} while it started. See its messages in the error "
            "output. Use EdgeClient, or a Qdrant server."
        )
    return process


def _end(child: _Child) -> None:
    """End a child by ending its input; also called when its client is garbage, and at exit."""
    child.closed = True
    if child.parent != os.getpid():  # a forked process must not touch its parent's child
        return
    process = child.process
    _close_pipes(process)
    try:
        process.wait(_ENDING_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if child.temporary is not None:
        shutil.rmtree(child.temporary, ignore_errors=True)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def serve() -> None:
    """Answer requests from the input until it ends; runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the child
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing printed may come between the answers
    _send(sink, b"ready")
    client: EdgeClient | None = None
    with contextlib.suppress(BrokenPipeError):
        while (request := _receive(source)) is not None:
            try:
                method, args, kwargs = pickle.loads(request)
                if method == "open":
                    client, value = EdgeClient(*args, **kwargs), None
                else:
                    value = getattr(client, method)(*args, **kwargs)
                answer = pickle.dumps((True, value), protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # noqa: BLE001 - the parent raises it
                answer = _pickled(error)
            _send(sink, answer)
    if client is not None:
        client.close()


def _pickled(error: Exception) -> bytes:
    """Pickle an error, or a StorageError with its text if it cannot be restored from a pickle."""
    if not isinstance(error, SpladeError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickled = pickle.dumps((False, error))
        pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - a foreign class may raise anything
        failure = StorageError(f"The engine's process failed: {type(error).__name__}: {error}.")
        return pickle.dumps((False, failure))
    return pickled


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Read one message; None if the other side has ended."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None
