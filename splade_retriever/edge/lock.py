"""The lock of an index folder: one client of one process has the folder at a time."""

import os
import sys
import time
from pathlib import Path
from typing import IO, Final

from splade_retriever.errors import IndexLockedError

__all__ = ["take_lock"]

_LETTING_GO_S: Final = 5.0
"""Longest wait for a folder whose holder has ended, while its engine's process writes everything out."""


def take_lock(path: Path, process: int) -> IO[str]:
    """Take the folder for a process; the system lets go of it when the one that asks ends, however it ends.

    Raises:
        IndexLockedError: Naming who has it.
    """
    file = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - stays open as long as the folder
    give_up = time.monotonic() + _LETTING_GO_S
    while True:
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip()
            if _has_ended(holder) and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            file.close()
            raise _locked(path, holder) from error
        file.truncate(0)
        file.write(str(process))
        file.flush()
        return file


def _has_ended(process: str) -> bool:
    """Say whether a process is gone; its engine, in a child of its own, is about to end then, too."""
    if sys.platform == "win32" or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _locked(path: Path, holder: str) -> IndexLockedError:
    if holder == str(os.getpid()):
        return IndexLockedError(
            f"the index folder {str(path)!r} is open already in this process. Use that client or index "
            "(several collections and threads may share it), or close it first."
        )
    return IndexLockedError(
        f"the index folder {str(path)!r} is open in another process ({holder or 'unknown'}). Close it "
        "there, or use a Qdrant server, which many processes can share."
    )


def _lock_file(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(2**30)  # beyond the text, which others must be able to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
