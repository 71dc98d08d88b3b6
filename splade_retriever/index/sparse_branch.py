"""The sparse rankings of a collection: that of its model and, where it has one, that of its second model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from splade_retriever.errors import ModelOutputError
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.query_controls import ControlledVector, controlled, encoded_query
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["SparseBranch"]


@dataclass(frozen=True, slots=True)
class SparseBranch:
    """One sparse ranking: its encoder, its vector, and how its queries are encoded."""

    name: Literal["sparse", "second"]
    vector_name: str
    """The vector's name in the collection."""
    model: CollectionModel
    max_active_dims: int | None = None
    """Number of a query's heaviest weights to keep; None for all."""

    @property
    def encoder(self) -> Encoder:
        """The encoder.

        Raises:
            CollectionMismatchError: It did not make the collection's vectors.
        """
        return self.model.encoder

    @property
    def has_engine_weights(self) -> bool:
        """Whether the engine has a part in the weights, as the inverse document frequency of BM25."""
        return self.encoder.fingerprint.get("modifier") is not None

    def embed(self, texts: Sequence[str]) -> list[SparseEmbedding]:
        """Encode queries as one batch, not pruned.

        Raises:
            ModelOutputError: The encoder returns another number of vectors.
        """
        vectors = list(self.encoder.query_embed(list(texts))) if texts else []
        if len(vectors) != len(texts):
            raise ModelOutputError(
                f"The model returned {len(vectors)} vectors for {len(texts)} queries, expected one per "
                "query. Fix the encoder."
            )
        return vectors

    def prepared(self, query: str, vector: SparseEmbedding) -> ControlledVector:
        """Prune the vector of a query, and apply the query's controls."""
        return controlled(query, prune(vector, self.max_active_dims), self.encoder)

    def encoded(self, query: str) -> ControlledVector:
        """Encode a query, prune its vector, and apply its controls."""
        return encoded_query(query, self.encoder, max_active_dims=self.max_active_dims)
