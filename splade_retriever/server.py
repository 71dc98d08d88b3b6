"""Calls to a store through qdrant-client: connecting, trying again, and its errors in our words."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from splade_retriever.errors import ServerError, SpladeError, StorageError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["connect", "guarded"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_WAITS_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between tries; every call that the index makes gives the same result when made twice."""
_BUSY_STATUS: Final = (429, 502, 503, 504)


def connect(url: str, *, api_key: str | None, prefer_grpc: bool, timeout_s: int | None) -> "QdrantClient":
    """Open a client of a Qdrant server or cluster; no request is made yet."""
    from qdrant_client import QdrantClient

    return QdrantClient(
        url=url, api_key=api_key, prefer_grpc=prefer_grpc, timeout=timeout_s, check_compatibility=False
    )


def guarded(call: Callable[[], T], *, doing: str, waits_s: tuple[float, ...] | None = None) -> T:
    """Make one call to a store; try again what passes, translate what does not.

    Args:
        call: Safe to repeat.
        doing: What is being done, for messages: "search collection 'splade'".
        waits_s: Seconds between tries; None for 0.2 to 4, five tries more in eight seconds.

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
            passing, told = _judge(error)
            if not passing:
                raise told(f"could not {doing}: {_first_line(error)}") from error
            if wait_s is None:
                raise ServerError(
                    f"could not {doing}: the server does not answer ({_first_line(error)}), tried "
                    f"{len(waits_s) + 1} times. Check the URL and that it runs; what was acknowledged is "
                    f"kept."
                ) from error
            logger.warning("%s: %s; trying again in %s s", doing, _first_line(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _judge(error: Exception) -> tuple[bool, type[SpladeError]]:
    """Say whether an error may pass, and what it is to the user if not."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 0
        kind: type[SpladeError] = ServerError if status in (401, 403) or status >= 500 else StorageError
        return status in _BUSY_STATUS, kind
    if isinstance(error, ResponseHandlingException):
        return True, ServerError
    grpc_code = getattr(error, "code", None)
    if callable(grpc_code):
        name = getattr(_quietly(grpc_code), "name", "")
        return name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"), ServerError
    if isinstance(error, ConnectionError | TimeoutError):
        return True, ServerError
    return False, StorageError


def _quietly(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception:  # noqa: BLE001 - a foreign object whose `code` is not gRPC's
        return None


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
