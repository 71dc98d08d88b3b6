"""The servers that tests run against: that they start, end, hang, come back, and are set up as asked."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.qdrant_server import Certificates, Cluster, QdrantServer

ROOT = Path(__file__).parents[1]
StartServer = Callable[..., QdrantServer]


def fill(server: QdrantServer, count: int = 3) -> None:
    client = server.client()
    client.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert("docs", [models.PointStruct(id=n, vector=[n, 1.0]) for n in range(count)])
    client.close()


@pytest.mark.own_server
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_ended_comes_back_with_its_data_and_ports(start_server: StartServer, end: str) -> None:
    server = start_server()
    fill(server)
    client = server.client()

    getattr(server, end)()
    with pytest.raises(ResponseHandlingException):
        client.count("docs")
    server.start()

    assert client.count("docs").count == 3
    assert server.client(prefer_grpc=True).count("docs").count == 3


@pytest.mark.own_server
def test_a_server_that_hangs_does_not_answer_until_it_continues(start_server: StartServer) -> None:
    server = start_server()
    fill(server)
    client = server.client(timeout=1)

    server.hang()
    with pytest.raises(ResponseHandlingException, match="timed out"):
        client.count("docs")
    server.resume()

    assert server.client(timeout=10).count("docs").count == 3


@pytest.mark.own_server
def test_a_server_with_a_key_refuses_clients_without_it(start_server: StartServer) -> None:
    server = start_server(api_key="secret")

    with pytest.warns(UserWarning, match="insecure"):
        assert server.client().get_collections().collections == []
    assert httpx.get(f"{server.url}/collections").status_code == 401


@pytest.mark.own_server
def test_strict_mode_is_set_by_the_configuration(start_server: StartServer) -> None:
    strict = "storage.collection.strict_mode."
    server = start_server(settings={f"{strict}enabled": True, f"{strict}max_query_limit": 5})
    fill(server)

    with pytest.raises(UnexpectedResponse, match="Limit exceeded 6 > 5"):
        server.client().query_points("docs", [1.0, 0.0], limit=6)


@pytest.mark.own_server
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program `openssl`")
def test_a_server_with_tls_shows_a_certificate_of_the_tests_authority(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(tls=Certificates.made_in(tmp_path))

    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(server.url)
    fill(server)
    assert server.client().count("docs").count == 3


@pytest.mark.own_server
def test_three_nodes_keep_copies_and_one_may_be_killed(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    client = first.client(timeout=30)
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    client.create_collection("docs", params, shard_number=3, replication_factor=2)
    client.upsert("docs", [models.PointStruct(id=n, vector=[n, 1.0]) for n in range(30)], wait=True)

    second.kill()

    assert client.count("docs").count == 30


def test_without_a_server_the_tests_are_skipped_and_the_last_lines_say_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("QDRANT_URL", "QDRANT_BIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    selected = "tests/test_qdrant_server.py::test_strict_mode_is_set_by_the_configuration"

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", selected],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "QDRANT_BIN (github.com/qdrant/qdrant/releases)" in done.stdout.splitlines()[-2], done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]
