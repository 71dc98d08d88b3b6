"""Files to passages: text, Markdown, JSONL and CSV, cut where a reader would pause.

What cannot be read is handed on with its place and reason, never dropped in silence.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from splade_retriever.encoding.windows import WindowTokenizer, spans_of
from splade_retriever.errors import InputError

__all__ = ["Note", "Passage", "Reading", "Splitter", "find_files", "read_file"]

MARKDOWN: Final = frozenset({".md", ".markdown", ".mdx", ".qmd"})
TEXT: Final = frozenset({".txt", ".text", ".rst", ".adoc", ".org", ".log"})
JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = frozenset({".csv", ".tsv"})

_ID_FIELDS: Final = ("id", "_id")
_LOOKED_AT: Final = 8192
"""Bytes at the start of a file in which a NUL means that it is no text."""
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE: Final = re.compile(r"(?<=[.!?…])[\"')\]”’»]*\s+|(?<=[。！？])\s*")  # noqa: RUF001 - ends of sentences in Chinese
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING: Final = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file, small enough to be encoded whole."""

    id: str
    """The record's own, or the source with the passage's number: "guide.md#3"."""
    text: str
    metadata: dict[str, Any]
    """`source`, `line`, `passage`, `heading` for text; a record's other fields, with `source` and `line`."""
    context: str = ""
    """Headings or title above the passage, to be encoded with it."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a file or line that the user should know."""

    place: str
    """The file, or file:line."""
    reason: str
    skipped: bool = True
    """False where it was read all the same."""
    unopened: bool = False
    """The file is there, but could not be opened this time."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    text_field: str = "text"
    """Field or column of a record that holds its text."""
    id_field: str | None = None
    """Field or column that holds its id; None for "id" or "_id" where there is one."""
    include: tuple[str, ...] = ()
    """Names of files in folders (shell patterns) to read as text beside the known kinds."""
    base: Path | None = None
    """Folder that sources are written relative to; None for absolute ones."""

    def source_of(self, path: Path) -> str:
        """Name a file in ids and metadata: the same wherever the command is started."""
        absolute = Path(os.path.abspath(path))
        if self.base is None:
            return absolute.as_posix()
        return Path(os.path.relpath(absolute, os.path.abspath(self.base))).as_posix()


@dataclass(slots=True)
class Splitter:
    """Cuts texts into passages of a number of tokens at most.

    Cuts fall between paragraphs; a paragraph that is too long is cut between sentences, such a sentence
    between words. Passages of one text come out about equally long, and no text is lost but white space.

    Raises:
        InputError: If `tokens` is below 16 or above what the model reads.
    """

    tokenizer: WindowTokenizer
    tokens: int = 256
    """Most tokens of a passage, the special ones included."""
    special: int = field(init=False)

    def __post_init__(self) -> None:
        if not 16 <= self.tokens <= self.tokenizer.max_length:
            raise InputError(
                f"passages of {self.tokens} tokens were asked for, expected 16..{self.tokenizer.max_length} "
                "(what the model reads). Pass another number."
            )
        self.special = len(self.tokenizer.encode_batch([""])[0].offsets)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, without special ones."""
        return [
            len(encoding.offsets) + encoding.truncated - self.special
            for encoding in self.tokenizer.encode_batch(texts)
        ]

    def split(self, text: str, *, room: int | None = None) -> list[tuple[int, int]]:
        """Find the passages of a text.

        Args:
            text: Any text.
            room: Most tokens of a passage without special ones; None for what `tokens` leaves.

        Returns:
            (start, end) in characters, in order, without white space at either end; none for a blank text.
        """
        most = self.tokens - self.special if room is None else room
        pieces = _cut(text, 0, len(text), between=_PARAGRAPH)
        sizes = self.count([text[start:end] for start, end in pieces])
        for cut in (partial(_cut, between=_SENTENCE), partial(self._words, most=most)):
            if max(sizes, default=0) <= most:
                break
            pieces = [
                finer
                for (start, end), size in zip(pieces, sizes, strict=True)
                for finer in ([(start, end)] if size <= most else cut(text, start, end))
            ]
            sizes = self.count([text[start:end] for start, end in pieces])
        return _packed(pieces, sizes, most)

    def _words(self, text: str, start: int, end: int, *, most: int) -> list[tuple[int, int]]:
        """Cut a sentence that is too long, or a run of characters without a blank."""
        limited = _Limited(self.tokenizer, most)
        (spans,) = spans_of([text[start:end]], limited, overlap=0)
        return [piece for first, last in spans for piece in _stripped(text, start + first, start + last)]


