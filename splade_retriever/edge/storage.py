"""An open folder of Qdrant Edge shards: its collections, and the calls to their shards.

What lies on the disk, and how a killed process leaves it whole, is in `edge_stored`.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from qdrant_client import models

from splade_retriever.edge.convert_points import Shard, create_shard, load_shard
from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.edge.engine_errors import os_errors, translated
from splade_retriever.edge.layout import (
    StoredCollection,
    check_mark,
    check_name,
    folder_name,
    move_into_place,
    read_all,
    remove_leftovers,
    sync_folder,
)
from splade_retriever.edge.lock import take_lock
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
    SpladeError,
    StorageError,
)

__all__ = ["EdgeFolder"]

T = TypeVar("T")

_LEAST_FREE: Final = 32 * 2**20
"""Bytes that must be free to write. The engine writes through memory maps, where a full disk is no error
code but a signal that ends the process; so the last bytes are left alone."""
_WRITES_PER_FLUSH: Final = 256
"""Calls after which the log is worked off: a killed process leaves at most so many (16,384 points of the
upserts of `EdgeClient`, about 7 s) to be done again on opening. A flush itself takes 0.1 to 0.2 s."""
_CLOSING_S: Final = 30.0
"""Longest wait for the call that another thread has in a shard which is being closed."""
_ENOUGH_MEMORY: Final = 2**30
"""Bytes that must be free on a disk in memory (containers often have one of 64 MiB) for a temporary index."""


@dataclass(slots=True)
class _Open:
    """All that an open folder holds and that must be let go of, also when nobody calls `close`."""

    path: Path
    temporary: bool
    lock_file: IO[str]
    process: int = field(default_factory=os.getpid)
    collections: dict[str, StoredCollection] = field(default_factory=dict)
    closed: bool = False


class EdgeFolder:
    """An open folder. Safe to use from several threads; one client of one process has it at a time."""

    def __init__(self, location: str | Path, *, temporary: bool = False, holder: int | None = None) -> None:
        """Open a folder, or make it; ":memory:" is a temporary one, removed on close.

        Args:
            location: The folder, or ":memory:".
            temporary: Remove this folder, too, on close.
            holder: The process for which the folder is held; None for this one.

        Raises:
            IndexLockedError: It is open already, here or in another process.
            StorageError: It cannot be read or written, or is not ours.
        """
        if not isinstance(location, str | Path):
            raise InputError(f"location is a {type(location).__name__}, expected a folder or ':memory:'.")
        self.location = str(location)
        with os_errors(f"open the index folder {self.location!r}"):
            if self.location == ":memory:":
                temporary = True
                path = Path(tempfile.mkdtemp(prefix="splade-edge-", dir=_memory_disk()))
            else:
                path = Path(location).absolute()
            path.mkdir(parents=True, exist_ok=True)
            lock_file = take_lock(path, os.getpid() if holder is None else holder)
        self._open = _Open(path, temporary, lock_file)
        self._finalizer = weakref.finalize(self, _release, self._open)
        self._lock = threading.RLock()
        try:
            with os_errors(f"open the index folder {self.location!r}"):
                check_mark(path)
                remove_leftovers(path / "collections")
                self._open.collections.update(read_all(path / "collections"))
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._open.closed

    @property
    def names(self) -> list[str]:
        """The collections' names, sorted."""
        self.check_open()
        return sorted(self._open.collections)

    def check_open(self) -> None:
        """Raise IndexClosedError after `close`."""
        if self._open.closed:
            raise IndexClosedError(
                f"the EdgeClient at {self.location!r} is closed. Open it again with EdgeClient(...)."
            )

    def get(self, name: str) -> StoredCollection:
        """Find a collection.

        Raises:
            CollectionNotFoundError: Naming those there are.
        """
        self.check_open()
        found = self._open.collections.get(name)
        if found is None:
            there = ", ".join(map(repr, self.names)) or "none"
            raise CollectionNotFoundError(
                f"there is no collection {name!r} at {self.location!r} (found: {there}). Check the name, or "
                "create it "
                "with create_collection."
            )
        return found

    def has(self, name: str) -> bool:
        """Say whether there is such a collection."""
        self.check_open()
        return name in self._open.collections

    def create(self, name: str, config: models.CreateCollection) -> StoredCollection:
        """Make a collection; killed on the way, none is there.

        Raises:
            InputError: A bad name, or one that is taken.
            StorageError: The engine or the disk failed.
        """
        with self._lock:
            self.check_open()
            check_name(name)
            if name in self._open.collections:
                raise InputError(
                    f"collection {name!r} already exists at {self.location!r}. Delete it first, or use "
                    "another name."
                )
            folder = self._open.path / "collections" / folder_name(name)
            building = folder.with_name(f".new-{folder.name}-{uuid.uuid4().hex[:8]}")
            made = StoredCollection(name, building, config)
            try:
                with os_errors(f"create collection {name!r} at {self.location!r}"):
                    self.check_space()
                    building.mkdir()
                    shard = self.told(
                        f"create collection {name!r}", lambda: create_shard(made.shard_folder, config)
                    )
                    # The engine keeps its files' paths: it is closed before they move and opened after.
                    self.told(f"create collection {name!r}", shard.close)
                    made.save()
                    os.rename(building, folder)
                    sync_folder(folder.parent)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            made.folder = folder
            self._open.collections[name] = made
            return made

    def delete(self, name: str) -> bool:
        """Delete a collection; False where there is none."""
        with self._lock:
            self.check_open()
            found = self._open.collections.get(name)
            if found is None:
                return False
            with found.lock, os_errors(f"delete collection {name!r} at {self.location!r}"):
                going = found.folder.with_name(f".old-{found.folder.name}-{uuid.uuid4().hex[:8]}")
                if found.shard is not None:
                    self.told(f"close collection {name!r}", found.shard.close)
                os.rename(found.folder, going)
                del self._open.collections[name]
                found.shard = None
                shutil.rmtree(going, ignore_errors=True)
            return True

    def replace(self, name: str, by: str, metadata: dict[str, Any] | None) -> None:
        """Give a collection the name and place of another, which is deleted, and new metadata.

        All of it happens, or nothing: killed before the settings are written, both collections are as they
        were; killed after, the next opening ends the move.

        Raises:
            CollectionNotFoundError: There is no collection of the name `by`.
            StorageError: The disk failed.
        """
        with self._lock:
            taking, going = self.get(by), self._open.collections.get(name)
            check_name(name)
            if taking is going:
                raise InputError(f"collection {name!r} cannot take its own place. Name two collections.")
            with (
                taking.lock,
                contextlib.nullcontext() if going is None else going.lock,
                os_errors(f"put collection {by!r} in the place of {name!r} at {self.location!r}"),
            ):
                for collection in (taking, *([] if going is None else [going])):
                    if collection.shard is not None:  # its files are closed before they move
                        shard, collection.shard = collection.shard, None
                        self.told(f"flush collection {collection.name!r}", shard.flush)
                        self.told(f"close collection {collection.name!r}", shard.close)
                before = taking.config
                taking.config = before.model_copy(update={"metadata": metadata})
                taking.replaces = name
                try:
                    taking.save()  # from here on it is decided
                except BaseException:
                    taking.config, taking.replaces = before, None
                    raise
                move_into_place(taking)
                del self._open.collections[by]
                self._open.collections[name] = taking
                remove_leftovers(taking.folder.parent)

    def save(self, collection: StoredCollection) -> None:
        """Write a collection's settings.

        Raises:
            StorageError: They cannot be written; the old ones stay.
        """
        with os_errors(f"write the settings of collection {collection.name!r}"):
            collection.save()

    def reload(self, collection: StoredCollection) -> None:
        """Give the engine changed settings: the shard is closed and opened with them."""
        with collection.lock:
            if collection.shard is not None:
                shard, collection.shard = collection.shard, None
                self.told(f"close collection {collection.name!r}", shard.close)
            collection.shard = self.told(
                f"open collection {collection.name!r}",
                lambda: load_shard(collection.shard_folder, collection.config),
            )

    def read(self, collection: StoredCollection, doing: str, call: Callable[[Shard], T]) -> T:
        """Make a call to a collection's shard, opening it first where needed.

        Raises:
            IndexClosedError: After `close`.
            InputError: What was asked for is wrong.
            StorageError: The engine failed.
        """
        shard = collection.shard
        if shard is None:
            shard = self._load(collection)
        self.check_open()
        return self.told(f"{doing} collection {collection.name!r}", lambda: call(shard))

    def write(self, collection: StoredCollection, doing: str, call: Callable[[Shard], T]) -> T:
        """Make a call that writes; see `read`.

        Raises:
            StorageError: The disk is nearly full; nothing was written.
        """
        with os_errors(f"{doing} collection {collection.name!r}"):
            self.check_space()
        answer = self.read(collection, doing, call)
        collection.unflushed += 1
        if collection.unflushed >= _WRITES_PER_FLUSH:
            collection.unflushed = 0
            self.read(collection, "flush", lambda shard: shard.flush())
        return answer

    def told(self, doing: str, call: Callable[[], T]) -> T:
        """Call the engine, or build what it takes, and put its errors in our words."""
        try:
            return call()
        except SpladeError:
            raise
        except BaseException as error:
            told = translated(error, doing, location=self.location, closed=self._open.closed)
            if told is None:
                raise
            raise told from error

    def check_space(self, *, beside: int = 0) -> None:
        """Raise StorageError when the disk is nearly full, or would be with so many bytes more on it."""
        free = shutil.disk_usage(self._open.path).free
        if free < _LEAST_FREE + beside:
            raise StorageError(
                f"the disk of the index folder {self.location!r} is full: {free >> 20} MiB are free, "
                f"{(_LEAST_FREE + beside) >> 20} "
                "are needed to write safely. Nothing was written. Make room and go on; what was "
                "acknowledged is kept."
            )

    def _load(self, collection: StoredCollection) -> Shard:
        with collection.lock:
            if collection.shard is None:
                self.check_open()
                if self.get(collection.name) is not collection:  # it may have been deleted while we waited
                    raise CollectionNotFoundError(
                        f"collection {collection.name!r} at {self.location!r} was replaced meanwhile by a "
                        "new one of that name. Open its index again."
                    )
                collection.shard = self.told(
                    f"open collection {collection.name!r}", lambda: load_shard(collection.shard_folder)
                )
            return collection.shard

    def stored_bytes(self, collection: StoredCollection) -> int:
        """Return the bytes that a collection takes on disk."""
        return disk_usage(collection.shard_folder)

    def hand_over(self) -> tuple[Path, bool]:
        """Close as `close` does, but keep a temporary folder.

        Returns:
            The folder, and whether it is a temporary one, which whoever opens it next has to remove.

        Raises:
            IndexClosedError: After `close`.
        """
        with self._lock:
            self.check_open()
            path, temporary = self._open.path, self._open.temporary
            self._open.temporary = False
            self._finalizer()
            return path, temporary

    def close(self) -> None:
        """Write out and close every shard, and let go of the folder; a second call does nothing."""
        with self._lock:
            self._finalizer()


