"""Serves the page and its API over HTTP, by starlette and uvicorn."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    from splade_retriever.errors import MissingExtraError

    raise MissingExtraError(
        "The page needs starlette and uvicorn, which are not installed. Run: pip install "
        '"splade-retriever[web]"'
    ) from error

from splade_retriever.errors import InputError, SpladeError
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.printable import printable_json
from splade_retriever.validation import is_loopback, loopback_names, type_name
from splade_retriever.web.api import SearchApi
from splade_retriever.web.openapi import openapi_document
from splade_retriever.web.page import CONTENT_SECURITY_POLICY, page_file

__all__ = ["create_app", "serve", "server_config"]

_MAX_BODY: Final = 1 << 20
_LOOPBACK_NAMES: Final = loopback_names("127.0.0.1")
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/theme.js": ("theme.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

logger = logging.getLogger(__name__)


def serve(index: SpladeIndex, *, host: str, port: int, token: str | None = None) -> None:
    """Serve the page of an index until interrupted.

    Raises:
        InputError: The address is not a loopback address and there is no token.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"The page would be served on {host!r}, where others can read the index, without a token. Pass a "
            "token, or serve on 127.0.0.1."
        )
    app = create_app(index, hosts=loopback_names(host) if is_loopback(host) else None, token=token)
    index.query_vector("load the model")  # now, so that the first keystroke does not wait for it
    uvicorn.Server(server_config(app, host=host.strip("[]"), port=port)).run()


def server_config(app: Starlette, *, host: str, port: int) -> uvicorn.Config:
    """Return how uvicorn serves the page: quietly, and without the protocols that it does not use."""
    return uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False, ws="none", lifespan="off"
    )


def create_app(
    index: SpladeIndex, *, hosts: tuple[str, ...] | None = _LOOPBACK_NAMES, token: str | None = None
) -> Starlette:
    """Return the application.

    Args:
        index: The index; the caller closes it.
        hosts: The names that the Host header may have, without the port; None for any. A page of another
            site that resolves its name to this machine (DNS rebinding) sends its name.
        token: What API requests must send as `Authorization: Bearer TOKEN`; None for no token.
    """
    api = SearchApi(index)
    calls = {
        "/api/search": api.search,
        "/api/explain": api.explain,
        "/api/why-not": api.why_not,
    }
    routes = [Route(path, _file(*file)) for path, file in _FILES.items()]
    routes += [Route(path, _call(index, call), methods=["POST"]) for path, call in calls.items()]
    routes.append(Route("/api/info", _call(index, api.info), methods=["GET"]))
    routes.append(Route("/openapi.json", _openapi))
    app = Starlette(routes=routes)
    app.add_middleware(_Guard, hosts=hosts, token=token)
    return app


def _file(name: str, media_type: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return Response(page_file(name), media_type=media_type)

    return endpoint


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi_document())


def _call(
    index: SpladeIndex, call: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _body(request) if request.method == "POST" else {}
            answer = await index.run_in_thread(call, body)
        except SpladeError as error:
            return _json({"error": str(error)}, 400)
        except Exception:
            logger.exception("The request %s failed", request.url.path)
            return _json({"error": "The request failed; the server's log has the reason."}, 500)
        return _json(answer, 200)

    return endpoint


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise InputError("The request's content type is not application/json.")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY:
            raise InputError(f"The request has more than {_MAX_BODY:,} bytes.")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InputError(f"The request is {type_name(body)}, expected a JSON object.")
    return body


def _json(content: Mapping[str, Any], status: int) -> Response:
    document = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Response(
        printable_json(document).encode("utf-8", "replace"), status, media_type="application/json"
    )


class _Guard:
    """Refuses requests of other sites and without the token, and adds the security headers."""

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), str(scope["path"]))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_SECURITY_HEADERS]
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        host = headers.get("host", "")
        if self._hosts is not None and _without_port(host) not in self._hosts:
            return _json(
                {"error": f"The host {host!r} is not one that this page is served as. Use http://127.0.0.1."},
                403,
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return _json({"error": "The request comes from another site."}, 403)
        if self._token is not None and path.startswith("/api/"):
            sent = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(sent.encode(), self._token.encode()):
                return _json(
                    {"error": "The token is missing or wrong. Open the address with #token=..."}, 401
                )
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


_SECURITY_HEADERS: Final = [
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }.items()
]
