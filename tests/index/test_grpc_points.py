"""Points written into a request over gRPC are those that qdrant-client writes."""

from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.index import grpc_points

SPARSE = models.SparseVector(indices=[1, 2**32 - 1], values=[0.5, 0.25])
VECTORS: list[Any] = [{}, {"splade": SPARSE}, {"splade": SPARSE, "dense": [0.5, 1.0]}, [0.5], {"m": [[0.5]]}]


class Recorder:
    """Stands in for the stub of a channel; keeps what is sent."""

    def Upsert(self, request: Any, timeout: int) -> Any:  # noqa: N802 - gRPC's name
        self.sent, self.timeout = request, timeout
        raise InterruptedError


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("id", [7, "5f0a0c5e-6a5e-4a3e-9d52-0d5f2a6a7f11"])
def test_a_request_is_that_of_qdrant_client(
    monkeypatch: pytest.MonkeyPatch, vector: Any, id: int | str
) -> None:
    payload = {"text": "moon", "metadata": {"n": 1, "x": 0.5, "none": None, "deep": [{"a": [True, []]}]}}
    point = models.PointStruct(id=id, vector=vector, payload=payload)
    client = QdrantClient("127.0.0.1", prefer_grpc=True, check_compatibility=False, timeout=3)
    recorder = Recorder()
    for owner in (QdrantClient, type(client._client)):
        monkeypatch.setattr(owner, "grpc_points", recorder)

    with pytest.raises(InterruptedError):
        client.upsert("docs", [point], wait=True)
    expected = recorder.sent
    with pytest.raises(InterruptedError):
        grpc_points.upsert_over_grpc(client, "docs", [point], timeout_s=9)

    assert recorder.sent == expected
    assert recorder.timeout == 9
    client.close()
