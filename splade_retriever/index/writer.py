"""Writing documents to a collection: adding, changing metadata, deleting."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, islice
from typing import Any, Final, Self, TypedDict

from qdrant_client import models

from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.filters import matches_everything
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.connection import RequestTooLargeError
from splade_retriever.index.documents import (
    BadInput,
    Document,
    DocumentKey,
    check_inputs,
    checked_ids,
    checked_metadata,
    in_batches,
    read_documents,
)
from splade_retriever.index.ingest import Batch, OnError, Stored, ingest
from splade_retriever.index.keywords import refuse_unknown
from splade_retriever.index.metadata_coercion import coerce_all, coerce_metadata
from splade_retriever.index.payload import ContentHasher, reserved_key
from splade_retriever.index.point_encoding import Encoders, to_points
from splade_retriever.index.request_limits import payload_bytes
from splade_retriever.index.stored_documents import (
    delete_documents,
    delete_matching,
    document_keys,
    lookup,
    read_stored,
    set_metadata,
    size_fault,
    write_batch,
)
from splade_retriever.protocols import DenseEncoder
from splade_retriever.validation import checked_int

__all__ = ["AddKeywords", "AddOptions", "Writer"]

_MAX_SEEN: Final = 1_000_000
"""Ids that are kept in memory while an empty collection is filled: 150 MB."""
_NAME_CHECKED_FOR_S: Final = 0.25
"""How long the batches of one call rely on a check that the name still belongs to the same collection."""
_MAX_KEPT: Final = 50_000
"""Documents that are kept in memory after all inputs are checked: 50 MB. Those after them are read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """How `add` runs."""

    batch_size: int = 256
    """Documents that are encoded and written together."""
    show_progress: bool = False
    """Show a progress bar."""
    on_error: OnError = "raise"
    """"raise", or a function that is called with each `BadInput` while the other documents are stored."""
    on_written: Callable[[list[str]], object] | None = None
    """Called with the ids of each batch that the store has acknowledged, in order, from another thread."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", checked_int("batch_size", self.batch_size, minimum=1))
        if self.on_error != "raise" and not callable(self.on_error):
            raise InputError(f"add got on_error={self.on_error!r}, expected 'raise' or a function.")

    @classmethod
    def of(cls, keywords: "AddKeywords") -> Self:
        """Read the keywords of `add`.

        Raises:
            TypeError: There is no such keyword.
            InputError: A value is not valid.
        """
        refuse_unknown("add", keywords, _ADD_ARGUMENTS)
        return cls(**keywords)


class AddKeywords(TypedDict, total=False):
    """The fields of `AddOptions` as keywords of `add`."""

    batch_size: int
    show_progress: bool
    on_error: OnError
    on_written: Callable[[list[str]], object] | None


_ADD_ARGUMENTS: Final = (
    "texts",
    "metadatas",
    "ids",
    "extras",
    "encoded_texts",
    "vectors",
    *AddKeywords.__annotations__,
)


class Writer:
    """Writes the documents of one collection."""

    def __init__(
        self,
        collection: Collection,
        model: CollectionModel,
        dense: DenseEncoder | None,
        *,
        second: CollectionModel | None = None,
        coerce: bool = False,
    ) -> None:
        self._collection = collection
        self._model = model
        self._second = second
        self._dense = dense
        self._coerce = coerce

    def add(
        self,
        inputs: Sequence[Any],
        options: AddOptions,
        *,
        stop: threading.Event,
        after_batch: Callable[[], object] = lambda: None,
    ) -> list[str]:
        """Encode and write documents.

        Args:
            inputs: In the order of `documents.INPUTS`.
            options: How.
            stop: Set it from another thread to end after the current batch.
            after_batch: Called after each batch is written.

        Returns:
            The ids of all stored documents, in the order of the input.
        """
        collection = self._collection
        collection.check_open()
        collection.check_writable()
        check_inputs(inputs)
        if self._coerce:
            texts, metadatas, *others = inputs
            inputs = [texts, coerce_all(metadatas), *others]
        can_be_read_twice = all(part is None or isinstance(part, Sequence) for part in inputs)
        if options.on_error == "raise" and can_be_read_twice:
            documents = self._checked_documents(inputs)
        else:
            documents = self._read_documents(inputs)
        settings = self._settings()
        second = None if self._second is None else self._second.encoder
        encoders = Encoders(self._model.encoder, self._dense, second)  # a mismatch is reported before reading
        with collection.loading():
            is_first = collection.is_remote and collection.is_empty()
        look_up = self._first_lookup() if is_first else self._lookup
        total = len(inputs[0]) if isinstance(inputs[0], Sequence) else None
        with _progress_bar(total, show=options.show_progress) as bar:

            def written(ids: list[str]) -> None:
                after_batch()
                bar.update(len(ids))
                if options.on_written is not None:
                    options.on_written(ids)

            return ingest(
                documents,
                batch_size=options.batch_size,
                hash_of=ContentHasher(settings.recipe()).hash,
                lookup=look_up,
                encode=lambda batch: collection.prepared(
                    to_points(batch, settings, collection.layout, encoders)
                ),
                write=self._batch_writer(),
                on_error=options.on_error,
                on_written=written,
                stop=stop,
                write_threads=collection.write_threads,
            )

    def _checked_documents(self, inputs: Sequence[Any]) -> Iterator[Document | BadInput]:
        """Find a bad input before the first write, in inputs that can be read twice.

        The first documents are kept, and so read once only.
        """
        kept: list[Document] = []
        for document in self._read_documents(inputs):
            if isinstance(document, BadInput):
                raise InputError(f"Input {document.position} of add: {document.reason}. Nothing was written.")
            if len(kept) < _MAX_KEPT:
                kept.append(document)
        rest = [None if part is None else islice(part, len(kept), None) for part in inputs]
        return chain(kept, self._read_documents(rest, first=len(kept)))

    def _read_documents(
        self, inputs: Sequence[Iterable[Any] | None], *, first: int = 0
    ) -> Iterator[Document | BadInput]:
        """Read inputs, and of each document whose it is."""
        layout = self._collection.layout
        limit = self._max_document_bytes()
        for document in read_documents(inputs, first=first):
            if isinstance(document, BadInput):
                yield document
                continue
            reserved = reserved_key(document.metadata, layout)
            if reserved is not None:
                reason = f"metadata has the key {reserved!r}, where the collection stores something else"
                yield BadInput(document.position, document.id, reason)
                continue
            if limit is not None and _is_larger(document, limit):
                yield BadInput(document.position, document.id, size_fault(document, self._collection))
                continue
            if layout.tenant_field is None:
                yield document
                continue
            try:
                yield replace(document, tenant=layout.tenant_of(document.metadata))
            except InputError as error:
                yield BadInput(document.position, document.id, str(error))

    def _max_document_bytes(self) -> int | None:
        """Return from which size on the store does not take a document in one request, with any vectors."""
        settings = self._collection.settings
        if settings is not None and settings.windows == "points":
            return None  # the windows of a document go in several requests
        return self._collection.max_request_bytes

    def _first_lookup(self) -> Callable[[Sequence[Document]], Mapping[DocumentKey, Stored]]:
        """Return a lookup for a collection that was empty: it asks for what this call has written only."""
        seen: set[DocumentKey | str] = set()  # ids where there are no tenants: tuples cost memory and time

        def look_up(documents: Sequence[Document]) -> Mapping[DocumentKey, Stored]:
            if len(seen) > _MAX_SEEN:
                return self._lookup(documents)
            keys = [d.id if d.tenant is None else d.key for d in documents]
            written = [document for document, key in zip(documents, keys, strict=True) if key in seen]
            seen.update(keys)
            return self._lookup(written) if written else {}

        return look_up

    def _lookup(self, documents: Sequence[Document]) -> Mapping[DocumentKey, Stored]:
        with self._collection.loading():
            return lookup(self._collection, documents)

    def _batch_writer(self) -> Callable[[Batch], list[BadInput]]:
        """Return how the batches of one call are written: the first one checks the collection's name."""
        is_first = True

        def write(batch: Batch) -> list[BadInput]:
            nonlocal is_first
            checked_for_s = 0.0 if is_first else _NAME_CHECKED_FOR_S
            is_first = False
            with self._collection.loading(), self._collection.confirmed_write(checked_for_s=checked_for_s):
                return write_batch(self._collection, batch)

        return write

    def _settings(self) -> CollectionSettings:
        if self._collection.settings is None:
            raise CollectionMismatchError(
                f"Collection {self._collection.name!r} was made by another program and does not say by which "
                "model. Nothing was written. Open it with adopt=True and the model that made its vectors, or "
                "use a new collection."
            )
        return self._collection.settings

    def update_metadata(self, id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace a document's metadata; return False where there is no such document."""
        self._collection.check_open()
        self._collection.check_writable()
        self._settings()
        (id,) = checked_ids([id])
        layout = self._collection.layout
        try:
            metadata = checked_metadata(coerce_metadata(metadata) if self._coerce else metadata)
        except ValueError as error:
            raise InputError(f"update_metadata of {id!r}: {error}. Nothing was written.") from error
        reserved = reserved_key(metadata, layout)
        if reserved is not None:
            raise InputError(
                f"update_metadata of {id!r}: metadata has the key {reserved!r}, where the collection stores "
                "something else. Nothing was written."
            )
        key = DocumentKey(id, layout.tenant_of(metadata))
        stored = read_stored(self._collection, [key]).get(key)
        if stored is None:
            return False
        with self._collection.confirmed_write():
            try:
                set_metadata(self._collection, key, metadata, stored)
            except RequestTooLargeError as error:
                raise InputError(
                    f"update_metadata of {id!r}: the metadata is too large for the server. {error} Nothing "
                    "was written."
                ) from error
        return True

    def delete(
        self, ids: Iterable[str] | None, filter: models.Filter | None, *, tenant: str | None = None
    ) -> int:
        """Delete documents by id, or all that match a filter; return how many there were."""
        if (ids is None) == (filter is None):
            raise InputError(
                "delete takes either ids or a filter that is not empty. To delete all use clear()."
            )
        if filter is not None and tenant is not None:
            raise InputError("delete takes tenant= with ids. Put the tenant into the filter.")
        if filter is not None:
            if matches_everything(filter):
                raise InputError(
                    "delete got a filter that matches every document. Nothing was deleted. To delete all use "
                    "clear()."
                )
            with self._collection.confirmed_write():
                return delete_matching(self._collection, filter)
        deleted = 0
        for batch in in_batches(checked_ids(ids or ())):
            with self._collection.confirmed_write():
                keys = document_keys(self._collection, batch, tenant)
                deleted += delete_documents(self._collection, keys)
        return deleted

    def clear(self) -> None:
        """Delete all documents."""
        with self._collection.confirmed_write():
            self._collection.delete_matching(models.Filter())


def _is_larger(document: Document, limit: int) -> bool:
    if len(document.text) < limit // 8:  # large metadata is refused when it is written
        return False
    return payload_bytes(document.text, document.metadata, document.extra) > limit


def _progress_bar(total: int | None, *, show: bool) -> Any:
    # tqdm.auto warns about notebooks that cannot draw bars.
    library = import_module("tqdm.auto" if show else "tqdm")
    return library.tqdm(total=total, unit="text", disable=not show)
