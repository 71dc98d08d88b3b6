"""Open index folders of this process: shared by its clients, locked against others, removed if temporary."""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from splade_retriever.edge.convert_config import Shard
from splade_retriever.edge.forks import detach_in_child, keep_forever, replace_descriptors
from splade_retriever.edge.layout import (
    StoredCollection,
    check_mark,
    complete_replacements,
    is_marked,
    mark_folder,
    read_all,
    remove_leftovers,
)
from splade_retriever.edge.lock import (
    is_locked,
    lock_folder,
    locked_for_reading,
    process_ended,
    unlock_folder,
)
from splade_retriever.edge.snapshot import copy_folder
from splade_retriever.errors import CollectionNotFoundError, StorageError

__all__ = ["OpenFolder", "open_folder", "open_snapshot", "release"]

_CLOSING_TIMEOUT_S: Final = 30.0
"""Longest wait for another thread's call in a shard that is being closed."""
_MIN_FREE_MEMORY: Final = 2**30
"""Bytes that must be free on a disk in memory (containers often have one of 64 MiB) for a temporary index."""
_TEMPORARY: Final = re.compile(r"splade-edge-(\d+)-\w+")


@dataclass(eq=False)
class OpenFolder:
    """What the clients of an open folder share, and the last one releases."""

    path: Path
    temporary: bool
    lock_file: int
    key: tuple[int, int]
    """Device and inode of the folder."""
    checked: bool
    """Whether the engine's files are checked before they are opened: not if this process made them."""
    process: int = field(default_factory=os.getpid)
    collections: dict[str, StoredCollection] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    clients: int = 1
    closed: bool = False

    def detach(self) -> None:
        """Leave the folder to the parent process; called in a forked child."""
        shards = [collection for collection in self.collections.values() if collection.shard is not None]
        for collection in shards:
            keep_forever(collection.shard)
        # The engine holds another lock, on the folder of its log.
        replace_descriptors(
            [] if self.closed else [self.lock_file], [one.shard_folder / "wal" for one in shards]
        )


class _Registry:
    """The open folders of this process. The system's locks are per process, so their sharing is, too."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while a folder is opened or released. Reentrant, since a client may be freed meanwhile."""
        self.folders: dict[tuple[int, int], OpenFolder] = {}
        """Device and inode of a folder -> the folder."""
        detach_in_child(self)

    def detach(self) -> None:
        """Start empty; called in a forked child."""
        self.__init__()  # type: ignore[misc]

    def share(self, path: Path) -> "OpenFolder | None":
        """Return a folder that is already open, with one more client."""
        opened = self.folders.get(_key(path))
        if opened is None:
            return None
        opened.clients += 1
        return None if opened.closed else opened


_registry: Final = _Registry()


def open_folder(
    location: str | Path, *, temporary: bool, holder: int | None, create: bool, checked: bool = False
) -> OpenFolder:
    """Open a folder, or share it with another client of this process.

    Args:
        location: The folder, or ":memory:" for a new temporary one.
        temporary: Whether to remove the folder when the last client closes.
        holder: The process for which the folder is held; None for this one.
        create: Whether a folder that does not exist, or is empty, becomes an index.
        checked: Whether the files of a temporary folder are checked, too, since they come from elsewhere.

    Raises:
        CollectionNotFoundError: If there is no index, and `create` is False.
        IndexLockedError: If another process has the folder.
        StorageError: If the folder is something else.
    """
    with _registry.lock:
        if location == ":memory:":
            return _open(_temporary_folder(), temporary=True, holder=holder)
        path = Path(location).absolute()
        if not create:
            _check_index(path)
        path.mkdir(parents=True, exist_ok=True)
        shared = _registry.share(path)
        if shared is not None:
            return shared
        check_mark(path)
        return _open(path, temporary=temporary, holder=holder, checked=checked)


def open_snapshot(location: str | Path) -> OpenFolder:
    """Open a copy of an index, or share the index if this process has it open.

    Raises:
        CollectionNotFoundError: If there is no index.
        IndexLockedError: If another process has the folder open to write.
        StorageError: If the folder is something else.
    """
    with _registry.lock:
        path = Path(location).absolute()
        _check_index(path)
        shared = _registry.share(path)
        if shared is not None:
            return shared
        copy = _temporary_folder()
        try:
            with locked_for_reading(path):
                copy_folder(path, copy)
            return _open(copy, temporary=True, checked=True)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise


