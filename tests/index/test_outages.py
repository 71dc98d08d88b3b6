"""An index over real Qdrant servers that go away, hang, come back, or were never at the address."""

import asyncio
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever.errors import ServerError, SpladeError, StorageError
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.files.sync import sync_files
from splade_retriever.index.connection import LOAD_RETRY_FOR_S
from splade_retriever.index.splade_index import SpladeIndex
from tests.python_process import run_python
from tests.qdrant_server import Certificates, Cluster, QdrantServer, free_ports
from tests.words import WordEncoder

pytestmark = pytest.mark.own_server

StartServer = Callable[..., QdrantServer]
ROOT = Path(__file__).parents[2]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program `openssl`")


def opened(server: QdrantServer, **options: object) -> SpladeIndex:
    return SpladeIndex(
        server.url,
        **{"model": WordEncoder(), "grpc_port": server.grpc_port, **options},  # type: ignore[arg-type]
    )


def seconds_of_error(kind: type[SpladeError], message: str, call: Callable[[], object]) -> float:
    started = time.perf_counter()
    with pytest.raises(kind, match=message):
        call()
    return time.perf_counter() - started


# -- outages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_load_survives_a_restart_of_the_server_with_one_line_when_it_begins_and_one_when_it_ends(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, grpc: bool
) -> None:
    server = start_server()
    down = threading.Event()

    def texts() -> Iterator[str]:
        for n in range(600):
            if n == 200:
                server.kill()
                threading.Timer(2.0, server.start).start()
                down.set()
            yield f"moon {n}"

    with opened(server, prefer_grpc=grpc) as index:
        caplog.clear()
        ids = index.add(texts(), ids=map(str, range(600)), batch_size=50)

        assert down.is_set()
        assert len(ids) == index.count() == 600
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2, lines
    assert "does not answer as expected" in lines[0]
    assert "waiting since" in lines[0]
    assert "answers again after" in lines[1]


def test_grpc_reconnects_within_two_seconds_after_a_long_outage(start_server: StartServer) -> None:
    server = start_server()
    with opened(server, prefer_grpc=True) as index:
        index.add(["moon"], ids=["a"])
        server.kill()
        ended = time.monotonic() + 4.0
        while time.monotonic() < ended:  # tries that make the pauses of a channel longer
            with pytest.raises(SpladeError):
                index._collection._connection.send(
                    lambda: index.client.count("splade"), doing="count", retry_for_s=0.0
                )
            time.sleep(0.2)
        server.start()

        started = time.perf_counter()
        assert [hit.id for hit in index.search("moon")] == ["a"]
        assert time.perf_counter() - started < 8.0


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize("end", ["kill", "hang"])
def test_a_search_fails_after_a_second_where_that_is_asked_for(
    start_server: StartServer, grpc: bool, end: str
) -> None:
    server = start_server()
    with opened(server, prefer_grpc=grpc, retry_for=1) as index:
        index.add(["moon"])
        assert len(index.search("moon")) == 1

        getattr(server, end)()

        seconds = seconds_of_error(ServerError, "did not answer", lambda: index.search("moon"))
        assert 0.9 < seconds < 8.0
        seconds = seconds_of_error(ServerError, "did not answer", lambda: asyncio.run(index.asearch("moon")))
        assert 0.9 < seconds < 8.0
        server.resume() if end == "hang" else None


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_changes_and_deletions_are_repeated_for_as_long_as_is_asked_for(
    start_server: StartServer, grpc: bool
) -> None:
    server = start_server()
    with opened(server, prefer_grpc=grpc, retry_for=0.3) as index:
        index.add(["moon"], [{"year": 1968}], ids=["a"])
        server.kill()
        changes: list[Callable[[], object]] = [
            lambda: index.update_metadata("a", {"year": 1969}),
            lambda: index.delete(["a"]),
            lambda: index.delete(filter={"year": 1968}),
            index.clear,
        ]
        for change in changes:
            assert 0.25 < seconds_of_error(ServerError, "did not answer", change) < 8.0


