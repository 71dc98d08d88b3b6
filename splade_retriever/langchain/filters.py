"""Filters: LangChain's structured queries -> filters of the index; filters <-> JSON, for `dumps`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, TypeAlias

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    FilterDirective,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)
from qdrant_client import models

from splade_retriever.errors import FilterError
from splade_retriever.filters import FilterLike

__all__ = ["LangChainFilter", "SpladeTranslator", "filter_from_json", "filter_to_json", "to_index_filter"]

LangChainFilter: TypeAlias = FilterLike | FilterDirective
"""Any filter that the adapter accepts."""


def to_index_filter(filter: LangChainFilter | None) -> FilterLike | None:
    """Translate a structured query's filter; any other filter is returned unchanged.

    Raises:
        FilterError: If a comparison cannot be expressed.
    """
    if isinstance(filter, FilterDirective):
        translated: dict[str, Any] = filter.accept(SpladeTranslator())
        return translated
    return filter


def filter_to_json(filter: object) -> Any:
    """Convert a filter to JSON values; `filter_from_json` converts it back to an equal one.

    A structured query's filter becomes the equivalent dict. Other values that JSON does not have, at any
    depth, become a dict with one key: `{"$qdrant": {...}}`, `{"$datetime": "..."}`, `{"$date": "..."}`.
    """
    if isinstance(filter, FilterDirective):
        return filter_to_json(to_index_filter(filter))
    if isinstance(filter, models.Filter):
        return {"$qdrant": filter.model_dump(mode="json", exclude_none=True)}
    if isinstance(filter, date):  # a datetime is also a date
        return {"$datetime" if isinstance(filter, datetime) else "$date": filter.isoformat()}
    if isinstance(filter, Mapping):
        return {key: filter_to_json(value) for key, value in filter.items()}
    if isinstance(filter, list | tuple | set):
        return [filter_to_json(value) for value in filter]
    return filter


def filter_from_json(filter: object) -> Any:
    """Convert the output of `filter_to_json` to a filter; other filters are returned unchanged.

    Raises:
        ValueError: If a `$qdrant`, `$datetime` or `$date` value is not valid.
    """
    if isinstance(filter, Mapping):
        if len(filter) == 1:
            ((key, value),) = filter.items()
            if key in _PARSERS:
                return _PARSERS[key](value)
        return {key: filter_from_json(value) for key, value in filter.items()}
    if isinstance(filter, list):
        return [filter_from_json(value) for value in filter]
    return filter


_PARSERS: Mapping[object, Callable[[Any], Any]] = {
    "$qdrant": models.Filter.model_validate,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
}


class SpladeTranslator(Visitor):
    """Translates structured queries for a `SpladeVectorStore`.

    Pass it to `SelfQueryRetriever` as `structured_query_translator=`. A day (`{"type": "date"}`) equals every
    time within it, in UTC; `like` holds where the field contains all the words.
    """

    allowed_comparators: Sequence[Comparator] | None = tuple(Comparator)
    allowed_operators: Sequence[Operator] | None = tuple(Operator)

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Translate "and", "or", "not".

        Raises:
            FilterError: If the operation has no arguments.
        """
        parts = [argument.accept(self) for argument in operation.arguments]
        if not parts:
            raise FilterError(f"The structured query has {operation.operator.value!r} without arguments.")
        if operation.operator is Operator.NOT:
            return {"$not": parts[0] if len(parts) == 1 else {"$and": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Translate one comparison of a metadata key with a value."""
        operator = _OPERATORS[comparison.comparator]
        value = _value(comparison.value)
        if isinstance(value, date) and not isinstance(value, datetime):
            return {comparison.attribute: _day(operator, value)}
        return {comparison.attribute: {operator: value}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """Return the query's text and the keyword arguments of a search."""
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


_OPERATORS: Mapping[Comparator, str] = {
    Comparator.EQ: "$eq",
    Comparator.NE: "$ne",
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
    Comparator.CONTAIN: "$contains",
    Comparator.LIKE: "$text",
    Comparator.IN: "$in",
    Comparator.NIN: "$nin",
}


def _value(value: object) -> object:
    """Convert a value of the query language, which writes times as `{"type": "date", "date": "2023-08-23"}`.

    Raises:
        FilterError: If a time is not valid.
    """
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if not isinstance(value, Mapping) or value.get("type") not in ("date", "datetime"):
        return value
    time = value.get(value["type"])
    try:
        return (date if value["type"] == "date" else datetime).fromisoformat(str(time))
    except ValueError:
        raise FilterError(
            f"The structured query compares with the {value['type']} {time!r}, expected ISO 8601, such as "
            "2023-08-23 or 2023-08-23T12:33:00Z."
        ) from None


def _day(operator: str, day: date) -> dict[str, Any]:
    """Compare with a day, which lasts from midnight to midnight in UTC."""
    start, end = day, day + timedelta(days=1)
    if operator == "$eq":
        return {"$gte": start, "$lt": end}
    if operator == "$ne":
        return {"$not": {"$gte": start, "$lt": end}}
    if operator in ("$gt", "$lte"):
        return {"$gte" if operator == "$gt" else "$lt": end}
    return {operator: start}