def _memory_disk() -> str | None:
    """Find a disk in memory with room for an index; None where the system's temporary folder must do."""
    path = "/dev/shm"
    if os.access(path, os.W_OK) and shutil.disk_usage(path).free >= _ENOUGH_MEMORY:
        return path
    return None


def _close(shard: Shard) -> None:
    """Close a shard as soon as the call that another thread may have in it is over.

    No new call begins, since the collection has let go of the shard. PyO3 refuses to close it under a call.
    """
    give_up = time.monotonic() + _CLOSING_S
    while True:
        try:
            shard.close()
        except RuntimeError as error:
            if "borrowed" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.001)
        else:
            return


def _release(opened: _Open) -> None:
    """Let go of a folder; also called when its client is garbage, and when the interpreter ends."""
    if opened.closed or opened.process != os.getpid():  # a forked child has no say in its parent's folder
        return
    opened.closed = True
    faults: list[Exception] = []
    for collection in opened.collections.values():
        shard, collection.shard = collection.shard, None
        if shard is not None:
            try:
                if not opened.temporary:
                    shard.flush()
                _close(shard)
            except Exception as error:  # noqa: BLE001 - the others must be closed all the same
                faults.append(error)
    opened.lock_file.close()
    if opened.temporary:
        shutil.rmtree(opened.path, ignore_errors=True)
    elif faults:
        raise StorageError(
            f"closing the index folder {str(opened.path)!r} failed: {faults[0]}. What was acknowledged is "
            "in its log "
            "and comes back when it is opened."
        ) from faults[0]
