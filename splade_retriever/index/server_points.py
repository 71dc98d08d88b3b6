"""Points as a server takes them: each is written into bytes once, which requests then join.

So the size of a request is known exactly, and a request that is repeated or cut costs nothing again.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from pydantic_core import to_json
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import RestToGrpc, payload_to_grpc
from qdrant_client.http.exceptions import ResponseHandlingException

from splade_retriever.index.points import Point, to_struct
from splade_retriever.sparse import SparseEmbedding

__all__ = ["encode_for_grpc", "encode_for_rest", "upsert_over_grpc", "upsert_over_rest"]

# Tags of the protocol's fields: number * 8 + 2, as a varint. They are those of points.proto.
_UPSERT_POINT: Final = b"\x1a"
_POINT_VECTORS: Final = b"\x22"
_VECTORS_NAMED: Final = b"\x12"
_NAMED_ENTRY: Final = b"\x0a"
_ENTRY_KEY: Final = b"\x0a"
_ENTRY_VALUE: Final = b"\x12"
_VECTOR_SPARSE: Final = b"\xb2\x06"
_SPARSE_VALUES: Final = b"\x0a"


def encode_for_rest(point: Point) -> bytes:
    """Return a point as JSON.

    Weights are written with the digits of 32-bit floats, which take half the place of a Python float's.
    """
    vector: Any = point.vector
    if isinstance(vector, dict):
        vector = {name: _json_vector(value) for name, value in vector.items()}
    body = {"id": point.id, "vector": vector, "payload": point.payload}
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # such as an integer of more than 64 bits
        return to_json(body, inf_nan_mode="null", fallback=np.ndarray.tolist)


def _json_vector(vector: Any) -> Any:
    if isinstance(vector, SparseEmbedding | models.SparseVector):
        return {"indices": vector.indices, "values": vector.values}
    return vector


def encode_for_grpc(point: Point) -> bytes:
    """Return a point as a `PointStruct` of the protocol."""
    vector: Any = point.vector
    if not isinstance(vector, dict) or not all(isinstance(v, SparseEmbedding) for v in vector.values()):
        return bytes(RestToGrpc.convert_point_struct(to_struct(point)).SerializeToString())
    id = {"num": point.id} if isinstance(point.id, int) else {"uuid": str(point.id)}
    start: bytes = grpc.PointStruct(id=id, payload=payload_to_grpc(dict(point.payload))).SerializeToString()
    entries = b"".join(
        _part(_NAMED_ENTRY, _part(_ENTRY_KEY, name.encode()) + _part(_ENTRY_VALUE, _grpc_vector(sparse)))
        for name, sparse in vector.items()
    )
    return start + _part(_POINT_VECTORS, _part(_VECTORS_NAMED, entries))


def _grpc_vector(vector: SparseEmbedding) -> bytes:
    # Numbers of a float array lie in the request as in memory; numpy's conversion to a list would take most
    # of the time.
    values = _part(_SPARSE_VALUES, vector.values.astype("<f4", copy=False).tobytes())
    indices: bytes = grpc.SparseVector(indices=vector.indices.tolist()).SerializeToString()
    return _part(_VECTOR_SPARSE, values + indices)


def _part(tag: bytes, content: bytes) -> bytes:
    """Return a field of the protocol: its tag, the length of the content, the content."""
    size = len(content)
    if size < 0x80:
        return tag + bytes((size,)) + content
    length = bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return tag + bytes(length) + content


def upsert_over_rest(
    client: QdrantClient, collection: str, points: Sequence[bytes], *, timeout_s: int
) -> None:
    """Write points that `encode_for_rest` returned, and return when the server has applied them.

    Raises:
        ApiException: The server refused, or did not answer in time.
    """
    answer: dict[str, Any] = client.http.client.request(
        type_=dict[str, Any],
        method="PUT",
        url="/collections/{collection_name}/points",
        headers={"Content-Type": "application/json"},
        path_params={"collection_name": collection},
        params={"wait": "true", "timeout": str(timeout_s)},
        content=b'{"points":[' + b",".join(points) + b"]}",
    )
    if not answer.get("result"):
        raise ResponseHandlingException(ValueError("The answer to a write has no result."))


def upsert_over_grpc(
    client: QdrantClient, collection: str, points: Sequence[bytes], *, timeout_s: int
) -> None:
    """Write points that `encode_for_grpc` returned, and return when the server has applied them.

    Raises:
        grpc.RpcError: The server refused, or did not answer in time.
    """
    request: Any = grpc.UpsertPoints(collection_name=collection, wait=True)
    request.MergeFromString(b"".join(_part(_UPSERT_POINT, point) for point in points))
    client.grpc_points.Upsert(request, timeout=timeout_s)