@dataclass(frozen=True, slots=True)
class _Limited:
    """An encoder, as `spans_of` sees it, that reads fewer tokens than it could."""

    inner: WindowTokenizer
    max_length: int

    @property
    def tokenizer(self) -> _Limited:
        return self

    def encode_batch(self, texts: Sequence[str]) -> list[_Cut]:
        limited = []
        for whole in self.inner.encode_batch(texts):
            own = [span for span in whole.offsets if span[1] > span[0]]
            limited.append(_Cut(own[: self.max_length], max(0, len(own) - self.max_length) + whole.truncated))
        return limited


@dataclass(frozen=True, slots=True)
class _Cut:
    offsets: Sequence[tuple[int, int]]
    truncated: int


def _cut(text: str, start: int, end: int, *, between: re.Pattern[str]) -> list[tuple[int, int]]:
    """Cut text[start:end] wherever `between` matches; what is blank is left out."""
    pieces: list[tuple[int, int]] = []
    at = start
    for match in between.finditer(text, start, end):
        pieces.extend(_stripped(text, at, match.end()))
        at = match.end()
    pieces.extend(_stripped(text, at, end))
    return pieces


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    if piece.strip():
        start += len(piece) - len(piece.lstrip())
        yield start, start + len(piece.strip())


def _packed(units: Sequence[tuple[int, int]], sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Join neighbours to passages of at most `most` tokens, each about as long as the others."""
    total = sum(sizes)
    wanted = -(-total // max(1, -(-total // most)))
    passages: list[tuple[int, int]] = []
    held = 0
    for (start, end), size in zip(units, sizes, strict=True):
        if passages and held < wanted and held + size <= most:
            passages[-1] = (passages[-1][0], end)
            held += size
        else:
            passages.append((start, end))
            held = size
    return passages


# -- finding files -------------------------------------------------------------------------------------------


def find_files(
    paths: Iterable[Path], reading: Reading, *, leave_out: Path | None = None
) -> Iterator[Path | Note]:
    """Walk over files and folders, each file once, in order of their names.

    In a folder, files of the known kinds and those that `reading.include` names are taken; hidden files and
    folders are passed over. A file that is named itself is taken whatever its kind.

    Args:
        paths: Files and folders.
        reading: Which files are taken.
        leave_out: A folder to keep out of: the index itself.

    Raises:
        InputError: If a path is not there.
    """
    seen: set[str] = set()
    for path in paths:
        if path.is_dir():
            found: Iterable[Path | Note] = _in_folder(path, reading, leave_out)
        elif path.exists():
            found = [path]
        else:
            raise InputError(f"there is no file or folder {str(path)!r}. Check the path.")
        for item in found:
            if isinstance(item, Path):
                real = os.path.realpath(item)
                if real in seen:
                    continue
                seen.add(real)
            yield item


def _in_folder(folder: Path, reading: Reading, leave_out: Path | None) -> Iterator[Path | Note]:
    kept_out = None if leave_out is None else os.path.realpath(leave_out)
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != kept_out
        )
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            known = path.suffix.lower() in MARKDOWN | TEXT | JSON_LINES | TABLES
            if known or any(fnmatch(name, pattern) for pattern in reading.include):
                yield path
            else:
                kind = f"{path.suffix} files are" if path.suffix else "files without an ending are"
                yield Note(str(path), f"{kind} not read; --include '*{path.suffix}' reads them as text")


# -- reading a file ------------------------------------------------------------------------------------------


def read_file(path: Path, reading: Reading, splitter: Splitter) -> Iterator[Passage | Note]:
    """Read a file into passages, by its ending; one of unknown kind as plain text.

    Notes carry the file's name, and for a record its line. A record that the model reads whole stays whole
    and keeps its id; one that is longer becomes several passages, `id#1`, `id#2`, and so on.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        yield Note(str(path), f"cannot be opened: {error.strerror or error}", unopened=True)
        return
    if not raw.strip():
        yield Note(str(path), "is empty")
        return
    text = _decoded(raw)
    if text is None:
        yield Note(str(path), "is binary")
        return
    if text.note is not None:
        yield Note(str(path), text.note, skipped=False)
    kind = path.suffix.lower()
    if kind in JSON_LINES:
        yield from _of_records(_json_records(text.text), path, reading, splitter)
    elif kind in TABLES:
        yield from _of_records(_table_records(text.text, reading), path, reading, splitter)
    else:
        yield from _of_text(text.text, path, reading, splitter, markdown=kind in MARKDOWN)


@dataclass(frozen=True, slots=True)
class _Decoded:
    text: str
    note: str | None = None


def _decoded(raw: bytes) -> _Decoded | None:
    """Decode bytes as text, with newlines as \\n; None for what is no text."""
    note = None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16", errors="replace")
    elif b"\0" in raw[:_LOOKED_AT]:
        return None
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            # Five bytes have no meaning in Windows-1252; Latin-1 gives them one.
            text = raw.decode("cp1252", errors="replace")
            note = "is not UTF-8; it was read as Windows-1252"
    return _Decoded(text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " "), note)


