"""Records of JSONL and CSV files, read line by line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

__all__ = ["MAX_CELL", "Record", "json_records", "table_records"]

MAX_CELL: Final = 2**28
"""Characters of a cell of a table; an open quote would make one cell of the rest of a file."""
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or why it cannot be read."""

    line: int
    """The line where it begins, from 1; 0 for a fault of the file."""
    fields: dict[str, Any] | None
    fault: str = ""


def json_records(lines: Iterable[str]) -> Iterator[Record]:
    """Read one JSON object per line; blank lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Record(number, None, f"is not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield Record(number, value)
        else:
            yield Record(number, None, f"is a JSON {type(value).__name__}, expected an object")


def table_records(lines: Iterable[str], *, text_field: str) -> Iterator[Record]:
    """Read a table with a header, whose cells are separated by commas, semicolons, tabs or bars.

    Args:
        lines: With their newlines.
        text_field: Column that must exist.
    """
    remaining = iter(lines)
    header = next(remaining, "")
    delimiter = max(",;\t|", key=header.count)
    limit_before = csv.field_size_limit(MAX_CELL)
    rows = csv.reader(chain([header], remaining), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(rows, [])]
        if text_field not in columns:
            names = ", ".join(repr(name) for name in columns[:10])
            yield Record(0, None, f"has no column {text_field!r} (found: {names}). Pass --text-field")
            return
        line = rows.line_num + 1
        for row in rows:
            if len(row) == len(columns):
                yield Record(line, {name: _value(cell) for name, cell in zip(columns, row, strict=True)})
            elif row:
                yield Record(line, None, f"has {len(row)} cells, expected {len(columns)}")
            line = rows.line_num + 1
    except csv.Error as error:
        yield Record(rows.line_num, None, f"is not CSV: {error}; the rest of the file was skipped")
    finally:
        csv.field_size_limit(limit_before)


def _value(cell: str) -> str | int | float:
    """Read whole and decimal numbers as numbers, so that filters can compare them."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return cell
    return float(cell) if match[1] else int(cell)
