"""Encodes the documents of one collection into another one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import StorageError
from splade_retriever.index.collection import Collection, PreparedPoint
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.documents import BadInput, Document, DocumentKey, Hit
from splade_retriever.index.ingest import Batch, Stored, ingest
from splade_retriever.index.payload import (
    PACKAGE_KEY,
    ContentHasher,
    content_hash,
    document_key,
    has_escaped_fields,
    joined_windows,
    package_fields,
    point_id,
    to_hit,
    window_count,
)
from splade_retriever.index.point_encoding import Encoders, to_points
from splade_retriever.index.stored_documents import (
    delete_documents,
    first_points,
    lookup,
    read_stored,
    window_records,
    write_batch,
)
from splade_retriever.maintenance.digests import DocumentDigests, content_digest

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
    read: DocumentDigests = field(default_factory=DocumentDigests)
    """The documents as this pass read them."""


@dataclass(frozen=True, slots=True)
class Reencoding:
    """The documents of one collection on their way to another one."""

    source: Collection
    target: Collection
    old: CollectionSettings
    """Settings of the source."""
    new: CollectionSettings
    """Settings of the target."""
    encoders: Encoders
    """Make the new vectors; without a dense encoder, dense vectors are copied."""

    def run_pass(self, *, batch_size: int, on_written: Callable[[int], object] | None = None) -> PassReport:
        """Write each document that the target lacks or has otherwise, and delete those that are gone.

        A document whose text is stored already, encoded with the new settings, is not encoded again.

        Args:
            batch_size: Documents to encode and write together.
            on_written: Called with the number of documents that are done, after each batch.
        """
        report = PassReport()
        self._store(self._documents(report), report, batch_size, on_written)
        if count_documents(self.target) != report.documents:
            report.changes += self._remove_gone()
        return report

    def carry_over(self, old: Collection, before: DocumentDigests, *, batch_size: int) -> int:
        """Repeat in the target what was written to the old collection after the last pass.

        For use after an alias was switched, when the target is in use: a document that was written to the
        target since that pass is newer, and stays as it is.

        Args:
            old: The collection that the alias pointed to.
            before: The documents as the last pass read them, which the target then had.
            batch_size: Documents to encode and write together.

        Returns:
            The number of documents that were written or deleted.
        """
        work, report = replace(self, source=old), PassReport()
        work._store(work._late(report, before), report, batch_size, None)
        return report.changes + work._remove_late(report.read, before)

    def _late(self, report: PassReport, before: DocumentDigests) -> Iterator[Document]:
        """Read the documents of the source that were changed after a pass, but not in the target."""
        for document in self._documents(report):
            known = before.content_of(document.key)
            if content_digest(document) != known and self._target_content(document.key) == known:
                yield document

    def _remove_late(self, present: DocumentDigests, before: DocumentDigests) -> int:
        """Delete documents that were deleted from the source after a pass, but not changed in the target."""
        late: list[DocumentKey] = []
        for record in self.target.scroll(first_points(self.target, None), batch_size=_BATCH):
            key = document_key(record, self.target.layout)
            known = before.content_of(key)
            is_deleted = known is not None and present.content_of(key) is None
            if is_deleted and self._target_content(key) == known:
                late.append(key)
        delete_documents(self.target, late)
        return len(late)

    def _target_content(self, key: DocumentKey) -> int | None:
        """Return the digest of what the target has of a document now; None for nothing."""
        records = self.target.retrieve([point_id(key, self.target.layout)])
        return content_digest(_document(self.target, records[0], 0)) if records else None

    def _store(
        self,
        documents: Iterator[Document],
        report: PassReport,
        batch_size: int,
        on_written: Callable[[int], object] | None,
    ) -> None:
        """Write documents to the target, unless it has them; those that only differ in metadata get these."""
        recipe = self.new.recipe()

        def write(batch: Batch) -> list[BadInput]:
            report.changes += len(batch.points) + len(batch.metadata)
            return write_batch(self.target, batch)

        def count(ids: list[str]) -> None:
            report.documents += len(ids)
            if on_written is not None:
                on_written(report.documents)

        ingest(
            documents,
            batch_size=batch_size,
            hash_of=ContentHasher(recipe).hash,
            lookup=self._lookup,
            encode=lambda batch: self._encode(batch, report),
            write=write,
            on_error="raise",
            on_written=count,
            stop=threading.Event(),
            write_threads=min(self.target.write_threads, 1),  # `write` counts
        )

    def _documents(self, report: PassReport) -> Iterator[Document]:
        """Read the documents of the source; those that are stored as windows are put together."""
        source, recipe = self.source, self.old.recipe()
        records = source.scroll(first_points(source, None), batch_size=_BATCH)
        for position, record in enumerate(records):
            document = _document(source, record, position)
            report.read.add(document)
            document, known = find_encoded_text(document, package_fields(record).get("hash"), recipe)
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
                stored[document.key] = Stored(
                    hash, hit.metadata, window_count(record), has_escaped_fields=has_escaped_fields(record)
                )
        return stored

    def _encode(self, batch: Sequence[Document], report: PassReport) -> list[list[PreparedPoint]]:
        """Make the new points; payload keys of other programs are copied."""
        ids = [point_id(document.key, self.source.layout) for document in batch]
        encoders = self.encoders
        copied_name = self.old.dense_name if encoders.dense is None else None
        old_points = {
            record.id: record
            for record in self.source.retrieve(ids, vectors=False if copied_name is None else [copied_name])
        }
        if copied_name is not None:
            # A document that was deleted meanwhile gets zeros; the next pass deletes it here too.
            zeros = [0.0] * (self.old.dense_size or 0)
            vectors = [_vector(old_points[id], copied_name) if id in old_points else zeros for id in ids]
            encoders = replace(encoders, dense=_StoredVectors(vectors))
        new_points = to_points(batch, self.new, self.target.layout, encoders)
        for id, windows in zip(ids, new_points, strict=True):
            old_payload = old_points[id].payload or {} if id in old_points else {}
            others = {key: value for key, value in old_payload.items() if key != PACKAGE_KEY}
            for window in windows:
                window.payload = {**others, **window.payload}
        report.encoded += len(batch)
        return self.target.prepared(new_points)

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


def _document(store: Collection, first: "models.Record", position: int) -> Document:
    """Read a document from its first point."""
    hit = _whole_document(store, first)
    extra = package_fields(first).get("extra", hit.extra or None)
    tenant = store.layout.tenant_of(hit.metadata)
    return Document(position, hit.id, hit.text, hit.metadata, extra, tenant=tenant)


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
