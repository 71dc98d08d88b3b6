"""Points as a request over gRPC: each is written into the request directly, without objects in between."""

from collections.abc import Sequence
from typing import Any

from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import RestToGrpc, payload_to_grpc

__all__ = ["upsert_over_grpc"]


def upsert_over_grpc(
    client: QdrantClient, collection: str, points: Sequence[models.PointStruct], *, timeout_s: int
) -> None:
    """Write points, and return when the server has applied them.

    The same as `QdrantClient.upsert`, in half the processor time, and with a separate time limit.

    Raises:
        grpc.RpcError: The server refused, or did not answer in time.
    """
    request: Any = grpc.UpsertPoints(collection_name=collection, wait=True)
    for point in points:
        _add(request, point)
    client.grpc_points.Upsert(request, timeout=timeout_s)


def _add(request: Any, point: models.PointStruct) -> None:
    vectors: Any = point.vector
    if not isinstance(vectors, dict) or not all(isinstance(v, models.SparseVector) for v in vectors.values()):
        request.points.append(RestToGrpc.convert_point_struct(point))
        return
    id = {"num": point.id} if isinstance(point.id, int) else {"uuid": str(point.id)}
    added = request.points.add(id=id, payload=payload_to_grpc(point.payload or {}))
    added.vectors.vectors.SetInParent()  # a point without vectors has an empty map
    for name, vector in vectors.items():
        sparse = added.vectors.vectors.vectors[name].sparse
        sparse.indices.extend(vector.indices)
        sparse.values.extend(vector.values)
