"""Values that belong to one process: locks, threads and connections do not survive `os.fork`."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PerProcess"]

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that a forked child makes again when it first needs it.

    The child never touches the parent's value: a lock may be held by a thread that the child does not have,
    a pool has no threads there, and a connection would mix the answers of both processes.
    """

    def __init__(self, make: Callable[[], T], *, first: T | None = None) -> None:
        """Make the value of this process.

        Args:
            make: Makes a value.
            first: The value of this process, where it exists already.
        """
        self._make = make
        self._values = {os.getpid(): make() if first is None else first}

    def get(self) -> T:
        """Return the value of the current process."""
        process = os.getpid()
        try:
            return self._values[process]
        except KeyError:
            # setdefault is atomic: two threads get the same value.
            return self._values.setdefault(process, self._make())
