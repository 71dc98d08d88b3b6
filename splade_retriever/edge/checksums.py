"""Checksums of the engine's files: written when a shard is closed, checked before the engine opens it again.

The engine maps its files into memory and believes what stands in them. A flipped bit then gives wrong results
without an error, or ends the process: a damaged length becomes an allocation of terabytes. The checksums are
removed before the engine may change its files. A shard without them was not closed (its process was killed):
the engine's log restores it.
"""

import json
import os
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from splade_retriever.edge.small_files import read_small_text

__all__ = ["Checksums", "json_checksum"]

_FORMAT: Final = 1
_BLOCK: Final = 2**16
_ZEROS: Final = bytes(_BLOCK)


class Checksums:
    """The checksums of the files below one folder, kept in one JSON file."""

    def __init__(self, folder: Path, manifest: Path) -> None:
        """Set the paths; nothing is read.

        Args:
            folder: The folder whose files are checked.
            manifest: The JSON file; it lies outside the folder.
        """
        self._folder = folder
        self._manifest = manifest

    def write(self) -> None:
        """Store the checksums of all files, after their content is on the disk.

        Raises:
            OSError: A file cannot be read or the manifest cannot be written.
        """
        files = {name: _checksum(self._folder / name, sync=True) for name in self._names()}
        body = {"format": _FORMAT, "files": files}
        unfinished = self._manifest.with_name(f".{self._manifest.name}.{uuid.uuid4().hex[:16]}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            with open(os.open(unfinished, flags, 0o666), "w", encoding="utf-8") as file:
                json.dump({**body, "checksum": json_checksum(body)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._manifest)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the checksums, before the files may change."""
        self._manifest.unlink(missing_ok=True)

    def damaged(self) -> list[str] | None:
        """Compare the files with their checksums.

        Returns:
            The names of files that changed, are missing or were added, sorted; empty if all is well. None if
            there are no usable checksums: the shard was not closed, or the manifest itself is damaged.

        Raises:
            OSError: A file cannot be read.
        """
        expected = self._read()
        if expected is None:
            return None
        names = set(self._names())
        damaged = names ^ set(expected)
        for name in names & set(expected):
            size, _ = expected[name]
            path = self._folder / name
            if path.stat().st_size != size or _checksum(path) != expected[name]:
                damaged.add(name)
        return sorted(damaged)

    def _names(self) -> list[str]:
        return sorted(
            path.relative_to(self._folder).as_posix()
            for path in self._folder.rglob("*")
            if path.is_file() or path.is_symlink()
        )

    def _read(self) -> dict[str, tuple[int, int]] | None:
        try:
            stored = json.loads(read_small_text(self._manifest))
            checksum = stored.pop("checksum")
            if stored["format"] != _FORMAT or checksum != json_checksum(stored):
                return None
            return {name: (size, crc) for name, (size, crc) in stored["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def json_checksum(value: object) -> int:
    """Return the CRC-32 of a JSON value, for any order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _checksum(path: Path, *, sync: bool = False) -> tuple[int, int]:
    """Return a file's size, and a CRC-32 over its blocks that are not all zero, with their offsets.

    The holes of a sparse file (a new shard has 200 MB of them) are not read. A copy that fills them with
    zeros has the same checksum.
    """
    with open(path, "rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        crc = 0
        position = 0
        for start, end in _data_ranges(file.fileno(), size):
            position = max(position, start - start % _BLOCK)
            file.seek(position)
            while position < end:
                block = file.read(_BLOCK)
                if not block:
                    break
                if block != _ZEROS[: len(block)]:
                    crc = zlib.crc32(block, zlib.crc32(position.to_bytes(8, "little"), crc))
                position += len(block)
    return size, crc


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that are no holes, where the system can tell them."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # no data after this offset
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
