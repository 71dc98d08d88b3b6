"""Clients of Qdrant servers: their ports, proxies, and whether both ports belong to one server."""

import logging
import math
import ssl
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from splade_retriever.errors import InputError, ServerError
from splade_retriever.index.connection import Connection
from splade_retriever.index.options import ServerOptions
from splade_retriever.index.server_diagnosis import Address, advice_for
from splade_retriever.validation import is_loopback

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["check_same_server", "connect", "connection_to", "timeout_s"]

logger = logging.getLogger(__name__)

_PORTS: Final = {"http": 6333, "https": 443}
"""Port of a URL without one."""
_GRPC_PORT: Final = 6334
"""gRPC port where the URL has no port."""
_GRPC_OPTIONS: Final = {
    # A channel that lost its server tries again each second. gRPC's own pauses grow to two minutes.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.min_reconnect_backoff_ms": 5000,
}
_KEPT_ALIVE_S: Final = 3.0
"""How long a connection is kept for the next request; a server closes it after 5 seconds."""
_TIMEOUT_S: Final = 10
"""Time limit of a request unless `timeout` or a shorter `retry_for` is set."""
_COMPARISONS: Final = 3
"""How often the collections of two ports are compared, since another process may create one meanwhile."""


def connect(url: str, server: ServerOptions) -> "QdrantClient":
    """Create a client of a Qdrant server or cluster; no request is sent yet.

    A server on the loopback interface is never reached by a proxy.

    Raises:
        InputError: The URL has no host, or a port that is not valid; or the key would be sent to another
            machine over http.
    """
    from httpx import Limits
    from qdrant_client import QdrantClient

    host, port = _host_and_port(url)
    _check_key(url, host, server)
    grpc_options: dict[str, Any] = dict(_GRPC_OPTIONS)
    # For a loopback interface, qdrant-client would open a connection for each request.
    rest: dict[str, Any] = {"limits": Limits(keepalive_expiry=_KEPT_ALIVE_S)}
    if is_loopback(host):
        grpc_options["grpc.enable_http_proxy"] = 0
        rest["metadata"] = {"Accept-Encoding": "identity"}  # packing costs more than it saves
        rest["mounts"] = dict.fromkeys(("http://", "https://", "all://"))
    if urlsplit(url).scheme == "https":
        if server.ca is not None:
            grpc_options["root_certificates"] = _certificates(server.ca)
        if server.ca is not None or not server.verify:
            rest["verify"] = _tls(server)
    return QdrantClient(
        url=url,
        port=port,
        grpc_port=grpc_port_of(url, server),
        api_key=server.api_key,
        prefer_grpc=server.prefer_grpc,
        timeout=timeout_s(server),
        grpc_options=grpc_options,
        check_compatibility=False,
        **rest,
    )


def _check_key(url: str, host: str, server: ServerOptions) -> None:
    is_encrypted = urlsplit(url).scheme == "https"
    if server.api_key is None or is_encrypted or is_loopback(host) or server.allow_insecure_key:
        return
    raise InputError(
        f"An API key is passed for {url}, and http would send it unencrypted to another machine. Nothing was "
        "sent. Use https, or leave the key out. In a network that you trust, pass allow_insecure_key=True "
        "(on the command line, set SPLADE_ALLOW_INSECURE_KEY=1)."
    )


def connection_to(url: str, server: ServerOptions) -> Connection:
    """Return how requests to a server are sent; nothing is sent yet."""
    parts = urlsplit(url)
    host, port = _host_and_port(url)
    address = Address(
        scheme=parts.scheme,
        host=host,
        port=port,
        grpc_port=grpc_port_of(url, server) if server.prefer_grpc else None,
        uses_proxy=not is_loopback(host),
    )
    return Connection(url, retry_for=server.retry_for, advise=partial(advice_for, address=address))


