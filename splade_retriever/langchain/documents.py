"""LangChain documents <-> inputs and hits of the index: pure conversions."""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, repeat, tee
from typing import Any, Final, TypeAlias

from langchain_core.documents import Document

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.hit_report import METADATA_KEY, hit_report
from splade_retriever.langchain.search_options import LangChainSearchOptions
from splade_retriever.validation import type_name

__all__ = ["Columns", "columns", "text_columns", "to_document", "to_documents"]

Columns: TypeAlias = tuple[
    Iterable[str], Iterable[Mapping[str, Any] | None] | None, Iterable[str | None] | None
]
"""Texts, metadatas and ids: the inputs of `SpladeIndex.add`."""

_NAMESPACE: Final = uuid.UUID("0d8f4f0b-6a3c-5d0e-9a55-2f1c6b7f5e11")


def to_document(hit: Hit) -> Document:
    """Return the document as it was added: text, metadata and id."""
    return Document(id=hit.id, page_content=hit.text, metadata=hit.metadata)


def to_documents(
    hits: Sequence[Hit], options: LangChainSearchOptions, explanations: Sequence[Explanation]
) -> list[tuple[Document, float]]:
    """Return documents with their scores, and with the metadata that the options ask for.

    Args:
        hits: Hits, best first.
        options: Options of the search.
        explanations: One per hit; empty where the options do not ask for them.
    """
    if not (options.with_scores or options.explained):
        return [(to_document(hit), hit.score) for hit in hits]
    scored = []
    for n, hit in enumerate(hits):
        report = hit_report(hit, explanations[n] if explanations else None)
        metadata = {**hit.metadata, METADATA_KEY: report}
        scored.append((Document(id=hit.id, page_content=hit.text, metadata=metadata), hit.score))
    return scored


def columns(
    documents: Iterable[Document], ids: Iterable[str | None] | None, *, ids_of_content: bool = False
) -> Columns:
    """Split documents into the three inputs of `SpladeIndex.add`.

    A list becomes lists, so that the index can check all of it before it writes. An iterator becomes
    iterators that are read in step, so that a stream is never held in memory.

    Args:
        documents: Documents, each with an id, or None for a random one.
        ids: Ids that replace those of the documents.
        ids_of_content: Whether a document without an id gets one that is made of its text and metadata. The
            same documents added again then replace themselves.

    Raises:
        InputError: If an item is not a Document: at once for a list, when it is reached for an iterator.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise InputError(
            f"documents is one {type(documents).__name__}, expected several. Pass a list of Documents."
        )
    id_of = _ContentIds() if ids_of_content else _own_id
    if isinstance(documents, Sequence):
        checked = list(_checked(documents))
        return (
            [document.page_content for document in checked],
            [_metadata_of(document) for document in checked],
            [id_of(document) for document in checked] if ids is None else ids,
        )
    # The three copies are read in step, so each is at most one document ahead of the others.
    for_texts, for_metadatas, for_ids = tee(_checked(documents), 3)
    return (
        (document.page_content for document in for_texts),
        (_metadata_of(document) for document in for_metadatas),
        (id_of(document) for document in for_ids) if ids is None else ids,
    )


def text_columns(
    texts: Iterable[str],
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    ids: Iterable[str | None] | None,
) -> Columns:
    """Return texts, metadatas and ids; without ids each is made of text and metadata.

    Iterators stay iterators. What is no text, or has no dict as metadata, gets no id; the index refuses it
    with its position. Texts of an async iterator get random ids.
    """
    if ids is not None or isinstance(texts, str) or not isinstance(texts, Iterable):
        return texts, metadatas, ids
    if isinstance(metadatas, Mapping) or not isinstance(metadatas, Iterable | None):
        return texts, metadatas, ids  # the index refuses them
    id_of = _ContentIds()
    if isinstance(texts, Sequence) and isinstance(metadatas, Sequence | None):
        pairs = zip(texts, chain(metadatas or (), repeat(None)), strict=False)
        return texts, metadatas, [id_of.of(text, metadata) for text, metadata in pairs]
    texts, for_ids = tee(texts)
    beside: Iterable[Mapping[str, Any] | None] = repeat(None)
    if metadatas is not None:
        metadatas, copied = tee(metadatas)
        beside = chain(copied, repeat(None))
    return (
        texts,
        metadatas,
        (id_of.of(text, metadata) for text, metadata in zip(for_ids, beside, strict=False)),
    )


def _own_id(document: Document) -> str | None:
    return document.id


class _ContentIds:
    """Makes ids of documents without one, the same in each run; equal documents of a run are numbered."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, document: Document) -> str:
        if document.id is not None:
            return document.id
        return str(self.of(document.page_content, _metadata_of(document)))

    def of(self, text: object, metadata: object) -> str | None:
        """Return the id of a text with its metadata; None where one of them cannot be stored."""
        if not isinstance(text, str) or not isinstance(metadata, Mapping | None):
            return None
        fields = sorted((str(key), repr(value)) for key, value in (metadata or {}).items())
        content = repr((text, fields))
        digest = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        self._seen[digest] += 1
        return str(uuid.uuid5(_NAMESPACE, f"{digest}#{self._seen[digest]}"))


def _metadata_of(document: Document) -> dict[str, Any]:
    """Return the metadata to store, without the report of the search that found the document."""
    if METADATA_KEY not in document.metadata:
        return document.metadata
    return {key: value for key, value in document.metadata.items() if key != METADATA_KEY}


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(
                f"Document {position} is {type_name(document)}, expected a langchain_core Document. "
                "Pass strings to add_texts or from_texts."
            )
        yield document
