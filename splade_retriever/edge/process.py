"""EdgeProcess: an EdgeClient in a child process, so that no call of the engine holds this process's threads.

Qdrant Edge keeps the interpreter's lock for the length of every call: some milliseconds for a search or a
small write, seconds for opening or optimising a large collection, in which no other thread runs and an event
loop stands still. Here the calls are made in a child; a thread that waits for their answer holds nothing.

Requests and answers are pickles through two pipes, each after its length in 8 bytes, one request at a time.
The child ends when its input does, so also when this process is killed; the engine's log keeps what was
acknowledged.
"""

import contextlib
import functools
import inspect
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import (
    IndexClosedError,
    InputError,
    NotSupportedError,
    SpladeError,
    StorageError,
)

__all__ = ["EdgeProcess", "serve"]

_LENGTH: Final = struct.Struct("<Q")
_START: Final = "import sys; sys.path[:] = {path!r}; from splade_retriever.edge.process import serve; serve()"
_ENDING_S: Final = 60.0
"""Longest wait for the child to write everything out."""
_MADE_HERE: Final = frozenset({"migrate", "upload_points", "upload_collection"})
"""Calls that take streams or another client: they run in this process, on top of the others."""


@dataclass(slots=True)
class _Child:
    """What must be let go of, also when nobody calls `close`."""

    process: "subprocess.Popen[bytes]"
    temporary: Path | None = None
    """A folder to remove, should the child not have come to it."""
    parent: int = field(default_factory=os.getpid)
    closed: bool = False


