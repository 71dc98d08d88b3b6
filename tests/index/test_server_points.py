"""Points written into a request are those that qdrant-client writes."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException

from splade_retriever.index.points import Point, to_struct
from splade_retriever.index.server_points import (
    encode_for_grpc,
    encode_for_rest,
    upsert_over_grpc,
    upsert_over_rest,
)
from splade_retriever.sparse import SparseEmbedding

LARGEST = models.SparseVector(indices=[1, 2**32 - 1], values=[0.5, 0.25])
SPARSE = SparseEmbedding(values=[0.1, 1e-30, 3.4e38], indices=[0, 300, 2**31 - 1])
LONG = SparseEmbedding(values=np.linspace(0.001, 3.0, 5000), indices=np.arange(5000) * 77)
VECTORS: list[Any] = [
    {},
    {"splade": SPARSE},
    {"splade": SPARSE, "näme" * 50: LONG},
    {"splade": LARGEST},
    {"splade": SPARSE, "dense": [0.5, 1.0]},
    [0.5],
    {"m": [[0.5]]},
]
PAYLOADS: list[dict[str, Any]] = [
    {},
    {"text": "moon", "metadata": {"n": 1, "x": 0.5, "none": None, "deep": [{"a": [True, []]}, {}]}},
    {"text": 'a "quote" \\ \n \x00 月 \U0001f680' * 500, "n": -(2**63), "m": 2**63 - 1, "x": 5e-324},
]
IDS: list[Any] = [7, 2**64 - 1, "5f0a0c5e-6a5e-4a3e-9d52-0d5f2a6a7f11"]


class Recorder:
    """Stands in for the stub of a channel; keeps what is sent."""

    def Upsert(self, request: Any, timeout: int) -> Any:  # noqa: N802 - gRPC's name
        self.sent, self.timeout = request, timeout
        raise InterruptedError


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_request_over_grpc_is_that_of_qdrant_client(
    monkeypatch: pytest.MonkeyPatch, vector: Any, payload: dict[str, Any]
) -> None:
    points = [Point(id, payload, vector) for id in IDS]
    client = QdrantClient("127.0.0.1", prefer_grpc=True, check_compatibility=False, timeout=3)
    recorder = Recorder()
    for owner in (QdrantClient, type(client._client)):
        monkeypatch.setattr(owner, "grpc_points", recorder)

    with pytest.raises(InterruptedError):
        client.upsert("docs", [to_struct(point) for point in points], wait=True)
    expected = recorder.sent
    with pytest.raises(InterruptedError):
        upsert_over_grpc(client, "docs", [encode_for_grpc(point) for point in points], timeout_s=9)

    assert recorder.sent == expected
    assert recorder.timeout == 9
    client.close()


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_request_over_rest_is_that_of_qdrant_client(vector: Any, payload: dict[str, Any]) -> None:
    points = [Point(id, payload, vector) for id in IDS]
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(
            200, json={"result": {"operation_id": 1, "status": "completed"}, "status": "ok"}
        )

    client = _client(answer)

    client.upsert("döcs/1", [to_struct(point) for point in points], wait=True, timeout=9)
    upsert_over_rest(client, "döcs/1", [encode_for_rest(point) for point in points], timeout_s=9)

    theirs, ours = sent
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert dict(ours.headers) == {**theirs.headers, "content-length": ours.headers["content-length"]}
    assert _as_stored(ours.content) == _as_stored(theirs.content)
    assert ours.extensions["timeout"] == theirs.extensions["timeout"]


def test_weights_are_written_with_the_digits_of_32_bit_floats() -> None:
    vector = {"splade": SparseEmbedding(values=[0.1, 1 / 3], indices=[3, 5])}

    assert b'{"indices":[3,5],"values":[0.1,0.33333334]}' in encode_for_rest(Point(1, {}, vector))


def test_integers_of_more_than_64_bits_are_written() -> None:
    written = _as_stored(encode_for_rest(Point(7, {"n": 2**70}, {"splade": SPARSE})))

    assert written["payload"] == {"n": 2**70}
    assert written["vector"]["splade"]["values"] == SPARSE.values.tolist()


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]", b"{}", b'{"result": null}'])
def test_an_answer_that_is_not_a_server_s_is_an_error(body: bytes) -> None:
    client = _client(lambda _: httpx.Response(200, content=body))

    with pytest.raises((ResponseHandlingException, ValueError)):
        upsert_over_rest(client, "docs", [encode_for_rest(Point(1, {}, {}))], timeout_s=9)


def _as_stored(content: bytes) -> Any:
    """Read a request with the weights of sparse vectors as a server keeps them: in 32 bits."""

    def rounded(read: dict[str, Any]) -> dict[str, Any]:
        if read.keys() == {"indices", "values"}:
            read["values"] = np.float32(read["values"]).tolist()
        return read

    return json.loads(content, object_hook=rounded)


def _client(answer: Any) -> QdrantClient:
    transport = httpx.MockTransport(answer)
    return QdrantClient("http://127.0.0.1:1", check_compatibility=False, transport=transport)