@dataclass(frozen=True, slots=True)
class _Section:
    headings: tuple[str, ...]
    start: int
    end: int


def _of_text(
    text: str, path: Path, reading: Reading, splitter: Splitter, *, markdown: bool
) -> Iterator[Passage | Note]:
    source = reading.source_of(path)
    sections = _sections(text) if markdown else [_Section((), 0, len(text))]
    line_ends = list(accumulate(len(line) + 1 for line in text.split("\n")))
    number = 0
    for section in sections:
        heading = " > ".join(section.headings)
        body = text[section.start : section.end]
        (taken,) = splitter.count([heading])
        room = max(16, min(splitter.tokens, splitter.tokenizer.max_length - taken) - splitter.special)
        for start, end in splitter.split(body, room=room):
            number += 1
            metadata: dict[str, Any] = {
                "source": source,
                "passage": number,
                "line": bisect_right(line_ends, section.start + start) + 1,
            }
            if heading:
                metadata["heading"] = heading
            yield Passage(f"{source}#{number}", body[start:end], metadata, heading)
    if number == 0:
        yield Note(str(path), "holds no text")


def _sections(text: str) -> list[_Section]:
    """Cut Markdown at its headings; a heading over nothing but the end is text itself."""
    front = _FRONT_MATTER.match(text)
    title = None if front is None else _TITLE.search(front[1])
    path: list[tuple[int, str]] = [] if title is None else [(0, title[1])]
    begin = 0 if front is None else front.end()
    sections: list[_Section] = []
    for start, end, level, heading in _headings(text, begin):
        sections.append(_Section(tuple(name for _, name in path), begin, start))
        path = [(depth, name) for depth, name in path if depth < level] + [(level, heading)]
        begin = end
    sections.append(_Section(tuple(name for _, name in path), begin, len(text)))
    return sections


def _headings(text: str, begin: int) -> Iterator[tuple[int, int, int, str]]:
    """Find headings outside code: start, end, level, words."""
    fence: str | None = None
    before: tuple[int, str] | None = None  # a line of plain text, which an underline makes a heading
    at = begin
    for line in text[begin:].splitlines(keepends=True):
        start, at = at, at + len(line)
        bare = line.rstrip("\n")
        mark = _FENCE.match(bare)
        if fence is not None:
            if mark and mark[1].startswith(fence) and not bare[mark.end() :].strip():
                fence = None
            before = None
        elif mark:
            fence, before = mark[1], None
        elif heading := _HEADING.match(bare):
            yield start, at, len(heading[1]), heading[2]
            before = None
        elif before is not None and (under := _UNDERLINE.match(bare)):
            yield before[0], at, 1 if under[1][0] == "=" else 2, before[1].strip()
            before = None
        else:
            plain = bare.strip() and not bare.startswith(("    ", "\t", ">", "- ", "* ", "+ ", "|"))
            before = (start, bare) if plain and before is None else None


