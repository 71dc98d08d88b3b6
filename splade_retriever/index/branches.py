"""The rankings of an index: of its model and, where it has them, of its second model and dense encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from splade_retriever.errors import InputError, ModelOutputError
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import SECOND_NAME, CollectionSettings
from splade_retriever.index.options import Fusion, IndexOptions, Mode
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.query_controls import ControlledVector, controlled, encoded_query
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Branches", "SparseBranch"]


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


@dataclass(frozen=True, slots=True)
class Branches:
    """The rankings of an index."""

    names: Mapping[str, str]
    """Each ranking, in the order of the weights of a fusion -> the vector's name in the collection."""
    sparse: Sequence[SparseBranch]
    """The sparse ones, that of the model first."""

    @classmethod
    def of(
        cls,
        options: IndexOptions,
        settings: CollectionSettings | None,
        *,
        model: CollectionModel,
        second: CollectionModel,
        has_dense: bool,
    ) -> Self:
        """Return the rankings of an open collection.

        Args:
            options: The options of the index.
            settings: The settings that the collection stores, if it stores some.
            model: The model.
            second: The second model, which the collection need not have.
            has_dense: Whether there is a dense encoder.
        """
        names = {"sparse": options.vector_name}
        sparse = [SparseBranch("sparse", options.vector_name, model, options.query_max_active_dims)]
        second_name = None if settings is None else settings.second_name
        if second_name is None and second.is_passed:
            second_name = options.second_name or SECOND_NAME
        if second_name is not None:
            names["second"] = second_name
            sparse.append(SparseBranch("second", second_name, second))
        if has_dense:
            names["dense"] = options.dense_name
        return cls(names, sparse)

    @property
    def default_mode(self) -> Mode:
        """The mode of a search that names none."""
        return "sparse" if len(self.names) == 1 else "hybrid"

    def check_mode(self, mode: Mode, fusion: Fusion) -> None:
        """Check that an index can search in a mode, and that a fusion has a weight for each ranking.

        Raises:
            InputError: The index cannot, or the fusion has another number of weights.
        """
        if mode == "second" and mode not in self.names:
            raise InputError(
                "mode is 'second', but the index has no second model. Make it with second_model=, or add one "
                "with `splade reindex --second-model`."
            )
        if mode == "dense" and mode not in self.names:
            raise InputError("mode is 'dense', but the index has no dense encoder. Open it with dense=.")
        if mode != "hybrid":
            return
        if len(self.names) == 1:
            raise InputError(
                "mode is 'hybrid', but the index has no dense encoder and no second model. Open it with "
                "dense=, or make it with second_model=."
            )
        if fusion.weights is not None and len(fusion.weights) != len(self.names):
            raise InputError(
                f"fusion weights are {fusion.weights!r}, expected one for each ranking of the index: "
                f"({', '.join(self.names)})."
            )
