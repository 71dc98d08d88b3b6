"""The part that an engine has in weights, such as the inverse document frequency: read from its scores."""

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from splade_retriever.index.collection import Collection
from splade_retriever.sparse import SparseEmbedding

__all__ = ["scored_vectors", "token_factors"]


def scored_vectors(
    collection: Collection, vector_name: str, query: SparseEmbedding, points: Sequence[Any]
) -> dict[Any, SparseEmbedding]:
    """Return the weights that the tokens of a query have in points, with the engine's part in them.

    The engine scores each token alone, so the products with the query's weights sum to its score of a point.

    Args:
        collection: The collection.
        vector_name: Name of its sparse vector.
        query: The query's vector.
        points: Ids of points.

    Returns:
        Id of a point -> its vector, without tokens that the query does not have.
    """
    weights: dict[Any, dict[int, float]] = {point: {} for point in points}
    ids = [id for id, weight in query.as_dict().items() if weight > 0] if weights else []
    only = models.Filter(must=[models.HasIdCondition(has_id=list(weights))])
    requests = [_request(id, vector_name, filter=only, limit=len(weights)) for id in ids]
    for id, answer in zip(ids, collection.query_batch(requests) if requests else [], strict=True):
        for point in answer.points:
            if point.score > 0:
                weights[point.id][id] = float(point.score)
    return {point: SparseEmbedding.from_dict(found) for point, found in weights.items()}


def token_factors(collection: Collection, vector_name: str, ids: Sequence[int]) -> dict[int, float]:
    """Return by what the engine multiplies the weight of a token; a token that no point has is left out."""
    requests = [_request(id, vector_name, limit=1, with_vector=[vector_name]) for id in ids]
    factors: dict[int, float] = {}
    for id, answer in zip(ids, collection.query_batch(requests) if requests else [], strict=True):
        for point in answer.points:
            vector: Any = point.vector[vector_name] if isinstance(point.vector, dict) else None
            factors[id] = float(point.score) / dict(zip(vector.indices, vector.values, strict=True))[id]
    return factors


def _request(id: int, vector_name: str, **options: Any) -> models.QueryRequest:
    token = models.SparseVector(indices=[id], values=[1.0])
    options = {"with_vector": False, **options}
    return models.QueryRequest(
        query=models.NearestQuery(nearest=token), using=vector_name, with_payload=False, **options
    )
