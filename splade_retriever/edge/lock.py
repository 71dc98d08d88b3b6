"""The lock of an index folder: one client of one process has the folder at a time."""

import os
import sys
import time
from pathlib import Path
from typing import IO, Final

from splade_retriever.errors import IndexLockedError

__all__ = ["take_lock"]

_RELEASE_TIMEOUT_S: Final = 5.0
"""Longest wait for a folder whose holder has ended, while its engine's process flushes and ends."""


def take_lock(path: Path, process: int) -> IO[str]:
    """Lock a folder for a process. The system releases the lock when the calling process ends in any way.

    Args:
        path: The folder.
        process: Id of the process to name to others.

    Raises:
        IndexLockedError: If another client has it; names the holder.
    """
    file = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - stays open as long as the folder
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while True:
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip()
            if _has_ended(holder) and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            file.close()
            raise _locked(path, holder) from error
        file.truncate(0)
        file.write(str(process))
        file.flush()
        return file


def _has_ended(process: str) -> bool:
    """Return whether a process has ended; its engine, in a child process, is about to end then, too."""
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
            f"The index folder {str(path)!r} is already open in this process. Use that client or index "
            "(several collections and threads may share it), or close it first."
        )
    return IndexLockedError(
        f"The index folder {str(path)!r} is open in another process ({holder or 'unknown'}). Close it "
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
