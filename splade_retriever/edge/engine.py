"""The engine of a folder, shared by everything in this process that opens the folder through it.

The engine starts in this process and may move to a child process. Its users hold a `SharedEngine` each and
ask it for the client at every call, so a move reaches all of them. The last one to close closes the engine.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.forks import check_process, detach_in_child
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import NotSupportedError

__all__ = ["SharedEngine"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Engine:
    """A client and the number of those who use it."""

    client: EdgeClient | EdgeProcess
    key: tuple[int, int] | None
    """Device and inode of the folder; None for an engine that is not shared."""
    users: int = 1
    can_move: bool = True
    process: int = field(default_factory=os.getpid)
    moving: threading.RLock = field(default_factory=threading.RLock)
    """Held while the client is replaced or closed. Taken before the lock of the registry, never after it."""


class _Registry:
    """The shared engines of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Reentrant, since a user may be freed, and so release an engine, while this thread opens another."""
        self.engines: dict[tuple[int, int], _Engine] = {}
        detach_in_child(self)

    def detach(self) -> None:
        """Start empty; called in a forked child."""
        self.__init__()  # type: ignore[misc]


_registry: Final = _Registry()


class SharedEngine:
    """The engine of a folder, for one of its users. Safe to use from several threads."""

    def __init__(self, location: str | Path, *, create: bool = True, read_only: bool = False) -> None:
        """Open a folder, or share the engine that this process has open on it.

        Args:
            location: The folder, or ":memory:" for a temporary one.
            create: Whether a folder that does not exist, or is empty, becomes an index.
            read_only: Open a private copy of the folder, see `EdgeClient`. If this process has the folder
                open to write, its engine is shared, and the user must not write to it.

        Raises:
            CollectionNotFoundError: If there is no index, with create=False or read_only=True.
            IndexLockedError: If another process has the folder open to write.
            StorageError: If the folder cannot be read or written, or is not an index.
        """
        self._location = location
        self._use(_acquire(location, create=create, read_only=read_only))

    @property
    def client(self) -> EdgeClient | EdgeProcess:
        """The client; another one after a move or `refresh`."""
        return self._engine.client

    def was_replaced(self, client: object) -> bool:
        """Return whether a client is no longer the engine's; waits for a move that is under way."""
        with self._engine.moving:
            return self.client is not client

    def move_to_child(self, when: Callable[[EdgeClient], bool]) -> None:
        """Move the engine to a child process for all users, if it is in this process and `when` says so.

        The move is final. The engine can be used meanwhile. A failure is logged, and the engine stays.
        """
        engine = self._engine
        check_process(engine.process, f"The index folder {str(self._location)!r}")
        if not engine.can_move:
            return
        with engine.moving:
            client = engine.client
            if not engine.can_move or client.closed or not isinstance(client, EdgeClient) or not when(client):
                return
            engine.can_move = False
            try:
                engine.client = EdgeProcess.taking_over(client)
            except NotSupportedError as error:
                logger.warning(
                    "The engine stays in this process, where its calls stop all threads: %s", error
                )

    def refresh(self, check: Callable[[EdgeClient | EdgeProcess], object]) -> None:
        """Replace the copy of a read-only engine by a new one; an engine that is no copy shows all writes.

        Args:
            check: Called with the client of the new copy; what it raises keeps the old copy.

        Raises:
            IndexLockedError: If another process has the folder open to write; the old copy is kept.
        """
        old, release_old = self._engine, self._finalizer
        with old.moving:
            if self._engine is not old or not old.client.read_only:
                return
            new = _acquire(self._location, create=False, read_only=True)
            try:
                check(new.client)
            except BaseException:
                _release(new)
                raise
            self._use(new)
        release_old()

    def close(self) -> None:
        """Give up this user's share; the last user closes the engine. A second call does nothing.

        Raises:
            StorageError: If the engine could not write everything.
        """
        self._finalizer()

    def _use(self, engine: _Engine) -> None:
        self._engine = engine
        self._finalizer = weakref.finalize(self, _release, engine)


def _acquire(location: str | Path, *, create: bool, read_only: bool) -> _Engine:
    with _registry.lock:
        key = _key(location)
        shared = None if key is None else _registry.engines.get(key)
        if shared is not None and _answers(shared.client):
            shared.users += 1
            return shared
        client = EdgeClient(location, create=create, read_only=read_only)
        if read_only:
            return _Engine(client, None)
        engine = _Engine(client, _key(location))
        if engine.key is not None:
            _registry.engines[engine.key] = engine
        return engine


def _answers(client: EdgeClient | EdgeProcess) -> bool:
    """Return whether a client can be shared: it is open, and its child was not killed."""
    return not client.closed and not (isinstance(client, EdgeProcess) and client.ended)


def _release(engine: _Engine) -> None:
    """End one use of an engine; also called when a user is garbage, and at exit."""
    if engine.process != os.getpid():  # a forked child must not touch its parent's engine
        return
    with _registry.lock:
        engine.users -= 1
        if engine.users:
            return
    with engine.moving, _registry.lock:
        if engine.users:  # shared again meanwhile
            return
        if engine.key is not None and _registry.engines.get(engine.key) is engine:
            del _registry.engines[engine.key]
        engine.client.close()


def _key(location: str | Path) -> tuple[int, int] | None:
    if str(location) == ":memory:":
        return None
    try:
        found = Path(location).stat()
    except (OSError, ValueError):  # there is no such folder, or no folder can have that name
        return None
    return found.st_dev, found.st_ino
