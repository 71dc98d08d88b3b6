"""Haystack's filters -> the filter language of the index."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from haystack.errors import FilterError

__all__ = ["translate_filters"]

_RANGES: Final = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_LISTS: Final = {"in": "$in", "not in": "$nin"}
_META: Final = "meta."


def translate_filters(filters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Translate filters; None and {} are no filter.

    Numbers compare as in the index: an int equals ints only. `==` with None holds where a field is missing,
    null or an empty list.

    Raises:
        FilterError: Haystack's own, if a filter is not valid, or its field is not in the metadata.
    """
    if not filters:
        return None
    if "field" in filters:
        return _comparison(filters)
    operator = _required(filters, "operator")
    conditions = [translate_filters(condition) or {} for condition in _required(filters, "conditions")]
    if not conditions:
        raise FilterError(f"The filter {operator!r} has no conditions, expected one or more.")
    if operator == "AND":
        return {"$and": conditions}
    if operator == "OR":
        return {"$or": conditions}
    if operator == "NOT":
        return {"$not": {"$and": conditions}}
    raise FilterError(f"The filter has the operator {operator!r}, expected AND, OR or NOT.")


def _comparison(filters: Mapping[str, Any]) -> dict[str, Any]:
    field, operator, value = (_required(filters, name) for name in ("field", "operator", "value"))
    key = str(field).removeprefix(_META)
    if key in ("id", "content"):
        raise FilterError(f"The filter has the field {field!r}, expected a field of the metadata: meta.name.")
    if operator in ("==", "!="):
        if value is None:
            return {key: {"$exists": operator == "!="}}
        return {key: {"$eq" if operator == "==" else "$ne": value}}
    if operator in _RANGES:
        if value is None:  # nothing is greater or less than nothing
            return {"$and": [{key: {"$exists": True}}, {key: {"$exists": False}}]}
        return {key: {_RANGES[operator]: _bound(value)}}
    if operator in _LISTS:
        if not isinstance(value, list):
            raise FilterError(
                f"The filter {operator!r} on {field!r} has a {type(value).__name__}, expected a list."
            )
        return {key: {_LISTS[operator]: value}}
    raise FilterError(
        f"The filter on {field!r} has the operator {operator!r}, expected ==, !=, >, >=, <, <=, in or not in."
    )


def _bound(value: Any) -> Any:
    """Return the bound of a range.

    Raises:
        FilterError: If it is not a number or a time.
    """
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(
                f"The bound {value!r} is not an ISO 8601 time, expected a number or one."
            ) from None
    if isinstance(value, int | float | datetime) and not isinstance(value, bool):
        return value
    raise FilterError(f"The bound is a {type(value).__name__}, expected a number or an ISO 8601 time.")


def _required(filters: Mapping[str, Any], name: str) -> Any:
    if name not in filters:
        raise FilterError(f"The filter has no {name!r}: {', '.join(map(str, filters))}.")
    return filters[name]
