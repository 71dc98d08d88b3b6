"""What lies in a folder of Qdrant Edge shards, one a collection; a kill at any moment leaves it whole.

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

from splade_retriever.edge.convert_points import Shard
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


def check_name(name: str) -> None:
    """See that a collection can have this name.

    Raises:
        InputError: If it cannot.
    """
    bad = sorted(set(name) & _NOT_IN_NAMES)
    if bad or name in ("", ".", "..") or len(name) > 255:
        raise InputError(
            f"collection name {name!r} holds {bad or 'nothing to call it by'}, expected 1 to 255 characters "
            "other than "
            f"{''.join(sorted(_NOT_IN_NAMES - set(chr(0) + chr(31))))}. Choose another."
        )


def folder_name(name: str) -> str:
    """Name a collection's folder: safe on every file system, also one that takes "A" for "a"."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "collection"
    return f"{readable}-{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def check_mark(path: Path) -> None:
    """See that the folder is ours, or empty and so can be; it is marked then.

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
        there = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        if there and there != ["lost+found"]:
            told = next((text for name, text in _FOREIGN.items() if name in there), None)
            what = told or f"not an index (it holds {', '.join(map(repr, there[:5]))})"
            raise StorageError(f"the folder {str(path)!r} is {what}. Choose an empty folder or a new name.")
        _write_atomically(mark, json.dumps({"format": _FORMAT}))
    (path / "collections").mkdir(exist_ok=True)


def read_all(folder: Path) -> dict[str, StoredCollection]:
    """Read all collections, by name, and end the moves that a killed process has begun."""
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
    """Move a collection to where the one lies that it replaces; each step can be the first after a kill."""
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
    """Remove what a killed process was building or deleting."""
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
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if sys.platform == "win32":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
