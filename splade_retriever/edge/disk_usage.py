"""Measures the disk space of a folder."""

import contextlib
from pathlib import Path

__all__ = ["disk_usage", "file_usage"]


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files in a folder take on disk.

    This is less than the sum of their lengths where files have holes, as the engine's reserved files do.
    """
    return sum(map(file_usage, folder.rglob("*")))


def file_usage(path: Path) -> int:
    """Return the bytes that a file takes on disk; 0 for a folder or a file that no longer exists."""
    with contextlib.suppress(FileNotFoundError):  # the engine removes files that it has merged
        if path.is_file():
            status = path.stat()
            blocks: int | None = getattr(status, "st_blocks", None)  # of 512 bytes; Windows counts none
            return status.st_size if blocks is None else blocks * 512
    return 0
