"""Finds the files to read in folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from splade_retriever.errors import InputError
from splade_retriever.files.documents import DOCUMENTS
from splade_retriever.files.ignore_rules import IgnoreRules
from splade_retriever.files.passages import FileIssue, ReadOptions, printable_path

__all__ = ["CODE", "JSON_LINES", "MARKDOWN", "TABLES", "TEXT", "find_files"]

MARKDOWN: Final = frozenset({".md", ".markdown", ".mdx", ".qmd"})
TEXT: Final = frozenset({".txt", ".text", ".rst", ".adoc", ".org", ".log"})
CODE: Final = frozenset(
    {".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".scala", ".go", ".rs", ".c", ".h"}
    | {".cc", ".cpp", ".hpp", ".cs", ".swift", ".rb", ".php", ".r", ".jl", ".lua", ".sh", ".bash", ".ps1"}
    | {".sql", ".proto", ".tex", ".vue"}
)
"""Source code, read as plain text."""
JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = frozenset({".csv", ".tsv"})

_OTHER_DOCUMENTS: Final = frozenset({".doc", ".odt", ".rtf", ".ppt", ".odp", ".xls", ".xlsx", ".ods"})
_NOT_TEXT: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".bmp", ".tif", ".tiff", ".heic", ".mp3", ".wav"}
    | {".flac", ".ogg", ".mp4", ".mov", ".avi", ".mkv", ".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".tar"}
    | {".rar", ".exe", ".dll", ".so", ".dylib", ".bin", ".o", ".a", ".pyc", ".class", ".jar", ".whl"}
    | {
        ".onnx",
        ".safetensors",
        ".pt",
        ".npy",
        ".npz",
        ".parquet",
        ".sqlite",
        ".db",
        ".ttf",
        ".woff",
        ".woff2",
    }
)
_PACKAGE_FOLDERS: Final = frozenset({"node_modules", "__pycache__"})


def find_files(
    paths: Iterable[Path], options: ReadOptions, *, excluded_folder: Path | None = None
) -> Iterator[Path | FileIssue]:
    """Yield the files among `paths` and in folders among them, each file once, in order of their names.

    In a folder, files of the known kinds and those that `options.include` names are taken. A file in `paths`
    is taken, of any kind. An issue is yielded for each other file: for one that is hidden, ignored or
    excluded, for what is not a regular file, and for a link that leads out of its folder.

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
    folder = Path(folder)
    root = os.path.realpath(folder)
    index = None if excluded_folder is None else os.path.realpath(excluded_folder)
    excluded = IgnoreRules().with_lines(options.exclude, folder)
    ignored = {str(folder): IgnoreRules.of_repository(folder)} if options.use_gitignore else {}
    failures: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=failures.append):
        rules = ignored.get(parent, IgnoreRules())
        if options.use_gitignore:
            rules = rules.with_file_of(Path(parent))
        walked: list[str] = []
        for name in sorted([*names, *folders]):
            path = Path(parent, name)
            is_folder = name in folders
            if is_folder and os.path.realpath(path) == index:
                continue
            reason = _ignored_because(path, rules, excluded, options, is_folder=is_folder)
            if reason is not None:
                yield FileIssue(printable_path(path), reason, ignored=True)
            elif is_folder and not path.is_symlink():
                walked.append(name)
                ignored[str(path)] = rules
            else:
                issue = _issue_with(path, options, root)
                yield path if issue is None else issue
        folders[:] = walked
    for error in failures:
        reason = f"cannot be read: {error.strerror or error}"
        yield FileIssue(printable_path(error.filename), reason, unavailable=True)


def _ignored_because(
    path: Path, rules: IgnoreRules, excluded: IgnoreRules, options: ReadOptions, *, is_folder: bool
) -> str | None:
    """Return why a file or folder is skipped on purpose, or None."""
    pattern = excluded.match(path, is_folder=is_folder)
    if pattern is not None:
        return f"is excluded by --exclude {pattern}"
    if path.name.startswith(".") and not options.hidden:
        return "is hidden; --hidden reads it"
    if options.use_gitignore:
        if is_folder and path.name in _PACKAGE_FOLDERS:
            return "is a folder of installed packages; --no-ignore reads it"
        origin = rules.match(path, is_folder=is_folder)
        if origin is not None:
            return f"is ignored by {origin}; --no-ignore reads it"
    return None


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
        reason = _kind_not_read(path)
    return None if reason is None else FileIssue(place, reason)


def _is_included(path: Path, options: ReadOptions) -> bool:
    known = path.suffix.lower() in MARKDOWN | TEXT | CODE | JSON_LINES | TABLES | DOCUMENTS
    return known or any(fnmatch(path.name, pattern) for pattern in options.include)


def _kind_not_read(path: Path) -> str:
    suffix = path.suffix
    if suffix.lower() in _OTHER_DOCUMENTS:
        return f"{suffix} files are not read; save them as PDF, DOCX or text first"
    if suffix.lower() in _NOT_TEXT:
        return f"{suffix} files are not text"
    if not suffix:
        return f"files without an extension are not read; --include '{path.name}' reads them as text"
    return f"{suffix} files are not read; --include '*{suffix}' reads them as text"
