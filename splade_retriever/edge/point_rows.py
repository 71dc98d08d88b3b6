"""The forms in which qdrant-client's writes take points -> rows of (id, vector, payload)."""

import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from qdrant_client import models

from splade_retriever.errors import InputError

__all__ = ["Row", "rows_of_columns", "rows_of_points"]

Row: TypeAlias = tuple[Any, Any, Any]
"""A point before any check: id, vector or vectors by name, payload."""


def rows_of_points(points: models.Batch | Iterable[models.PointStruct]) -> Iterator[Row]:
    """Yield the rows of points, or of a batch, which has a column for each part.

    Raises:
        InputError: If the columns of a batch differ in length.
    """
    if not isinstance(points, models.Batch):
        yield from ((point.id, point.vector, point.payload) for point in points)
        return
    columns: dict[str, Sequence[Any]] = {"ids": points.ids}
    if points.payloads is not None:
        columns["payloads"] = points.payloads
    named = points.vectors if isinstance(points.vectors, dict) else {"": points.vectors}
    columns.update({f"vectors {name!r}": column for name, column in named.items()})
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(
            f"A batch has columns of different lengths: {found}. Nothing was written. Make them equal."
        )
    for n, id in enumerate(points.ids):
        yield id, {name: column[n] for name, column in named.items()}, (points.payloads or {n: None})[n]


def rows_of_columns(
    vectors: Any, *, ids: Iterable[Any] | None, payloads: Iterable[Mapping[str, Any]] | None
) -> Iterator[Row]:
    """Yield the rows of columns, as many as the shortest column has.

    Args:
        vectors: An array of vectors, a dict of arrays by name, or an iterable of vectors.
        ids: None for a random UUID4 per point.
        payloads: None for no payloads.

    Raises:
        InputError: If the arrays of a dict differ in length; before the first row.
    """
    return zip(
        (str(uuid.uuid4()) for _ in itertools.count()) if ids is None else ids,
        _vector_rows(vectors),
        itertools.repeat(None) if payloads is None else payloads,
        strict=False,
    )


def _vector_rows(vectors: Any) -> Iterable[Any]:
    if not isinstance(vectors, Mapping):
        rows: Iterable[Any] = iter(vectors)
        return rows
    sizes = {name: len(column) for name, column in vectors.items()}
    if len(set(sizes.values())) != 1:
        found = ", ".join(f"{size} of {name!r}" for name, size in sizes.items()) or "none"
        raise InputError(f"upload_collection got vectors of different numbers: {found}. Nothing was written.")
    columns = [np.asarray(column) if not isinstance(column, list) else column for column in vectors.values()]
    return (dict(zip(vectors, row, strict=True)) for row in zip(*columns, strict=True))
