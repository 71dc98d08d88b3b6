"""Encodes the documents of one collection into another one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import StorageError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.documents import BadInput, Document, DocumentKey, Hit
from splade_retriever.index.ingest import Batch, Stored, ingest
from splade_retriever.index.payload import (
    PACKAGE_KEY,
    content_hash,
    document_key,
    joined_windows,
    package_fields,
    point_id,
    to_hit,
    window_count,
)
from splade_retriever.index.point_encoding import to_points
from splade_retriever.index.stored_documents import (
    delete_documents,
    first_points,
    lookup,
    read_stored,
    window_records,
    write_batch,
)
from splade_retriever.protocols import DenseEncoder, Encoder

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["PassReport", "Reencoding", "count_documents", "find_encoded_text"]

_BATCH: Final = 64
_CONTEXT_KEYS: Final = ("heading", "title")
"""Metadata that `splade index` encodes before a text."""


@dataclass(slots=True)
class PassReport:
    """Result of one pass over all documents."""

    documents: int = 0
    encoded: int = 0
    """Documents that were encoded in this pass."""
    changes: int = 0
    """Documents that were written or deleted in this pass."""
    other_text: int = 0
    """Documents whose old vector was made of a text that is not stored."""


@dataclass(frozen=True, slots=True)
class Reencoding:
    """The documents of one collection on their way to another one."""

    source: Collection
    target: Collection
    old: CollectionSettings
    """Settings of the source."""
    new: CollectionSettings
    """Settings of the target."""
    encoder: Encoder
    dense: DenseEncoder | None
    """Makes the dense vectors; None to copy them."""

    def run_pass(self, *, batch_size: int, on_written: Callable[[int], object] | None = None) -> PassReport:
        """Write each document that the target lacks or has otherwise, and delete those that are gone.

        A document whose text is stored already, encoded with the new settings, is not encoded again.

        Args:
            batch_size: Documents to encode and write together.
            on_written: Called with the number of documents that are done, after each batch.
        """
        report = PassReport()
        recipe = self.new.recipe()

        def write(batch: Batch) -> list[BadInput]:
            report.changes += len(batch.points) + len(batch.metadata)
            return write_batch(self.target, batch)

        def count(ids: list[str]) -> None:
            report.documents += len(ids)
            if on_written is not None:
                on_written(report.documents)

        ingest(
            self._documents(report),
            batch_size=batch_size,
            hash_of=lambda document: content_hash(document, recipe),
            lookup=self._lookup,
            encode=lambda batch: self._encode(batch, report),
            write=write,
            on_error="raise",
            on_written=count,
            stop=threading.Event(),
            overlap=not self.target.single_thread,
        )
        if count_documents(self.target) != report.documents:
            report.changes += self._remove_gone()
        return report

    def _documents(self, report: PassReport) -> Iterator[Document]:
        """Read the documents of the source; those that are stored as windows are put together."""
        source, recipe = self.source, self.old.recipe()
        records = source.scroll(first_points(source, None), batch_size=_BATCH)
        for position, record in enumerate(records):
            hit = _whole_document(source, record)
            own = package_fields(record)
            extra = own.get("extra", hit.extra or None)
            tenant = source.layout.tenant_of(hit.metadata)
            document = Document(position, hit.id, hit.text, hit.metadata, extra, tenant=tenant)
            document, known = find_encoded_text(document, own.get("hash"), recipe)
            report.other_text += not known
            yield document

    def _lookup(self, batch: Sequence[Document]) -> dict[DocumentKey, Stored]:
        """Read what the target has of these documents."""
        layout = self.target.layout
        if layout.metadata_key is not None:
            return lookup(self.target, batch)
        # Metadata inside a LlamaIndex node is not changed in place: such a document is written again.
        document_of: dict[models.ExtendedPointId, Document] = {
            point_id(document.key, layout): document for document in batch
        }
        stored: dict[DocumentKey, Stored] = {}
        for record in self.target.retrieve(list(document_of)):
            document, hit = document_of[record.id], to_hit(record, layout, "")
            if hit.metadata == document.metadata:
                hash = package_fields(record).get("hash")
                stored[document.key] = Stored(hash, hit.metadata, window_count(record))
        return stored

    def _encode(self, batch: Sequence[Document], report: PassReport) -> "list[list[models.PointStruct]]":
        """Make the new points; payload keys of other programs are copied."""
        ids = [point_id(document.key, self.source.layout) for document in batch]
        copied_name = self.old.dense_name if self.dense is None else None
        old_points = {
            record.id: record
            for record in self.source.retrieve(ids, vectors=False if copied_name is None else [copied_name])
        }
        dense = self.dense
        if copied_name is not None:
            # A document that was deleted meanwhile gets zeros; the next pass deletes it here too.
            zeros = [0.0] * (self.old.dense_size or 0)
            vectors = [_vector(old_points[id], copied_name) if id in old_points else zeros for id in ids]
            dense = _StoredVectors(vectors)
        new_points = to_points(batch, self.new, self.target.layout, self.encoder, dense)
        for id, windows in zip(ids, new_points, strict=True):
            old_payload = old_points[id].payload or {} if id in old_points else {}
            others = {key: value for key, value in old_payload.items() if key != PACKAGE_KEY}
            for window in windows:
                window.payload = {**others, **(window.payload or {})}
        report.encoded += len(batch)
        return new_points

    def _remove_gone(self) -> int:
        """Delete the documents that the source lacks from the target, and return their number."""
        target = self.target
        gone: list[DocumentKey] = []
        for record in target.scroll(first_points(target, None), batch_size=_BATCH):
            key = document_key(record, target.layout)
            if not read_stored(self.source, [key]):
                gone.append(key)
        delete_documents(target, gone)
        return len(gone)


def count_documents(store: Collection) -> int:
    """Return the exact number of documents, each of which may have several points."""
    return store.count(first_points(store, None))


def _whole_document(source: Collection, record: "models.Record") -> Hit:
    first = to_hit(record, source.layout, "")
    if first.window is None:
        return first
    records = window_records(source, record)
    windows = [window for window in records if window is not None]
    if len(windows) < len(records):
        raise StorageError(
            f"Document {first.id!r} of collection {source.name!r} has {len(records)} windows, of which "
            f"{len(records) - len(windows)} are missing. The old collection stays in use. "
            "Add that document again first."
        )
    return joined_windows([to_hit(window, source.layout, "") for window in windows])


def find_encoded_text(document: Document, stored_hash: str | None, recipe: str) -> tuple[Document, bool]:
    """Find the text that a stored vector was made of, which the content hash proves.

    Returns:
        The document with that text; and whether it is known. A point of another program has no hash; its text
        is assumed to be the one that was encoded.
    """
    if stored_hash is None:
        return document, True
    above = [document.metadata.get(key) for key in _CONTEXT_KEYS]
    contexts = [f"{words}\n{document.text}" for words in above if isinstance(words, str) and words]
    for candidate in (None, *contexts):
        encoded = replace(document, encoded_text=candidate)
        if content_hash(encoded, recipe) == stored_hash:
            return encoded, True
    return document, False


class _StoredVectors:
    """Takes the place of a dense encoder: returns vectors that are stored already."""

    def __init__(self, vectors: list[list[float]]) -> None:
        self._vectors = vectors

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._vectors

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


def _vector(record: "models.Record", name: str) -> list[float]:
    vector: Any = record.vector
    return list((vector.get(name) if isinstance(vector, dict) else vector) or [])
