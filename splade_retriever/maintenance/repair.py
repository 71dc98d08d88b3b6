"""Build a sound index of what can be read of a damaged folder."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splade_retriever.encoding.model_loading import ModelArgument
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InputError,
    NotSupportedError,
)
from splade_retriever.index.collection import Collection, PreparedPoint
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import SETTINGS_KEY, CollectionSettings
from splade_retriever.index.documents import Document, DocumentKey
from splade_retriever.index.ingest import Stored, ingest
from splade_retriever.index.payload import PACKAGE_KEY, ContentHasher
from splade_retriever.index.point_encoding import Encoders, to_points
from splade_retriever.index.stored_documents import lookup, write_batch
from splade_retriever.maintenance.salvage import DamagedDocument, Salvage
from splade_retriever.maintenance.staging import (
    create_like,
    finish,
    index_like,
    open_collection,
    staging_mark,
)
from splade_retriever.protocols import DenseEncoder, NodeEncoder, as_dense
from splade_retriever.validation import is_url, resolved_location

__all__ = ["RepairReport", "repair"]


@dataclass(slots=True)
class RepairReport:
    """Result of a repair."""

    source: str
    target: str
    collection: str
    documents: int = 0
    """Documents of the new collection."""
    damaged: list[DamagedDocument] = field(default_factory=list)
    """Documents that could not be saved."""
    unverified: int = 0
    """Documents that were copied although nothing is stored by which their text could be verified."""
    other_text: int = 0
    """Documents whose old vector was made of a text that is not stored. They were encoded by their stored
    text."""
    seconds: float = 0.0


def repair(
    folder: str | Path,
    target: str | Path,
    *,
    collection: str = "splade",
    model: ModelArgument = None,
    second_model: ModelArgument = None,
    dense: DenseEncoder | NodeEncoder | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int], object] | None = None,
) -> RepairReport:
    """Encode the readable documents of a damaged folder into a new folder, with the model that made them.

    The damaged folder is only read. Each text is compared with its checksum or content hash; documents whose
    text or id is damaged are reported and left out. Metadata have no checksum: those of a
    damaged folder may be wrong. After an interrupt, the same call continues.

    Args:
        folder: The damaged index folder.
        target: The new folder; it may have other collections.
        collection: Name of the collection in both.
        model: The encoder that made the collection; None to open it by the name that the collection stores.
        second_model: Its second sparse encoder, the same.
        dense: The dense encoder of a hybrid collection, as in `SpladeIndex`. Its vectors are made again.
        batch_size: Documents to encode and write together.
        on_progress: Called with the documents done and the number of points, after each batch.

    Raises:
        CollectionNotFoundError: There is no such collection in the folder.
        CollectionMismatchError: The target has such a collection, or the collection does not record its
            model.
        InputError: The folder is a server, both are the same, or `dense` is no dense encoder.
        NotSupportedError: The collection has dense vectors, and `dense` is missing.
        IndexLockedError: Another process has one of the folders open.
        StorageError: Not even the ids of the documents can be read, or the target cannot be written.
    """
    started = time.perf_counter()
    source_location, target_location = resolved_location(folder), resolved_location(target)
    if is_url(source_location):
        raise InputError(f"Location {source_location!r} is a server, expected an index folder.")
    if not is_url(target_location) and Path(source_location).resolve() == Path(target_location).resolve():
        raise InputError("The source and the target are the same folder, expected two. Pass another target.")
    dense_encoder = None if dense is None else as_dense(dense)
    report = RepairReport(source_location, target_location, collection)
    with Salvage(source_location) as salvage:
        if collection not in salvage.collections:
            names = ", ".join(map(repr, salvage.collections)) or "none"
            raise CollectionNotFoundError(
                f"There is no collection {collection!r} at {source_location!r} (found: {names})."
            )
        source = Collection(salvage.client, collection, source_location, owned=False)
        settings = _settings_of(source, dense_encoder)
        has_second = settings.second_encoder is not None
        second = CollectionModel(source, second_model, option="second_model").encoder if has_second else None
        encoders = Encoders(CollectionModel(source, model).encoder, dense_encoder, second)
        total = source.count()
        with open_collection(target_location, collection, create=True, api_key=None) as store:
            _prepare(source, store, settings)
            work = _Work(salvage, store, report, settings, encoders)
            work.run(batch_size, lambda done: on_progress and on_progress(done, total))
            finish(source, store, settings.to_metadata()[SETTINGS_KEY])
    report.seconds = time.perf_counter() - started
    return report


def _settings_of(source: Collection, dense: DenseEncoder | None) -> CollectionSettings:
    settings = CollectionSettings.from_metadata(source.describe().config.metadata, source.name)
    if settings is None:
        raise CollectionMismatchError(
            f"Collection {source.name!r} does not record which model made it, so its documents cannot be "
            "encoded again. EdgeProcess(folder, read_only=True, ignore_damage=True) reads what is left."
        )
    if settings.dense_name is not None and dense is None:
        raise NotSupportedError(
            f"Collection {source.name!r} has the dense vectors {settings.dense_name!r}, which have no "
            "checksum and are made again. Pass dense= with its dense encoder (in Python)."
        )
    source.settings, source.layout = settings, settings.layout
    return settings


def _prepare(source: Collection, target: Collection, settings: CollectionSettings) -> None:
    """Create the new collection, or continue with the one that an interrupted repair left."""
    stored = settings.to_metadata()[SETTINGS_KEY]
    if target.exists():
        mark = staging_mark(target)
        if mark is None or mark.command != "reindex" or mark.settings != stored:
            raise CollectionMismatchError(
                f"Collection {target.name!r} exists at {target.location!r}, expected none, or one that an "
                "interrupted repair left. Choose another folder."
            )
    else:
        create_like(source, target, command="reindex", settings=stored)
    index_like(source, target)
    target.settings, target.layout = settings, settings.layout


@dataclass(frozen=True, slots=True)
class _Work:
    """The documents of a damaged collection on their way to a new one."""

    salvage: Salvage
    target: Collection
    report: RepairReport
    settings: CollectionSettings
    encoders: Encoders
    payloads: dict[DocumentKey, dict[str, Any]] = field(default_factory=dict)
    """Payloads of the documents of a batch that are not encoded yet."""

    def run(self, batch_size: int, on_written: Callable[[int], object]) -> None:
        """Encode and write all documents.

        Args:
            batch_size: Documents to encode and write together.
            on_written: Called with the number of documents that are done, after each batch.
        """
        recipe = self.settings.recipe()

        def count(ids: list[str]) -> None:
            self.report.documents += len(ids)
            on_written(self.report.documents)

        ingest(
            self._documents(),
            batch_size=batch_size,
            hash_of=ContentHasher(recipe).hash,
            lookup=self._lookup,
            encode=self._encode,
            write=lambda batch: write_batch(self.target, batch),
            on_error="raise",
            on_written=count,
            stop=threading.Event(),
            write_threads=self.target.write_threads,
        )

    def _documents(self) -> Iterator[Document]:
        for found in self.salvage.documents(self.report.collection):
            if isinstance(found, DamagedDocument):
                self.report.damaged.append(found)
                continue
            self.report.unverified += not found.verified
            self.report.other_text += not found.knows_encoded_text
            self.payloads[found.document.key] = found.payload
            yield found.document

    def _lookup(self, batch: Sequence[Document]) -> dict[DocumentKey, Stored]:
        """Read what the target has of a batch, and drop the payloads of earlier documents that it skipped."""
        for key in self.payloads.keys() - {document.key for document in batch}:
            del self.payloads[key]
        return lookup(self.target, batch)

    def _encode(self, batch: Sequence[Document]) -> list[list[PreparedPoint]]:
        """Make the points; payload keys of other programs are copied."""
        points = to_points(batch, self.settings, self.target.layout, self.encoders)
        for document, windows in zip(batch, points, strict=True):
            payload = self.payloads.pop(document.key)
            others = {key: value for key, value in payload.items() if key != PACKAGE_KEY}
            for point in windows:
                point.payload = {**others, **point.payload}
        return self.target.prepared(points)
