"""Points as an index makes them, and as the embedded engine takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from splade_retriever.sparse import SparseEmbedding

__all__ = ["Point", "to_sparse_vector", "to_struct"]


@dataclass(slots=True)
class Point:
    """A point before it is written."""

    id: models.ExtendedPointId
    payload: Mapping[str, Any]
    vector: Any
    """What qdrant-client takes; in a dict by names also a `SparseEmbedding`."""


def to_struct(point: Point) -> models.PointStruct:
    """Convert a point for qdrant-client.

    Nothing is validated again: embeddings are, and other vectors come from a store.
    """
    vector = point.vector
    if isinstance(vector, dict):
        vector = {
            name: to_sparse_vector(value) if isinstance(value, SparseEmbedding) else value
            for name, value in vector.items()
        }
    return models.PointStruct.model_construct(id=point.id, payload=dict(point.payload), vector=vector)


def to_sparse_vector(embedding: SparseEmbedding) -> models.SparseVector:
    """Convert for the engine."""
    return models.SparseVector.model_construct(
        indices=embedding.indices.tolist(), values=embedding.values.tolist()
    )
