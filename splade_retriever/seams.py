"""What an index needs of an encoder: two small protocols, so that any encoder of that shape fits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from splade_retriever.sparse import SparseEmbedding

__all__ = ["DenseEncoder", "Encoder"]


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
