"""Sparse embedders for Haystack's pipelines, such as those of `QdrantDocumentStore`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haystack import component, default_to_dict
from haystack.dataclasses import Document
from haystack.dataclasses.sparse_embedding import SparseEmbedding as HaystackEmbedding

from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["SpladeDocumentEmbedder", "SpladeTextEmbedder"]


@component
class SpladeTextEmbedder:
    """Makes the sparse embedding of a query.

    Args:
        model: Name or folder of the model; None for the bundled one.
        settings: Further arguments of `SparseTextEmbedding`: `precision`, `threads`, `cache_dir`, ...
    """

    def __init__(self, model: str | None = None, *, settings: dict[str, Any] | None = None) -> None:
        self.model = model
        self.settings = dict(settings or {})
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._encoder is None:
            self._encoder = load_encoder(self.model, settings=self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration."""
        return default_to_dict(self, model=self.model, settings=self.settings)

    @component.output_types(sparse_embedding=HaystackEmbedding)
    def run(self, text: str) -> dict[str, HaystackEmbedding]:
        """Encode a query.

        Returns:
            `sparse_embedding`: ids in the model's vocabulary, ascending, with their weights.
        """
        if not isinstance(text, str):
            raise TypeError(
                f"text is a {type(text).__name__}, expected a string. For documents use "
                "SpladeDocumentEmbedder."
            )
        self.warm_up()
        assert self._encoder is not None
        (embedding,) = self._encoder.query_embed([text])
        return {"sparse_embedding": _to_haystack(embedding)}


@component
class SpladeDocumentEmbedder:
    """Makes the sparse embeddings of documents.

    A document that is longer than the model reads is encoded in windows, whose vectors are merged.

    Args:
        model: Name or folder of the model; None for the bundled one.
        meta_fields_to_embed: Fields of the metadata that are encoded with the text.
        embedding_separator: What stands between them.
        settings: Further arguments of `SparseTextEmbedding`: `precision`, `threads`, `cache_dir`, ...
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self.settings = dict(settings or {})
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._encoder is None:
            self._encoder = load_encoder(self.model, settings=self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration."""
        return default_to_dict(
            self,
            model=self.model,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            settings=self.settings,
        )

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Encode documents completely, also long ones.

        Returns:
            `documents`: copies in the same order, with their `sparse_embedding`.
        """
        if not isinstance(documents, list) or not all(isinstance(item, Document) for item in documents):
            raise TypeError(
                "documents is not a list of Haystack's Document. For a query use SpladeTextEmbedder."
            )
        self.warm_up()
        assert self._encoder is not None
        embeddings = embed_complete_texts(self._texts(documents), self._encoder)
        return {
            "documents": [
                replace(document, sparse_embedding=_to_haystack(embedding))
                for document, embedding in zip(documents, embeddings, strict=True)
            ]
        }

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        return [
            self.embedding_separator.join(
                [
                    *(
                        str(document.meta[name])
                        for name in self.meta_fields_to_embed
                        if document.meta.get(name) is not None
                    ),
                    document.content or "",
                ]
            )
            for document in documents
        ]


def _to_haystack(embedding: SparseEmbedding) -> HaystackEmbedding:
    return HaystackEmbedding(indices=embedding.indices.tolist(), values=embedding.values.tolist())
