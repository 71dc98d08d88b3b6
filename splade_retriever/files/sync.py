"""Keeps a collection in step with files: adds what is new or changed, removes what is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Final

from splade_retriever.errors import InputError
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.progress import ReadProgress
from splade_retriever.files.splitter import Splitter
from splade_retriever.index.documents import BadInput
from splade_retriever.index.payload import PACKAGE_KEY, package_fields
from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["FILE_KEY", "StoredPassage", "SyncReport", "stored_passages", "sync_files"]

FILE_KEY: Final = "file"
"""Key of a document's extra data that names the file it came from."""
_BATCH: Final = 64
"""Passages that are written, and so kept, together."""
_IDS_PER_PAGE: Final = 1000


@dataclass(slots=True)
class SyncReport:
    """Result of a run."""

    files: int = 0
    """Files with at least one passage."""
    passages: int = 0
    """Passages of these files in the index."""
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    """Passages that are no longer in their file, or whose file is gone."""
    replaced: int = 0
    """Passages that a later passage of the run with the same id replaced."""
    unreadable: int = 0
    """Encoded passages without a token that the model knows; they are stored, and no query finds them."""
    seconds: float = 0.0
    issues: list[FileIssue] = field(default_factory=list)

    @property
    def encoded(self) -> int:
        """Number of passages that had to be encoded."""
        return self.new + self.changed

    @property
    def skipped(self) -> list[FileIssue]:
        """Files and lines that were not read, though they were not skipped on purpose."""
        return [issue for issue in self.issues if issue.skipped and not issue.ignored]

    @property
    def ignored(self) -> list[FileIssue]:
        """Files and folders that were skipped on purpose: hidden, ignored or excluded ones."""
        return [issue for issue in self.issues if issue.ignored]

    @property
    def warnings(self) -> list[FileIssue]:
        """Files and lines that were read in spite of a problem."""
        return [issue for issue in self.issues if not issue.skipped]


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage that the index has from a file."""

    file: str
    """The source: the file's path, as `ReadOptions.source_of` returns it."""
    hash: str | None
    """Its content hash."""


def sync_files(
    index: SpladeIndex,
    files: Sequence[Path | FileIssue],
    *,
    options: ReadOptions,
    splitter: Splitter,
    folders: Sequence[Path] = (),
    strict: bool = False,
    on_written: Callable[[int, int], object] | None = None,
) -> SyncReport:
    """Bring a collection in step with files.

    Documents that did not come from files are not changed. Passages of a file that cannot be read this time
    are kept; passages of a file that is gone from one of `folders` are removed.

    Args:
        index: Where the passages go.
        files: What `find_files` returned; its issues go into the report.
        options: How files are read.
        splitter: How texts are cut.
        folders: Folders that were searched; the passages of files that are gone from them are removed.
        strict: Stop at the first file or line that cannot be read.
        on_written: Called in another thread after each batch that the store has acknowledged, with the
            passages that are written so far, and the bytes of the files that they end at.

    Raises:
        InputError: With `strict`; the passages before the fault are written, and nothing is removed.
        StorageError: The store failed; what it has acknowledged is kept.
    """
    started = time.perf_counter()
    run = _SyncRun(options, splitter, strict=strict, on_written=on_written)
    with index.store.loading():
        before = stored_passages(index)
    unreadable = _unreadable(index)
    passages = tee(run.passages(files, ReadProgress(files)), 5)
    index.add(
        (passage.text for passage in passages[0]),
        (passage.metadata for passage in passages[1]),
        (passage.id for passage in passages[2]),
        extras=({FILE_KEY: run.file} for _ in passages[3]),
        encoded_texts=(_with_context(passage) for passage in passages[4]),
        batch_size=_BATCH,
        on_error=run.on_refused,
        on_written=run.on_batch,
    )
    gone = [
        id
        for id, stored in before.items()
        if id not in run.ids and (stored.file in run.files_read or _is_gone(stored.file, folders, options))
    ]
    with index.store.loading():
        index.delete(gone)
        after = stored_passages(index)
    report = run.report
    report.passages, report.removed = len(run.ids), len(gone)
    report.unreadable = _unreadable(index) - unreadable
    report.new = sum(1 for id in run.ids if id not in before)
    report.unchanged = sum(1 for id in run.ids if id in before and before[id].hash == after[id].hash)
    report.changed = report.passages - report.new - report.unchanged
    report.seconds = time.perf_counter() - started
    return report


