"""Reads the rows of any Parquet file as records, like the lines of a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

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
    """Yield one record per row, in bounded memory; a value that JSON does not have is left out."""
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield Record(number, {k: v for k, v in row.items() if json_fault(k, v) is None})
    except (pa.ArrowException, OSError) as error:
        yield Record(number, None, f"cannot be read as Parquet: {error}")
