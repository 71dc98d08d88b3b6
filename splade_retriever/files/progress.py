"""How much of files was read, in bytes."""

from collections.abc import Sequence
from pathlib import Path

from splade_retriever.files.passages import FileIssue, Passage

__all__ = ["ReadProgress"]


class ReadProgress:
    """The sizes of files that are read one after another."""

    def __init__(self, files: Sequence[Path | FileIssue]) -> None:
        """Read the sizes; a file that cannot be read counts nothing."""
        self.total = 0
        self._places: dict[Path, tuple[int, int]] = {}
        for file in files:
            if isinstance(file, Path):
                size = _size(file)
                self._places[file] = self.total, size
                self.total += size

    def bytes_until(self, file: Path, passage: Passage) -> int:
        """Return the bytes that were read when a passage of a file was, with those of the files before."""
        before, size = self._places[file]
        return before + round(min(passage.share_read, 1.0) * size)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # reading it reports why
        return 0
