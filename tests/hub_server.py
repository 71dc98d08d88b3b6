"""A server that speaks the model hub's protocol, for tests of downloads; it counts requests and can fail."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves one repository on localhost; large files are redirected to a content store, as on the hub.

    Attributes:
        requests: "METHOD path", in order.
        ranges: The Range headers of all downloads that had one.
        cut_after: Close the connection after that many bytes of a large file, and answer 500 from then on.
        stall_after: Send that many bytes of a large file, then wait until the client disconnects.
        refuse: Answer requests for the repository with this status and error code.
        logins: Path and Authorization header of each request.
        broken: Answer every request with 500.
    """

    def __init__(self, repo: str, files: Mapping[str, bytes], *, large: str = "model.onnx") -> None:
        self.repo, self.files, self.large = repo, files, large
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.refuse: tuple[int, str | None] | None = None
        self.logins: list[tuple[str, str | None]] = []
        self.broken = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        self.logins.append((request.path, request.headers.get("Authorization")))
        if self.broken:
            _reply(request, 500, {})
        elif request.path.startswith("/store/"):
            self._send_large(request)
        elif request.path.startswith("/api/models/"):
            self._send_info(request)
        else:
            self._resolve(request)

    def _resolve(self, request: BaseHTTPRequestHandler) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        if match is None or match[1] != self.repo:
            return _reply(request, 404, {"X-Error-Code": "RepoNotFound"})
        if self.refuse is not None:
            status, code = self.refuse
            return _reply(request, status, {"X-Error-Code": code} if code else {})
        if match[2] not in ("main", COMMIT):
            return _reply(request, 404, {"X-Error-Code": "RevisionNotFound"})
        body = self.files.get(match[3])
        if body is None:
            return _reply(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self._send(request, match[3], body)

    def _send(self, request: BaseHTTPRequestHandler, name: str, body: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        if name == self.large:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(body))
            # As on the hub, large files are on a host of another name.
            headers["Location"] = f"{self.url.replace('127.0.0.1', 'localhost')}/store/{self.large}"
            _reply(request, 302, headers)
        else:
            _reply(request, 200, headers, body)

    def _send_info(self, request: BaseHTTPRequestHandler) -> None:
        if not request.path.removeprefix("/api/models/").startswith(self.repo):
            return _reply(request, 404, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": name} for name in self.files]
        info = {"id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings}
        return _reply(request, 200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _send_large(self, request: BaseHTTPRequestHandler) -> None:
        body = self.files[self.large]
        start = 0
        if wanted := request.headers.get("Range"):
            self.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        limit = self.cut_after or self.stall_after
        if request.command == "HEAD":
            return
        request.wfile.write(body[start : limit or len(body)])
        if limit is None:
            return
        request.wfile.flush()
        if self.cut_after is not None:
            self.broken = True
            request.close_connection = True
        else:
            self.stalled.set()
            request.connection.settimeout(30)
            request.rfile.read(1)  # until the client is gone
            request.close_connection = True


def _reply(
    request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes = b""
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def hub_of(repo: str, files: Mapping[str, bytes], *, large: str = "model.safetensors") -> Iterator[HubServer]:
    """Serve a repository in place of the model hub, to this process."""
    from huggingface_hub import constants

    with HubServer(repo, files, large=large) as hub, pytest.MonkeyPatch.context() as patch:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
