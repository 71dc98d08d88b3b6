"""SPLADE as a sparse embedding of LlamaIndex: a component, a pipeline step, a pair of functions."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent

from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import InputError
from splade_retriever.llama_index.nodes import attach_vector, encoded_text
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_int

__all__ = ["SparseEncoderFn", "SpladeSparseEmbedding", "sparse_encoders"]

SparseEncoderFn: TypeAlias = Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]
"""Texts -> token ids and weights, one list of each per text; for LlamaIndex's `QdrantVectorStore`."""


def sparse_encoders(model: ModelArgument = None) -> tuple[SparseEncoderFn, SparseEncoderFn]:
    """Return `sparse_doc_fn` and `sparse_query_fn` for LlamaIndex's `QdrantVectorStore`.

    Both use one model; queries are encoded as queries. Documents are encoded completely, in windows if they
    are longer than the model reads.

    Args:
        model: An encoder, a model's name, or None for the bundled model.

    Returns:
        The function for documents and the one for queries.

    Raises:
        UnknownModelError: If no model has this name.
        InputError: If it is neither a name nor an encoder.
    """
    encoder = load_encoder(model)

    def encode_documents(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        return _as_lists(embed_complete_texts(texts, encoder))

    def encode_queries(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        return _as_lists(list(encoder.query_embed(texts)))

    return encode_documents, encode_queries


def _as_lists(embeddings: Sequence[SparseEmbedding]) -> tuple[list[list[int]], list[list[float]]]:
    return [e.indices.tolist() for e in embeddings], [e.values.tolist() for e in embeddings]


class SpladeSparseEmbedding(BaseSparseEmbedding, TransformComponent):  # type: ignore[misc]  # two serialisers
    """SPLADE as a sparse embedding of LlamaIndex, and as a step of an `IngestionPipeline`.

    As a step it encodes the content of each node together with its metadata, and attaches the vector to the
    node. A node that is longer than the model reads is encoded in windows, whose vectors are merged.
    `SpladeVectorStore` uses that vector instead of encoding the node again, and the cache of the
    pipeline keeps it.

    The serialised form has the model's name: `from_dict(data)` opens the model again. Pass
    `from_dict(data, model=encoder)` for an encoder that cannot be opened by name.
    """

    model_name: str = Field(default="", description="Name or folder of the model; empty for the bundled one.")
    fingerprint: dict[str, Any] = Field(
        default_factory=dict,
        description="Everything that decides the model's vectors; part of the key of a pipeline's cache.",
    )

    _encoder: Encoder = PrivateAttr()
    _passed_model: Encoder | None = PrivateAttr(default=None)

    def __init__(
        self,
        model_name: str = "",
        *,
        model: ModelArgument = None,
        embed_batch_size: int = 64,
        num_workers: int | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        """Choose the model; its weights are loaded when the first text is encoded.

        Args:
            model_name: A model's name or folder; empty for the bundled model.
            model: An encoder instead of a name, or a name, as in the other classes.
            embed_batch_size: Number of texts that are encoded together, with one event.
            num_workers: Number of batches that the async methods encode at once.
            fingerprint: The fingerprint that the model must have; written by `to_dict`.

        Raises:
            UnknownModelError: If there is no model of that name.
            InputError: If the model has another fingerprint, or is neither a name nor an encoder.
        """
        if isinstance(model, str | os.PathLike):
            model_name, model = os.fspath(model), None
        encoder = load_encoder(model_name or None if model is None else model)
        found = dict(encoder.fingerprint)
        if fingerprint and dict(fingerprint) != found:
            raise InputError(
                f"SpladeSparseEmbedding was serialised with the model {dict(fingerprint)}, found {found}: "
                "their vectors cannot be compared. Pass model= with the encoder it had."
            )
        fields: dict[str, Any] = {
            "model_name": model_name or ("" if model is None else str(found.get("model", ""))),
            "embed_batch_size": checked_int("embed_batch_size", embed_batch_size, minimum=1),
            "num_workers": checked_int("num_workers", num_workers, minimum=1, optional=True),
            "fingerprint": found,
        }
        super().__init__(**fields)
        self._encoder = encoder
        self._passed_model = model

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process of a pipeline opens the model by its name; an encoder that was passed is pickled.
        return _rebuild, (self.to_dict(), self._passed_model)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialised form."""
        return "SpladeSparseEmbedding"

    @property
    def model(self) -> Encoder:
        """The encoder."""
        return self._encoder

    def similarity(self, embedding1: dict[int, float], embedding2: dict[int, float]) -> float:
        """Return the dot product of two embeddings (unbounded), the score that SPLADE is trained for."""
        few, many = sorted((embedding1, embedding2), key=len)
        return float(sum(weight * many[id] for id, weight in few.items() if id in many))

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        (embedding,) = self._encoder.query_embed([query])
        return embedding.as_dict()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        (embedding,) = self._get_text_embeddings([text])
        return embedding

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [embedding.as_dict() for embedding in embed_complete_texts(texts, self._encoder)]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def __call__(
        self, nodes: Sequence[BaseNode], *, show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        """Encode nodes for a pipeline.

        Args:
            nodes: Nodes; they are not changed.
            show_progress: Show a progress bar.
            kwargs: Arguments that a pipeline passes to all its steps; not used.

        Returns:
            Copies of the nodes with their vectors, in order.
        """
        texts = [encoded_text(node) for node in nodes]
        return self._with_vectors(nodes, self.get_text_embedding_batch(texts, show_progress=show_progress))

    async def acall(
        self, nodes: Sequence[BaseNode], *, show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        """Async version of a call; encodes in worker threads."""
        texts = [encoded_text(node) for node in nodes]
        return self._with_vectors(
            nodes, await self.aget_text_embedding_batch(texts, show_progress=show_progress)
        )

    def _with_vectors(self, nodes: Sequence[BaseNode], embeddings: list[dict[int, float]]) -> list[BaseNode]:
        return [
            attach_vector(node, SparseEmbedding.from_dict(embedding), self.fingerprint)
            for node, embedding in zip(nodes, embeddings, strict=True)
        ]


def _rebuild(data: dict[str, Any], model: Encoder | None) -> SpladeSparseEmbedding:
    return SpladeSparseEmbedding.from_dict(data, model=model)
