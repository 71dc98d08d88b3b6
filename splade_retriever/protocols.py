"""What an index needs of an encoder: small protocols, so that any encoder of that shape fits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from splade_retriever.errors import InputError
from splade_retriever.sparse import SparseEmbedding

__all__ = ["DenseEncoder", "Encoder", "NodeEncoder", "as_dense"]


@runtime_checkable
class Encoder(Protocol):
    """A sparse encoder; `SparseTextEmbedding` is one. It must be safe to call from several threads."""

    @property
    def fingerprint(self) -> Mapping[str, str | int | None]:
        """Everything that decides a vector: model, revision, precision, activation, and so on."""
        ...

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode documents, one vector a text, in order."""
        ...

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode queries, one vector a text, in order."""
        ...


@runtime_checkable
class DenseEncoder(Protocol):
    """A dense encoder for hybrid search: LangChain's `Embeddings` has this shape as it is."""

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, one vector of a fixed length a text, in order."""
        ...

    def embed_query(self, text: str) -> Sequence[float]:
        """Encode one query."""
        ...


@runtime_checkable
class NodeEncoder(Protocol):
    """The same by other names: LlamaIndex's `BaseEmbedding` has this shape."""

    def get_text_embedding_batch(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, one vector of a fixed length a text, in order."""
        ...

    def get_query_embedding(self, query: str) -> Sequence[float]:
        """Encode one query."""
        ...


def as_dense(given: DenseEncoder | NodeEncoder) -> DenseEncoder:
    """Take a dense encoder of either framework.

    Raises:
        InputError: If it has neither shape.
    """
    if isinstance(given, DenseEncoder):
        return given
    if isinstance(given, NodeEncoder):
        return _Renamed(given)
    raise InputError(
        f"dense is a {type(given).__name__}, expected an encoder with embed_documents and embed_query "
        "(LangChain's Embeddings), or with get_text_embedding_batch and get_query_embedding (LlamaIndex's)."
    )


class _Renamed:
    def __init__(self, encoder: NodeEncoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        return self._encoder.get_text_embedding_batch(texts)

    def embed_query(self, text: str) -> Sequence[float]:
        return self._encoder.get_query_embedding(text)