# -- records -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    fields: dict[str, Any] | None
    fault: str = ""


def _json_records(text: str) -> Iterator[_Record]:
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            found = json.loads(row)
        except (ValueError, RecursionError) as error:
            yield _Record(line, None, f"is not JSON: {error}")
            continue
        if isinstance(found, dict):
            yield _Record(line, found)
        else:
            yield _Record(line, None, f"is a JSON {type(found).__name__}, expected an object")


def _table_records(text: str, reading: Reading) -> Iterator[_Record]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=header.count)
    before = csv.field_size_limit(sys.maxsize)
    try:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        columns = [name.strip() for name in next(rows)]
        if reading.text_field not in columns:
            found = ", ".join(repr(name) for name in columns[:10])
            fault = f"has no column {reading.text_field!r} (found: {found}). Pass --text-field"
            yield _Record(0, None, fault)
            return
        line = rows.line_num + 1
        for row in rows:
            if len(row) == len(columns):
                yield _Record(line, {name: _value(cell) for name, cell in zip(columns, row, strict=True)})
            elif row:
                yield _Record(line, None, f"has {len(row)} cells, expected {len(columns)}")
            line = rows.line_num + 1
    except csv.Error as error:
        yield _Record(rows.line_num, None, f"is not CSV: {error}; the rest of the file was left out")
    finally:
        csv.field_size_limit(before)


def _value(cell: str) -> str | int | float:
    """Read a cell: whole and decimal numbers as numbers, so that filters can compare them."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return cell
    return float(cell) if match[1] else int(cell)


def _of_records(
    records: Iterable[_Record], path: Path, reading: Reading, splitter: Splitter
) -> Iterator[Passage | Note]:
    source = reading.source_of(path)
    first_line_of: dict[str, int] = {}
    for record in records:
        place = f"{path}:{record.line}" if record.line else str(path)
        if record.fields is None:
            yield Note(place, record.fault)
            continue
        fields = dict(record.fields)
        text = fields.pop(reading.text_field, None)
        if not isinstance(text, str | int | float) or not str(text).strip():
            found = "empty" if text == "" else "missing" if text is None else f"a {type(text).__name__}"
            yield Note(place, f"has no text: field {reading.text_field!r} is {found}")
            continue
        id = _popped_id(fields, reading) or f"{source}#{record.line}"
        if id in first_line_of:
            told = f"has the id {id!r} of line {first_line_of[id]}, which it replaces"
            yield Note(place, told, skipped=False)
        first_line_of[id] = record.line
        metadata = {"source": source, "line": record.line} | _kept(fields)
        yield from _of_record(str(text), id, metadata, splitter)


def _popped_id(fields: dict[str, Any], reading: Reading) -> str | None:
    for name in _ID_FIELDS if reading.id_field is None else (reading.id_field,):
        id = fields.get(name)
        if isinstance(id, str | int) and not isinstance(id, bool) and str(id).strip():
            del fields[name]
            return str(id)
    return None


def _kept(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _of_record(text: str, id: str, metadata: dict[str, Any], splitter: Splitter) -> Iterator[Passage]:
    title = metadata.get("title")
    context = title if isinstance(title, str) else ""
    taken, size = splitter.count([context, text])
    if taken + size + splitter.special <= splitter.tokenizer.max_length:
        yield Passage(id, text, metadata, context)
        return
    room = max(16, min(splitter.tokens, splitter.tokenizer.max_length - taken) - splitter.special)
    for number, (start, end) in enumerate(splitter.split(text, room=room), start=1):
        yield Passage(f"{id}#{number}", text[start:end], {**metadata, "passage": number}, context)
