"""The files of an index folder: one Qdrant Edge shard per collection. A kill at any moment loses nothing.

    folder/
      .lock                     locked by the one client that has the folder open; names its process
      edge.json                 marks the folder as an index, with the format's version
      collections/
        docs-1f2e3d4c/          a readable part of the name, and its hash
          checksums.json        checksums of the engine's files; absent while the collection is open
          collection.json       name, settings, metadata, payload indexes
          shard/                the engine's files

A collection is created in a folder whose name starts with a dot, and renamed when it is complete; one that
is deleted is renamed first. Folders with such names are left by killed processes and removed on opening. A
collection that replaces another says so in its collection.json first; from then on, an opening completes a
replacement that was interrupted.
"""

import json
import os
import re
import shutil
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
from splade_retriever.errors import InputError, SpladeError, StorageError

__all__ = [
    "StoredCollection",
    "check_mark",
    "check_name",
    "folder_name",
    "move_into_place",
    "read_all",
    "remove_leftovers",
    "sync_folder",
]

_FORMAT: Final = 1
_MARK: Final = "edge.json"
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
        return self.folder / "shard"

    @property
    def checksums(self) -> Checksums:
        """The checksums of the engine's files."""
        return Checksums(self.shard_folder, self.folder / "checksums.json")

    def save(self) -> None:
        """Write the settings; after a kill the file holds the old ones or the new ones."""
        written = {
            "format": _FORMAT,
            "name": self.name,
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "payload_indexes": self.indexes,
            **({} if self.replaces is None else {"replaces": self.replaces}),
        }
        written["checksum"] = json_checksum(written)
        _write_atomically(self.folder / "collection.json", json.dumps(written, indent=1))

    @classmethod
    def read(cls, folder: Path) -> "StoredCollection":
        """Read the settings; the shard stays closed.

        Raises:
            StorageError: If they are damaged, or of a newer version.
        """
        path = folder / "collection.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            if found.pop("checksum") != json_checksum(found):
                raise ValueError("its checksum does not match")
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
                f"or move {str(folder)!r} away to open the other collections."
            ) from error


def check_name(name: str) -> None:
    """Raise InputError for a name that a collection cannot have."""
    if set(name) & _NOT_IN_NAMES or name in ("", ".", "..") or len(name) > 255:
        raise InputError(
            f"Collection name {name!r} is not valid, expected 1 to 255 characters other than "
            f"{''.join(sorted(_NOT_IN_NAMES - set(chr(0) + chr(31))))} and control characters, and neither "
            "'.' nor '..'. Choose another name."
        )


def folder_name(name: str) -> str:
    """Return the name of a collection's folder, also for file systems that do not distinguish case."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "collection"
    return f"{readable}-{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def check_mark(path: Path) -> None:
    """Check that a folder is an index, or empty; an empty one is marked as an index.

    Raises:
        StorageError: If it is neither.
    """
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
        names = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        if names and names != ["lost+found"]:
            known = next((text for name, text in _FOREIGN.items() if name in names), None)
            what = known or f"not an index (it holds {', '.join(map(repr, names[:5]))})"
            raise StorageError(f"The folder {str(path)!r} is {what}. Choose an empty folder or a new name.")
        _write_atomically(mark, json.dumps({"format": _FORMAT}))
    (path / "collections").mkdir(exist_ok=True)


def read_all(folder: Path) -> dict[str, StoredCollection]:
    """Read all collections by name, and complete the replacements that a killed process began."""
    found = [StoredCollection.read(item) for item in sorted(folder.iterdir())]
    moving = [collection for collection in found if collection.replaces is not None]
    named = {collection.name: collection for collection in found if collection.replaces is None}
    for collection in moving:
        move_into_place(collection)
        named[collection.name] = collection
    if moving:
        remove_leftovers(folder)
    return named


def move_into_place(collection: StoredCollection) -> None:
    """Move a collection to the place of the one it replaces. A kill between two steps is safe."""
    assert collection.replaces is not None
    place = collection.folder.with_name(folder_name(collection.replaces))
    if place != collection.folder:
        if place.exists():
            os.rename(place, place.with_name(f".old-{place.name}-{uuid.uuid4().hex[:8]}"))
        os.rename(collection.folder, place)
        sync_folder(place.parent)
    collection.folder = place
    collection.name, collection.replaces = collection.replaces, None
    collection.save()


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was creating or deleting."""
    for item in folder.iterdir():
        if item.name.startswith("."):
            shutil.rmtree(item)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
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
