"""Talks to a store through qdrant-client: connecting, trying again, and its errors in our words."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from splade_retriever.errors import ServerError, SpladeError, StorageError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["call_with_retry", "connect", "side_by_side"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_WAITS_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between tries; every call that the index makes gives the same result when made twice."""
_LONGEST_WAIT_S: Final = 30.0
"""As long as a server may ask to be left alone for."""
_BUSY_STATUS: Final = (408, 429, 500, 502, 503, 504)
"""A cluster answers 500 while one of its nodes goes away, and then again gives the right answer."""
_BUSY_CODES: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")
_REFUSED_CODES: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_CALLS_AT_ONCE: Final = 4


def connect(url: str, *, api_key: str | None, prefer_grpc: bool, timeout_s: int | None) -> "QdrantClient":
    """Open a client of a Qdrant server or cluster; no request is made yet."""
    from qdrant_client import QdrantClient

    return QdrantClient(
        url=url, api_key=api_key, prefer_grpc=prefer_grpc, timeout=timeout_s, check_compatibility=False
    )


def side_by_side(calls: Sequence[Callable[[], object]]) -> None:
    """Make calls to a server at the same time, at most four, and return when all are answered.

    Raises:
        SpladeError: What the first call that failed raised; the others are made all the same.
    """
    if len(calls) == 1:
        calls[0]()
        return
    with ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="splade-call") as pool:
        answers = [pool.submit(call) for call in calls]
    for answer in answers:
        answer.result()


def call_with_retry(call: Callable[[], T], *, doing: str, waits_s: tuple[float, ...] | None = None) -> T:
    """Make one call to a store; try again what passes, translate what does not.

    Args:
        call: Safe to repeat.
        doing: What is being done, for messages: "search collection 'splade'".
        waits_s: Seconds between tries; None for 0.2 to 4, five tries more in eight seconds. A server that
            asks for a longer pause (Retry-After) gets it, up to 30 seconds.

    Raises:
        ServerError: The server cannot be reached, or is still busy after the last try.
        StorageError: The store refused or failed.
    """
    if waits_s is None:
        waits_s = _WAITS_S
    for wait_s in (*waits_s, None):
        try:
            return call()
        except SpladeError:
            raise
        except Exception as error:
            fault = _judge(error)
            if not fault.passing:
                raise fault.told(f"could not {doing}: {fault.said}") from error
            if wait_s is None:
                raise ServerError(
                    f"could not {doing}: the server does not answer as it should ({fault.said}), tried "
                    f"{len(waits_s) + 1} times. Check the URL and that it runs; what was acknowledged is "
                    f"kept."
                ) from error
            pause_s = min(max(wait_s, fault.asked_s), _LONGEST_WAIT_S)
            logger.warning("could not %s: %s; trying again in %s s", doing, fault.said, pause_s)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What an error of a store is."""

    said: str
    """The store's words, on one line."""
    told: type[SpladeError]
    """As what it is told to the user."""
    passing: bool = False
    """Whether it may be gone at the next try."""
    asked_s: float = 0.0
    """How long the server asks to be left alone."""


def _judge(error: Exception) -> _Fault:
    from pydantic import ValidationError
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return _Fault(_first_line(error), ServerError, passing=True, asked_s=float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 0
        kind: type[SpladeError] = ServerError if status in (401, 403) or status >= 500 else StorageError
        return _Fault(f"{_first_line(error)}{_reason(error.content)}", kind, passing=status in _BUSY_STATUS)
    if isinstance(error, ResponseHandlingException):
        # An answer that came whole and makes no sense will make none the next time.
        return _Fault(_first_line(error), ServerError, passing=not isinstance(error.source, ValidationError))
    code = _grpc_code(error)
    if code:
        kind = ServerError if code in (*_BUSY_CODES, *_REFUSED_CODES) else StorageError
        details = getattr(error, "details", str)()
        return _Fault(f"{code}: {details}", kind, passing=code in _BUSY_CODES)
    if isinstance(error, ConnectionError | TimeoutError):
        return _Fault(_first_line(error), ServerError, passing=True)
    return _Fault(_first_line(error), StorageError)


def _grpc_code(error: Exception) -> str:
    """Read the status of a gRPC error, "UNAVAILABLE" and the like; "" for any other error."""
    code = getattr(error, "code", None)
    if not callable(code):
        return ""
    try:
        found: Any = code()
    except Exception:  # noqa: BLE001 - a foreign object whose `code` is not gRPC's
        return ""
    return str(getattr(found, "name", ""))


def _reason(content: bytes) -> str:
    """Read why a Qdrant server refuses; "" where it is no such answer, but a proxy's page, say."""
    try:
        said = json.loads(content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(said).split())}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
