"""The Parquet file of encoded passages: one row per passage, and the encoder's fingerprint."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from splade_retriever.errors import InputError, SpladeError, StorageError
from splade_retriever.files.passages import Passage
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Row", "fingerprint_of", "join_parts", "note_of", "read_rows", "write_errors", "write_part"]

_KEY: Final = b"splade_retriever"
_FORMAT: Final = 1
_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("context", pa.string()),
        ("metadata", pa.string()),
        ("file", pa.string()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One passage, the file that it comes from, and its vector."""

    passage: Passage
    file: str
    vector: SparseEmbedding


def write_part(path: Path, rows: Sequence[Row], *, fingerprint: Mapping[str, Any], note: str) -> None:
    """Write rows to a file, complete or not at all.

    Args:
        path: The file.
        rows: Its rows.
        fingerprint: That of the encoder.
        note: A text that `note_of` returns.

    Raises:
        StorageError: If the file cannot be written.
    """
    passages = [row.passage for row in rows]
    table = pa.table(
        {
            "id": [passage.id for passage in passages],
            "text": [passage.text for passage in passages],
            "context": [passage.context for passage in passages],
            "metadata": [json.dumps(passage.metadata, ensure_ascii=False) for passage in passages],
            "file": [row.file for row in rows],
            "indices": [row.vector.indices for row in rows],
            "values": [row.vector.values for row in rows],
        },
        schema=_schema(fingerprint, note),
    )
    with write_errors(path), _replacing(path) as temporary:
        pq.write_table(table, temporary)


def join_parts(parts: Sequence[Path], path: Path, *, fingerprint: Mapping[str, Any]) -> None:
    """Join files of `write_part`, one in memory at a time, into one file, complete or not at all.

    Raises:
        StorageError: If a part cannot be read, or the file cannot be written.
    """
    schema = _schema(fingerprint, "")
    with write_errors(path), _replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            writer.write_table(_part(part, schema))


def _part(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"The part {path} cannot be read: {error}. Remove it and run it again; only its passages are "
            f"encoded again."
        ) from error


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Translate errors of the operating system and of pyarrow while a file or folder is written.

    Args:
        path: The file or folder.

    Raises:
        StorageError: In place of such an error.
    """
    try:
        yield
    except SpladeError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"{path} cannot be written: {reason}. Make room, or choose a folder that can be written, and run "
            f"it again; finished parts are not encoded again."
        ) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which takes the place of `path` when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _synced(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def note_of(path: Path) -> str | None:
    """Return the note of a part; None if there is no such file, or it is not complete."""
    try:
        return str(_content(path)["note"])
    except InputError:
        return None


def fingerprint_of(path: Path) -> dict[str, str | int | None]:
    """Return the fingerprint of the encoder that made a file.

    Raises:
        InputError: If it is not a file of `splade encode --out`.
    """
    fingerprint: dict[str, str | int | None] = _content(path)["encoder"]
    return fingerprint


def read_rows(path: Path, *, batch_size: int = 512) -> Iterator[Row]:
    """Read a file row by row, in bounded memory.

    Raises:
        InputError: If it is not a file of `splade encode --out`, or a row is not valid.
    """
    _content(path)
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size, columns=_SCHEMA.names):
            for row in batch.to_pylist():
                number += 1
                yield _row(row)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read after row {max(0, number - 1)} ({type(error).__name__}: {error}). The "
            f"rows before it may be stored. Write it again with `splade encode FILES --out {path.name}`."
        ) from error


def _row(row: Mapping[str, Any]) -> Row:
    """Make a row of its columns.

    Raises:
        KeyError: If a column is missing.
        TypeError: If a value has another type than this package writes.
        ValueError: If the metadata is not JSON, or the vector is not valid.
    """
    strings = [row[name] for name in ("id", "text", "context", "file")]
    metadata = json.loads(row["metadata"])
    if not all(isinstance(value, str) for value in strings) or not isinstance(metadata, dict):
        raise TypeError("a value is missing")
    id, text, context, file = strings
    vector = SparseEmbedding(values=row["values"] or [], indices=row["indices"] or [])
    return Row(Passage(id, text, metadata, context), file, vector)


def _content(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        content = json.loads(metadata[_KEY])
        if content["format"] == _FORMAT and isinstance(content["encoder"], dict):
            return dict(content)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a file of vectors ({type(error).__name__}: {error}). Write one with "
            f"`splade encode FILES --out {path.name}`."
        ) from error
    raise InputError(f"{path} has another format of vectors. Write it again with this version.")


def _schema(fingerprint: Mapping[str, Any], note: str) -> pa.Schema:
    content = {"format": _FORMAT, "encoder": dict(fingerprint), "note": note}
    return _SCHEMA.with_metadata({_KEY: json.dumps(content, sort_keys=True).encode()})


def _synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