class _SyncRun:
    """The passages of one run, and what is reported about them."""

    def __init__(
        self,
        options: ReadOptions,
        splitter: Splitter,
        *,
        strict: bool,
        on_written: Callable[[int, int], object] | None,
    ) -> None:
        self.report = SyncReport()
        self.ids: set[str] = set()
        self.files_read: set[str] = set()
        self.file = ""
        self._options, self._splitter, self._strict = options, splitter, strict
        self._on_written = on_written
        self._place = ""
        self._place_of_id: dict[str, str] = {}
        self._read: dict[str, int] = {}
        """Id of a passage that is not written yet -> the bytes of the files that were read with it."""
        self._passages_written = 0
        self._bytes_written = 0

    def passages(self, files: Sequence[Path | FileIssue], progress: ReadProgress) -> Iterator[Passage]:
        for item in files:
            if isinstance(item, FileIssue):
                self._add_issue(item)
                continue
            self.file = self._options.source_of(item)
            count = 0
            available = True
            for passage in read_file(item, self._options, self._splitter):
                if isinstance(passage, FileIssue):
                    available = available and not passage.unavailable
                    self._add_issue(passage)
                    continue
                count += 1
                self._place = f"{self._options.place_of(item)}:{passage.metadata.get('line', '?')}"
                self._note_id(passage)
                self._read[passage.id] = progress.bytes_until(item, passage)
                yield passage
            if available:
                self.files_read.add(self.file)
            self.report.files += count > 0

    def on_refused(self, bad: BadInput) -> None:
        """Report a passage that the index does not accept, such as one with an integer beyond 64 bits."""
        if bad.id is not None:
            self.ids.discard(bad.id)
        place = self._place if bad.id is None else self._place_of_id.get(bad.id, self._place)
        self._add_issue(FileIssue(place, bad.reason))

    def on_batch(self, ids: Sequence[str]) -> None:
        self._passages_written += len(ids)
        self._bytes_written = max([self._bytes_written, *(self._read.pop(id, 0) for id in ids)])
        if self._on_written is not None:
            self._on_written(self._passages_written, self._bytes_written)

    def _note_id(self, passage: Passage) -> None:
        if passage.id in self._place_of_id:
            self.report.replaced += 1
            reason = f"has the id {passage.id!r} of {self._place_of_id[passage.id]}, which it replaces"
            self._add_issue(FileIssue(self._place, reason, skipped=False))
        self._place_of_id[passage.id] = self._place
        self.ids.add(passage.id)

    def _add_issue(self, issue: FileIssue) -> None:
        if self._strict and issue.skipped and not issue.ignored:
            raise InputError(
                f"{issue.place} {issue.reason}. The passages before it are indexed. Fix it, or leave out "
                "--strict to skip it."
            )
        self.report.issues.append(issue)


def _unreadable(index: SpladeIndex) -> int:
    """Return how many texts the encoder could not read so far; 0 for an encoder that does not count them."""
    return int(getattr(index.model, "unreadable", 0))


def _with_context(passage: Passage) -> str | None:
    return f"{passage.context}\n{passage.text}" if passage.context else None


def stored_passages(index: SpladeIndex) -> dict[str, StoredPassage]:
    """Read the id, file and content hash of each document that came from a file."""
    stored: dict[str, StoredPassage] = {}
    records = index.store.scroll(batch_size=_IDS_PER_PAGE, payload=[PACKAGE_KEY])
    for record in records:
        own = package_fields(record)
        file = (own.get("extra") or {}).get(FILE_KEY)
        if file is not None:
            stored[str(own.get("id", record.id))] = StoredPassage(file, own.get("hash"))
    return stored


def _is_gone(file: str, folders: Sequence[Path], options: ReadOptions) -> bool:
    """Return whether a file came from one of these folders and no longer exists."""
    # Path.absolute() keeps "..", and so would not see that "sub/../docs" contains "docs/a.txt".
    path = Path(os.path.abspath(file if options.base is None else options.base / file))
    if not any(path.is_relative_to(os.path.abspath(folder)) for folder in folders):
        return False
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # its folder cannot be read, so nothing is known
        return False
    return False
