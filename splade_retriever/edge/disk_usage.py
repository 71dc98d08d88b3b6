"""Measures the disk space of a folder."""

import contextlib
from pathlib import Path

__all__ = ["disk_usage"]


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files in a folder take on disk.

    This is less than the sum of their lengths where files have holes, as the engine's reserved files do.
    """
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the engine removes files that it has merged
            if path.is_file():
                status = path.stat()
                blocks: int | None = getattr(status, "st_blocks", None)  # of 512 bytes; Windows counts none
                total += status.st_size if blocks is None else blocks * 512
    return total
