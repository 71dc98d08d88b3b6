"""Errors of a store's client, classified: whether the next try may succeed, and which error to raise."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from splade_retriever.errors import FilterError, ServerError, SpladeError, StorageError

__all__ = ["Failure", "classify"]

_BUSY_STATUS: Final = (408, 429, 500, 502, 503, 504)
"""A cluster answers 500 while one of its nodes goes away, and then the right answer again."""
_BUSY_CODES: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")
_REFUSED_CODES: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_MAX_REASON: Final = 300
"""Characters of an answer that is not JSON."""

_TOO_LARGE: Final = re.compile(r"larger than allowed \(limit: (\d+) bytes\)")
_DISK_FULL: Final = re.compile(r"no space left|available disk space|disk (?:is )?full|out of disk", re.I)
_SPLIT_IT: Final = "request larger than rate limiter capacity"
_NO_INDEX: Final = re.compile(
    r'Index required but not found for "(.+?)" of one of the following types: \[(.+?)\]'
)
_FILTER_TOO_LARGE: Final = re.compile(r"(Condition size|Filter condition) limit reached \((\d+) > (\d+)\)")
_NO_COPY: Final = re.compile(
    r"(?:read operations failed|shards failed to apply operation|replicas? .*failed).*"
    r"(?:code: 'The service is currently unavailable'|Failed to connect|tcp connect error|Deadline|Timeout)",
    re.S | re.I,
)
_CANNOT_CONNECT: Final = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")
_GRPC_CANNOT_CONNECT: Final = ("failed to connect to all addresses", "errors resolving", "Socket closed")
_TIMEOUTS: Final = ("ReadTimeout", "WriteTimeout", "PoolTimeout")
_NEVER_BETTER: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|Failed parsing HTTP/2|record layer failure"
    r"|illegal request line|illegal status line",
    re.I,
)
"""The wrong certificate, scheme or port."""
_FILTER_LIMITS: Final = {
    "Condition size": ("condition_max_size", "values in one condition"),
    "Filter condition": ("filter_max_conditions", "conditions"),
}
"""Words of a server -> the setting of its strict mode, and what it counts."""
_NO_COPY_ADVICE: Final = (
    "A node of the cluster that holds the only live copy of a shard does not answer. Start that node again; "
    "collections with replication_factor=2 or more are served while a node is down"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a store, classified."""

    message: str
    """The store's words, on one line."""
    kind: type[SpladeError]
    """The error to raise."""
    transient: bool = False
    """Whether the next try may succeed."""
    retry_after_s: float = 0.0
    """The pause that the server asks for."""
    no_connection: bool = False
    """Whether no Qdrant server answered: a wrong address is likely where none ever did."""
    timed_out: bool = False
    """Whether the answer did not come in time."""
    too_large: bool = False
    """Whether the server takes the request only in parts."""
    max_bytes: int | None = None
    """The largest request that the server takes, where it says so."""
    advice: str = ""
    """What helps, without a full stop."""


