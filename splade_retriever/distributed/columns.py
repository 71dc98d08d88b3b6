"""Reads the columns of a batch as documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from splade_retriever.errors import InputError

__all__ = ["Batch", "Columns", "to_table"]

Batch: TypeAlias = pa.Table | pa.RecordBatch | Mapping[str, Any]
"""Rows as Ray Data and Spark pass them: Arrow data, or a dict of columns (NumPy arrays)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a dataset that make documents.

    Attributes:
        id: Strings or integers that name the documents, each once in the dataset. An integer becomes its
            decimal digits.
        text: The texts.
        encoded_text: Texts that are encoded instead, such as a title and the text; None for `text` itself.
        metadata: Names of the columns that become metadata; or the name of one column that holds them as
            structs, or as texts of JSON objects. None for all columns that are not named here.
    """

    id: str = "id"
    text: str = "text"
    encoded_text: str | None = None
    metadata: Sequence[str] | str | None = None

    def texts(self, rows: pa.Table) -> list[str]:
        """Return the texts to encode.

        Raises:
            InputError: If the column does not exist.
        """
        name = self.text if self.encoded_text is None else self.encoded_text
        values: list[str] = _column(rows, name).to_pylist()
        return values

    def with_ids(self, rows: pa.Table) -> pa.Table:
        """Return the rows that have an id: any other would get a new one each time it is written.

        Raises:
            InputError: If the column does not exist.
        """
        ids = _column(rows, self.id)
        return rows.filter(ids.is_valid()) if ids.null_count else rows

    def inputs(self, rows: pa.Table) -> dict[str, Any]:
        """Return the arguments of `SpladeIndex.add`.

        Raises:
            InputError: If a column does not exist, or metadata of one column is not valid.
        """
        inputs: dict[str, Any] = {
            "texts": _column(rows, self.text).to_pylist(),
            "ids": [_as_id(value) for value in _column(rows, self.id).to_pylist()],
            "metadatas": self._metadata(rows),
        }
        if self.encoded_text is not None:
            inputs["encoded_texts"] = _column(rows, self.encoded_text).to_pylist()
        return inputs

    def _metadata(self, rows: pa.Table) -> list[Any]:
        if isinstance(self.metadata, str):
            values = _column(rows, self.metadata).to_pylist()
            return [_parsed(value, self.metadata) if isinstance(value, str) else value for value in values]
        named = {self.id, self.text, self.encoded_text}
        names = [one for one in rows.column_names if one not in named]
        chosen = names if self.metadata is None else list(self.metadata)
        columns = [_column(rows, name).to_pylist() for name in chosen]
        return [
            dict(zip(chosen, (column[row] for column in columns), strict=True)) for row in range(len(rows))
        ]


def to_table(batch: Batch) -> pa.Table:
    """Return a batch as a table.

    Raises:
        InputError: If it is no batch of Ray Data or Spark.
    """
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    if not isinstance(batch, Mapping):
        raise InputError(
            f"The batch is a {type(batch).__name__}, expected Arrow data or a dict of columns. Pass "
            f"batch_format='pyarrow' to map_batches."
        )
    return pa.table({name: pa.array(list(column)) for name, column in batch.items()})


def _column(rows: pa.Table, name: str) -> Any:
    if name not in rows.column_names:
        raise InputError(
            f"The dataset has no column {name!r} (found: {', '.join(rows.column_names)}). Pass the names of "
            f"its columns as Columns(id=..., text=...)."
        )
    return rows.column(name)


def _as_id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parsed(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            f"Column {column!r} holds {text[:100]!r}, which is not JSON: {error}. Pass metadata=[{column!r}] "
            f"to store its texts under the name of the column."
        ) from error
