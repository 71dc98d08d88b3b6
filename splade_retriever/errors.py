"""Every error this package raises on purpose.

SpladeError
├── InputError (ValueError)                  bad text, id, vector or argument; nothing was written
├── UnknownModelError (ValueError)           no model of that name is known
├── ModelFilesError (FileNotFoundError)      the model's files are not here and could not be had
├── ModelGraphError (ValueError)             the ONNX graph is not one we can pool or quantise
├── ModelOutputError (ValueError)            the model's output has an unexpected shape or content
├── LicenseError (PermissionError)           the model's licence must be accepted first
├── FilterError (ValueError)                 a filter that cannot be expressed
├── CollectionNotFoundError (KeyError)       no such collection
├── CollectionMismatchError (ValueError)     the collection was made by another encoder or layout
├── IndexLockedError (BlockingIOError)       another process has the folder open
├── IndexClosedError (RuntimeError)          used after close()
├── StorageError (OSError)                   the folder or engine failed: read-only, full, damaged
├── ServerError (ConnectionError)            the server went away or refused
├── NotSupportedError (NotImplementedError)  this engine cannot do that; the message names one that can
└── MissingExtraError (ImportError)          an optional dependency is not installed

A message states three facts: what failed, what was found against what was expected, what to do.
"""

__all__ = [
    "CollectionMismatchError",
    "CollectionNotFoundError",
    "FilterError",
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
    """The root: `except SpladeError` catches everything below."""


class InputError(SpladeError, ValueError):
    """A text, id, vector or argument is not acceptable; nothing was written."""


class UnknownModelError(SpladeError, ValueError):
    """No model of that name is known."""


class ModelFilesError(SpladeError, FileNotFoundError):
    """The model's files are not on this machine and could not be had."""


class ModelGraphError(SpladeError, ValueError):
    """The ONNX graph is not one that can be pooled or quantised."""


class ModelOutputError(SpladeError, ValueError):
    """The model's output has an unexpected shape or content."""


class LicenseError(SpladeError, PermissionError):
    """The model's licence must be accepted before it is loaded."""


class FilterError(SpladeError, ValueError):
    """A filter cannot be expressed for the engine."""


class CollectionNotFoundError(SpladeError, KeyError):
    """There is no collection of that name."""

    def __str__(self) -> str:
        # KeyError shows repr(args[0]); a sentence should read as one.
        return str(self.args[0]) if self.args else ""


class CollectionMismatchError(SpladeError, ValueError):
    """The collection was made by another encoder, or has another layout."""


class IndexLockedError(SpladeError, BlockingIOError):
    """Another process has the index folder open."""


class IndexClosedError(SpladeError, RuntimeError):
    """The index was used after `close()`."""


class StorageError(SpladeError, OSError):
    """The folder or the engine failed: read-only, full, damaged, of another format."""


class ServerError(SpladeError, ConnectionError):
    """The server went away, timed out or refused."""


class NotSupportedError(SpladeError, NotImplementedError):
    """This engine cannot do that; the message names one that can."""


class MissingExtraError(SpladeError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
