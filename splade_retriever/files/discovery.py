"""Finds the files to read in folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from splade_retriever.errors import InputError
from splade_retriever.files.passages import FileIssue, ReadOptions, printable_path

__all__ = ["JSON_LINES", "MARKDOWN", "TABLES", "TEXT", "find_files"]

MARKDOWN: Final = frozenset({".md", ".markdown", ".mdx", ".qmd"})
TEXT: Final = frozenset({".txt", ".text", ".rst", ".adoc", ".org", ".log"})
JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = frozenset({".csv", ".tsv"})


def find_files(
    paths: Iterable[Path], options: ReadOptions, *, excluded_folder: Path | None = None
) -> Iterator[Path | FileIssue]:
    """Yield the files among `paths` and in folders among them, each file once, in order of their names.

    In a folder, files of the known kinds and those that `options.include` names are taken; hidden files and
    folders are skipped. A file in `paths` is taken whatever its kind. An issue is yielded for each other
    file, for what is not a regular file, and for a link that leads out of its folder.

    Args:
        paths: Files and folders.
        options: Which files are taken.
        excluded_folder: A folder to skip: the index itself.

    Raises:
        InputError: If a path does not exist.
    """
    seen: set[str] = set()
    for path in paths:
        if path.is_dir():
            items: Iterable[Path | FileIssue] = _walk(path, options, excluded_folder)
        elif os.path.lexists(path):
            items = [path]
        else:
            raise InputError(f"There is no file or folder {printable_path(path)!r}. Check the path.")
        for item in items:
            if isinstance(item, Path):
                real = os.path.realpath(item)
                if real in seen:
                    continue
                seen.add(real)
            yield item


def _walk(folder: Path, options: ReadOptions, excluded_folder: Path | None) -> Iterator[Path | FileIssue]:
    root = os.path.realpath(folder)
    excluded = None if excluded_folder is None else os.path.realpath(excluded_folder)
    failures: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=failures.append):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in linked
            and os.path.realpath(os.path.join(parent, name)) != excluded
        )
        for name in sorted([*names, *linked]):
            if not name.startswith("."):
                path = Path(parent, name)
                issue = _issue_with(path, options, root)
                yield path if issue is None else issue
    for error in failures:
        reason = f"cannot be read: {error.strerror or error}"
        yield FileIssue(printable_path(error.filename), reason, unavailable=True)


def _issue_with(path: Path, options: ReadOptions, root: str) -> FileIssue | None:
    """Return why a file in a folder is not read, or None."""
    place = printable_path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return FileIssue(place, f"cannot be read: {error.strerror or error}", unavailable=True)
    reason = None
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        reason = "is a link that leads out of the folder; name its target to read it"
    elif stat.S_ISDIR(mode):
        reason = "is a link to a folder, which is not followed"
    elif not stat.S_ISREG(mode):
        reason = "is not a regular file"
    elif not _is_included(path, options):
        kind = f"{path.suffix} files are" if path.suffix else "files without an extension are"
        reason = f"{kind} not read; --include '*{path.suffix}' reads them as text"
    return None if reason is None else FileIssue(place, reason)


def _is_included(path: Path, options: ReadOptions) -> bool:
    known = path.suffix.lower() in MARKDOWN | TEXT | JSON_LINES | TABLES
    return known or any(fnmatch(path.name, pattern) for pattern in options.include)