def timeout_s(server: ServerOptions) -> int:
    """Return the time limit of a request, in seconds: a try ends before `retry_for` does."""
    if server.timeout is not None:
        return server.timeout
    if server.retry_for is None:
        return _TIMEOUT_S
    return max(1, min(_TIMEOUT_S, math.ceil(server.retry_for)))


def _certificates(ca: str | Path) -> bytes:
    try:
        return Path(ca).expanduser().read_bytes()
    except OSError as error:
        raise InputError(
            f"ca is {str(ca)!r}, which cannot be read ({error.strerror}). Pass a file with certificates in "
            "PEM format."
        ) from error


def _tls(server: ServerOptions) -> ssl.SSLContext:
    if server.ca is None:
        context = ssl.create_default_context()
    else:
        try:
            context = ssl.create_default_context(cadata=_certificates(server.ca).decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                f"ca is {str(server.ca)!r}, which holds no certificates ({error}). Pass a file with "
                "certificates in PEM format."
            ) from error
    if not server.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def grpc_port_of(url: str, server: ServerOptions) -> int:
    """Return the gRPC port: the one that is set, else the REST port + 1, for a URL without a port 6334."""
    if server.grpc_port is not None:
        return server.grpc_port
    port = urlsplit(url).port
    return _GRPC_PORT if port is None else port + 1


def check_same_server(client: "QdrantClient", url: str, server: ServerOptions) -> None:
    """Check, where gRPC is used, that both ports belong to the same server or cluster.

    Compared are the names of the collections, and which nodes have the first of them: each server has a
    random number.

    Raises:
        ServerError: They do not, or one of them does not answer; the message names both ports.
    """
    if not server.prefer_grpc:
        return
    _, port = _host_and_port(url)
    ports = f"REST port {port} and gRPC port {grpc_port_of(url, server)} of {url}"
    doing = f"compare {ports}"
    over_rest, over_grpc = (connection_to(url, server) for _ in range(2))
    names: list[tuple[set[str], set[str]]] = []
    for _ in range(_COMPARISONS):
        by_rest: Any = over_rest.send(client.http.collections_api.get_collections, doing=doing).result
        by_grpc = over_grpc.send(client.get_collections, doing=doing)
        names.append(
            ({found.name for found in by_rest.collections}, {found.name for found in by_grpc.collections})
        )
        if names[-1][0] == names[-1][1]:
            _check_nodes(client, min(names[-1][0], default=None), ports)
            return
        time.sleep(0.1)
    differing = sorted(names[-1][0] ^ names[-1][1])
    raise ServerError(
        f"{ports} belong to different servers: only one of them has the collections {differing[:5]}. Pass "
        "grpc_port= with the gRPC port of the server at the URL."
    )


def _check_nodes(client: "QdrantClient", collection: str | None, ports: str) -> None:
    """Compare the nodes of a collection; a key that may not read them skips this check."""
    from grpc import RpcError
    from qdrant_client.http.exceptions import ApiException
    from qdrant_client.http.models import CollectionClusterInfo

    if collection is None:
        return
    try:
        by_rest: Any = client.http.distributed_api.collection_cluster_info(collection).result
        by_grpc: Any = client.collection_cluster_info(collection)
    except (ApiException, RpcError) as error:
        logger.debug("The nodes of %s were not compared: %s", ports, error)
        return

    def nodes(info: CollectionClusterInfo) -> set[int]:
        return {info.peer_id, *(shard.peer_id for shard in info.remote_shards)}

    if not nodes(by_rest) & nodes(by_grpc):
        raise ServerError(
            f"{ports} belong to different servers, which both have a collection {collection!r}. Pass "
            "grpc_port= with the gRPC port of the server at the URL."
        )


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except ValueError as error:
        raise InputError(f"location is {url!r}: {error}. Pass a URL such as 'http://host:6333'.") from error
    if not parts.hostname:
        raise InputError(f"location is {url!r}, which names no host. Pass a URL such as 'http://host:6333'.")
    return parts.hostname, port
