"""Reads the small JSON files of an index folder, which may come from somebody else."""

from pathlib import Path
from typing import Final

__all__ = ["read_small_text"]

_MAX_BYTES: Final = 64 << 20


def read_small_text(path: Path) -> str:
    """Read a regular file of at most 64 MiB.

    Raises:
        ValueError: It is missing, a link or a special file, too large, or not UTF-8.
        OSError: It cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is missing, or not a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}")
    return content.decode("utf-8")
