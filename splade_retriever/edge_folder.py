"""A folder of Qdrant Edge shards, one a collection: locked, laid out so that a kill at any moment leaves it
whole.

    folder/
      .lock                     held by the one client that has the folder open; names its process
      edge.json                 marks the folder as ours, with the format's version
      collections/
        docs-1f2e3d4c/          a readable part of the name, and its hash
          collection.json       name, settings, metadata, payload indexes
          shard/                the engine's files

A collection is built in a folder whose name starts with a dot and moved into place when it is whole; one
that is deleted is moved out first. What is found under such names on opening is what a killed process left,
and removed. One that takes the place of another says so in its collection.json first: from then on, an
opening that finds it half moved ends the move.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from qdrant_client import models

from splade_retriever.edge_convert import Shard, create_shard, load_shard
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    IndexLockedError,
    InputError,
    SpladeError,
    StorageError,
)

__all__ = ["EdgeFolder", "StoredCollection"]

T = TypeVar("T")

_FORMAT: Final = 1
_MARK: Final = "edge.json"
_LEAST_FREE: Final = 32 * 2**20
"""Bytes that must be free to write. The engine writes through memory maps, where a full disk is no error
code but a signal that ends the process; so the last bytes are left alone."""
_WRITES_PER_FLUSH: Final = 256
"""Calls after which the log is worked off: a killed process leaves at most so many (16,384 points of the
upserts of `EdgeClient`, about 7 s) to be done again on opening. A flush itself takes 0.1 to 0.2 s."""
_CLOSING_S: Final = 30.0
"""Longest wait for the call that another thread has in a shard which is being closed."""
_LETTING_GO_S: Final = 5.0
"""Longest wait for a folder whose holder has ended, while its engine's process writes everything out."""
_ENOUGH_MEMORY: Final = 2**30
"""Bytes that must be free on a disk in memory (containers often have one of 64 MiB) for a temporary index."""
_NOT_IN_NAMES: Final = frozenset('<>:"/\\|?*\0\x1f')
_FOREIGN: Final = {
    "meta.json": "a folder of qdrant-client's local mode; open it with QdrantClient(path=...)",
    "edge_config.json": "a bare Qdrant Edge shard; open it with qdrant_edge.EdgeShard.load",
    "raft_state.json": "a Qdrant server's storage; start a server on it",
}


