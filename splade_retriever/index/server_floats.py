"""Metadata floats that a server returns as they were written, and finds by equality.

A server parses the numbers of a payload with one rounded operation: about a tenth of the floats with 16 or
17 digits change in the last bits. Their exact values are stored as a string under the payload key of the
package, where they do not disturb other programs. A filter accepts every value that the server may hold for a
bound. The client of the embedded engine does the same for itself.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qdrant_client import models

from splade_retriever.edge.exact_floats import float_as_stored, stored_bounds
from splade_retriever.index.payload import PACKAGE_KEY

__all__ = ["changed_floats", "restored_payload", "stored_payload", "widened"]

_FLOATS_KEY: Final = "floats"
_MAX_DRIFT: Final = 2.0**-44
"""Largest relative difference at which a stored float counts as the exact one: hundreds of rewrites."""
_GROUPS: Final = ("must", "should", "must_not")


def stored_payload(payload: Mapping[str, Any], metadata_key: str | None) -> Mapping[str, Any]:
    """Add the exact values of the floats of a point's metadata that a server changes."""
    package = payload.get(PACKAGE_KEY)
    if metadata_key is None or type(package) is not dict or not _may_have_floats(payload.get(metadata_key)):
        return payload
    floats = changed_floats(payload.get(metadata_key))
    if floats[_FLOATS_KEY] is None:
        return payload
    return {**payload, PACKAGE_KEY: {**package, **floats}}


_WITHOUT_FLOATS: Final = frozenset((str, int, bool, type(None)))


def _may_have_floats(metadata: object) -> bool:
    return type(metadata) is not dict or not _WITHOUT_FLOATS.issuperset(map(type, metadata.values()))


def changed_floats(metadata: object) -> dict[str, str | None]:
    """Return the fields under the package's key for the exact values of a document's metadata."""
    exact = list(_changed(metadata, []))
    return {_FLOATS_KEY: json.dumps(exact) if exact else None}


def _changed(value: object, path: list[str | int]) -> Iterator[tuple[list[str | int], float]]:
    if isinstance(value, float) and float_as_stored(value) != value:
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _changed(item, [*path, key])
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _changed(item, [*path, n])


def restored_payload(payload: dict[str, Any] | None, metadata_key: str | None) -> dict[str, Any] | None:
    """Put the exact floats back into a payload that was read."""
    package = (payload or {}).get(PACKAGE_KEY)
    if payload is None or metadata_key is None or not isinstance(package, dict):
        return payload
    floats = package.pop(_FLOATS_KEY, None)
    for path, exact in json.loads(floats) if isinstance(floats, str) else []:
        _restore(payload.get(metadata_key), path, exact)
    return payload


def _restore(metadata: Any, path: list[Any], exact: float) -> None:
    parent = metadata
    try:
        for part in path[:-1]:
            parent = parent[part]
        stored = parent[path[-1]]
    except (KeyError, IndexError, TypeError):  # another program changed the metadata
        return
    if isinstance(stored, float) and math.isclose(stored, exact, rel_tol=_MAX_DRIFT, abs_tol=5e-322):
        parent[path[-1]] = exact


def widened(filter: models.Filter | None) -> models.Filter | None:
    """Return a filter whose bounds accept what a server may hold for them."""
    return None if filter is None else _widened(filter)


def _widened(condition: Any) -> Any:
    if isinstance(condition, models.Filter):
        changes: dict[str, Any] = {}
        for name in _GROUPS:
            group = getattr(condition, name)
            if group is not None:
                changes[name] = (
                    [_widened(item) for item in group] if isinstance(group, list) else _widened(group)
                )
        if condition.min_should is not None:
            conditions = [_widened(item) for item in condition.min_should.conditions]
            changes["min_should"] = condition.min_should.model_copy(update={"conditions": conditions})
        return condition.model_copy(update=changes)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested.model_copy(update={"filter": _widened(condition.nested.filter)})
        return condition.model_copy(update={"nested": nested})
    if isinstance(condition, models.FieldCondition) and isinstance(condition.range, models.Range):
        return condition.model_copy(update={"range": _widened_range(condition.range)})
    return condition


def _widened_range(range: models.Range) -> models.Range:
    """Extend inclusive bounds outwards, and exclusive ones so that they exclude every form of the bound."""
    side = {"gte": 0, "lt": 0, "gt": 1, "lte": 1}
    return models.Range(
        **{
            name: None if (bound := getattr(range, name)) is None else stored_bounds(float(bound))[n]
            for name, n in side.items()
        }
    )
