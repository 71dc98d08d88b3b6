"""Filters of points -> filters of documents, for collections that store a document as several points.

A condition on metadata holds for all points of a document or for none. A condition on the text or on point
ids may hold for some of them: it is replaced by the ids of the documents that it holds for, so that `$not`,
counts and deletions treat a document as one.
"""

import re
from typing import Any, Final

from qdrant_client import models

from splade_retriever.filters import field_path
from splade_retriever.index.collection import Collection
from splade_retriever.index.documents import DocumentKey
from splade_retriever.index.payload import ESCAPED_PATH, ID_PATH, PACKAGE_KEY, metadata_of, package_fields

__all__ = ["document_filter", "points_by_document"]

_WORD: Final = re.compile(r"[^\W_]+")
_GROUPS: Final = ("must", "should", "must_not")


def document_filter(collection: Collection, filter: models.Filter | None) -> models.Filter | None:
    """Return a filter that holds for all points of a document or for none.

    A text condition holds for a document if all its words are in the document, in whichever windows.

    Args:
        collection: Read, once per condition that is replaced.
        filter: A filter of points.
    """
    if filter is None or not collection.has_windows:
        return filter
    return _filter(collection, filter)


def _filter(collection: Collection, filter: models.Filter) -> models.Filter:
    changes: dict[str, Any] = {
        name: [_condition(collection, item) for item in _listed(getattr(filter, name))]
        for name in _GROUPS
        if getattr(filter, name) is not None
    }
    if filter.min_should is not None:
        changes["min_should"] = models.MinShould(
            conditions=[_condition(collection, item) for item in filter.min_should.conditions],
            min_count=filter.min_should.min_count,
        )
    return models.Filter(**changes)


def _listed(conditions: Any) -> list[Any]:
    return list(conditions) if isinstance(conditions, list) else [conditions]


def _condition(collection: Collection, condition: Any) -> Any:
    if isinstance(condition, models.Filter):
        return _filter(collection, condition)
    if _is_same_in_all_points(collection, condition):
        return condition
    if isinstance(condition, models.FieldCondition) and isinstance(condition.match, models.MatchText):
        words = _WORD.findall(condition.match.text) or [condition.match.text]
        parts = [
            models.FieldCondition(key=condition.key, match=models.MatchText(text=word)) for word in words
        ]
        return models.Filter(must=[_documents_with(collection, part) for part in parts])
    return _documents_with(collection, condition)


def _is_same_in_all_points(collection: Collection, condition: Any) -> bool:
    """Return whether a condition looks at nothing but what all points of a document share."""
    part = next(
        (
            getattr(condition, name)
            for name in ("is_empty", "is_null", "nested")
            if getattr(condition, name, None) is not None
        ),
        condition,
    )
    key = getattr(part, "key", None)
    metadata_path = collection.layout.metadata_path
    shared = [ID_PATH, f"{PACKAGE_KEY}.extra", ESCAPED_PATH]
    if metadata_path is not None:
        shared.append(metadata_path)
    return isinstance(key, str) and any(re.match(rf"{re.escape(path)}(\.|\[|$)", key) for path in shared)


def _documents_with(collection: Collection, condition: Any) -> models.Filter:
    """Name the documents that have a point for which a condition holds."""
    keys = points_by_document(collection, models.Filter(must=[condition]))
    ids_of: dict[str | None, list[str]] = {}
    for id, tenant in keys:
        ids_of.setdefault(tenant, []).append(id)
    return models.Filter(
        should=[_named(collection, ids, tenant) for tenant, ids in ids_of.items()]
        or [models.HasIdCondition(has_id=[])]
    )


def _named(collection: Collection, ids: list[str], tenant: str | None) -> models.Filter:
    conditions = [models.FieldCondition(key=ID_PATH, match=models.MatchAny(any=ids))]
    layout = collection.layout
    if tenant is not None and layout.tenant_field is not None:
        path = field_path(
            layout.tenant_field, metadata_key=layout.metadata_key, escaped_path=layout.escaped_path
        )
        conditions.append(models.FieldCondition(key=path, match=models.MatchValue(value=tenant)))
    return models.Filter(must=[*conditions])


def points_by_document(
    collection: Collection, filter: models.Filter | None
) -> dict[DocumentKey, list[models.ExtendedPointId]]:
    """Return the points that match a filter, by their document."""
    layout = collection.layout
    keys: bool | list[str] = [ID_PATH]
    if layout.tenant_field is not None:
        keys = True if layout.metadata_path is None else [ID_PATH, layout.metadata_path]
    points: dict[DocumentKey, list[models.ExtendedPointId]] = {}
    for record in collection.scroll(filter, batch_size=1024, payload=keys):
        tenant = layout.tenant_of(metadata_of(record.payload, layout))
        key = DocumentKey(str(package_fields(record).get("id", record.id)), tenant)
        points.setdefault(key, []).append(record.id)
    return points
