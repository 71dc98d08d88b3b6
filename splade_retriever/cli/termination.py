"""End a command that keeps running when the system asks for it, as `docker stop` and systemd do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["closed_on_termination"]


@contextmanager
def closed_on_termination() -> Iterator[None]:
    """Let SIGTERM end the block by SystemExit, so that the index in it is closed.

    Python handles signals in the main thread only; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
