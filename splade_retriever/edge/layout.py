"""The files of an index folder: one Qdrant Edge shard per collection. A kill at any moment loses nothing.

    folder/
      .lock                     locked by the one process that has the folder open; names it
      edge.json                 marks the folder as an index, with the format's version
      collections/
        docs-1f2e3d4c/          a readable part of the name, and its hash
          checksums.json        checksums of the engine's files; absent while the collection is open
          collection.json       name, settings, metadata, payload indexes
          shard/                the engine's files

A collection is created in a folder named .new-*, and renamed when it is complete; one that is deleted is
renamed to .old-* first. Folders with such names are left by killed processes and removed on opening. A
collection that replaces another says so in its collection.json first; from then on, an opening completes a
replacement that was interrupted.

A folder may come from somebody else, so nothing below it is followed if it is a link, and nothing is removed
or overwritten whose name and content are not this module's.
"""

import json
import os
import re
import shutil
import stat
import sys
import threading
import uuid
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from qdrant_client import models

from splade_retriever.edge.checksums import Checksums, json_checksum
from splade_retriever.edge.convert_config import Shard
from splade_retriever.edge.small_files import read_small_text
from splade_retriever.errors import InputError, StorageError
from splade_retriever.validation import type_name

__all__ = [
    "StoredCollection",
    "check_mark",
    "check_name",
    "check_regular",
    "complete_replacements",
    "folder_name",
    "is_marked",
    "mark_folder",
    "move_into_place",
    "new_folder",
    "old_folder",
    "read_all",
    "remove_leftovers",
    "sync_folder",
]

_FORMAT: Final = 1
_MARK: Final = "edge.json"
_SETTINGS: Final = "collection.json"
_CHECKSUMS: Final = "checksums.json"
_SHARD: Final = "shard"
_NOT_IN_NAMES: Final = frozenset('<>:"/\\|?*\0\x1f')
_LEFTOVER: Final = re.compile(r"\.(new|old)-[a-z0-9-]{1,40}-[0-9a-f]{8}-[0-9a-f]{8}")
_UNFINISHED: Final = re.compile(r"\.(edge|collection|checksums)\.json\.[0-9a-f]{16}\.new")
_IN_COLLECTIONS: Final = re.compile(rf"{_SETTINGS}|{_CHECKSUMS}|{_SHARD}|{_UNFINISHED.pattern}")
_OF_FILE_MANAGERS: Final = frozenset({"lost+found", "Thumbs.db", "desktop.ini"})
"""Names that systems put into folders, besides those that start with a dot."""
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
    """Payload field -> schema as JSON."""
    shard: Shard | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    unflushed: int = 0
    """Writes since the log was applied."""
    replaces: str | None = None
    """The collection whose name and place it takes, during a replacement."""

    @property
    def shard_folder(self) -> Path:
        """The folder of the engine's files."""
        return self.folder / _SHARD

    @property
    def checksums(self) -> Checksums:
        """The checksums of the engine's files."""
        return Checksums(self.shard_folder, self.folder / _CHECKSUMS)

    def save(self) -> None:
        """Write the settings; after a kill the file holds the old ones or the new ones."""
        settings = {
            "format": _FORMAT,
            "name": self.name,
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "payload_indexes": self.indexes,
            **({} if self.replaces is None else {"replaces": self.replaces}),
        }
        settings["checksum"] = json_checksum(settings)
        _write_atomically(self.folder / _SETTINGS, json.dumps(settings, indent=1))

    @classmethod
    def read(cls, folder: Path) -> "StoredCollection":
        """Read the settings; the shard stays closed.

        Raises:
            StorageError: If they are damaged, or of a newer version.
        """
        path = folder / _SETTINGS
        try:
            settings = json.loads(_read_text(path))
            if settings.pop("checksum") != json_checksum(settings):
                raise ValueError("its checksum does not match")
            if settings["format"] != _FORMAT:
                raise StorageError(
                    f"{path} has format {settings['format']!r}, this version reads {_FORMAT}. Upgrade "
                    "splade-retriever."
                )
            name, indexes, replaces = settings["name"], settings["payload_indexes"], settings.get("replaces")
            config = models.CreateCollection(**settings["config"])
            if not isinstance(indexes, dict):
                raise TypeError(f"payload_indexes is {type_name(indexes)}, expected an object")
            for one in (name, *([] if replaces is None else [replaces])):
                check_name(one)
            return cls(name, folder, config, indexes, replaces=replaces)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{path} is damaged ({error}), expected a collection's settings. Restore it from a backup, "
                f"or move {str(folder)!r} away to open the other collections."
            ) from error


def check_name(name: str) -> None:
    """Raise InputError for a name that a collection cannot have."""
    if not isinstance(name, str) or set(name) & _NOT_IN_NAMES or name in ("", ".", "..") or len(name) > 255:
        raise InputError(
            f"Collection name {name!r} is not valid, expected 1 to 255 characters other than "
            f"{''.join(sorted(_NOT_IN_NAMES - set(chr(0) + chr(31))))} and control characters, and neither "
            "'.' nor '..'. Choose another name."
        )


