"""Queries over gRPC, whose answers are read into few objects: making these takes Python much time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.http.models import QueryResponse

from splade_retriever.index.payload import PACKAGE_KEY

__all__ = ["query_over_grpc"]

_NOT_READ: Final = models.PayloadSelectorExclude(
    exclude=[f"{PACKAGE_KEY}.{name}" for name in ("hash", "text_hash", "checksum")]
)
"""What `add` compares, and no hit has."""


@dataclass(slots=True)
class _FoundPoint:
    """The fields of `models.ScoredPoint` that an index reads."""

    id: models.ExtendedPointId
    score: float
    payload: dict[str, Any] | None
    vector: Any


def query_over_grpc(
    client: QdrantClient, collection: str, requests: Sequence[models.QueryRequest], *, timeout_s: int
) -> list[QueryResponse]:
    """Run queries; the answers have the order of the queries.

    Raises:
        grpc.RpcError: The server refused, or did not answer in time.
    """
    queries = [RestToGrpc.convert_query_request(_without_unread(one), collection) for one in requests]
    results: Sequence[Any]
    if len(queries) == 1:
        results = [client.grpc_points.Query(queries[0], timeout=timeout_s)]
    else:
        batch = grpc.QueryBatchPoints(collection_name=collection, query_points=queries)
        results = client.grpc_points.QueryBatch(batch, timeout=timeout_s).result
    return [
        QueryResponse.model_construct(points=[_found(point) for point in answer.result]) for answer in results
    ]


def _without_unread(request: models.QueryRequest) -> models.QueryRequest:
    if request.with_payload is not True:
        return request
    return request.model_copy(update={"with_payload": _NOT_READ})


def _found(point: Any) -> models.ScoredPoint:
    found = _FoundPoint(
        id=point.id.uuid or int(point.id.num),
        score=point.score,
        payload=GrpcToRest.convert_payload(point.payload) or None,
        vector=GrpcToRest.convert_vectors_output(point.vectors) if point.HasField("vectors") else None,
    )
    return cast(models.ScoredPoint, found)
