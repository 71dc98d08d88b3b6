"""An open folder of Qdrant Edge shards: its collections, and the calls to their shards.

`layout` describes the files, and how a killed process leaves them consistent; `folders` opens and releases
them.
"""

import contextlib
import itertools
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from qdrant_client import models

from splade_retriever.edge.convert_config import Shard, create_shard, load_shard
from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.edge.engine_errors import os_errors, translated
from splade_retriever.edge.folders import open_folder, open_snapshot, release
from splade_retriever.edge.forks import check_process
from splade_retriever.edge.layout import (
    StoredCollection,
    check_name,
    check_regular,
    folder_name,
    move_into_place,
    new_folder,
    old_folder,
    remove_leftovers,
    sync_folder,
)
from splade_retriever.edge.load_guard import load_fault
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
    NotSupportedError,
    SpladeError,
    StorageError,
)
from splade_retriever.validation import type_name

__all__ = ["IDS_PER_CALL", "MIN_FREE_BYTES", "EdgeFolder", "batched"]

T = TypeVar("T")

IDS_PER_CALL: Final = 256
"""Points that one call of the engine reads or changes by their ids. The call holds the GIL meanwhile."""
MIN_FREE_BYTES: Final = 32 * 2**20
"""Bytes that must be free to write. The engine writes through memory maps, where a full disk is not an error
code but a signal that ends the process, so the last bytes stay unused."""
_WRITES_PER_FLUSH: Final = 256
"""Calls after which the log is applied: after a kill at most this many (16,384 points of the upserts of
`EdgeClient`, about 7 s) are repeated on opening. A flush takes 0.1 to 0.2 s."""


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of `size`; the last may be shorter. Reads no further than it yields."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class EdgeFolder:
    """A client's view of an open folder. Safe to use from several threads.

    The clients of one process share the engine; the last one to close closes it.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        temporary: bool = False,
        holder: int | None = None,
        create: bool = True,
        read_only: bool = False,
        ignore_damage: bool = False,
    ) -> None:
        """Open a folder, or create it; ":memory:" is a temporary one, removed on close.

        Args:
            location: The folder, or ":memory:".
            temporary: Remove this folder, too, on close. With read_only=True it is a copy already.
            holder: The process for which the folder is held; None for this one.
            create: Whether a folder that does not exist, or is empty, becomes an index.
            read_only: Open a copy of the folder, and refuse writes.
            ignore_damage: Open also collections whose files differ from their checksums, to save what can be
                read.

        Raises:
            CollectionNotFoundError: If there is no index, with create=False or read_only=True.
            IndexLockedError: If another process has the folder open.
            StorageError: If it cannot be read or written, or is not an index.
        """
        if not isinstance(location, str | Path):
            raise InputError(f"Location is {type_name(location)}, expected a folder or ':memory:'.")
        if read_only and str(location) == ":memory:":
            raise InputError("A folder in memory cannot be opened with read_only=True. Name a folder.")
        self.location = str(location)
        self.read_only = read_only
        self._ignore_damage = ignore_damage
        remedy = "Choose a folder that can be written, or read an index with read_only=True."
        with os_errors(f"open the index folder {self.location!r}", remedy):
            self._open = (
                open_snapshot(location)
                if read_only and not temporary
                else open_folder(
                    location, temporary=temporary, holder=holder, create=create, checked=read_only
                )
            )
        self._finalizer = weakref.finalize(self, release, self._open)
        self._lock = self._open.lock

    @property
    def path(self) -> Path:
        """The folder of the files; a temporary one for ":memory:" and for a copy."""
        return self._open.path

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    @property
    def names(self) -> list[str]:
        """The collections' names, sorted."""
        self.check_open()
        return sorted(self._open.collections)

    def check_open(self) -> None:
        """Raise IndexClosedError after `close`, and ForkedProcessError in a forked process."""
        check_process(self._open.process, f"The EdgeClient at {self.location!r}")
        if self.closed:
            raise IndexClosedError(
                f"The EdgeClient at {self.location!r} is closed. Open the folder again with EdgeClient(...)."
            )

    def check_writable(self) -> None:
        """Raise NotSupportedError if the folder is opened to read only."""
        self.check_open()
        if self.read_only:
            raise NotSupportedError(
                f"The EdgeClient at {self.location!r} is read-only. Open the folder without read_only=True "
                "to write to it."
            )

    def get(self, name: str) -> StoredCollection:
        """Return a collection.

        Raises:
            CollectionNotFoundError: If it does not exist.
        """
        self.check_open()
        found = self._open.collections.get(name)
        if found is None:
            existing = ", ".join(map(repr, self.names)) or "none"
            raise CollectionNotFoundError(
                f"Collection {name!r} does not exist at {self.location!r} (found: {existing}). Check the "
                "name, or create the collection with create_collection."
            )
        return found

    def has(self, name: str) -> bool:
        """Return whether a collection exists."""
        self.check_open()
        return name in self._open.collections

    def create(self, name: str, config: models.CreateCollection) -> StoredCollection:
        """Create a collection. A process killed meanwhile leaves none.

        Raises:
            InputError: If the name is not valid, or taken.
            StorageError: If the engine or the disk failed.
        """
        self.check_writable()
        check_name(name)
        with self._lock:
            self.check_open()
            if name in self._open.collections:
                raise InputError(
                    f"Collection {name!r} already exists at {self.location!r}. Delete it first, or use "
                    "another name."
                )
            folder = self._open.path / "collections" / folder_name(name)
            building = new_folder(folder)
            made = StoredCollection(name, building, config)
            try:
                with os_errors(f"create collection {name!r} at {self.location!r}"):
                    self.check_space()
                    building.mkdir()
                    shard = self.translate_errors(
                        f"create collection {name!r}", lambda: create_shard(made.shard_folder, config)
                    )
                    # The engine keeps the paths of its files, so it is closed before they move.
                    self.translate_errors(f"create collection {name!r}", shard.close)
                    if self._open.checked:
                        made.checksums.write()
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
        """Delete a collection. Returns False if it does not exist."""
        self.check_writable()
        with self._lock:
            self.check_open()
            found = self._open.collections.get(name)
            if found is None:
                return False
            with found.lock, os_errors(f"delete collection {name!r} at {self.location!r}"):
                going = old_folder(found.folder)
                if found.shard is not None:
                    self.translate_errors(f"close collection {name!r}", found.shard.close)
                os.rename(found.folder, going)
                del self._open.collections[name]
                found.shard = None
                shutil.rmtree(going, ignore_errors=True)
            return True

    def replace(self, name: str, by: str, metadata: dict[str, Any] | None) -> None:
        """Give a collection the name and place of another, which is deleted, and new metadata.

        A process killed before the settings are written leaves both collections as they were; after that,
        the next opening completes the replacement.

        Raises:
            CollectionNotFoundError: If there is no collection `by`.
            StorageError: If the disk failed.
        """
        self.check_writable()
        check_name(name)
        with self._lock:
            taking, going = self.get(by), self._open.collections.get(name)
            if taking is going:
                raise InputError(f"Collection {name!r} cannot replace itself. Name two collections.")
            with (
                taking.lock,
                contextlib.nullcontext() if going is None else going.lock,
                os_errors(f"put collection {by!r} in the place of {name!r} at {self.location!r}"),
            ):
                for collection in (taking, *([] if going is None else [going])):
                    if collection.shard is not None:  # its files are closed before they move
                        shard, collection.shard = collection.shard, None
                        self.translate_errors(f"flush collection {collection.name!r}", shard.flush)
                        self.translate_errors(f"close collection {collection.name!r}", shard.close)
                        if self._open.checked:
                            collection.checksums.write()
                before = taking.config
                taking.config = before.model_copy(update={"metadata": metadata})
                taking.replaces = name
                try:
                    taking.save()  # from here on the replacement will be completed
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
            StorageError: If they cannot be written. The old ones stay.
        """
        self.check_writable()
        with os_errors(f"write the settings of collection {collection.name!r}"):
            collection.save()

    def reload(self, collection: StoredCollection) -> None:
        """Close a shard and open it with the collection's changed settings."""
        self.check_writable()
        with collection.lock:
            if collection.shard is not None:
                shard, collection.shard = collection.shard, None
                self.translate_errors(f"close collection {collection.name!r}", shard.close)
            collection.shard = self.translate_errors(
                f"open collection {collection.name!r}",
                lambda: load_shard(collection.shard_folder, collection.config),
            )

    def read(self, collection: StoredCollection, doing: str, call: Callable[[Shard], T]) -> T:
        """Call a collection's shard, opening it first if needed.

        Args:
            collection: The collection.
            doing: The verb of an error's message, as in "Could not {doing} collection 'docs'".
            call: Called with the shard.

        Raises:
            IndexClosedError: After `close`.
            InputError: If the request is not valid.
            StorageError: If the engine failed.
        """
        self.check_open()
        shard = collection.shard
        if shard is None:
            shard = self._load(collection)
        self.check_open()
        return self.translate_errors(f"{doing} collection {collection.name!r}", lambda: call(shard))

    def write(self, collection: StoredCollection, doing: str, call: Callable[[Shard], T]) -> T:
        """Make a call that writes; see `read`.

        Raises:
            StorageError: If the disk is nearly full. Nothing was written.
        """
        self.check_writable()
        with os_errors(f"{doing} collection {collection.name!r}"):
            self.check_space()
        answer = self.read(collection, doing, call)
        collection.unflushed += 1
        if collection.unflushed >= _WRITES_PER_FLUSH:
            collection.unflushed = 0
            self.read(collection, "flush", lambda shard: shard.flush())
        return answer

    def update(self, collection: StoredCollection, doing: str, operation: Callable[[], Any]) -> None:
        """Make a write; errors in building the operation are translated like the engine's."""
        self.write(collection, doing, lambda shard: shard.update(operation()))

    def translate_errors(self, doing: str, call: Callable[[], T]) -> T:
        """Call the engine, or build a request of it, and translate its errors to the package's."""
        try:
            return call()
        except SpladeError:
            raise
        except BaseException as error:
            translation = translated(error, doing, location=self.location, closed=self.closed)
            if translation is None:
                raise
            try:
                raise translation from error
            finally:
                del translation  # a traceback that refers to itself would keep the folder open

    def check_space(self, *, beside: int = 0) -> None:
        """Raise StorageError if the disk is nearly full, or would be with this many bytes more."""
        free = shutil.disk_usage(self._open.path).free
        if free < MIN_FREE_BYTES + beside:
            raise StorageError(
                f"The disk of the index folder {self.location!r} is full: {free >> 20} MiB are free, "
                f"{(MIN_FREE_BYTES + beside) >> 20} are needed to write safely. Nothing was written. Make "
                "room and try again; acknowledged writes are kept."
            )

    def _load(self, collection: StoredCollection) -> Shard:
        with collection.lock:
            if collection.shard is None:
                if self.get(collection.name) is not collection:  # it may have been deleted while we waited
                    raise CollectionNotFoundError(
                        f"Collection {collection.name!r} at {self.location!r} was replaced meanwhile by a "
                        "new one of that name. Open its index again."
                    )
                self._check_files(collection)
                shard = self.translate_errors(
                    f"open collection {collection.name!r}", lambda: load_shard(collection.shard_folder)
                )
                if self._open.closed:  # meanwhile, by another thread
                    shard.close()
                    self.check_open()
                collection.shard = shard
            return collection.shard

    def _check_files(self, collection: StoredCollection) -> None:
        """Check a shard's files before the engine maps them into this process.

        Raises:
            StorageError: If a file is damaged or a link, or the engine cannot open the shard.
        """
        if not self._open.checked:
            return
        with os_errors(f"check the files of collection {collection.name!r}"):
            check_regular(collection.folder)
            damaged = collection.checksums.damaged()
            if damaged and not self._ignore_damage:
                more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
                raise StorageError(
                    f"Collection {collection.name!r} at {self.location!r} is damaged: "
                    f"{', '.join(damaged[:3])}{more} changed since the index was closed. Nothing was opened. "
                    "Restore the folder from a backup, or index its sources again. `splade doctor --index` "
                    "counts the documents that can still be read, and EdgeProcess(..., ignore_damage=True, "
                    "read_only=True) reads them."
                )
            if damaged is None or damaged:
                fault = load_fault(collection.shard_folder)
                if fault is not None:
                    raise StorageError(
                        f"Collection {collection.name!r} at {self.location!r} cannot be opened: {fault}. Its "
                        "files are damaged. Restore the folder from a backup, or index its sources again."
                    )
            collection.checksums.remove()

    def damaged_files(self, collection: StoredCollection) -> list[str] | None:
        """Return the names of a closed shard's files that differ from their checksums, sorted.

        None if there are no checksums, since the shard was not closed.
        """
        with collection.lock, os_errors(f"check the files of collection {collection.name!r}"):
            if collection.shard is not None:
                return []  # they were checked when it was opened
            return collection.checksums.damaged()

    def stored_bytes(self, collection: StoredCollection) -> int:
        """Return the bytes that a collection takes on disk."""
        return disk_usage(collection.shard_folder)

    def hand_over(self) -> tuple[Path, bool]:
        """Close as `close` does, but keep a temporary folder.

        Returns:
            The folder, and whether it is a temporary one, which the next client must remove.

        Raises:
            IndexClosedError: After `close`.
            NotSupportedError: If the folder is open in another client, too.
        """
        self.check_open()
        with self._lock:
            self.check_open()
            if self._open.clients > 1:
                raise NotSupportedError(
                    f"The engine at {self.location!r} cannot be moved while {self._open.clients} clients of "
                    "this process use it. Close the others first."
                )
            path, temporary = self._open.path, self._open.temporary
            self._open.temporary = False
            self._finalizer()
            return path, temporary

    def close(self) -> None:
        """Release the folder; the last client flushes and closes every shard. A second call does nothing."""
        self._finalizer()
