"""Translate errors of the engine and of the operating system to the package's."""

import contextlib
from collections.abc import Iterator
from typing import Final

from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    IndexLockedError,
    InputError,
    SpladeError,
    StorageError,
)

__all__ = ["os_errors", "translated"]

_REMEDIES: Final = {
    "Not existing vector name": "Name one of the collection's vectors.",
    "Vector dimension error": "Use the encoder of the collection.",
    "Wrong usage of sparse vectors": "Name a vector of the kind that you pass.",
    "Conversion between": "Name a vector of the kind that you pass.",
    "No range index": "Create one with create_payload_index, of type integer, float or datetime.",
    "No appropriate index": "Create one with create_payload_index.",
    "No point with id": "Write to existing points; the other points of the call are written.",
    "already exists with different parameters": "Delete it first, or use another name.",
    "Validation failed": "Correct the argument.",
    "Bad request": "Correct the argument.",
    "Validation error": "Correct the argument.",
    "Wrong input": "Correct the argument.",
    # What the engine says of a formula that it cannot compute; nothing else cancels an operation of a shard.
    "Operation cancelled": "A formula has no value for a point, as for the logarithm of a negative number or "
    "a missing field. Correct the formula, or set its defaults.",
    "incompatible with existing segments": "Create a collection with the new settings and copy the points.",
    "at least one of vectors": "Pass vectors_config or sparse_vectors_config.",
    "index required": "Create it with create_payload_index.",
    "Index required": "Create it with create_payload_index.",
}
"""Part of the engine's message about an argument -> what to do."""


@contextlib.contextmanager
def os_errors(doing: str, remedy: str = "Choose a folder that can be written.") -> Iterator[None]:
    """Translate errors of the operating system.

    Args:
        doing: What is tried, as in "Could not {doing}".
        remedy: What to do.
    """
    try:
        yield
    except SpladeError:
        raise
    except OSError as error:
        raise StorageError(
            f"Could not {doing}: {error.strerror or error} ({error.filename}). Nothing was written. {remedy}"
        ) from error


def translated(  # noqa: PLR0911 - one per kind
    error: BaseException, doing: str, *, location: str, closed: bool
) -> SpladeError | None:
    """Translate an error of the engine; None if it is not one.

    The engine raises bare `Exception`s that differ only by their text, and a Rust panic as a
    BaseException.

    Args:
        error: What the engine raised.
        doing: What was tried, as in "Could not {doing}".
        location: The folder.
        closed: Whether the folder is closed.
    """
    message = " ".join(str(error).split())
    if not isinstance(error, Exception):
        if type(error).__name__ != "PanicException":
            return None
        return StorageError(
            f"Could not {doing}: the engine crashed ({message}). Close the client and open it again; "
            "acknowledged writes are kept."
        )
    if "not initialized" in message:
        if not closed:
            return CollectionNotFoundError(f"Could not {doing}: it was deleted meanwhile. Create it again.")
        return IndexClosedError(
            f"Could not {doing}: the EdgeClient at {location!r} was closed meanwhile. Open the folder again."
        )
    if "WouldBlock" in message:
        return IndexLockedError(
            f"Could not {doing} at {location!r}: another process has its files open. Close them there."
        )
    if "No space left" in message:
        return StorageError(f"Could not {doing}: the disk is full ({message}). Make room and try again.")
    remedy = _REMEDIES.get(next((part for part in _REMEDIES if part in message), ""))
    if remedy is not None or isinstance(error, TypeError | ValueError | OverflowError):
        return InputError(f"Could not {doing}: {message}. {remedy or 'Correct the argument.'}")
    if isinstance(error, RecursionError):
        return InputError(f"Could not {doing}: an argument is nested too deeply. Use fewer levels.")
    if type(error) is Exception:
        return StorageError(
            f"Could not {doing} at {location!r}: the engine reports: {message}. Close the client and "
            "open it again; restore the folder from a backup if the error comes back."
        )
    return None