def test_synchronising_files_waits_as_long_as_a_load_also_for_reading_and_deleting(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, options = [tmp_path / "a.txt", tmp_path / "b.txt"], ReadOptions(base=tmp_path)
    limits: list[float] = []
    with opened(start_server()) as index:
        connection, splitter = index.store._connection, Splitter(WordEncoder().tokenizer, 16)
        send = connection.send

        def recorded(*args: Any, **keywords: Any) -> Any:
            limits.append(connection.retry_for_s)
            return send(*args, **keywords)

        monkeypatch.setattr(connection, "send", recorded)
        for path in texts:
            path.write_text(f"moon {path.name}")
        sync_files(index, texts, options=options, splitter=splitter, folders=[tmp_path])
        texts[1].unlink()
        report = sync_files(index, texts[:1], options=options, splitter=splitter, folders=[tmp_path])

    assert (report.unchanged, report.removed) == (1, 1)
    assert set(limits) == {LOAD_RETRY_FOR_S}


def test_a_node_with_the_only_copy_of_a_shard_that_is_down_is_named_as_the_reason(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    with opened(first, shard_number=3, replication_factor=1, retry_for=3) as index:
        index.add([f"moon {n}" for n in range(50)])

        second.kill()

        for call in (lambda: index.search("moon"), index.count, lambda: index.add(["moon 1"] * 50)):
            with pytest.raises(ServerError, match=r"only live copy of a shard .*replication_factor=2"):
                call()


# -- what cannot get better ----------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_certificates_and_schemes_are_checked_at_once_and_an_authority_can_be_passed(
    start_server: StartServer, tmp_path: Path, grpc: bool
) -> None:
    tls = Certificates.made_in(tmp_path)
    server = start_server(tls=tls)

    assert (
        seconds_of_error(
            ServerError,
            r"certificate of 127.0.0.1 is not trusted.*Pass ca=",
            lambda: opened(server, prefer_grpc=grpc),
        )
        < 3
    )
    wrong = server.url.replace("https", "http")
    assert (
        seconds_of_error(
            ServerError,
            f"Port {server.port} of 127.0.0.1 speaks TLS. Use https://127.0.0.1:{server.port}",
            lambda: SpladeIndex(wrong, model=WordEncoder(), prefer_grpc=grpc, grpc_port=server.grpc_port),
        )
        < 4
    )
    with opened(server, prefer_grpc=grpc, ca=tls.ca) as index:
        index.add(["moon"], ids=["a"])
        assert [hit.id for hit in index.search("moon")] == ["a"]
    if not grpc:
        with opened(server, verify=False) as index:
            assert index.count() == 1


def test_a_wrong_port_or_scheme_is_named_at_once(start_server: StartServer) -> None:
    server = start_server()
    host, model = "127.0.0.1", WordEncoder()
    (closed,) = free_ports(1)
    cases: list[tuple[str, str, dict[str, object]]] = [
        (f"https://{host}:{server.port}", f"does not speak TLS. Use http://{host}:{server.port}", {}),
        (f"http://{host}:{server.grpc_port}", f"Port {server.grpc_port} of {host} speaks gRPC, expected", {}),
        (f"http://{host}:{closed}", f"Nothing listens at {host}:{closed}", {}),
        ("http://no-such-host.invalid:6333", "host name 'no-such-host.invalid' is not known", {}),
        (server.url, f"Port {server.port} of {host} does not speak gRPC", {"grpc_port": server.port}),
        (server.url, f"Nothing listens at the gRPC port {closed}", {"grpc_port": closed}),
    ]
    for url, message, options in cases:
        grpc = {"prefer_grpc": True, **options} if options else {}
        seconds = seconds_of_error(
            ServerError,
            message,
            lambda: SpladeIndex(url, model=model, **grpc),  # type: ignore[arg-type] # noqa: B023
        )
        assert seconds < 3.0, message


def test_the_reason_of_a_refused_key_is_kept(start_server: StartServer) -> None:
    server = start_server(api_key="secret")

    assert seconds_of_error(ServerError, "401 .*Must provide an API key", lambda: opened(server)) < 3
    with pytest.warns(UserWarning, match="insecure"):
        assert seconds_of_error(ServerError, "Invalid API key", lambda: opened(server, api_key="wrong")) < 3


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk, which needs root")
def test_a_full_disk_of_the_server_is_a_storage_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    server = QdrantServer(disk / "qdrant", settings={"storage.wal.wal_capacity_mb": 32})
    try:
        server.start()
        with opened(server) as index:
            texts = (f"moon {n} {'x' * 2**20}" for n in range(200))
            with pytest.raises(StorageError, match="Free space on the server's disk"):
                index.add(texts, batch_size=16)
    finally:
        server.kill()
        subprocess.run(["umount", "-l", disk], check=False)


# -- addresses -----------------------------------------------------------------------------------------------


FORKED = """
import asyncio, os, sys
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder
url, grpc, port = sys.argv[1], sys.argv[2] == "grpc", int(sys.argv[3])
index = SpladeIndex(url, model=WordEncoder(), prefer_grpc=grpc, grpc_port=port)
index.add(["the lander", "the rover"], ids=["a", "b"])
def calls():
    assert [hit.id for hit in asyncio.run(index.asearch("lander"))] == ["a"]
    assert [hit.id for hit in index.search("rover")] == ["b"]
    assert asyncio.run(index.acount()) == 2
    index.add(["the lander"], ids=["a"])
calls()
child = os.fork()
if child == 0:
    calls()
    print("child", flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
calls()
print("parent", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_forked_child_searches_after_its_parent_did(start_server: StartServer, protocol: str) -> None:
    server = start_server()

    done = run_python(FORKED, server.url, protocol, str(server.grpc_port))

    assert done.stdout.split() == ["child", "parent"], done.stderr


def test_https_without_a_port_is_port_443() -> None:
    # Nothing listens at this port of the loopback interface's last address.
    with socket.socket() as probe:
        if probe.connect_ex(("127.255.255.254", 443)) == 0:
            pytest.skip("something listens at port 443")

    for url, port in (("https://127.255.255.254", 443), ("http://127.255.255.254", 6333)):
        with pytest.raises(ServerError, match=f"Nothing listens at 127.255.255.254:{port}"):
            SpladeIndex(url, model=WordEncoder())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    (closed,) = free_ports(1)
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, f"http://user:secret@127.0.0.1:{closed}")

    with pytest.raises(ServerError) as caught:
        SpladeIndex("http://192.0.2.1:6333", model=WordEncoder())

    assert f"proxy http://127.0.0.1:{closed} (environment variable {variable})" in str(caught.value)
    assert "secret" not in str(caught.value)
