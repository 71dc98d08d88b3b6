"""Coercion of metadata to JSON values, for `SpladeIndex(metadata="coerce")`."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

__all__ = ["coerce_all", "coerce_metadata"]


def coerce_metadata(value: Any) -> Any:
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
    """
    if isinstance(value, Mapping):
        return {key: coerce_metadata(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [coerce_metadata(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((coerce_metadata(item) for item in value), key=lambda item: (str(type(item)), item))
    return _coerce_scalar(value)


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
