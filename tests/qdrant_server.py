"""Qdrant servers for the tests: started from the program `qdrant`, or one that runs at QDRANT_URL.

The program is the one at QDRANT_BIN, else the one on the PATH. Each server listens on free ports of the
loopback interface, keeps its data in a temporary folder and sends no telemetry.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qdrant_client import QdrantClient

__all__ = [
    "HOW_TO_GET_ONE",
    "Certificates",
    "Cluster",
    "QdrantServer",
    "ServerAddress",
    "emptied",
    "free_ports",
    "given_server",
    "program",
]

HOW_TO_GET_ONE: Final = (
    "put the program `qdrant` on the PATH or name it by QDRANT_BIN (github.com/qdrant/qdrant/releases)"
)
_STARTS_WITHIN_S: Final = 60.0
_PORT_TRIES: Final = 3


def program() -> str | None:
    """Return the path of the Qdrant program; None where there is none."""
    named = os.environ.get("QDRANT_BIN")
    return shutil.which(named) if named else shutil.which("qdrant")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens, and its key."""

    url: str
    api_key: str | None = None
    grpc_port: int | None = None
    """None where only the URL is known."""
    ca: Path | None = None
    """The certificate authority of a server with TLS."""

    def client(self, **options: Any) -> QdrantClient:
        """Open a client of qdrant-client's own."""
        if self.grpc_port is not None:
            options = {"grpc_port": self.grpc_port, **options}
        if self.ca is not None:
            options = {"verify": ssl.create_default_context(cafile=self.ca), **options}
        return QdrantClient(url=self.url, api_key=self.api_key, check_compatibility=False, **options)


def given_server() -> ServerAddress | None:
    """Return the server that QDRANT_URL names; None where it is not set."""
    url = os.environ.get("QDRANT_URL")
    return ServerAddress(url, os.environ.get("QDRANT_API_KEY")) if url else None


@contextlib.contextmanager
def emptied(client: QdrantClient, url: str) -> Iterator[None]:
    """Use a server without collections, alone of all processes of this machine, and leave it without any.

    Raises:
        AssertionError: The server has collections, which a test could overwrite.
    """
    name = f"qdrant-tests-{hashlib.sha256(url.encode()).hexdigest()[:16]}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = [collection.name for collection in client.get_collections().collections]
        assert not found, f"These tests delete collections: use a server without any. {url} has {found}."
        try:
            yield
        finally:
            for collection in client.get_collections().collections:
                client.delete_collection(collection.name)


