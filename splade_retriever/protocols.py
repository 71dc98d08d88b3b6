"""What an index needs of an encoder: small protocols, which any encoder with these methods satisfies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from splade_retriever.errors import InputError
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import type_name

__all__ = [
    "BatchQueryEncoder",
    "DenseEncoder",
    "Encoder",
    "NodeEncoder",
    "OriginEncoder",
    "TokenOrigin",
    "as_dense",
]


class TokenOrigin(Protocol):
    """The token of a text that a weight comes from."""

    @property
    def start(self) -> int:
        """In characters of the text."""
        ...

    @property
    def end(self) -> int:
        """In characters of the text."""
        ...

    @property
    def weight(self) -> float:
        """The weight at this token."""
        ...


@runtime_checkable
class OriginEncoder(Protocol):
    """An encoder that finds which token of a text a weight comes from; `SparseTextEmbedding` is one."""

    def token_origins(self, text: str, ids: Sequence[int]) -> Mapping[int, TokenOrigin]:
        """Return id -> the token with the largest weight; entries without one are left out."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A sparse encoder; `SparseTextEmbedding` is one. It must be safe to call from several threads."""

    @property
    def fingerprint(self) -> Mapping[str, str | int | None]:
        """Everything that determines a vector: model, revision, precision, activation, and so on."""
        ...

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode documents, one vector per text, in order."""
        ...

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode queries, one vector per text, in order."""
        ...


@runtime_checkable
class DenseEncoder(Protocol):
    """A dense encoder for hybrid search; LangChain's `Embeddings` is one.

    An async method `aembed_query` is used where there is one.
    """

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, one vector of a fixed length per text, in order."""
        ...

    def embed_query(self, text: str) -> Sequence[float]:
        """Encode one query."""
        ...


@runtime_checkable
class NodeEncoder(Protocol):
    """A dense encoder with other method names; LlamaIndex's `BaseEmbedding` is one.

    An async method `aget_query_embedding` is used where there is one.
    """

    def get_text_embedding_batch(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, one vector of a fixed length per text, in order."""
        ...

    def get_query_embedding(self, query: str) -> Sequence[float]:
        """Encode one query."""
        ...


@runtime_checkable
class BatchQueryEncoder(Protocol):
    """A dense encoder that encodes several queries in one call."""

    def embed_queries(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode queries, one vector per text, in order."""
        ...


def as_dense(encoder: DenseEncoder | NodeEncoder) -> DenseEncoder:
    """Return a dense encoder with LangChain's method names.

    Raises:
        InputError: The object has neither framework's methods.
    """
    if isinstance(encoder, DenseEncoder):
        return encoder
    if isinstance(encoder, NodeEncoder):
        return _NodeEncoderAdapter(encoder)
    example = ""
    if isinstance(encoder, str):
        example = f" Pass HuggingFaceEmbeddings(model_name={encoder!r}), for example."
    raise InputError(
        f"dense is {type_name(encoder)}, expected an encoder with embed_documents and embed_query "
        "(LangChain's Embeddings), or with get_text_embedding_batch and get_query_embedding (LlamaIndex's)."
        f"{example}"
    )


class _NodeEncoderAdapter:
    def __init__(self, encoder: NodeEncoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        return self._encoder.get_text_embedding_batch(texts)

    def embed_query(self, text: str) -> Sequence[float]:
        return self._encoder.get_query_embedding(text)
