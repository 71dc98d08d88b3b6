"""Documents as a collection stores them: each one point, or with `windows="points"` one point per window.

A document is read and deleted by its first point, which says how many there are. So that point is written
last and deleted last, and what a kill interrupts is done again by the next `add`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.collection import Collection
from splade_retriever.index.connection import RequestTooLargeError
from splade_retriever.index.document_filters import document_filter, points_by_document
from splade_retriever.index.documents import BadInput, Document, DocumentKey, in_batches
from splade_retriever.index.ingest import Batch, Stored
from splade_retriever.index.payload import (
    PACKAGE_KEY,
    WINDOW_NUMBER_PATH,
    document_key,
    escaped_fields,
    has_escaped_fields,
    metadata_of,
    package_fields,
    point_id,
    window_count,
    with_metadata,
)
from splade_retriever.index.request_limits import payload_bytes
from splade_retriever.index.server_floats import changed_floats

__all__ = [
    "delete_documents",
    "delete_matching",
    "document_keys",
    "first_points",
    "lookup",
    "read_stored",
    "set_metadata",
    "size_fault",
    "window_records",
    "write_batch",
]


def first_points(collection: Collection, filter: models.Filter | None) -> models.Filter | None:
    """Narrow a filter to one point per document."""
    if not collection.has_windows:
        return filter
    later = models.FieldCondition(key=WINDOW_NUMBER_PATH, range=models.Range(gt=0))
    return models.Filter(must=None if filter is None else [filter], must_not=[later])


def document_keys(collection: Collection, ids: Sequence[str], tenant: str | None) -> list[DocumentKey]:
    """Return which documents are meant by ids, and by a tenant where the collection separates tenants.

    Raises:
        InputError: The tenant is missing, or the collection does not separate tenants.
    """
    tenant_field = collection.layout.tenant_field
    if tenant is None and tenant_field is not None:
        raise InputError(
            f"Collection {collection.name!r} separates tenants by {tenant_field!r}, and two tenants may use "
            "the same id. Pass tenant=... with the ids, or a filter instead of ids."
        )
    if tenant is not None and tenant_field is None:
        raise InputError(
            f"tenant={tenant!r} is passed, but collection {collection.name!r} does not separate tenants. "
            "Leave it out, or use a new collection with tenant_field=."
        )
    return [DocumentKey(id, tenant) for id in ids]


def lookup(collection: Collection, documents: Sequence[Document]) -> dict[DocumentKey, Stored]:
    """Read what is stored of these documents, by key."""
    return read_stored(collection, [document.key for document in documents])


def read_stored(collection: Collection, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Stored]:
    """Read what is stored under these keys; missing ones are left out."""
    points: dict[models.ExtendedPointId, DocumentKey] = {
        point_id(key, collection.layout): key for key in keys
    }
    metadata_path = collection.layout.metadata_path
    fields: bool | list[str] = True if metadata_path is None else [PACKAGE_KEY, metadata_path]
    stored: dict[DocumentKey, Stored] = {}
    for record in collection.retrieve(list(points), payload=fields):
        metadata = metadata_of(record.payload, collection.layout)
        package = package_fields(record)
        stored[points[record.id]] = Stored(
            package.get("hash"),
            metadata,
            window_count(record),
            package.get("text_hash"),
            has_escaped_fields=has_escaped_fields(record),
        )
    return stored


def window_records(collection: Collection, first: models.Record) -> list[models.Record | None]:
    """Read all points of a document, in order, from its first; None where one is missing."""
    count = window_count(first)
    if count == 1:
        return [first]
    key = document_key(first, collection.layout)
    points = [point_id(key, collection.layout, n) for n in range(1, count)]
    records = {record.id: record for record in collection.retrieve(points)}
    return [first, *(records.get(point) for point in points)]


def write_batch(collection: Collection, batch: Batch) -> list[BadInput]:
    """Write a batch of `add`, and return the documents that are too large for the store.

    A document that now takes fewer points has no hash while its surplus points are being removed, so that an
    interrupted write is not taken for a finished one.
    """
    if batch.surplus:
        _forget_hashes(collection, [document.key for document, _, _ in batch.surplus])
        collection.delete_points(
            [
                point_id(document.key, collection.layout, n)
                for document, first, end in batch.surplus
                for n in range(first, end)
            ]
        )
    too_large = [batch.documents[position] for position in collection.upsert(batch.points)]
    for document, stored in batch.metadata:
        try:
            set_metadata(collection, document.key, document.metadata, stored)
        except RequestTooLargeError:
            too_large.append(document)
    return [
        BadInput(document.position, document.id, size_fault(document, collection)) for document in too_large
    ]


def size_fault(document: Document, collection: Collection) -> str:
    """Say that a document is too large for the store, and what to do."""
    limit = collection.max_request_bytes
    accepted = "" if limit is None else f", and the server takes {limit / 2**20:.4g} MiB in a request"
    size = payload_bytes(document.text, document.metadata, document.extra)
    return (
        f"document {document.id!r} has {size / 2**20:.4g} MiB of text and metadata{accepted}. Split it, send "
        "it over gRPC (prefer_grpc=True), which has no such limit, or raise service.max_request_size_mb of "
        "the server"
    )


def _forget_hashes(collection: Collection, keys: Sequence[DocumentKey]) -> None:
    points = [point_id(key, collection.layout) for key in keys]
    collection.set_payload({"hash": None}, points, key=PACKAGE_KEY)


def set_metadata(
    collection: Collection, key: DocumentKey, metadata: Mapping[str, Any], stored: Stored
) -> None:
    """Replace the metadata of a document in all its points.

    The metadata is written last: where a kill comes in between, the next `add` sees that it differs.

    Args:
        collection: The collection.
        key: The document.
        metadata: The new metadata.
        stored: What the collection holds of the document.
    """
    points = [point_id(key, collection.layout, n) for n in reversed(range(stored.windows))]
    if collection.layout.metadata_key is None:
        for record in collection.retrieve(points):
            payload = with_metadata(record, metadata, collection.layout)
            collection.overwrite_payload(payload, record.id)
        return
    fields: dict[str, Any] = {**changed_floats(metadata)} if collection.is_remote else {}
    escaped = escaped_fields(metadata)
    if stored.has_escaped_fields or any(value is not None for value in escaped.values()):
        fields.update(escaped)
    if fields:
        collection.set_payload(fields, points, key=PACKAGE_KEY)
    collection.set_payload({collection.layout.metadata_key: dict(metadata)}, points)


def delete_documents(collection: Collection, keys: Sequence[DocumentKey]) -> int:
    """Delete documents with all their points, and return how many were stored; others are skipped.

    A document of several points has no hash while it is being deleted, so that the next `add` writes it again
    where a kill leaves a part of it.
    """
    stored = read_stored(collection, keys)
    several = [key for key, document in stored.items() if document.windows > 1]
    if several:
        _forget_hashes(collection, several)
    collection.delete_points(
        [
            point_id(key, collection.layout, n)
            for key, document in stored.items()
            for n in reversed(range(document.windows))
        ]
    )
    return len(stored)


def delete_matching(collection: Collection, filter: models.Filter) -> int:
    """Delete the documents that match a filter, each with all its points, and return their number."""
    if not collection.has_windows:
        count = collection.count(filter)
        collection.delete_matching(filter)
        return count
    matching = document_filter(collection, filter)
    points = points_by_document(collection, matching)
    for batch in in_batches(list(points)):
        delete_documents(collection, batch)
        # What an interrupted deletion left of a document, and points of other programs.
        collection.delete_points([point for key in batch for point in points[key]])
    return len(points)