@dataclass(slots=True)
class StoredCollection:
    """One collection: its settings, and its shard once that is open."""

    name: str
    folder: Path
    config: models.CreateCollection
    indexes: dict[str, Any] = field(default_factory=dict)
    """Payload field -> schema as JSON has it."""
    shard: Shard | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    unflushed: int = 0
    """Writes since the log was worked off."""
    replaces: str | None = None
    """The collection whose name and place it takes, while it is being moved there."""

    @property
    def shard_folder(self) -> Path:
        """Where the engine's files are."""
        return self.folder / "shard"

    def save(self) -> None:
        """Write the settings; after a kill either the old ones are there or the new ones."""
        written = {
            "format": _FORMAT,
            "name": self.name,
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "payload_indexes": self.indexes,
            **({} if self.replaces is None else {"replaces": self.replaces}),
        }
        _write_atomically(self.folder / "collection.json", json.dumps(written, indent=1))

    @classmethod
    def read(cls, folder: Path) -> "StoredCollection":
        """Read the settings; the shard stays closed.

        Raises:
            StorageError: If they are damaged or written by a newer version.
        """
        path = folder / "collection.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            if found["format"] != _FORMAT:
                raise StorageError(
                    f"{path} has format {found['format']!r}, this version reads {_FORMAT}. Upgrade "
                    "splade-retriever."
                )
            config = models.CreateCollection(**found["config"])
            return cls(
                found["name"], folder, config, found["payload_indexes"], replaces=found.get("replaces")
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, SpladeError):
                raise
            raise StorageError(
                f"{path} is damaged ({error}), expected a collection's settings. Restore it from a backup, "
                "or move "
                f"{str(folder)!r} away to open the other collections."
            ) from error


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
        with _os_errors(f"open the index folder {self.location!r}"):
            if self.location == ":memory:":
                temporary = True
                path = Path(tempfile.mkdtemp(prefix="splade-edge-", dir=_memory_disk()))
            else:
                path = Path(location).absolute()
            path.mkdir(parents=True, exist_ok=True)
            lock_file = _lock(path, os.getpid() if holder is None else holder)
        self._open = _Open(path, temporary, lock_file)
        self._finalizer = weakref.finalize(self, _release, self._open)
        self._lock = threading.RLock()
        try:
            with _os_errors(f"open the index folder {self.location!r}"):
                _check_mark(path)
                _remove_leftovers(path / "collections")
                self._open.collections.update(_read_all(path / "collections"))
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
            _check_name(name)
            if name in self._open.collections:
                raise InputError(
                    f"collection {name!r} already exists at {self.location!r}. Delete it first, or use "
                    "another name."
                )
            folder = self._open.path / "collections" / _folder_name(name)
            building = folder.with_name(f".new-{folder.name}-{uuid.uuid4().hex[:8]}")
            made = StoredCollection(name, building, config)
            try:
                with _os_errors(f"create collection {name!r} at {self.location!r}"):
                    self.check_space()
                    building.mkdir()
                    shard = self.told(
                        f"create collection {name!r}", lambda: create_shard(made.shard_folder, config)
                    )
                    # The engine keeps its files' paths: it is closed before they move and opened after.
                    self.told(f"create collection {name!r}", shard.close)
                    made.save()
                    os.rename(building, folder)
                    _sync_folder(folder.parent)
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
            with found.lock, _os_errors(f"delete collection {name!r} at {self.location!r}"):
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
            _check_name(name)
            if taking is going:
                raise InputError(f"collection {name!r} cannot take its own place. Name two collections.")
            with (
                taking.lock,
                contextlib.nullcontext() if going is None else going.lock,
                _os_errors(f"put collection {by!r} in the place of {name!r} at {self.location!r}"),
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
                _move_into_place(taking)
                del self._open.collections[by]
                self._open.collections[name] = taking
                _remove_leftovers(taking.folder.parent)

    def save(self, collection: StoredCollection) -> None:
        """Write a collection's settings.

        Raises:
            StorageError: They cannot be written; the old ones stay.
        """
        with _os_errors(f"write the settings of collection {collection.name!r}"):
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
        with _os_errors(f"{doing} collection {collection.name!r}"):
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
            translated = self._translate(error, doing)
            if translated is None:
                raise
            raise translated from error

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

    def _translate(self, error: BaseException, doing: str) -> SpladeError | None:  # noqa: PLR0911 - one a kind
        """Put an error of the engine in our words; None for what is none of its errors.

        Its errors are bare `Exception`s that differ by their text alone; a Rust panic comes as a
        BaseException.
        """
        said = " ".join(str(error).split())
        if not isinstance(error, Exception):
            if type(error).__name__ != "PanicException":
                return None
            return StorageError(
                f"could not {doing}: the engine broke down ({said}). Close the client and open it again; "
                "what was "
                "acknowledged is kept."
            )
        if "not initialized" in said:
            if not self._open.closed:
                return CollectionNotFoundError(
                    f"could not {doing}: it was deleted meanwhile. Create it again."
                )
            return IndexClosedError(
                f"could not {doing}: the EdgeClient at {self.location!r} was closed meanwhile. Open it again."
            )
        if "WouldBlock" in said:
            return IndexLockedError(
                f"could not {doing} at {self.location!r}: another process has its files open. Close it there."
            )
        if "No space left" in said:
            return StorageError(f"could not {doing}: the disk is full ({said}). Make room and go on.")
        remedy = _REMEDIES.get(next((part for part in _REMEDIES if part in said), ""))
        if remedy is not None or isinstance(error, TypeError | ValueError | OverflowError):
            return InputError(f"could not {doing}: {said}. {remedy or 'Mend the argument.'}")
        if type(error) is Exception:
            return StorageError(
                f"could not {doing} at {self.location!r}: the engine says: {said}. Restore the folder from "
                "a backup if "
                "this comes again after opening it anew."
            )
        return None

    def stored_bytes(self, collection: StoredCollection) -> int:
        """Say what a collection takes on the disk, in bytes, without the unused part of reserved files."""
        used = 0
        for item in collection.shard_folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the engine removes what it has merged
                found = item.stat()
                blocks: int | None = getattr(found, "st_blocks", None)  # of 512 bytes; Windows counts none
                used += found.st_size if blocks is None else blocks * 512
        return used

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


_REMEDIES: Final = {
    "Not existing vector name": "Name one of the collection's vectors.",
    "Vector dimension error": "Use the encoder that the collection was made for.",
    "Wrong usage of sparse vectors": "Name a vector of the kind that you pass.",
    "Conversion between": "Name a vector of the kind that you pass.",
    "No range index": "Create one with create_payload_index, of type integer, float or datetime.",
    "No appropriate index": "Create one with create_payload_index.",
    "No point with id": "Write to points that are there; the others of the call are done.",
    "already exists with different parameters": "Delete it first, or use another name.",
    "Validation failed": "Mend the argument.",
    "Bad request": "Mend the argument.",
    "Validation error": "Mend the argument.",
    "Wrong input": "Mend the argument.",
    "index required": "Create it with create_payload_index.",
    "Index required": "Create it with create_payload_index.",
}
"""Part of the engine's text for a wrong argument -> what to do."""


@contextlib.contextmanager
def _os_errors(doing: str) -> Iterator[None]:
    """Translate what the operating system refuses."""
    try:
        yield
    except SpladeError:
        raise
    except OSError as error:
        raise StorageError(
            f"could not {doing}: {error.strerror or error} ({error.filename}). Nothing is served or "
            "written; choose a "
            "folder that can be written."
        ) from error


def _check_name(name: str) -> None:
    bad = sorted(set(name) & _NOT_IN_NAMES)
    if bad or name in ("", ".", "..") or len(name) > 255:
        raise InputError(
            f"collection name {name!r} holds {bad or 'nothing to call it by'}, expected 1 to 255 characters "
            "other than "
            f"{''.join(sorted(_NOT_IN_NAMES - set(chr(0) + chr(31))))}. Choose another."
        )


def _folder_name(name: str) -> str:
    """Name a collection's folder: safe on every file system, also one that takes "A" for "a"."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "collection"
    return f"{readable}-{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def _check_mark(path: Path) -> None:
    """See that the folder is ours, or empty and so can be."""
    mark = path / _MARK
    if mark.is_file():
        try:
            found = json.loads(mark.read_text("utf-8")).get("format")
        except (ValueError, AttributeError):
            found = "unreadable"
        if found != _FORMAT:
            raise StorageError(
                f"{mark} has format {found!r}, this version reads {_FORMAT}. Upgrade splade-retriever."
            )
    else:
        there = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        if there and there != ["lost+found"]:
            told = next((text for name, text in _FOREIGN.items() if name in there), None)
            what = told or f"not an index (it holds {', '.join(map(repr, there[:5]))})"
            raise StorageError(f"the folder {str(path)!r} is {what}. Choose an empty folder or a new name.")
        _write_atomically(mark, json.dumps({"format": _FORMAT}))
    (path / "collections").mkdir(exist_ok=True)


def _read_all(folder: Path) -> dict[str, StoredCollection]:
    """Read all collections, by name, and end the moves that a killed process has begun."""
    found = [StoredCollection.read(item) for item in sorted(folder.iterdir())]
    moving = [collection for collection in found if collection.replaces is not None]
    named = {collection.name: collection for collection in found if collection.replaces is None}
    for collection in moving:
        _move_into_place(collection)
        named[collection.name] = collection
    if moving:
        _remove_leftovers(folder)
    return named


def _move_into_place(collection: StoredCollection) -> None:
    """Move a collection to where the one lies that it replaces; each step can be the first after a kill."""
    assert collection.replaces is not None
    place = collection.folder.with_name(_folder_name(collection.replaces))
    if place != collection.folder:
        if place.exists():
            os.rename(place, place.with_name(f".old-{place.name}-{uuid.uuid4().hex[:8]}"))
        os.rename(collection.folder, place)
        _sync_folder(place.parent)
    collection.folder = place
    collection.name, collection.replaces = collection.replaces, None
    collection.save()


def _remove_leftovers(folder: Path) -> None:
    for item in folder.iterdir():
        if item.name.startswith("."):
            shutil.rmtree(item)


def _write_atomically(path: Path, text: str) -> None:
    waiting = path.with_name(f".{path.name}.new")
    with open(waiting, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(waiting, path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if sys.platform == "win32":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _memory_disk() -> str | None:
    """Find a disk in memory with room for an index; None where the system's temporary folder must do."""
    path = "/dev/shm"
    if os.access(path, os.W_OK) and shutil.disk_usage(path).free >= _ENOUGH_MEMORY:
        return path
    return None


def _lock(path: Path, process: int) -> IO[str]:
    """Take the folder for a process; the system lets go of it when the one that asks ends, however it ends.

    Raises:
        IndexLockedError: Naming who has it.
    """
    file = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - stays open as long as the folder
    give_up = time.monotonic() + _LETTING_GO_S
    while True:
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip()
            if _has_ended(holder) and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            file.close()
            raise _locked(path, holder) from error
        file.truncate(0)
        file.write(str(process))
        file.flush()
        return file


def _has_ended(process: str) -> bool:
    """Say whether a process is gone; its engine, in a child of its own, is about to end then, too."""
    if sys.platform == "win32" or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _locked(path: Path, holder: str) -> IndexLockedError:
    if holder == str(os.getpid()):
        return IndexLockedError(
            f"the index folder {str(path)!r} is open already in this process. Use that client or index "
            "(several collections and threads may share it), or close it first."
        )
    return IndexLockedError(
        f"the index folder {str(path)!r} is open in another process ({holder or 'unknown'}). Close it "
        "there, or use a Qdrant server, which many processes can share."
    )


def _lock_file(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(2**30)  # beyond the text, which others must be able to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
