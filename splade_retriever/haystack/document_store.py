"""SpladeDocumentStore: a `SpladeIndex` as a document store of Haystack."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret

from splade_retriever.errors import InputError
from splade_retriever.haystack.filters import translate_filters
from splade_retriever.index.documents import DocumentKey, Hit
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.validation import type_name

__all__ = ["SpladeDocumentStore", "to_document"]

_EXTRA: Final = "haystack"
"""Key of a document's extra data: the fields of Haystack's `Document` beside id, content and meta."""


class SpladeDocumentStore:
    """Stores documents in a folder, in memory, or on a Qdrant server, and finds them by SPLADE.

    Documents come back equal. The index is opened when it is first used, and can be shared by several
    components. Use `SpladeRetriever` to search it in a pipeline.

    Args:
        location: A folder, ":memory:", or the URL of a Qdrant server.
        collection: The collection at the location.
        model: Name or folder of the model; None for the model of the collection, or the bundled one.
        api_key: The server's key, from an environment variable; it is not written by `to_dict`.
        settings: Further arguments of `SpladeIndex`: `indexed_fields`, `timeout`, ...
    """

    def __init__(
        self,
        location: str = ":memory:",
        *,
        collection: str = "splade",
        model: str | None = None,
        api_key: Secret = Secret.from_env_var("QDRANT_API_KEY", strict=False),  # noqa: B008 - Haystack's idiom
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.location = str(location) if isinstance(location, Path) else location
        self.collection = collection
        self.model = model
        self.api_key = api_key
        self.settings = dict(settings or {})
        self._index: SpladeIndex | None = None
        self._opening = threading.Lock()

    @property
    def index(self) -> SpladeIndex:
        """The index, opened or created now if it is not open."""
        with self._opening:
            if self._index is None:
                self._index = SpladeIndex(
                    self.location,
                    collection=self.collection,
                    model=self.model,
                    **{"default_windows": "merge", "api_key": self._key(), **self.settings},
                )
            return self._index

    def _key(self) -> str | None:
        return self.api_key.resolve_value() if "://" in self.location else None

    def close(self) -> None:
        """Close the index, which the store has opened; documents in memory are lost.

        The next use opens the index again. A retriever does not close its store.
        """
        with self._opening:
            if self._index is not None:
                self._index.close()
                self._index = None

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration, without the key."""
        return default_to_dict(
            self,
            location=self.location,
            collection=self.collection,
            model=self.model,
            api_key=self.api_key.to_dict(),
            settings=self.settings,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make a store of what `to_dict` returned."""
        parameters = dict(data["init_parameters"])
        parameters["api_key"] = Secret.from_dict(parameters["api_key"])
        store: Self = default_from_dict(cls, {**data, "init_parameters": parameters})
        return store

    def count_documents(self) -> int:
        """Return the number of documents."""
        return self.index.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return the documents that match Haystack's filters; all without filters.

        Raises:
            FilterError: Haystack's own, if a filter is not valid.
        """
        return [to_document(hit) for hit in self._scroll(filters)]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Write documents; unchanged texts are not encoded again.

        Args:
            documents: Documents. Their dense and sparse embeddings are kept but not searched.
            policy: For documents whose id is stored: NONE and FAIL raise an error before anything is written,
                SKIP leaves the stored one, OVERWRITE replaces it.

        Returns:
            The number of documents written.

        Raises:
            ValueError: If `documents` is not a list of documents.
            InputError: If the index separates tenants, and the metadata of a document has none.
            DuplicateDocumentError: Haystack's own, with NONE and FAIL.
            SpladeError: What `SpladeIndex.add` raises.
        """
        if not isinstance(documents, list) or not all(isinstance(item, Document) for item in documents):
            raise ValueError("documents is not a list of Haystack's Document. Pass a list.")
        if policy is not DuplicatePolicy.OVERWRITE:
            stored = self._stored(documents)
            if stored and policy is not DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(
                    f"The store has a document with the id {min(key.id for key in stored)!r}. Pass "
                    "policy=DuplicatePolicy.OVERWRITE or SKIP."
                )
            documents = [document for document in documents if self._document_key(document) not in stored]
        self.index.add(
            [document.content or "" for document in documents],
            [document.meta for document in documents],
            [document.id for document in documents],
            extras=[_extra(document) for document in documents],
        )
        return len({self._document_key(document) for document in documents})

    def _stored(self, documents: list[Document]) -> set[DocumentKey]:
        """Return which of the documents are stored; of an index with tenants, for the same tenant."""
        ids: dict[str | None, list[str]] = {}
        for id, tenant in map(self._document_key, documents):
            ids.setdefault(tenant, []).append(id)
        return {
            DocumentKey(hit.id, tenant)
            for tenant, of_tenant in ids.items()
            for hit in self.index.get(of_tenant, tenant=tenant)
        }

    def _document_key(self, document: Document) -> DocumentKey:
        return DocumentKey(document.id, self.index.layout.tenant_of(document.meta))

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; unknown ids are ignored.

        Raises:
            InputError: If the index separates tenants, of which two may use the same id.
        """
        if not document_ids:
            return
        tenant_field = self.index.layout.tenant_field
        if tenant_field is not None:
            raise InputError(
                f"delete_documents got ids, but the collection separates tenants by {tenant_field!r}, and "
                "two tenants may use the same id. Use delete_by_filter with filters that name the tenant."
            )
        self.index.delete(document_ids)

    def delete_all_documents(self) -> None:
        """Delete all documents."""
        self.index.clear()

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match filters, all with {}; returns how many.

        Raises:
            FilterError: Haystack's own, if a filter is not valid.
        """
        conditions = translate_filters(filters)
        if conditions is not None:
            return self.index.delete(filter=conditions)
        count = self.index.count()
        self.index.clear()
        return count

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Set metadata of the documents that match filters; returns how many. Nothing is encoded.

        Raises:
            FilterError: Haystack's own, if a filter is not valid.
            InputError: If `meta` is not a dict, or has another tenant than a document; nothing is written.
        """
        if not isinstance(meta, dict):
            raise InputError(f"meta is {type_name(meta)}, expected a dict.")
        hits = self._scroll(filters)
        layout = self.index.layout
        for hit in hits:
            old, new = layout.tenant_of(hit.metadata), layout.tenant_of({**hit.metadata, **meta})
            if old != new:
                raise InputError(
                    f"update_by_filter would move document {hit.id!r} from tenant {old!r} to {new!r}. "
                    f"Nothing was written. Leave {layout.tenant_field!r} out of meta."
                )
        for hit in hits:
            self.index.update_metadata(hit.id, {**hit.metadata, **meta})
        return len(hits)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Return how many documents match filters."""
        return self.index.count(translate_filters(filters))

    def _scroll(self, filters: dict[str, Any] | None) -> list[Hit]:
        return list(self.index.scroll(translate_filters(filters)))


def to_document(hit: Hit, *, score: float | None = None) -> Document:
    """Turn a hit into Haystack's document."""
    extra = dict(hit.extra.get(_EXTRA, {}))
    content = None if extra.pop("without_content", False) else hit.text
    document = Document.from_dict({"id": hit.id, "content": content, "meta": hit.metadata, **extra})
    return document if score is None else replace(document, score=score)


def _extra(document: Document) -> dict[str, Any] | None:
    fields = document.to_dict(flatten=False)
    kept = {
        name: value
        for name, value in fields.items()
        if name not in ("id", "content", "meta", "score") and value is not None
    }
    if document.content is None:
        kept["without_content"] = True
    return {_EXTRA: kept} if kept else None
