"""The errors of this package.

SpladeError
├── InputError (ValueError)                  bad text, id, vector or argument; nothing was written
│   └── ConfigurationError                   a configuration has a wrong name or value
├── UnknownModelError (ValueError)           there is no model with that name
├── ModelFilesError (FileNotFoundError)      the model's files are missing and could not be downloaded
├── ModelGraphError (ValueError)             the ONNX graph cannot be pooled or quantised
├── ModelOutputError (ValueError)            the model's output has an unexpected shape or content
├── LicenseError (PermissionError)           the model's licence must be accepted first
├── FilterError (ValueError)                 the filter is not valid, or the engine cannot express it
├── CollectionNotFoundError (KeyError, ValueError) there is no collection with that name
├── CollectionMismatchError (ValueError)     the collection was made with another encoder or layout
├── IndexLockedError (BlockingIOError)       another process has the folder open
├── IndexClosedError (RuntimeError)          the index was used after close()
├── ForkedProcessError (RuntimeError)        used in a fork of the process that opened it
├── StorageError (OSError)                   the folder or the engine failed: read-only, full, damaged
├── ServerError (ConnectionError)            the server is unreachable, timed out or refused
├── NotSupportedError (NotImplementedError)  the engine cannot do that; the message names one that can
└── MissingExtraError (ImportError)          an optional dependency is not installed

Each error also derives from the builtin in parentheses, so a handler for the builtin catches it too.
A message says what failed, what was found and what was expected, and what to do.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

__all__ = [
    "CollectionMismatchError",
    "CollectionNotFoundError",
    "ConfigurationError",
    "FilterError",
    "ForkedProcessError",
    "IndexClosedError",
    "IndexLockedError",
    "InputError",
    "LicenseError",
    "MissingExtraError",
    "ModelFilesError",
    "ModelGraphError",
    "ModelOutputError",
    "NotSupportedError",
    "ServerError",
    "SpladeError",
    "StorageError",
    "UnknownModelError",
]


class SpladeError(Exception):
    """The base of all errors of this package."""


class InputError(SpladeError, ValueError):
    """A text, id, vector or argument is not valid; nothing was written."""


class ConfigFault(NamedTuple):
    """One fault of a configuration."""

    path: tuple[str, ...]
    """The names that lead to the wrong name or value."""
    reason: str
    """What the configuration has there, and what was expected; without the subject of the sentence."""
    line: int | None = None
    """The line in the file, from 1."""


class ConfigurationError(InputError):
    """A configuration has a wrong name or value."""

    faults: tuple[ConfigFault, ...] = ()
    """All faults, where there are several."""

    @classmethod
    def of(cls, faults: Sequence[ConfigFault], *, file: str | None = None) -> Self:
        """Make an error with a sentence for each fault, which names the file and the line."""
        error = cls(" ".join(f"{_subject(file, fault.line)} {fault.reason}" for fault in faults))
        error.faults = tuple(faults)
        return error


def _subject(file: str | None, line: int | None) -> str:
    if file is None:
        return "The configuration"
    return f"The configuration {file!r}" + ("" if line is None else f", line {line},")


class UnknownModelError(SpladeError, ValueError):
    """There is no model with that name."""


class ModelFilesError(SpladeError, FileNotFoundError):
    """The model's files are missing and could not be downloaded."""


class ModelGraphError(SpladeError, ValueError):
    """The ONNX graph cannot be pooled or quantised."""


class ModelOutputError(SpladeError, ValueError):
    """The model's output has an unexpected shape or content."""


class LicenseError(SpladeError, PermissionError):
    """The model's licence must be accepted before it is loaded."""


class FilterError(SpladeError, ValueError):
    """The filter is not valid, or the engine cannot express it."""


class CollectionNotFoundError(SpladeError, KeyError, ValueError):
    """There is no collection with that name. A ValueError, too, as in qdrant-client's local mode."""

    def __str__(self) -> str:
        # KeyError shows repr(args[0]), which puts the message in quotes.
        return str(self.args[0]) if self.args else ""


class CollectionMismatchError(SpladeError, ValueError):
    """The collection was made with another encoder or layout."""


class IndexLockedError(SpladeError, BlockingIOError):
    """Another process has the index folder open."""


class IndexClosedError(SpladeError, RuntimeError):
    """The index was used after `close()`."""


class ForkedProcessError(SpladeError, RuntimeError):
    """An object was used in a fork of the process that opened it."""


class StorageError(SpladeError, OSError):
    """The folder or the engine failed: read-only, full, damaged, or in another format."""


class ServerError(SpladeError, ConnectionError):
    """The server is unreachable, timed out or refused the request."""


class NotSupportedError(SpladeError, NotImplementedError):
    """The engine cannot do that; the message names one that can."""


class MissingExtraError(SpladeError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
