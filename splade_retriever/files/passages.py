"""Passages and issues, which reading files yields, and the options of reading."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FileIssue", "Passage", "ReadOptions", "printable_path"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a file that is short enough to be encoded without truncation."""

    id: str
    """The source with the passage's number, "guide.md#3", or with the record's id, "rows.csv#a"."""
    text: str
    metadata: dict[str, Any]
    """`source`, `line`, `passage`, `heading` for text; a record's other fields, with `source` and `line`."""
    context: str = ""
    """Headings or title above the passage, encoded with it."""
    share_read: float = field(default=1.0, compare=False)
    """Share of the file that was read when the passage was, 0 to 1."""


@dataclass(frozen=True, slots=True)
class FileIssue:
    """A problem with a file or with one of its lines."""

    place: str
    """The file, or file:line."""
    reason: str
    skipped: bool = True
    """False if it was read in spite of the problem."""
    unavailable: bool = False
    """True if the file could not be read this time, so that nothing is known about its passages."""
    ignored: bool = False
    """True if it was skipped on purpose: it is hidden, ignored or excluded."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are read."""

    text_field: str = "text"
    """Field or column of a record that holds its text."""
    id_field: str | None = None
    """Field or column of a record that holds its id; None for "id" or "_id" if it has one of them. An id need
    be unique in its file only."""
    include: tuple[str, ...] = ()
    """Shell patterns of file names in folders that are read as text in addition to the known kinds."""
    exclude: tuple[str, ...] = ()
    """Patterns of files and folders in folders that are not read, written as in a .gitignore file."""
    hidden: bool = False
    """Read hidden files and folders."""
    use_gitignore: bool = True
    """Skip what .gitignore files name, and folders of installed packages (node_modules)."""
    base: Path | None = None
    """Folder that sources are relative to; None for absolute sources."""
    names: Mapping[Path, str] = field(default_factory=dict)
    """Names of files that have no lasting path, such as a copy of stdin."""

    def place_of(self, path: Path) -> str:
        """Return the name of a file in messages."""
        return self.names.get(path) or printable_path(path)

    def source_of(self, path: Path) -> str:
        """Return the name of a file in ids and metadata, which does not depend on the working folder."""
        if path in self.names:
            return self.names[path]
        absolute = Path(os.path.abspath(path))
        if self.base is None:
            return absolute.as_posix()
        return Path(os.path.relpath(absolute, os.path.abspath(self.base))).as_posix()


def printable_path(path: Path | str) -> str:
    """Return a path as text; bytes of a name that are not UTF-8 become escapes such as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
