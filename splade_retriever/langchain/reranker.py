"""SpladeReranker: sorts the documents of any retriever by their SPLADE scores."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation, field_validator

from splade_retriever.encoding.model_loading import (
    ModelArgument,
    check_model_argument,
    check_plain_weights,
    load_encoder,
)
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.index.hit_report import METADATA_KEY
from splade_retriever.index.query_controls import encoded_query
from splade_retriever.index.splade_query import QueryControls, SpladeQuery, with_default_controls
from splade_retriever.protocols import Encoder
from splade_retriever.validation import number_of_json

__all__ = ["SpladeReranker"]


class SpladeReranker(BaseDocumentCompressor):
    """Sorts documents by their SPLADE score, for `ContextualCompressionRetriever`.

    All documents are encoded for each query, so use it for tens of documents, not for thousands.
    """

    model: SkipValidation[ModelArgument] = None
    """An encoder, a model's name, or None for the bundled model."""
    top_n: int | None = Field(default=None, ge=1)
    """Maximum number of documents to keep; None for all."""
    with_scores: bool = False
    """Put the score into each document's metadata, under "_splade"."""

    controls: SkipValidation[QueryControls | None] = None
    """Words to boost, require or exclude, synonyms and `expand`, for each query that is not a `SpladeQuery`;
    also as a dict."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    _encoder: Encoder | None = PrivateAttr(default=None)
    _opening: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @field_validator("top_n", mode="before")
    @classmethod
    def _number_of_json(cls, value: object) -> object:
        return number_of_json(value)

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: object) -> object:
        check_model_argument(model)
        return model

    @field_validator("controls", mode="before")
    @classmethod
    def _controls_of_names(cls, controls: object) -> QueryControls | None:
        return QueryControls.of(controls)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Sort documents by score, best first; documents with equal scores keep their order.

        Args:
            documents: Documents of any retriever.
            query: The query; a `SpladeQuery` also removes documents without its required words or with its
                excluded ones.
            callbacks: Callbacks of the framework; not used.

        Returns:
            The same documents, or copies of them with scores if `with_scores` is set.
        """
        query = with_default_controls(query, self.controls)
        if isinstance(query, SpladeQuery):
            documents = [each for each in documents if query.controls.accepts(each.page_content)]
        if not documents:
            return []
        encoder = self._open_encoder()
        query_vector = encoded_query(query, encoder, max_active_dims=None).vector
        vectors = embed_complete_texts([document.page_content for document in documents], encoder)
        scores = [vector.dot(query_vector) for vector in vectors]
        order = sorted(range(len(documents)), key=lambda n: -scores[n])[: self.top_n]
        if not self.with_scores:
            return [documents[n] for n in order]
        return [_scored(documents[n], scores[n]) for n in order]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Async version of `compress_documents`; encodes in a worker thread."""
        return await asyncio.to_thread(self.compress_documents, documents, query, callbacks)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the configuration; the model is opened again at its first use.
        return _reranker, (type(self), self._fields())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return type(self)(**self._fields())  # copies share an encoder that was passed

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def _open_encoder(self) -> Encoder:
        with self._opening:
            if self._encoder is None:
                self._encoder = load_encoder(self.model)
                check_plain_weights(self._encoder, "A reranker")
            return self._encoder


def _reranker(kind: type[SpladeReranker], fields: Mapping[str, Any]) -> SpladeReranker:
    return kind(**fields)


def _scored(document: Document, score: float) -> Document:
    metadata = {**document.metadata, METADATA_KEY: {"score": score}}
    return document.model_copy(update={"metadata": metadata})
