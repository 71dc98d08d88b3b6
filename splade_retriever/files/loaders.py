"""Reads a file as passages: text, Markdown, JSONL, CSV, and documents such as PDF.

What cannot be read is yielded as an issue with its place and reason, never dropped in silence.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Final

from splade_retriever.errors import MissingExtraError
from splade_retriever.files.discovery import JSON_LINES, MARKDOWN, TABLES
from splade_retriever.files.documents import DOCUMENTS, DocumentError, document_parts
from splade_retriever.files.markdown import Section, sections
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.records import Record, json_records, table_records
from splade_retriever.files.splitter import Splitter
from splade_retriever.validation import text_fault, type_name

__all__ = ["read_file", "record_passages"]

_ID_FIELDS: Final = ("id", "_id")
_MAX_NAMES: Final = 10
"""Field names in a message."""
_CHUNK: Final = 2**20
_BINARY_CHECK: Final = 8192
"""Bytes at the start of a file; a NUL in them means that the file is not text."""
_MAX_TEXT: Final = 2**28
"""Bytes of a file of text, which is read into memory, and characters of a line of records."""


def read_file(path: Path, options: ReadOptions, splitter: Splitter) -> Iterator[Passage | FileIssue]:
    """Read a file into passages by its extension; a file of an unknown kind is read as plain text.

    Issues carry the file's name, and for a record its line. A record becomes one passage, `file#id`, if the
    model reads it without truncation; a longer one becomes several, `file#id#1`, `file#id#2`, and so on.
    """
    place = options.place_of(path)
    try:
        with _opened(path) as file:
            yield from _read(file, path, options, splitter)
    except OSError as error:
        yield FileIssue(place, f"cannot be read: {error.strerror or error}", unavailable=True)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file.

    Opening a named pipe would wait for a writer, and a device such as /dev/zero never ends.

    Raises:
        OSError: If the file cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(0, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _read(
    file: BinaryIO, path: Path, options: ReadOptions, splitter: Splitter
) -> Iterator[Passage | FileIssue]:
    place = options.place_of(path)
    fault = text_fault("its name", options.source_of(path))
    if fault is not None:
        yield FileIssue(place, "has a name that is not UTF-8; rename it")
        return
    kind = path.suffix.lower()
    if kind in DOCUMENTS:
        yield from _document_passages(file, path, options, splitter)
        return
    content = _inspected(file)
    if content.fault is not None:
        yield FileIssue(place, content.fault)
        return
    if content.encoding == "cp1252":
        yield FileIssue(place, "is not UTF-8; it was read as Windows-1252", skipped=False)
    # Five bytes have no meaning in Windows-1252.
    with io.TextIOWrapper(file, encoding=content.encoding, errors="replace", newline=None) as text:
        if kind in JSON_LINES or kind in TABLES:
            records = (
                json_records(_lines(text))
                if kind in JSON_LINES
                else table_records(_lines(text), text_field=options.text_field)
            )
            # The file is read a few kilobytes ahead of the record.
            share_read = partial(_share, file, content.size)
            yield from record_passages(records, path, options, splitter, share_read=share_read)
        elif content.size > _MAX_TEXT:
            yield FileIssue(place, f"has {content.size:,} bytes, expected at most {_MAX_TEXT:,}; split it")
        else:
            whole = text.read().replace("\0", " ")
            yield from _text_passages(whole, path, options, splitter, markdown=kind in MARKDOWN)


# -- encodings -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Content:
    encoding: str = "utf-8-sig"
    size: int = 0
    fault: str | None = None
    """Why it is not read."""


def _inspected(file: BinaryIO) -> _Content:
    """Find out the encoding of a file by reading it once; afterwards the file is at its start again."""
    head = file.read(_BINARY_CHECK)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in head:
        return _Content(fault="is binary")
    else:
        encoding = "utf-8-sig"
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    blank, size, chunk = True, 0, head
    while chunk:
        blank = blank and not chunk.strip()
        size += len(chunk)
        if encoding == "utf-8-sig":
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                encoding = "cp1252"
        chunk = file.read(_CHUNK)
    if encoding == "utf-8-sig":
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            encoding = "cp1252"
    file.seek(0)
    return _Content(encoding, size, "is empty" if blank else None)


def _share(file: BinaryIO, size: int, _record: Record) -> float:
    return file.tell() / max(size, 1)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(lambda: text.readline(_MAX_TEXT), ""):
        yield line.replace("\0", " ")


# -- text ----------------------------------------------------------------------------------------------------


def _text_passages(
    text: str, path: Path, options: ReadOptions, splitter: Splitter, *, markdown: bool
) -> Iterator[Passage | FileIssue]:
    source = options.source_of(path)
    line_ends = list(accumulate(len(line) + 1 for line in text.split("\n")))
    number = 0
    for start, passage, heading in _cut(text, splitter, markdown=markdown):
        number += 1
        metadata: dict[str, Any] = {
            "source": source,
            "passage": number,
            "line": bisect_right(line_ends, start) + 1,
        }
        share_read = (start + len(passage)) / len(text)
        yield _passage(source, number, passage, metadata, heading, share_read=share_read)
    if number == 0:
        yield FileIssue(options.place_of(path), "has no text")


def _document_passages(
    file: BinaryIO, path: Path, options: ReadOptions, splitter: Splitter
) -> Iterator[Passage | FileIssue]:
    """Read a document that is converted to Markdown; its passages have a page instead of a line."""
    source, number, suffix = options.source_of(path), 0, path.suffix.lower()
    try:
        for part in document_parts(file, suffix):
            text = part.text.replace("\0", " ")
            cuts = list(_cut(text, splitter, markdown=suffix != ".pdf"))
            # A slide may have nothing but a heading.
            for _, passage, heading in cuts or _cut(text.lstrip("# \n"), splitter, markdown=False):
                number += 1
                metadata: dict[str, Any] = {"source": source, "passage": number}
                if part.page is not None:
                    metadata["page"] = part.page
                yield _passage(source, number, passage, metadata, heading)
    except (DocumentError, MissingExtraError) as error:
        yield FileIssue(options.place_of(path), str(error), unavailable=True)
        return
    if number == 0:
        hint = "; a scanned document needs text recognition first" if suffix == ".pdf" else ""
        yield FileIssue(options.place_of(path), f"has no text{hint}")


def _cut(text: str, splitter: Splitter, *, markdown: bool) -> Iterator[tuple[int, str, str]]:
    """Cut a text into passages; yields where each starts, its text, and the headings above it."""
    for section in sections(text) if markdown else [Section((), 0, len(text))]:
        heading = splitter.context(section.headings)
        body = text[section.start : section.end]
        for start, end in splitter.split(body, context=heading):
            yield section.start + start, body[start:end], heading


def _passage(
    source: str, number: int, text: str, metadata: dict[str, Any], heading: str, *, share_read: float = 1.0
) -> Passage:
    if heading:
        metadata["heading"] = heading
    return Passage(f"{source}#{number}", text, metadata, heading, share_read)


# -- records -------------------------------------------------------------------------------------------------


def record_passages(
    records: Iterable[Record],
    path: Path,
    options: ReadOptions,
    splitter: Splitter,
    *,
    share_read: Callable[[Record], float],
) -> Iterator[Passage | FileIssue]:
    """Read records into passages, as `read_file` does with those of a file.

    Args:
        records: The records.
        path: Their file.
        options: How files are read.
        splitter: How texts are cut.
        share_read: Returns the share of the file that was read when a record was.
    """
    source = options.source_of(path)
    for record in records:
        place = options.place_of(path) + (f":{record.line}" if record.line else "")
        if record.fields is None:
            yield FileIssue(place, record.fault)
            continue
        fields = dict(record.fields)
        text = fields.get(options.text_field)
        fault = _fault_in(text, fields, options)
        if fault is not None:
            yield FileIssue(place, fault)
            continue
        id = f"{source}#{_record_id(fields, options) or f'line {record.line}'}"
        del fields[options.text_field]
        metadata = {"source": source, "line": record.line} | _without_empty(fields)
        for passage in _passages_of_record(str(text), id, metadata, splitter):
            yield replace(passage, share_read=share_read(record))


def _fault_in(text: object, fields: dict[str, Any], options: ReadOptions) -> str | None:
    """Return why the text of a record cannot be used, or None."""
    if text is None and options.text_field not in fields:
        names = ", ".join(repr(name) for name in list(fields)[:_MAX_NAMES]) or "no field"
        return f"has no text: field {options.text_field!r} is missing (found: {names}). Pass --text-field"
    if isinstance(text, str) and text.strip():
        return text_fault("its text", text)
    if isinstance(text, int | float) and not isinstance(text, bool):
        return None
    found = "empty" if isinstance(text, str) else "null" if text is None else f"{type_name(text)}"
    return f"has no text: field {options.text_field!r} is {found}"


def _record_id(fields: dict[str, Any], options: ReadOptions) -> str | None:
    for name in _ID_FIELDS if options.id_field is None else (options.id_field,):
        id = fields.get(name)
        if isinstance(id, str | int) and not isinstance(id, bool) and str(id).strip():
            return str(id)
    return None


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _passages_of_record(
    text: str, id: str, metadata: dict[str, Any], splitter: Splitter
) -> Iterator[Passage]:
    title = metadata.get("title")
    context = ""
    if isinstance(title, str) and text_fault("title", title) is None:
        context = splitter.context([title])
    if splitter.is_one_passage(text, context=context):
        yield Passage(id, text, metadata, context)
        return
    for number, (start, end) in enumerate(splitter.split(text, context=context), start=1):
        yield Passage(f"{id}#{number}", text[start:end], {**metadata, "passage": number}, context)