class QdrantServer:
    """A Qdrant server in a child process.

    Args:
        folder: An empty folder for its data and its log.
        api_key: The key that clients must send.
        tls: The certificate that it shows; None for a server without TLS.
        settings: Settings by their path in Qdrant's configuration, such as "storage.wal.wal_capacity_mb".
        clustered: Run as a node of a cluster.
        bootstrap: The node whose cluster this one joins.
    """

    def __init__(
        self,
        folder: Path,
        *,
        api_key: str | None = None,
        tls: "Certificates | None" = None,
        settings: Mapping[str, Any] | None = None,
        clustered: bool = False,
        bootstrap: "QdrantServer | None" = None,
    ) -> None:
        found = program()
        assert found is not None, f"There is no Qdrant program: {HOW_TO_GET_ONE}."
        self._program: str = found
        self._folder = folder
        self._api_key, self._tls = api_key, tls
        self._settings = dict(settings or {})
        self._clustered, self._bootstrap = clustered, bootstrap
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.grpc_port, self.p2p_port = free_ports(3)

    @property
    def url(self) -> str:
        """The REST interface's address."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def p2p_url(self) -> str:
        """Where the other nodes of a cluster reach it."""
        return f"http://127.0.0.1:{self.p2p_port}"

    @property
    def address(self) -> ServerAddress:
        """What a client needs."""
        ca = None if self._tls is None else self._tls.ca
        return ServerAddress(self.url, self._api_key, self.grpc_port, ca)

    def client(self, **options: Any) -> QdrantClient:
        """Open a client of qdrant-client's own."""
        return self.address.client(**options)

    @property
    def log(self) -> str:
        """What the server has written so far."""
        path = self._folder / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self) -> "QdrantServer":
        """Start the program and wait until it answers.

        Ports that another program took between the choice and the start are chosen again, before the first
        start only: a server that comes back listens where it did.
        """
        fresh = not (self._folder / "storage").exists()
        for _ in range(_PORT_TRIES):
            self.begin()
            try:
                self.wait_until_ready()
            except _PortTakenError:
                if not fresh:
                    raise
                self.port, self.grpc_port, self.p2p_port = free_ports(3)
            else:
                return self
        raise AssertionError(f"No free ports for the server. It wrote: {self.log[-2000:]}")

    def begin(self) -> None:
        """Start the program, and do not wait."""
        assert self._process is None, "the server runs already"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self._arguments()],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _arguments(self) -> list[str]:
        if not self._clustered:
            return []
        joins = [] if self._bootstrap is None else ["--bootstrap", self._bootstrap.p2p_url]
        return ["--uri", self.p2p_url, *joins]

    def _environment(self) -> dict[str, str]:
        settings = {
            "service.host": "127.0.0.1",
            "service.http_port": self.port,
            "service.grpc_port": self.grpc_port,
            "service.enable_tls": self._tls is not None,
            "cluster.enabled": self._clustered,
            "cluster.p2p.port": self.p2p_port,
            "cluster.consensus.tick_period_ms": 100,
            "storage.storage_path": self._folder / "storage",
            "storage.snapshots_path": self._folder / "snapshots",
            "storage.wal.wal_capacity_mb": 1,  # files of 32 MB a collection would be most of a test's time
            "telemetry_disabled": True,
            "log_level": "WARN",
        }
        if self._api_key is not None:
            settings["service.api_key"] = self._api_key
        if self._tls is not None:
            settings |= {"tls.cert": self._tls.cert, "tls.key": self._tls.key, "tls.ca_cert": self._tls.ca}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("QDRANT__")}
        return kept | {
            "__".join(["QDRANT", *path.upper().split(".")]): (
                str(value).lower() if isinstance(value, bool) else str(value)
            )
            for path, value in {**settings, **self._settings}.items()
        }

    def wait_until_ready(self) -> None:
        """Wait until the server takes requests.

        Raises:
            AssertionError: It ended, or does not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._ready():
            assert self._process is not None
            if self._process.poll() is not None:
                self._process = None
                kind = _PortTakenError if "Address already in use" in self.log else AssertionError
                raise kind(f"The Qdrant server ended. It wrote: {self.log[-2000:]}")
            assert time.monotonic() < deadline, f"The server does not answer. It wrote: {self.log[-2000:]}"
            time.sleep(0.02)

    def _ready(self) -> bool:
        context = None if self._tls is None else ssl.create_default_context(cafile=self._tls.ca)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        try:
            with urllib.request.build_opener(*handlers).open(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self) -> None:
        """End the server with no time to clean up, as `kill -9` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in order."""
        self._end(signal.SIGTERM)

    def _end(self, sign: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.send_signal(sign)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def hang(self) -> None:
        """Stop the process where it is: connections stay open and nothing answers, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a stopped process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the server and start it on the same ports and data."""
        self.stop()
        self.start()


class Cluster:
    """Three Qdrant servers that form one cluster.

    Args:
        folder: An empty folder for their data.
        settings: Settings of all of them.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, Any] | None = None) -> None:
        first = QdrantServer(folder / "node0", settings=settings, clustered=True)
        self.nodes = [first] + [
            QdrantServer(folder / f"node{n}", settings=settings, clustered=True, bootstrap=first)
            for n in (1, 2)
        ]

    @property
    def url(self) -> str:
        """The address of the first node."""
        return self.nodes[0].url

    def start(self) -> "Cluster":
        """Start all nodes and wait until each knows the others."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            client = node.client()
            deadline = time.monotonic() + _STARTS_WITHIN_S
            while _peers(client) < len(self.nodes):
                assert time.monotonic() < deadline, f"The nodes do not find each other: {node.log[-2000:]}"
                time.sleep(0.05)
            client.close()
        return self

    def kill(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.kill()


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate for 127.0.0.1 and localhost, its key, and the authority that signed it, as PEM files."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def made_in(cls, folder: Path) -> "Certificates":
        """Make them with the program `openssl`."""
        made = cls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        ca_key, request, extension = folder / "ca.key", folder / "request.pem", folder / "extension.txt"
        extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="utf-8")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        signing: list[str | Path] = ["-CAcreateserial", "-extfile", extension, "-days", "2"]
        commands: list[list[str | Path]] = [
            ["req", "-x509", *new_key, "-keyout", ca_key, "-out", made.ca, "-subj", "/CN=CA", "-days", "2"],
            ["req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=localhost"],
            ["x509", "-req", "-in", request, "-out", made.cert, "-CA", made.ca, "-CAkey", ca_key, *signing],
        ]
        for command in commands:
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return made


def _peers(client: QdrantClient) -> int:
    status: Any = client.http.distributed_api.cluster_status().result
    return len(status.peers)


class _PortTakenError(AssertionError):
    """Another program listens on a port that was free a moment ago."""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface on which nothing listens."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in opened]