def release(opened: OpenFolder) -> None:
    """Close a folder if this was its last client; also called when a client is garbage, and at exit.

    Raises:
        StorageError: If the engine could not write everything.
    """
    if opened.process != os.getpid():  # a forked child must not touch its parent's folder
        return
    with _registry.lock:
        opened.clients -= 1
        if opened.clients or opened.closed:
            return
        opened.closed = True
        _registry.folders.pop(opened.key, None)
        _close(opened)


def _check_index(path: Path) -> None:
    if not path.is_dir() or not check_mark(path):
        raise CollectionNotFoundError(f"There is no index in the folder {str(path)!r}. Check the path.")


def _key(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _open(path: Path, *, temporary: bool, holder: int | None = None, checked: bool = False) -> OpenFolder:
    lock_file = lock_folder(path, os.getpid() if holder is None else holder)
    opened = OpenFolder(path, temporary, lock_file, _key(path), checked=checked or not temporary)
    try:
        if not is_marked(path):
            mark_folder(path)
        collections = path / "collections"
        collections.mkdir(exist_ok=True)
        remove_leftovers(collections)
        if complete_replacements(collections):
            remove_leftovers(collections)
        opened.collections.update(read_all(collections))
    except BaseException:
        opened.clients = 0
        opened.closed = True
        _close(opened)
        raise
    _registry.folders[opened.key] = opened
    detach_in_child(opened)
    return opened


def _close(opened: OpenFolder) -> None:
    faults: list[Exception] = []
    for collection in opened.collections.values():
        shard, collection.shard = collection.shard, None
        if shard is not None:
            try:
                if not opened.temporary:
                    shard.flush()
                _close_shard(shard)
                if not opened.temporary:
                    collection.checksums.write()
            except Exception as error:  # noqa: BLE001 - the others must be closed all the same
                faults.append(error)
    unlock_folder(opened.lock_file)
    if opened.temporary:
        shutil.rmtree(opened.path, ignore_errors=True)
    elif faults:
        try:
            raise StorageError(
                f"Could not close the index folder {str(opened.path)!r}: {faults[0]}. Acknowledged writes "
                "are in its log and come back when it is opened."
            ) from faults[0]
        finally:
            faults.clear()


def _close_shard(shard: Shard) -> None:
    """Close a shard, after another thread's call in it, if there is one.

    No new call begins, since the collection no longer refers to the shard. PyO3 refuses to close a shard
    during a call.
    """
    deadline = time.monotonic() + _CLOSING_TIMEOUT_S
    while True:
        try:
            shard.close()
        except RuntimeError as error:
            if "borrowed" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


# -- temporary folders ---------------------------------------------------------------------------------------


def _temporary_folder() -> Path:
    """Create a temporary folder, and remove those of processes that were killed."""
    place = _memory_disk() or tempfile.gettempdir()
    _remove_orphans(Path(place))
    path = Path(tempfile.mkdtemp(prefix=f"splade-edge-{os.getpid()}-", dir=place))
    mark_folder(path)
    return path


def _memory_disk() -> str | None:
    """Return a disk in memory with room for an index; None to use the system's temporary folder."""
    path = "/dev/shm"
    if os.access(path, os.W_OK) and shutil.disk_usage(path).free >= _MIN_FREE_MEMORY:
        return path
    return None


def _remove_orphans(place: Path) -> None:
    """Remove temporary indexes whose process has ended.

    A folder counts as such by its name, owner and mark. The process may be of another container that shares
    the disk, so the lock must be free, too.
    """
    for item in place.glob("splade-edge-*-*"):
        named = _TEMPORARY.fullmatch(item.name)
        with contextlib.suppress(OSError, StorageError):
            if (
                named
                and process_ended(named[1])
                and not item.is_symlink()
                and item.stat().st_uid == os.getuid()
                and is_marked(item)
                and not is_locked(item)
            ):
                shutil.rmtree(item)
