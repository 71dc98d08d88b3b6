"""Reads the rows of any Parquet file as records, like the lines of a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from splade_retriever.files.records import Record
from splade_retriever.validation import json_fault

__all__ = ["parquet_records", "row_count"]

_ROWS: Final = 512


def row_count(path: Path) -> int:
    """Return the number of rows; 0 for a file that cannot be read."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):  # reading it reports why
        return 0


def parquet_records(path: Path) -> Iterator[Record]:
    """Yield one record per row, in bounded memory.

    Dates and times become ISO 8601 text, with microseconds at most, also in lists and structs. Another value
    that JSON does not have is left out.
    """
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            for row in _rows(batch):
                number += 1
                fields = {name: _dates_as_text(value) for name, value in row.items()}
                yield Record(number, {k: v for k, v in fields.items() if json_fault(k, v) is None})
    # The last three are of a date that Python does not have, and of an unknown time zone.
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        yield Record(number, None, f"cannot be read as Parquet: {error}")


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a batch. Python has no nanoseconds, so they are cut off."""
    columns = [
        column.cast(kind, safe=False) if (kind := _in_microseconds(column.type)) != column.type else column
        for column in batch.columns
    ]
    rows: list[dict[str, Any]] = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return rows


def _in_microseconds(kind: Any) -> Any:
    """Return a type of Arrow with microseconds in place of nanoseconds, also in lists and structs."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    return kind


def _dates_as_text(value: Any) -> Any:
    if isinstance(value, date | time):  # a datetime is also a date
        return value.isoformat()
    if isinstance(value, list):
        return [_dates_as_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _dates_as_text(item) for name, item in value.items()}
    return value
