"""Keeps a collection in step with files: reads them, adds what is new or changed, removes what is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import InputError
from splade_retriever.files.loaders import Note, Passage, Reading, Splitter, read_file
from splade_retriever.index.documents import OWN_KEY

if TYPE_CHECKING:
    from splade_retriever.index.documents import BadInput
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["SyncReport", "sync_files"]

_FILE: Final = "file"
"""Key of a document's extra data that names the file it came from."""
_BATCH: Final = 64
"""Passages that are written, and so kept, together."""
_IDS_A_PAGE: Final = 1000


@dataclass(slots=True)
class SyncReport:
    """What a run did."""

    files: int = 0
    """Files that gave a passage."""
    passages: int = 0
    """Passages of these files, as the index now holds them."""
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    """Passages that were in the index and are no longer in their file, or whose file is gone."""
    seconds: float = 0.0
    notes: list[Note] = field(default_factory=list)

    @property
    def encoded(self) -> int:
        """Passages that had to be encoded."""
        return self.new + self.changed

    @property
    def skipped(self) -> list[Note]:
        """Files and lines that were not read."""
        return [note for note in self.notes if note.skipped]


@dataclass(frozen=True, slots=True)
class _Stored:
    file: str
    hash: str | None


def sync_files(
    index: SpladeIndex,
    files: Sequence[Path | Note],
    *,
    reading: Reading,
    splitter: Splitter,
    folders: Sequence[Path] = (),
    strict: bool = False,
    on_written: Callable[[int, int], object] | None = None,
) -> SyncReport:
    """Bring a collection in step with files.

    Documents that came from elsewhere are left alone. Passages of a file that can no longer be opened are
    kept; those of a file that is gone from one of `folders` are removed.

    Args:
        index: Where the passages go.
        files: What `find_files` gave; its notes go into the report.
        reading: How files are read.
        splitter: How texts are cut.
        folders: Folders that were searched: files that came from them and are there no more are removed.
        strict: Stop at the first file or line that cannot be read.
        on_written: Called after each batch that the store has acknowledged, with the passages and the
            characters written so far, from another thread.

    Raises:
        InputError: With `strict`; what came before is written, and nothing is removed.
        StorageError: The store failed; what was acknowledged is kept.
    """
    started = time.perf_counter()
    run = _Run(reading, splitter, strict)
    before = _stored(index)
    passages = tee(run.passages(files), 5)
    index.add(
        (passage.text for passage in passages[0]),
        (passage.metadata for passage in passages[1]),
        (passage.id for passage in passages[2]),
        extras=({_FILE: run.file} for _ in passages[3]),
        encoded_texts=(_with_context(passage) for passage in passages[4]),
        batch_size=_BATCH,
        on_error=run.refused,
        on_written=lambda ids: run.written(ids, on_written),
    )
    gone = [
        id
        for id, stored in before.items()
        if id not in run.ids and (stored.file in run.read or _is_gone(stored.file, folders, reading))
    ]
    index.delete(gone)
    after = _stored(index)
    report = run.report
    report.passages, report.removed = len(run.ids), len(gone)
    report.new = sum(1 for id in run.ids if id not in before)
    report.unchanged = sum(1 for id in run.ids if id in before and before[id].hash == after[id].hash)
    report.changed = report.passages - report.new - report.unchanged
    report.seconds = time.perf_counter() - started
    return report


class _Run:
    """The stream of passages of one run, and what is to be said of it afterwards."""

    def __init__(self, reading: Reading, splitter: Splitter, strict: bool) -> None:
        self.report = SyncReport()
        self.ids: set[str] = set()
        self.read: set[str] = set()
        self.file = ""
        self._reading, self._splitter, self._strict = reading, splitter, strict
        self._place = ""
        self._sizes: dict[str, int] = {}
        self._done = [0, 0]

    def passages(self, files: Sequence[Path | Note]) -> Iterator[Passage]:
        for item in files:
            if isinstance(item, Note):
                self._note(item)
                continue
            self.file = self._reading.source_of(item)
            given = 0
            opened = True
            for found in read_file(item, self._reading, self._splitter):
                if isinstance(found, Note):
                    opened = opened and not found.unopened
                    self._note(found)
                    continue
                given += 1
                self.ids.add(found.id)
                self._place = f"{item}:{found.metadata.get('line', '?')}"
                self._sizes[found.id] = len(found.text)
                yield found
            if opened:
                self.read.add(self.file)
            self.report.files += given > 0

    def refused(self, bad: BadInput) -> None:
        """Take note of a passage that the index does not take, such as one with half a surrogate pair."""
        if bad.id is not None:
            self.ids.discard(bad.id)
        self._note(Note(self._place, bad.reason))

    def written(self, ids: Sequence[str], tell: Callable[[int, int], object] | None) -> None:
        self._done[0] += len(ids)
        self._done[1] += sum(self._sizes.pop(id, 0) for id in ids)
        if tell is not None:
            tell(*self._done)

    def _note(self, note: Note) -> None:
        if self._strict and note.skipped:
            raise InputError(f"{note.place} {note.reason}. Mend it, or leave out --strict to skip it.")
        self.report.notes.append(note)


def _with_context(passage: Passage) -> str | None:
    return f"{passage.context}\n{passage.text}" if passage.context else None


def _stored(index: SpladeIndex) -> dict[str, _Stored]:
    """Read, of every document that came from a file, its id, file and content hash."""
    found: dict[str, _Stored] = {}
    offset: Any = None
    while True:
        records, offset = index.store.call(
            "scroll", limit=_IDS_A_PAGE, offset=offset, with_payload=[OWN_KEY], with_vectors=False
        )
        for record in records:
            own = (record.payload or {}).get(OWN_KEY) or {}
            file = (own.get("extra") or {}).get(_FILE)
            if file is not None:
                found[str(own.get("id", record.id))] = _Stored(file, own.get("hash"))
        if offset is None:
            return found


def _is_gone(file: str, folders: Sequence[Path], reading: Reading) -> bool:
    """Say whether a file came from one of these folders and is there no more."""
    # Path.absolute() keeps "..", and so would not see that "sub/../docs" holds "docs/a.txt".
    path = Path(os.path.abspath(file if reading.base is None else reading.base / file))
    within = any(path.is_relative_to(os.path.abspath(folder)) for folder in folders)
    return within and not path.exists()
