"""Says why no Qdrant server answered at an address: certificate, scheme, port, proxy, or nothing there."""

import re
import socket
import ssl
import urllib.request
from dataclasses import dataclass
from typing import Final

from splade_retriever.index.server_errors import Failure

__all__ = ["Address", "advice_for"]

_TIMEOUT_S: Final = 1.0
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS: Final = 4
"""Type of the first frame that an HTTP/2 server sends."""
_CERTIFICATE_REASON: Final = re.compile(
    r"certificate verify failed: ([^(\n]+)|CERTIFICATE_VERIFY_FAILED: ([^)\n]+)"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is expected."""

    scheme: str
    host: str
    port: int
    grpc_port: int | None = None
    """The gRPC port, where gRPC is used."""
    uses_proxy: bool = True
    """False where a proxy of the environment is not used."""

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def advice_for(failure: Failure, address: Address) -> str:
    """Say what is wrong with an address at which no Qdrant server answered.

    The port is asked which protocol it speaks, which takes up to three seconds.

    Returns:
        One or two sentences, the last one without a full stop.
    """
    message = failure.message
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return _certificate_advice(message, address)
    is_grpc = failure.message.startswith(("UNAVAILABLE", "UNKNOWN"))
    if is_grpc and (advice := _grpc_advice(address)):
        return advice
    proxy = _proxy(address)
    if proxy is not None:
        name, url = proxy
        return (
            f"The request goes through the proxy {url} (environment variable {name}). Check that the proxy "
            f"runs, or add {address.host} to NO_PROXY"
        )
    return _rest_advice(message, address)


def _certificate_advice(message: str, address: Address) -> str:
    found = _CERTIFICATE_REASON.search(message)
    reason = "" if found is None else f" ({(found[1] or found[2]).strip().rstrip('.')})"
    return (
        f"The certificate of {address.host} is not trusted{reason}. Pass ca= (--ca) with the file (PEM) of "
        "the authority that signed it; verify=False accepts any certificate over REST"
    )


def _grpc_advice(address: Address) -> str:
    if address.grpc_port is None:
        return ""
    if not _listens(address.host, address.grpc_port):
        return (
            f"Nothing listens at the gRPC port {address.grpc_port} of {address.host}. Pass grpc_port= with "
            "the server's gRPC port, or leave out prefer_grpc"
        )
    is_tls = address.scheme == "https"
    if _speaks_http2(address.host, address.grpc_port, tls=is_tls):
        return ""
    if not is_tls and _speaks_tls(address.host, address.grpc_port):
        return f"Port {address.grpc_port} of {address.host} speaks TLS. Write the URL with https://"
    return (
        f"Port {address.grpc_port} of {address.host} does not speak gRPC. Pass grpc_port= with the server's "
        "gRPC port, usually 6334"
    )


def _rest_advice(message: str, address: Address) -> str:
    host, port = address.host, address.port
    try:
        socket.getaddrinfo(host, port)
    except OSError:
        return f"The host name {host!r} is not known. Check the URL"
    if not _listens(host, port):
        return f"Nothing listens at {address.authority}. Start the server, or check the URL"
    speaks_tls = _speaks_tls(host, port)
    if address.scheme == "http" and speaks_tls:
        return f"Port {port} of {host} speaks TLS. Use https://{address.authority}"
    if address.scheme == "https" and not speaks_tls:
        return f"Port {port} of {host} does not speak TLS. Use http://{address.authority}"
    if _speaks_http2(host, port, tls=speaks_tls):
        return (
            f"Port {port} of {host} speaks gRPC, expected the REST port, usually 6333. Write the REST port "
            "in the URL, and pass prefer_grpc=True for requests over gRPC"
        )
    return f"The program at {address.authority} does not answer as a Qdrant server does. Check the URL"


def _proxy(address: Address) -> tuple[str, str] | None:
    """Return the proxy of the environment that requests to an address use: variable and URL."""
    if not address.uses_proxy or urllib.request.proxy_bypass(address.host):
        return None
    proxies = urllib.request.getproxies()
    for scheme in (address.scheme, "all"):
        if scheme in proxies:
            return f"{scheme.upper()}_PROXY", re.sub(r"//[^/@]*@", "//", proxies[scheme])
    return None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False


def _speaks_tls(host: str, port: int) -> bool:
    try:
        with (
            socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection,
            _any_certificate().wrap_socket(connection, server_hostname=host),
        ):
            return True
    except (OSError, ValueError):
        return False


def _speaks_http2(host: str, port: int, *, tls: bool) -> bool:
    """Return whether a port answers the opening of HTTP/2, which gRPC needs, with a frame of settings."""
    context = _any_certificate()
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as plain:
            connection = context.wrap_socket(plain, server_hostname=host) if tls else plain
            if isinstance(connection, ssl.SSLSocket) and connection.selected_alpn_protocol() not in (
                None,
                "h2",
            ):
                return False
            connection.sendall(_HTTP2_PREFACE)
            frame = connection.recv(9)
            return len(frame) > 3 and frame[3] == _SETTINGS
    except (OSError, ValueError):
        return False


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
