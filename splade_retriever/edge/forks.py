"""Keep a forked child from touching what belongs to its parent: locks, pipes and the engine's files.

A lock of `flock` and a pipe stay open as long as any process has their descriptor, and a fork has them all.
So the child replaces its descriptors with /dev/null, which does not affect the parent. The engine's objects
are never freed in the child, since freeing them would write to the parent's files.
"""

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from splade_retriever.errors import ForkedProcessError

__all__ = ["ProcessBound", "check_process", "detach_in_child", "keep_forever", "replace_descriptors"]


class ProcessBound(Protocol):
    """An object that belongs to the process that made it."""

    def detach(self) -> None:
        """Give up what belongs to the parent; called in a forked child."""


_bound: Final["weakref.WeakSet[Any]"] = weakref.WeakSet()
"""What this process opened. The operating system keeps the same list, per process."""


def detach_in_child(opened: ProcessBound) -> None:
    """Call an object's `detach` in every child that this process forks while the object lives."""
    _bound.add(opened)


def check_process(process: int, what: str) -> None:
    """Raise ForkedProcessError in another process than the one that opened something.

    Args:
        process: Id of the process that opened it.
        what: Its description, the subject of the message.
    """
    if process != os.getpid():
        raise ForkedProcessError(
            f"{what} was opened in process {process}, of which this process {os.getpid()} is a fork. Open "
            "the index in each worker after the fork, or serve it from one process or from a Qdrant server."
        )


def replace_descriptors(descriptors: Iterable[int], locked: Iterable[Path] = ()) -> None:
    """Replace descriptors of this process with /dev/null.

    Args:
        descriptors: The descriptors.
        locked: Files and folders of which every descriptor is replaced, too.
    """
    wanted = set(descriptors)
    with contextlib.suppress(OSError):
        inodes = {(found.st_dev, found.st_ino) for path in locked if (found := path.stat())}
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):
                found = os.fstat(int(name))
                if (found.st_dev, found.st_ino) in inodes:
                    wanted.add(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in wanted:
            os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def keep_forever(value: object) -> None:
    """Keep an object from being freed, also when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _after_fork_in_child() -> None:
    for opened in list(_bound):
        opened.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
