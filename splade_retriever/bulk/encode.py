"""Encodes files to one Parquet file, part by part, so that a killed run continues where it stopped.

Passages are cut into parts of a fixed number. A part is encoded alone, and a vector depends only on the
passages of its part, so a resumed run writes the same bytes as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, TypeVar

from splade_retriever.bulk.parquet_records import parquet_records, row_count
from splade_retriever.bulk.vectors_file import Row, join_parts, note_of, write_errors, write_part
from splade_retriever.errors import InputError, StorageError
from splade_retriever.files.loaders import read_file, record_passages
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.progress import ReadProgress
from splade_retriever.files.splitter import Splitter
from splade_retriever.protocols import Encoder
from splade_retriever.validation import checked_int

__all__ = ["EncodeReport", "Shard", "encode_files"]

T = TypeVar("T")

PASSAGES_PER_PART: Final = 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal shares of the passages, for as many machines.

    Attributes:
        number: Its number, from 1.
        count: The number of shares.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", checked_int("The number of shards", self.count, minimum=1))
        object.__setattr__(self, "number", checked_int("The number of the shard", self.number, minimum=1))
        if self.number > self.count:
            raise InputError(f"The shard is {self.number}/{self.count}, expected i/n with i from 1 to n.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            InputError: If it is not that, or i is not in 1..n.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"The shard is {text!r}, expected i/n with i from 1 to n, such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def of(self, passages: Iterable[T]) -> Iterator[T]:
        """Yield the passages of this share: every n-th one."""
        return islice(passages, self.number - 1, None, self.count)


@dataclass(slots=True)
class EncodeReport:
    """What was encoded.

    Attributes:
        passages: Passages in the file.
        encoded: Those of them that this run encoded; the others were left by a run before.
        issues: Files and lines that could not be read, or were read in spite of a problem.
        seconds: How long it took.
    """

    passages: int = 0
    encoded: int = 0
    issues: list[FileIssue] = field(default_factory=list)
    seconds: float = 0.0


def encode_files(
    files: Sequence[Path | FileIssue],
    out: Path,
    *,
    encoder: Encoder,
    splitter: Splitter,
    options: ReadOptions,
    shard: Shard | None = None,
    passages_per_part: int = PASSAGES_PER_PART,
    on_progress: Callable[[int, int, int], None] = lambda passages, read, encoded: None,
) -> EncodeReport:
    """Encode the passages of files to a Parquet file.

    Finished parts are kept in the folder `OUT.parts` until all are done. Another run with the same arguments
    encodes only the others, and those whose passages changed.

    Args:
        files: What `find_files` yields; Parquet files are read as records too.
        out: The file to write; an existing one is replaced when all is done.
        encoder: Makes the vectors.
        splitter: Cuts texts into passages.
        options: How files are read.
        shard: The share of the passages to encode; None for all.
        passages_per_part: Passages that are in memory at once, and are encoded again after a kill.
        on_progress: Called after each part with the passages that are done, the bytes of the files that they
            end at, and the passages that this run encoded.

    Raises:
        InputError: If no passage was found, the file to write is a folder, or the folder of parts is of
            another run.
        StorageError: If a part or the file cannot be written.
    """
    started, report = time.perf_counter(), EncodeReport()
    passages_per_part = checked_int("passages_per_part", passages_per_part, minimum=1)
    if out.is_dir():
        raise InputError(f"{out} is a folder, expected a file to write. Name a file in it.")
    fingerprint = dict(encoder.fingerprint)
    folder = out.with_name(f"{out.name}.parts")
    chosen = shard or Shard()
    share = f"{chosen.number}/{chosen.count}"
    _claim(folder, {"encoder": fingerprint, "shard": share, "passages": passages_per_part})
    stream = chosen.of(_passages(files, options, splitter, report))
    parts, progress = [], ReadProgress(files)
    for number in count():
        passages: list[tuple[Passage, Path]] = list(islice(stream, passages_per_part))
        if not passages:
            break
        part = folder / f"part-{number:07}.parquet"
        sources = [(passage, options.source_of(file)) for passage, file in passages]
        digest = _digest(sources)
        if note_of(part) != digest:
            texts = [_encoded_text(passage) for passage, _ in passages]
            vectors = encoder.passage_embed(texts)
            rows = [Row(*source, vector) for source, vector in zip(sources, vectors, strict=True)]
            write_part(part, rows, fingerprint=fingerprint, note=digest)
            report.encoded += len(passages)
        parts.append(part)
        report.passages += len(passages)
        last, file = passages[-1]
        on_progress(report.passages, progress.bytes_until(file, last), report.encoded)
    if not parts:
        _remove(folder)
        raise InputError(
            f"No passage was found to encode, and {len(report.issues)} files or lines were skipped."
        )
    join_parts(parts, out, fingerprint=fingerprint)
    _remove(folder)
    report.seconds = time.perf_counter() - started
    return report


def _passages(
    files: Sequence[Path | FileIssue], options: ReadOptions, splitter: Splitter, report: EncodeReport
) -> Iterator[tuple[Passage, Path]]:
    for file in files:
        for item in _items(file, options, splitter):
            if isinstance(item, FileIssue):
                report.issues.append(item)
            elif isinstance(file, Path):
                yield item, file


def _items(file: Path | FileIssue, options: ReadOptions, splitter: Splitter) -> Iterable[Passage | FileIssue]:
    if isinstance(file, FileIssue):
        return [file]
    if file.suffix.lower() == ".parquet":
        rows = max(row_count(file), 1)
        records = parquet_records(file)
        return record_passages(records, file, options, splitter, share_read=lambda row: row.line / rows)
    return read_file(file, options, splitter)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder of parts, or check that it is of a run with the same settings.

    Raises:
        InputError: If it is of a run with other settings.
        StorageError: If it cannot be written.
    """
    note = folder / "settings.json"
    wanted = json.dumps(settings, sort_keys=True)
    found = wanted
    with write_errors(folder):
        if note.is_file():
            found = note.read_text(encoding="utf-8")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            note.write_text(wanted, encoding="utf-8")
    if found != wanted:
        raise InputError(
            f"{folder} holds parts of a run with another model or another --shard. Run that one again to "
            f"continue it, name another --out, or remove the folder."
        )


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"The folder of parts {folder} cannot be removed: {error.strerror or error}. Remove it yourself."
        ) from error


def _encoded_text(passage: Passage) -> str:
    return f"{passage.context}\n{passage.text}" if passage.context else passage.text


def _digest(passages: Sequence[tuple[Passage, str]]) -> str:
    content = [[one.id, one.text, one.context, one.metadata, file] for one, file in passages]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
