"""A Qdrant server's REST interface over an `EdgeClient`, and a TCP proxy that cuts connections.

With these, everything between the index and a server is real except the server's code: qdrant-client's
requests, JSON, sockets, keep-alive, several connections at once. Tests against a real Qdrant server use
tests/qdrant_server.py.
"""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from qdrant_client import models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import CollectionNotFoundError, InputError

Call = Callable[[EdgeClient, str, dict[str, Any]], Any]


def _create(client: EdgeClient, name: str, body: dict[str, Any]) -> bool:
    request = models.CreateCollection(**body)
    return client.create_collection(
        name,
        request.vectors or {},
        request.sparse_vectors,
        on_disk_payload=request.on_disk_payload,
        hnsw_config=request.hnsw_config,
        quantization_config=request.quantization_config,
        metadata=request.metadata,
    )


def _upsert(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    return client.upsert(name, models.PointsList(**body).points)


def _retrieve(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    request = models.PointRequest(**body)
    return client.retrieve(name, request.ids, request.with_payload, request.with_vector)


def _delete(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    return client.delete(name, models.FilterSelector(**body) if "filter" in body else body["points"])


def _set_payload(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    request = models.SetPayload(**body)
    return client.set_payload(name, request.payload, request.points or request.filter, request.key)


def _overwrite_payload(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    request = models.SetPayload(**body)
    return client.overwrite_payload(name, request.payload, request.points or request.filter)


def _scroll(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    request = models.ScrollRequest(**body)
    points, following = client.scroll(
        name,
        request.filter,
        limit=request.limit or 10,
        order_by=request.order_by,
        offset=request.offset,
        with_payload=request.with_payload,
        with_vectors=request.with_vector,
    )
    return {"points": points, "next_page_offset": following}


def _query(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    return client.query_batch_points(name, [models.QueryRequest(**body)])[0]


def _query_batch(client: EdgeClient, name: str, body: dict[str, Any]) -> Any:
    return client.query_batch_points(name, models.QueryRequestBatch(**body).searches)


_CALLS: Final[dict[tuple[str, str], Call]] = {
    ("GET", "/collections"): lambda client, name, body: client.get_collections(),
    ("GET", "/aliases"): lambda client, name, body: {"aliases": []},
    ("GET", "/collections/*/exists"): lambda client, name, body: {"exists": client.collection_exists(name)},
    ("GET", "/collections/*"): lambda client, name, body: client.get_collection(name),
    ("PUT", "/collections/*"): _create,
    ("PATCH", "/collections/*"): lambda client, name, body: client.update_collection(name, **body),
    ("DELETE", "/collections/*"): lambda client, name, body: client.delete_collection(name),
    ("PUT", "/collections/*/index"): lambda client, name, body: client.create_payload_index(
        name, **dict(models.CreateFieldIndex(**body))
    ),
    ("PUT", "/collections/*/points"): _upsert,
    ("POST", "/collections/*/points"): _retrieve,
    ("POST", "/collections/*/points/delete"): _delete,
    ("POST", "/collections/*/points/payload"): _set_payload,
    ("PUT", "/collections/*/points/payload"): _overwrite_payload,
    ("POST", "/collections/*/points/scroll"): _scroll,
    ("POST", "/collections/*/points/count"): lambda client, name, body: client.count(
        name, models.CountRequest(**body).filter
    ),
    ("POST", "/collections/*/points/query"): _query,
    ("POST", "/collections/*/points/query/batch"): _query_batch,
}


class RestServer:
    """Serves an `EdgeClient` at `url`.

    `before` is called with method and path of each request, `on_request` also with its body.
    """

    def __init__(self) -> None:
        self.store = EdgeClient()
        self.before: Callable[[str, str], object] = lambda method, path: None
        self.on_request: Callable[[str, str, dict[str, Any]], object] = lambda method, path, body: None
        rest = self

        class Handler(_Handler):
            server_of = rest

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.store.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of connections, which the tests cut."""


class _Handler(BaseHTTPRequestHandler):
    server_of: RestServer
    protocol_version = "HTTP/1.1"  # connections are kept, as a Qdrant server keeps them
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.server_of.before(self.command, path)
        expected = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(expected)
        if len(content) < expected:  # cut in the middle of the request
            self.close_connection = True
            return
        try:
            request = json.loads(content) if content else {}
            self.server_of.on_request(self.command, path, request)
            status, result = 200, self._called(path, request)
        except Exception as error:  # noqa: BLE001 - sent to the client, as a server does
            known: dict[type[Exception], int] = {CollectionNotFoundError: 404, InputError: 400}
            status = known.get(type(error), 500)
            answer: dict[str, Any] = {"status": {"error": str(error)}, "time": 0.0}
        else:
            answer = {"status": "ok", "time": 0.0, "result": _as_json(result)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _called(self, path: str, body: dict[str, Any]) -> Any:
        name = unquote((re.match(r"/collections/([^/]+)", path) or ["", ""])[1])
        call = _CALLS[self.command, re.sub(r"^/collections/[^/]+", "/collections/*", path)]
        return call(self.server_of.store, name, body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


def _as_json(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: _as_json(value) for key, value in result.items()}
    if isinstance(result, list):
        return [_as_json(item) for item in result]
    return result.model_dump(mode="json") if hasattr(result, "model_dump") else result


class CuttingProxy:
    """A TCP proxy for a server, which cuts one connection in the middle of a write, or all connections.

    `cuts` lists what happens to the next upserts: "pass"; "request" cuts after a part of the request;
    "answer" cuts after the server has done the write, before its answer.
    """

    def __init__(self, upstream: int) -> None:
        self.cuts: list[str] = []
        self.upserts = 0
        """Number of upserts that began."""
        self._upstream = upstream
        self._unreachable = False
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()
        self._listening.close()

    def go_away(self) -> None:
        """Cut all connections, and each new one, until `come_back`."""
        with self._lock:
            self._unreachable = True
            connections, self._connections = self._connections, []
        for connection in connections:
            _reset(connection)

    def come_back(self) -> None:
        """Accept connections again."""
        with self._lock:
            self._unreachable = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed
                return
            with self._lock:
                unreachable = self._unreachable
            if unreachable:
                _reset(near)
                continue
            far = socket.create_connection(("127.0.0.1", self._upstream))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections += [near, far]
            waiting: list[str] = []
            for source, target, look in (
                (near, far, lambda data, waiting=waiting: self._sent(data, waiting)),
                (far, near, lambda data, waiting=waiting: self._answered(waiting)),
            ):
                threading.Thread(target=_pump, args=(source, target, look), daemon=True).start()

    def _sent(self, data: bytes, waiting: list[str]) -> int | None:
        """Return how many of these bytes from the client pass before the cut; None for no cut."""
        if re.match(rb"PUT /collections/[^/]+/points[? ]", data):
            with self._lock:
                self.upserts += 1
                waiting[:] = [self.cuts.pop(0) if self.cuts else "pass"]
            if data.endswith(b"\r\n\r\n"):  # the body comes separately
                return None
        return len(data) // 2 if waiting == ["request"] else None

    def _answered(self, waiting: list[str]) -> int | None:
        return 0 if waiting == ["answer"] else None


def _pump(source: socket.socket, target: socket.socket, look: Callable[[bytes], int | None]) -> None:
    try:
        while data := source.recv(65536):
            limit = look(data)
            target.sendall(data if limit is None else data[:limit])
            if limit is not None:
                break
    except OSError:
        pass
    for one in (source, target):
        _reset(one)


def _reset(connection: socket.socket) -> None:
    """End a connection with a reset, as a machine that loses its network does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    except OSError:
        pass
