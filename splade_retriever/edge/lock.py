"""The lock of an index folder: one process has the folder at a time.

The `filelock` package is not used: its lock does not name the holder, does not wait for the engine of a
holder that ended, and stays with a forked child.
"""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from splade_retriever.errors import IndexLockedError, StorageError

__all__ = ["is_locked", "lock_folder", "locked_for_reading", "process_ended", "unlock_folder"]

_NAME: Final = ".lock"
_RELEASE_TIMEOUT_S: Final = 5.0
"""Longest wait for a folder whose holder has ended, while its engine's process flushes and ends."""
_MAX_HOLDER_BYTES: Final = 32
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
"""A named pipe in the place of the file would block the opening."""


def lock_folder(path: Path, process: int) -> int:
    """Lock a folder for a process. The system releases the lock when the calling process ends in any way.

    Args:
        path: The folder.
        process: Id of the process to name to others.

    Returns:
        A file descriptor, which holds the lock; pass it to `unlock_folder`.

    Raises:
        IndexLockedError: If another client has the folder; names the holder.
        StorageError: If the lock file is a link or not a regular file.
    """
    # Whoever can read the file can lock it, so it is readable only by those who can write the folder.
    writers = path.stat().st_mode & 0o222
    mode = writers | writers << 1
    file = _open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        _acquire(path, file)
        if sys.platform != "win32" and os.fstat(file).st_uid == os.getuid():
            os.fchmod(file, mode)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, str(process).encode())
    except BaseException:
        unlock_folder(file)
        raise
    return file


def unlock_folder(file: int) -> None:
    """Release the lock that a descriptor holds, and close the descriptor.

    Closing alone would leave the lock with a child that is being forked, until it gives up its descriptors.
    """
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


@contextmanager
def locked_for_reading(path: Path) -> Iterator[None]:
    """Keep writers out of a folder, while other readers may enter.

    A folder without a lock file, or with one that this user may not read, is not locked.

    Raises:
        IndexLockedError: If a client that writes has the folder.
    """
    try:
        file = _open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        yield
        return
    try:
        _acquire(path, file, shared=True)
        yield
    finally:
        unlock_folder(file)


def is_locked(path: Path) -> bool:
    """Return whether a client has a folder."""
    try:
        file = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        _lock_file(file, shared=True)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        unlock_folder(file)
    return False


def process_ended(process: str) -> bool:
    """Return whether a process is known to have ended."""
    if sys.platform == "win32" or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _open(path: Path, flags: int, mode: int = 0o600) -> int:
    name = path / _NAME
    try:
        file = os.open(name, flags | _CLOEXEC | _NOFOLLOW | _NONBLOCK, mode)
    except OSError as error:
        if name.is_symlink():
            raise StorageError(
                f"The lock file {str(name)!r} is a symbolic link. Nothing was changed. Remove the link if "
                "the folder is your index."
            ) from error
        raise
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise StorageError(
            f"The lock file {str(name)!r} is not a regular file, or has other names ({found.st_nlink} "
            "links). Nothing was changed. Remove it if the folder is your index."
        )
    return file


def _acquire(path: Path, file: int, *, shared: bool = False) -> None:
    """Lock an open file, or raise IndexLockedError; waits for a holder that is about to release it."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while True:
        try:
            _lock_file(file, shared=shared)
        except (BlockingIOError, PermissionError) as error:
            os.lseek(file, 0, os.SEEK_SET)
            holder = os.read(file, _MAX_HOLDER_BYTES).decode("ascii", "replace").strip()
            # The engine of a holder that ended may be in a child process, which is about to end, too.
            if not process_ended(holder) or time.monotonic() > deadline:
                raise _locked(path, holder) from error
            time.sleep(0.01)
        else:
            return


def _locked(path: Path, holder: str) -> IndexLockedError:
    if holder == str(os.getpid()):
        return IndexLockedError(
            f"The index folder {str(path)!r} is already open in this process, and its engine is in a child "
            "process. Use that client or index, or close it first."
        )
    return IndexLockedError(
        f"The index folder {str(path)!r} is open in another process ({holder or 'unknown'}). Close it "
        "there, or use a Qdrant server, which many processes can share. While no process has it open to "
        "write, several can read it: read_only=True in Python, --read-only for the command."
    )


def _lock_file(file: int, *, shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 2**30, os.SEEK_SET)  # beyond the text, which others must be able to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
