"""Digests of documents: what a pass read, in 16 bytes per document."""

import hashlib
import json
from array import array
from typing import Final

import numpy as np

from splade_retriever.index.documents import Document, DocumentKey

__all__ = ["DocumentDigests", "content_digest"]

_BYTES: Final = 8


class DocumentDigests:
    """The contents of documents by their keys, as digests of 64 bits."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._contents = array("Q")
        self._order: np.ndarray | None = None

    def add(self, document: Document) -> None:
        """Record a document."""
        self._keys.append(_digest([document.key.id, document.key.tenant]))
        self._contents.append(content_digest(document))
        self._order = None

    def content_of(self, key: DocumentKey) -> int | None:
        """Return the digest of a document's content; None for a document that was not added."""
        keys = np.frombuffer(self._keys, dtype=np.uint64) if self._keys else np.empty(0, np.uint64)
        if self._order is None:
            self._order = np.argsort(keys)
        wanted = np.uint64(_digest([key.id, key.tenant]))
        place = int(np.searchsorted(keys, wanted, sorter=self._order))
        if place == len(keys) or keys[self._order[place]] != wanted:
            return None
        return self._contents[int(self._order[place])]


def content_digest(document: Document) -> int:
    """Return a digest of a document's text, metadata and extra data."""
    return _digest([document.text, document.metadata, document.extra])


def _digest(value: object) -> int:
    text = json.dumps(value, sort_keys=True, default=dict)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_BYTES).digest(), "little")
