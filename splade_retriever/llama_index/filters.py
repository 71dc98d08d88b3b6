"""Filters of LlamaIndex -> filters of an index: pure functions.

| operator | holds where the field, or an element of the field's list |
|---|---|
| `==` `!=` | equals the value; differs from it, or is missing |
| `>` `>=` `<` `<=` | lies in the range: numbers, or times as ISO 8601 strings |
| `in` `any` | is one of the values |
| `nin` | is not one of the values, or is missing |
| `all` | the list holds all of the values |
| `contains` | the list holds the value |
| `text_match` `text_match_insensitive` | has all words of the value, compared without case |
| `is_empty` | is missing, null or an empty list |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client import models

from splade_retriever.errors import FilterError
from splade_retriever.index.documents import DocumentKey
from splade_retriever.index.llama_index_payload import NODE_KEY
from splade_retriever.index.payload import PACKAGE_KEY, Layout, point_id
from splade_retriever.validation import type_name

__all__ = ["NodeFilters", "any_word", "combine", "nothing", "to_index_filter"]

_ID_PATH: Final = f"{PACKAGE_KEY}.id"
_SOURCE_PATH: Final = f"{PACKAGE_KEY}.extra.{NODE_KEY}.ref_doc_id"
_QDRANT_STORE_SOURCE_PATH: Final = "doc_id"
"""Path of the source document's id in collections of LlamaIndex's Qdrant store, which indexes it."""

_OPERATORS: Final[Mapping[FilterOperator, str]] = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.ANY: "$in",
    FilterOperator.ALL: "$all",
    FilterOperator.CONTAINS: "$contains",
    FilterOperator.TEXT_MATCH: "$text",
    FilterOperator.TEXT_MATCH_INSENSITIVE: "$text",
}


def to_index_filter(filters: MetadataFilters | None) -> dict[str, Any] | None:
    """Translate metadata filters, nested to any depth; None for filters without conditions.

    The index checks the values when it translates the filter for the engine.

    Raises:
        FilterError: If an operator or a condition is unknown.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise FilterError(f"filters is {type_name(filters)}, expected LlamaIndex's MetadataFilters.")
    clauses = [
        clause
        for item in filters.filters
        if (clause := to_index_filter(item) if isinstance(item, MetadataFilters) else _field(item))
    ]
    if not clauses:
        return None
    condition = filters.condition or FilterCondition.AND
    if condition is FilterCondition.AND:
        return {"$and": clauses}
    if condition is FilterCondition.OR:
        return {"$or": clauses}
    if condition is FilterCondition.NOT:  # holds where no clause holds
        return {"$not": {"$or": clauses}}
    raise FilterError(f"The filters have the condition {condition!r}; allowed: and, or, not.")


def _field(item: MetadataFilter) -> dict[str, Any]:
    if item.operator is FilterOperator.IS_EMPTY:
        return {item.key: {"$exists": False}}
    operator = _OPERATORS.get(item.operator)
    if operator is None:
        allowed = ", ".join(operator.value for operator in (*_OPERATORS, FilterOperator.IS_EMPTY))
        raise FilterError(f"Filter key {item.key!r} has the operator {item.operator!r}; allowed: {allowed}.")
    if item.value is None:
        raise FilterError(
            f"Filter key {item.key!r} is compared with None by {item.operator.value!r}. To find a missing or "
            "null field use FilterOperator.IS_EMPTY."
        )
    return {item.key: {operator: item.value}}


def any_word(text: str) -> dict[str, Any] | models.Filter:
    """Return a filter for texts with at least one of these words; without words, one that matches nothing."""
    words = [word for word in dict.fromkeys(text.split()) if any(map(str.isalnum, word))]
    return {"$or": [{"$text": word} for word in words]} if words else nothing()


def nothing() -> models.Filter:
    """Return a filter that matches nothing."""
    return models.Filter(must=[models.HasIdCondition(has_id=[])])


@dataclass(frozen=True, slots=True)
class NodeFilters:
    """Makes filters for nodes by their ids and by the ids of their source documents."""

    layout: Layout
    windows: bool
    """True if a node can have several points."""

    def nodes(self, ids: Sequence[str]) -> models.Filter:
        """Return a filter for nodes by id, whichever program wrote them."""
        condition: models.Condition
        if self.windows or self.layout.tenant_field is not None:
            # The number of points of each node, and whose it is, are unknown here.
            condition = _any_of(_ID_PATH, ids)
        else:
            condition = models.HasIdCondition(has_id=[point_id(DocumentKey(id), self.layout) for id in ids])
        return models.Filter(must=[condition])

    def sources(self, ref_doc_ids: Sequence[str]) -> models.Filter:
        """Return a filter for the nodes of source documents; a node without a source is its own source."""
        return models.Filter(should=[_any_of(self._source_path, ref_doc_ids), self.nodes(ref_doc_ids)])

    @property
    def paths(self) -> list[str]:
        """Payload paths with strings that these filters compare."""
        by_id = self.windows or self.layout.tenant_field is not None
        return [self._source_path, _ID_PATH] if by_id else [self._source_path]

    @property
    def _source_path(self) -> str:
        return _QDRANT_STORE_SOURCE_PATH if self.layout.holds_nodes else _SOURCE_PATH


def combine(*filters: Mapping[str, Any] | models.Filter | None) -> dict[str, Any] | None:
    """Return a filter that holds where all filters hold; None if all are None."""
    conditions = [filter for filter in filters if filter is not None]
    return {"$and": conditions} if conditions else None


def _any_of(path: str, values: Sequence[str]) -> models.FieldCondition:
    return models.FieldCondition(key=path, match=models.MatchAny(any=list(values)))
