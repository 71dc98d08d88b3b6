"""Repeats requests that may succeed later, and translates the store's errors."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from splade_retriever.errors import ServerError, SpladeError, StorageError

__all__ = ["call_with_retry", "run_concurrently"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_WAITS_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between tries. Every request of an index has the same result when it is sent twice."""
_MAX_WAIT_S: Final = 30.0
"""The longest pause that a server may ask for."""
_BUSY_STATUS: Final = (408, 429, 500, 502, 503, 504)
"""A cluster answers 500 while one of its nodes goes away, and then the right answer again."""
_BUSY_CODES: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")
_REFUSED_CODES: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_MAX_CONCURRENT: Final = 4


def run_concurrently(calls: Sequence[Callable[[], object]]) -> None:
    """Run calls at the same time, at most four, and return when all have ended.

    Raises:
        SpladeError: What the first call that failed raised; the others are run nevertheless.
    """
    if len(calls) == 1:
        calls[0]()
        return
    with ThreadPoolExecutor(_MAX_CONCURRENT, thread_name_prefix="splade-call") as pool:
        futures = [pool.submit(call) for call in calls]
    for future in futures:
        future.result()


def call_with_retry(call: Callable[[], T], *, doing: str, waits_s: tuple[float, ...] | None = None) -> T:
    """Send one request to a store; send it again where that can help.

    Args:
        call: Safe to repeat.
        doing: What is being done, for messages: "search collection 'splade'".
        waits_s: Seconds between tries; None for 0.2 to 4, six tries in eight seconds. A server that asks for
            a longer pause (Retry-After) gets it, up to 30 seconds.

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
            failure = _classified(error)
            if not failure.transient:
                raise failure.kind(f"Could not {doing}: {failure.message}") from error
            if wait_s is None:
                raise ServerError(
                    f"Could not {doing}: the server did not answer as expected ({failure.message}) in "
                    f"{len(waits_s) + 1} tries. Check the URL and that the server runs; acknowledged writes "
                    "are kept."
                ) from error
            pause_s = min(max(wait_s, failure.retry_after_s), _MAX_WAIT_S)
            logger.warning("Could not %s: %s. Trying again in %s s.", doing, failure.message, pause_s)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of a store, classified."""

    message: str
    """The store's words, on one line."""
    kind: type[SpladeError]
    """The error to raise."""
    transient: bool = False
    """Whether the next try may succeed."""
    retry_after_s: float = 0.0
    """The pause that the server asks for."""


def _classified(error: Exception) -> _Failure:
    from pydantic import ValidationError
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return _Failure(
            _first_line(error), ServerError, transient=True, retry_after_s=float(error.retry_after_s)
        )
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 0
        kind: type[SpladeError] = ServerError if status in (401, 403) or status >= 500 else StorageError
        message = f"{_first_line(error)}{_server_reason(error.content)}"
        return _Failure(message, kind, transient=status in _BUSY_STATUS)
    if isinstance(error, ResponseHandlingException):
        # A complete answer that cannot be parsed will not parse the next time either.
        return _Failure(
            _first_line(error), ServerError, transient=not isinstance(error.source, ValidationError)
        )
    code = _grpc_code(error)
    if code:
        kind = ServerError if code in (*_BUSY_CODES, *_REFUSED_CODES) else StorageError
        details = getattr(error, "details", str)()
        return _Failure(f"{code}: {details}", kind, transient=code in _BUSY_CODES)
    if isinstance(error, ConnectionError | TimeoutError):
        return _Failure(_first_line(error), ServerError, transient=True)
    return _Failure(_first_line(error), StorageError)


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


def _server_reason(content: bytes) -> str:
    """Return why a Qdrant server refuses; "" where the answer is not a Qdrant server's but a proxy's."""
    try:
        reason = json.loads(content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(reason).split())}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
