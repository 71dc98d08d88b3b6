"""Reading documents of a collection: by id, by filter, and their number."""

from collections.abc import Iterable, Iterator

from qdrant_client import models

from splade_retriever.index.collection import Collection
from splade_retriever.index.document_filters import document_filter
from splade_retriever.index.documents import Hit, Hits, checked_ids, in_batches
from splade_retriever.index.payload import joined_windows, point_id, to_hit
from splade_retriever.index.stored_documents import document_keys, first_points, window_records

__all__ = ["Reader"]


class Reader:
    """Reads the documents of one collection."""

    def __init__(self, collection: Collection, vector_name: str) -> None:
        self._collection = collection
        self._vector_name = vector_name

    def get(self, ids: Iterable[str], *, tenant: str | None, with_vectors: bool) -> list[Hit]:
        """Read documents by id, in that order; missing ones are skipped."""
        self._collection.check_before_read()
        hits = Hits()
        for batch in in_batches(checked_ids(ids)):
            keys = document_keys(self._collection, batch, tenant)
            points = [point_id(key, self._collection.layout) for key in keys]
            records = {
                record.id: record
                for record in self._collection.retrieve(
                    list(dict.fromkeys(points)), vectors=self._vectors(with_vectors)
                )
            }
            hits.extend(self._document(records[point]) for point in points if point in records)
        return hits

    def scroll(self, filter: models.Filter | None, *, batch_size: int, with_vectors: bool) -> Iterator[Hit]:
        """Read all documents that match a filter, in the engine's order."""
        self._collection.check_before_read()
        firsts = first_points(self._collection, document_filter(self._collection, filter))
        for record in self._collection.scroll(
            firsts, batch_size=batch_size, vectors=self._vectors(with_vectors)
        ):
            yield self._document(record)

    def count(self, filter: models.Filter | None) -> int:
        """Count documents, all or those that match a filter."""
        self._collection.check_before_read()
        return self._collection.count(
            first_points(self._collection, document_filter(self._collection, filter))
        )

    def _document(self, first: models.Record) -> Hit:
        layout, name = self._collection.layout, self._vector_name
        windows = [record for record in window_records(self._collection, first) if record is not None]
        hits = [to_hit(record, layout, name) for record in windows]
        return hits[0] if hits[0].window is None else joined_windows(hits)

    def _vectors(self, with_vectors: bool) -> list[str] | bool:
        return [self._vector_name] if with_vectors else False