def classify(error: Exception) -> Failure:
    """Classify an error of qdrant-client, of gRPC, or of an embedded engine."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        pause_s = float(error.retry_after_s)
        return Failure(_first_line(error), ServerError, transient=True, retry_after_s=pause_s)
    if isinstance(error, UnexpectedResponse):
        return _of_status(error)
    if isinstance(error, ResponseHandlingException):
        return _of_no_answer(error.source)
    code = _grpc_code(error)
    if code:
        return _of_grpc(code, " ".join(str(getattr(error, "details", str)()).split()))
    if isinstance(error, ConnectionError | TimeoutError):
        return Failure(_first_line(error), ServerError, transient=True)
    return Failure(_first_line(error), StorageError)


def _of_no_answer(source: object) -> Failure:
    """Classify what kept an answer over REST from being read."""
    if isinstance(source, ValueError):
        # A complete answer that cannot be parsed will not parse the next time either.
        return Failure(_first_line(source), ServerError, no_connection=True)
    name = type(source).__name__
    return _of_connection(
        f"{name}: {source}", cannot_connect=name in _CANNOT_CONNECT, timed_out=name in _TIMEOUTS
    )


def _of_status(error: Any) -> Failure:
    """Classify an answer over REST that is not a success."""
    status = int(error.status_code or 0)
    reason = _reason(error.content, error.headers)
    kind: type[SpladeError] = ServerError if status in (401, 403) or status >= 500 else StorageError
    phrase = f" ({error.reason_phrase})" if error.reason_phrase else ""
    message = f"{status}{phrase}{': ' if reason else ''}{reason}"
    failure = _of_reason(reason, message)
    if failure is not None:
        return failure
    return Failure(
        message,
        kind,
        transient=status in _BUSY_STATUS,
        no_connection=not _is_qdrant(error.content) and status in (301, 302, 307, 308, 404, 405),
        too_large=status == 413,
    )


def _of_grpc(code: str, details: str) -> Failure:
    message = f"{code}: {details}"
    failure = _of_reason(details, message)
    if failure is not None:
        return failure
    if code == "UNAVAILABLE" and any(words in details for words in _GRPC_CANNOT_CONNECT):
        return _of_connection(message, cannot_connect=True)
    kind = ServerError if code in (*_BUSY_CODES, *_REFUSED_CODES) else StorageError
    return Failure(
        message,
        kind,
        transient=code in _BUSY_CODES,
        timed_out=code == "DEADLINE_EXCEEDED",
        too_large=code == "RESOURCE_EXHAUSTED" and "message larger than max" in details,
    )


def _of_reason(reason: str, message: str) -> Failure | None:
    """Classify by the words of a Qdrant server, the same over REST and gRPC; None for other words."""
    if found := _TOO_LARGE.search(reason):
        return Failure(message, StorageError, too_large=True, max_bytes=int(found[1]))
    if _SPLIT_IT in reason:
        return Failure(message, StorageError, too_large=True)
    if _DISK_FULL.search(reason):
        return Failure(message, StorageError, advice="Free space on the server's disk")
    if advice := _filter_advice(reason):
        return Failure(message, FilterError, advice=advice)
    if _NO_COPY.search(reason):
        return Failure(message, ServerError, transient=True, advice=_NO_COPY_ADVICE)
    return None


def _filter_advice(reason: str) -> str:
    """Say what helps where the strict mode of a collection refuses a filter; "" for other reasons."""
    if found := _NO_INDEX.search(reason):
        field = found[1].removeprefix("metadata.")
        kinds = found[2].split(", ")
        return (
            f"The strict mode of this collection refuses filters on fields without an index. Open the index "
            f"with indexed_fields={{{field!r}: {kinds[0]!r}}}"
        )
    if found := _FILTER_TOO_LARGE.search(reason):
        setting, what = _FILTER_LIMITS[found[1]]
        return (
            f"The filter has {found[2]} {what}, and the strict mode of this collection accepts {found[3]} "
            f"({setting}={found[3]}). Search in several parts, or raise {setting} of the collection"
        )
    return ""


def _of_connection(message: str, *, cannot_connect: bool, timed_out: bool = False) -> Failure:
    never_better = _NEVER_BETTER.search(message) is not None
    return Failure(
        message,
        ServerError,
        transient=not never_better,
        no_connection=cannot_connect or never_better,
        timed_out=timed_out,
    )


def _grpc_code(error: Exception) -> str:
    """Return the status of a gRPC error, such as "UNAVAILABLE"; "" for any other error."""
    code = getattr(error, "code", None)
    if not callable(code):
        return ""
    try:
        status: Any = code()
    except Exception:  # noqa: BLE001 - a foreign object whose `code` is not gRPC's
        return ""
    return str(getattr(status, "name", ""))


def _is_qdrant(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content)["status"], Mapping)
    except (ValueError, KeyError, TypeError):
        return False


def _reason(content: bytes, headers: Any) -> str:
    """Return why a server refuses, on one line: Qdrant's words, or a plain text; "" for a page of a proxy."""
    try:
        return " ".join(str(json.loads(content)["status"]["error"]).split())
    except (ValueError, KeyError, TypeError):
        pass
    kind = str((headers or {}).get("content-type", "text/plain"))
    text = " ".join(content.decode("utf-8", "replace").split())
    if "text/plain" not in kind or text.startswith("<"):
        return ""
    return text[:_MAX_REASON]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
