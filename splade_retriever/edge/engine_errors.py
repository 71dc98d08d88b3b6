"""What the engine and the operating system refuse, in our words."""

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
    "Vector dimension error": "Use the encoder that the collection was made for.",
    "Wrong usage of sparse vectors": "Name a vector of the kind that you pass.",
    "Conversion between": "Name a vector of the kind that you pass.",
    "No range index": "Create one with create_payload_index, of type integer, float or datetime.",
    "No appropriate index": "Create one with create_payload_index.",
    "No point with id": "Write to points that are there; the others of the call are done.",
    "already exists with different parameters": "Delete it first, or use another name.",
    "Validation failed": "Mend the argument.",
    "Bad request": "Mend the argument.",
    "Validation error": "Mend the argument.",
    "Wrong input": "Mend the argument.",
    "index required": "Create it with create_payload_index.",
    "Index required": "Create it with create_payload_index.",
}
"""Part of the engine's text for a wrong argument -> what to do."""


@contextlib.contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Translate what the operating system refuses."""
    try:
        yield
    except SpladeError:
        raise
    except OSError as error:
        raise StorageError(
            f"could not {doing}: {error.strerror or error} ({error.filename}). Nothing is served or "
            "written; choose a "
            "folder that can be written."
        ) from error


def translated(  # noqa: PLR0911 - one a kind
    error: BaseException, doing: str, *, location: str, closed: bool
) -> SpladeError | None:
    """Put an error of the engine in our words; None for what is none of its errors.

    Its errors are bare `Exception`s that differ by their text alone; a Rust panic comes as a
    BaseException.

    Args:
        error: What the engine raised.
        doing: What was asked of it, as in "could not {doing}".
        location: Where the folder is.
        closed: Whether the folder is closed.
    """
    said = " ".join(str(error).split())
    if not isinstance(error, Exception):
        if type(error).__name__ != "PanicException":
            return None
        return StorageError(
            f"could not {doing}: the engine broke down ({said}). Close the client and open it again; "
            "what was "
            "acknowledged is kept."
        )
    if "not initialized" in said:
        if not closed:
            return CollectionNotFoundError(f"could not {doing}: it was deleted meanwhile. Create it again.")
        return IndexClosedError(
            f"could not {doing}: the EdgeClient at {location!r} was closed meanwhile. Open it again."
        )
    if "WouldBlock" in said:
        return IndexLockedError(
            f"could not {doing} at {location!r}: another process has its files open. Close it there."
        )
    if "No space left" in said:
        return StorageError(f"could not {doing}: the disk is full ({said}). Make room and go on.")
    remedy = _REMEDIES.get(next((part for part in _REMEDIES if part in said), ""))
    if remedy is not None or isinstance(error, TypeError | ValueError | OverflowError):
        return InputError(f"could not {doing}: {said}. {remedy or 'Mend the argument.'}")
    if type(error) is Exception:
        return StorageError(
            f"could not {doing} at {location!r}: the engine says: {said}. Restore the folder from "
            "a backup if "
            "this comes again after opening it anew."
        )
    return None