def folder_name(name: str) -> str:
    """Return the name of a collection's folder, also for file systems that do not distinguish case."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "collection"
    return f"{readable}-{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def new_folder(place: Path) -> Path:
    """Return the folder in which to create the collection of a place."""
    return place.with_name(f".new-{place.name}-{uuid.uuid4().hex[:8]}")


def old_folder(place: Path) -> Path:
    """Return the folder to which to rename a deleted collection."""
    return place.with_name(f".old-{place.name}-{uuid.uuid4().hex[:8]}")


# -- the mark ------------------------------------------------------------------------------------------------


def check_mark(path: Path) -> bool:
    """Return whether a folder is an index; False for an empty one. Changes nothing.

    Raises:
        StorageError: If the folder is something else, or an index of another format.
    """
    if is_marked(path):
        collections = path / "collections"
        if collections.is_symlink() or (collections.exists() and not collections.is_dir()):
            raise StorageError(
                f"{str(collections)!r} is not a folder but a link or a file. Nothing was changed. Replace it "
                "with the folder itself if the index is yours."
            )
        return True
    names = sorted(
        item.name
        for item in path.iterdir()
        if not item.name.startswith(".") and item.name not in _OF_FILE_MANAGERS
    )
    if names:
        known = next((text for name, text in _FOREIGN.items() if name in names), None)
        what = known or f"not an index (it holds {', '.join(map(repr, names[:5]))})"
        remedy = "" if known else f" To search these files: `splade index {path} --to NEW_FOLDER`."
        raise StorageError(
            f"The folder {str(path)!r} is {what}. Choose an empty folder or a new name for an index.{remedy}"
        )
    return False


def is_marked(path: Path) -> bool:
    """Return whether a folder has the mark of an index.

    Raises:
        StorageError: If the mark is of another format.
    """
    mark = path / _MARK
    if not mark.is_symlink() and not mark.exists():
        return False
    try:
        found = json.loads(_read_text(mark)).get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"{mark} is damaged, expected the JSON object {json.dumps({'format': _FORMAT})}. If the folder "
            "is your index, write that into the file; its collections are checked when they are opened."
        ) from error
    if found != _FORMAT:
        raise StorageError(
            f"{mark} has format {found!r}, this version reads {_FORMAT}. Upgrade splade-retriever."
        )
    return True


def mark_folder(path: Path) -> None:
    """Mark an empty folder as an index."""
    _write_atomically(path / _MARK, json.dumps({"format": _FORMAT}))


# -- collections ---------------------------------------------------------------------------------------------


def read_all(folder: Path) -> dict[str, StoredCollection]:
    """Read all collections by name; folders without settings or a shard are skipped."""
    found = {}
    for item in sorted(folder.iterdir()):
        if item.name.startswith(".") or not item.is_dir() or not _has_collection(item):
            continue
        if item.is_symlink():
            raise _link_error(item)
        collection = StoredCollection.read(item)
        found[collection.name] = collection
    return found


def _has_collection(folder: Path) -> bool:
    return any((folder / name).is_symlink() or (folder / name).exists() for name in (_SETTINGS, _SHARD))


def complete_replacements(folder: Path) -> bool:
    """Complete the replacements that a killed process began. Returns whether there were any."""
    interrupted = [one for one in read_all(folder).values() if one.replaces is not None]
    for collection in interrupted:
        move_into_place(collection)
    return bool(interrupted)


def move_into_place(collection: StoredCollection) -> None:
    """Move a collection to the place of the one it replaces. A kill between two steps is safe."""
    assert collection.replaces is not None
    place = collection.folder.with_name(folder_name(collection.replaces))
    if place != collection.folder:
        if place.exists():
            os.rename(place, old_folder(place))
        os.rename(collection.folder, place)
        sync_folder(place.parent)
    collection.folder = place
    collection.name, collection.replaces = collection.replaces, None
    collection.save()


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was creating or deleting.

    Only folders that have the name and the content of such are removed, and only files of unfinished writes.
    """
    for item in folder.iterdir():
        if item.is_symlink() or not item.is_dir():
            continue
        if _LEFTOVER.fullmatch(item.name):
            if all(_IN_COLLECTIONS.fullmatch(part.name) for part in item.iterdir()):
                shutil.rmtree(item)
        elif not item.name.startswith("."):
            _remove_unfinished(item)
    _remove_unfinished(folder.parent)


def _remove_unfinished(folder: Path) -> None:
    for item in folder.iterdir():
        if _UNFINISHED.fullmatch(item.name) and item.is_file() and not item.is_symlink():
            item.unlink()


def check_regular(folder: Path, *, hard_links: bool = False) -> None:
    """Raise StorageError if a folder holds anything but folders and regular files.

    Args:
        folder: The folder.
        hard_links: Whether files may have several names. The engine changes files in place, and so would
            change the content under the other names.
    """
    if folder.is_symlink():
        raise _link_error(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                continue
            if not stat.S_ISREG(found.st_mode):
                raise _link_error(path)
            if found.st_nlink > 1 and not hard_links:
                raise StorageError(
                    f"{str(path)!r} has {found.st_nlink} hard links, and writing to the index would change "
                    "all of them. Nothing was changed. Copy the folder, or open it with read_only=True."
                )


def _link_error(path: Path) -> StorageError:
    return StorageError(
        f"{str(path)!r} is a link or a special file. Nothing was changed. Replace it with the file or folder "
        "itself if the index is yours."
    )


# -- files ---------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    if path.is_symlink():
        raise _link_error(path)
    return read_small_text(path)


def _write_atomically(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.new")
    opened = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with open(opened, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Write a rename to the disk, so that it survives a power cut, where the system can."""
    if sys.platform == "win32":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