class EdgeProcess(EdgeClient):
    """An EdgeClient whose every call is made in a child process.

    The same calls, answers and errors; each call costs a copy more. Safe to use from
    several threads: one call is at work at a time, and the threads that wait for it hold nothing. Arguments
    and answers are sent as pickles.
    """

    def __init__(self, location: str | Path = ":memory:") -> None:
        """Start the child and open a folder in it, or make it.

        Args:
            location: The folder, or ":memory:" for a temporary one, which is removed on `close`, or when this
                process ends, however it ends.

        Raises:
            IndexLockedError: It is open already, here or in another process.
            StorageError: It cannot be read or written, or holds something else.
            NotSupportedError: No child process can be started here.
        """
        QdrantBase.__init__(self)
        self._begin(_start(), str(location))
        self._open(location, temporary=False)

    @classmethod
    def taking_over(cls, client: EdgeClient) -> Self:
        """Start a child and open the folder of a client in it, which is closed; a temporary folder lives on.

        The client serves until the child is up.

        Raises:
            IndexClosedError: The client was closed before.
            NotSupportedError: No child process can be started here; the client stays as it is.
        """
        process = _start()
        made = cls.__new__(cls)
        QdrantBase.__init__(made)
        made._begin(process, client.location)
        try:
            path, temporary = client.hand_over()
        except BaseException:
            made.close()
            raise
        made._child.temporary = path if temporary else None
        made._open(path, temporary=temporary)
        return made

    def _begin(self, process: "subprocess.Popen[bytes]", location: str) -> None:
        self._location = location
        self._child = _Child(process)
        self._finalizer = weakref.finalize(self, _end, self._child)
        self._lock = threading.Lock()

    def _open(self, folder: str | Path, *, temporary: bool) -> None:
        try:
            self._ask("open", (folder,), {"temporary": temporary, "holder": os.getpid()})
        except BaseException:
            self._finalizer()
            raise

    @property
    def location(self) -> str:
        """The folder as it was given, or ":memory:"."""
        return self._location

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._child.closed

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._child.process.pid

    def close(self, **kwargs: Any) -> None:
        """Write everything out, let go of the folder and end the child; a second call does nothing.

        Raises:
            StorageError: The engine could not write everything out.
        """
        with self._lock:
            if self._child.closed:
                return
            try:
                if self._child.parent == os.getpid() and self._child.process.poll() is None:
                    self._exchange("close", (), {})
            finally:
                self._finalizer()

    def hand_over(self) -> tuple[Path, bool]:
        """Close, and leave the folder to whoever opens it next; see `EdgeClient.hand_over`."""
        path, temporary = self._ask("hand_over", (), {})
        self._child.temporary = None
        self.close()
        return path, temporary

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"EdgeProcess({self.location!r}, process {self.process_id}{state})"

    def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            if self._child.closed:
                raise IndexClosedError(
                    f"the EdgeProcess at {self.location!r} is closed. Open it again with EdgeProcess(...)."
                )
            if self._child.parent != os.getpid():
                raise IndexClosedError(
                    f"the EdgeProcess at {self.location!r} belongs to process {self._child.parent}, of which "
                    "this one is a fork. Open indexes after forking, or share a Qdrant server."
                )
            return self._exchange(method, args, kwargs)

    def _exchange(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        doing = method.replace("_", " ")
        process = self._child.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            request = pickle.dumps((method, args, kwargs), protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InputError(
                f"could not {doing}: an argument cannot be sent to the engine's process ({error}). Pass "
                "lists and plain values."
            ) from error
        try:
            _send(process.stdin, request)
            answer = _receive(process.stdout)
        except OSError:
            answer = None
        except BaseException:  # interrupted, the pipes are out of step: this was the last call
            process.kill()
            raise
        if answer is None:
            code = process.wait()
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            raise StorageError(
                f"could not {doing} at {self.location!r}: the engine's process ended {how}. Open the index "
                "again; what was acknowledged is kept."
            )
        good, value = pickle.loads(answer)
        if not good:
            raise value
        return value


def _forwarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def forward(self: EdgeProcess, *args: Any, **kwargs: Any) -> Any:
        return self._ask(name, args, kwargs)

    forward.__qualname__ = f"EdgeProcess.{name}"
    return forward


def _forward_calls() -> None:
    for name, method in inspect.getmembers(EdgeClient, inspect.isfunction):
        if not name.startswith("_") and name not in _MADE_HERE and name not in vars(EdgeProcess):
            setattr(EdgeProcess, name, _forwarded(name, method))


_forward_calls()


def _start() -> "subprocess.Popen[bytes]":
    """Start a child and wait until it can take requests.

    Raises:
        NotSupportedError: It does not come up.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert process.stdout is not None
        ready = _receive(process.stdout)
    except OSError as error:
        raise NotSupportedError(
            f"no process for the engine can be started here ({error}). Use EdgeClient, or a Qdrant server."
        ) from error
    if ready is None:
        code = process.wait()
        _close_pipes(process)
        raise NotSupportedError(
            f"the engine's process ended with code {code} before it was up; what it said went to "
            "the error output. Use EdgeClient, or a Qdrant server."
        )
    return process


def _end(child: _Child) -> None:
    """Let go of a child, which ends with its input; also called when its client is garbage, and at exit."""
    child.closed = True
    if child.parent != os.getpid():  # a forked process has no say in its parent's child
        return
    process = child.process
    _close_pipes(process)
    try:
        process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if child.temporary is not None:
        shutil.rmtree(child.temporary, ignore_errors=True)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def serve() -> None:
    """Answer requests from the input until it ends; runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints must not come between the answers
    _send(sink, b"ready")
    client: EdgeClient | None = None
    with contextlib.suppress(BrokenPipeError):
        while (request := _receive(source)) is not None:
            try:
                method, args, kwargs = pickle.loads(request)
                if method == "open":
                    client, value = EdgeClient(*args, **kwargs), None
                else:
                    value = getattr(client, method)(*args, **kwargs)
                answer = pickle.dumps((True, value), protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # noqa: BLE001 - all of them go to the parent
                answer = _packed(error)
            _send(sink, answer)
    if client is not None:
        client.close()


def _packed(error: Exception) -> bytes:
    """Pickle an error; one that does not come back from its pickle goes as a StorageError with its text."""
    if not isinstance(error, SpladeError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        packed = pickle.dumps((False, error))
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - whatever a foreign class does
        told = StorageError(f"the engine's process failed: {type(error).__name__}: {error}.")
        return pickle.dumps((False, told))
    return packed


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Read one message; None where the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None
