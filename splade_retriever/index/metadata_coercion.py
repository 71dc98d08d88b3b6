"""Coercion of metadata to JSON values, for `SpladeIndex(metadata="coerce")`."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

from splade_retriever.validation import MAX_DEPTH

__all__ = ["coerce_all", "coerce_metadata"]


def coerce_metadata(value: Any, *, max_depth: int = MAX_DEPTH) -> Any:
    """Convert values that JSON does not have, at any depth; other values are returned unchanged.

    | value | becomes |
    |---|---|
    | datetime, date, time | its ISO 8601 string |
    | Decimal | a float |
    | NaN, infinity | None |
    | UUID, Path | a string |
    | Enum | its value |
    | numpy scalar, numpy array | a number or a string, a list |
    | tuple, set, frozenset | a list, that of a set sorted |

    Args:
        value: The value.
        max_depth: Levels of nesting that are converted; what is deeper cannot be stored.
    """
    if max_depth < 0:
        return value
    coerced = partial(coerce_metadata, max_depth=max_depth - 1)
    if isinstance(value, Mapping):
        return {key: coerced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [coerced(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((coerced(item) for item in value), key=_sort_key)
    return _coerce_scalar(value)


def _sort_key(item: Any) -> tuple[str, Any]:
    """Sort the items of a set by type, numbers by value and all others by their text."""
    is_number = isinstance(item, int | float)
    return ("" if is_number else type(item).__name__, item if is_number else str(item))


def _coerce_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return coerce_metadata(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return coerce_metadata(value.tolist())
    if isinstance(value, date | time):  # a datetime is also a date
        return value.isoformat()
    if isinstance(value, UUID | PurePath):
        return str(value)
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def coerce_all(metadatas: Iterable[Any] | None) -> list[Any] | Iterator[Any] | None:
    """Coerce the metadata of several documents; a list stays a list, an iterator is read lazily."""
    if metadatas is None:
        return None
    if isinstance(metadatas, list | tuple):
        return [coerce_metadata(metadata) for metadata in metadatas]
    return (coerce_metadata(metadata) for metadata in metadatas)
