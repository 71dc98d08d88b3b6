"""Numbers and paths as people read them."""

from pathlib import Path

__all__ = ["counted", "shown_path"]


def counted(n: int, noun: str) -> str:
    """Write a number of things: "1 file", "1,204 files"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def shown_path(source: str) -> str:
    """Return a path relative to the current folder if it is in it, else as it is."""
    path = Path(source)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return source
