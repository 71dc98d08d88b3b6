"""Documents as a collection stores them: each one point, or with `windows="points"` one point per window.

A document is read and deleted by its first point, which says how many there are. So that point is written
last and deleted last, and what a kill interrupts is done again by the next `add`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from splade_retriever.errors import NotSupportedError
from splade_retriever.index.collection import Collection
from splade_retriever.index.documents import Document
from splade_retriever.index.ingest import Batch, Stored
from splade_retriever.index.payload import (
    PACKAGE_KEY,
    WINDOW_NUMBER_PATH,
    package_fields,
    point_id,
    window_count,
)

__all__ = [
    "delete_documents",
    "first_points",
    "lookup",
    "read_stored",
    "set_metadata",
    "window_records",
    "write_batch",
]


def first_points(collection: Collection, filter: models.Filter | None) -> models.Filter | None:
    """Narrow a filter to one point per document."""
    if not collection.has_windows:
        return filter
    later = models.FieldCondition(key=WINDOW_NUMBER_PATH, range=models.Range(gt=0))
    return models.Filter(must=None if filter is None else [filter], must_not=[later])


def lookup(collection: Collection, documents: Sequence[Document]) -> dict[str, Stored]:
    """Read what is stored of these documents, by id."""
    return read_stored(collection, [document.id for document in documents])


def read_stored(collection: Collection, ids: Sequence[str]) -> dict[str, Stored]:
    """Read what is stored under these ids; missing ones are left out."""
    points: dict[models.ExtendedPointId, str] = {point_id(id, collection.layout): id for id in ids}
    metadata_key = collection.layout.metadata_key
    keys = [PACKAGE_KEY] if metadata_key is None else [PACKAGE_KEY, metadata_key]
    stored: dict[str, Stored] = {}
    for record in collection.retrieve(list(points), payload=keys):
        metadata = None if metadata_key is None else (record.payload or {}).get(metadata_key)
        stored[points[record.id]] = Stored(
            package_fields(record).get("hash"), metadata or {}, window_count(record)
        )
    return stored


def window_records(collection: Collection, first: models.Record) -> list[models.Record | None]:
    """Read all points of a document, in order, from its first; None where one is missing."""
    count = window_count(first)
    if count == 1:
        return [first]
    id = str(package_fields(first).get("id", first.id))
    points = [point_id(id, collection.layout, n) for n in range(1, count)]
    records = {record.id: record for record in collection.retrieve(points)}
    return [first, *(records.get(point) for point in points)]


def write_batch(collection: Collection, batch: Batch) -> None:
    """Write a batch of `add`.

    A document that now takes fewer points has no hash while its surplus points are being removed, so that an
    interrupted write is not taken for a finished one.
    """
    if batch.surplus:
        _forget_hashes(collection, [document.id for document, _, _ in batch.surplus])
        collection.delete_points(
            [
                point_id(document.id, collection.layout, n)
                for document, first, end in batch.surplus
                for n in range(first, end)
            ]
        )
    collection.upsert(batch.points)
    for document, stored in batch.metadata:
        set_metadata(collection, document.id, document.metadata, stored.windows)


def _forget_hashes(collection: Collection, ids: Sequence[str]) -> None:
    points = [point_id(id, collection.layout) for id in ids]
    collection.set_payload({"hash": None}, points, key=PACKAGE_KEY)


def set_metadata(collection: Collection, id: str, metadata: Mapping[str, Any], windows: int) -> None:
    """Replace the metadata of a document in all its points.

    Raises:
        NotSupportedError: Metadata lies inside LlamaIndex nodes.
    """
    if collection.layout.metadata_key is None:
        raise NotSupportedError(
            f"Collection {collection.name!r} keeps metadata inside LlamaIndex nodes, which are not rewritten "
            "in place. Add the document again."
        )
    points = [point_id(id, collection.layout, n) for n in reversed(range(windows))]
    collection.set_payload({collection.layout.metadata_key: dict(metadata)}, points)


def delete_documents(collection: Collection, ids: Sequence[str]) -> None:
    """Delete documents with all their points; ids that are not stored are skipped."""
    collection.delete_points(
        [
            point_id(id, collection.layout, n)
            for id, stored in read_stored(collection, ids).items()
            for n in reversed(range(stored.windows))
        ]
    )
