"""Which files of a model folder may be read.

A model folder may come from somebody else. Only regular files are read, only inside the folder or, in the
hub's cache, among the blobs that its links point to, and only up to a size.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeAlias

from splade_retriever.errors import ModelFilesError
from splade_retriever.validation import type_name

__all__ = [
    "MAX_TABLE_BYTES",
    "MAX_TOKENIZER_BYTES",
    "MAX_WEIGHTS_BYTES",
    "ContentStamp",
    "ModelRoot",
    "content_stamp",
    "sha256",
]

MAX_TOKENIZER_BYTES: Final = 256 << 20
MAX_TABLE_BYTES: Final = 256 << 20
MAX_WEIGHTS_BYTES: Final = 16 << 30
_MAX_JSON_BYTES: Final = 16 << 20

ContentStamp: TypeAlias = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class ModelRoot:
    """A model folder.

    Attributes:
        path: The folder.
    """

    path: Path

    def find(self, name: str | Path, *, max_bytes: int) -> Path | None:
        """Return the path of a file in the folder; None if there is no such file.

        Args:
            name: The path of the file, relative to the folder.
            max_bytes: The largest size that is accepted.

        Raises:
            ModelFilesError: If it is not a regular file, lies outside the folder, or is too large.
        """
        self.check_name(name)
        path = self.path / name
        try:
            target = path.resolve(strict=True)
            status = target.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            raise ModelFilesError(f"{path} cannot be read: {error}. Check the model folder.") from error
        if not any(target.is_relative_to(folder) for folder in self._allowed()):
            raise ModelFilesError(
                f"{path} is a link to {target}, outside the model folder. Copy that file into the folder."
            )
        if not stat.S_ISREG(status.st_mode):
            raise ModelFilesError(f"{path} is not a regular file. Check the model folder.")
        if status.st_size > max_bytes:
            raise ModelFilesError(
                f"{path} has {status.st_size:,} bytes, and at most {max_bytes:,} are read. Check the model "
                f"folder."
            )
        return path

    def read_json(self, name: str | Path) -> dict[str, Any] | None:
        """Read a JSON object of the folder; None if there is no such file.

        Raises:
            ModelFilesError: If it is not a JSON object, or not a file that may be read.
        """
        path = self.find(name, max_bytes=_MAX_JSON_BYTES)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelFilesError(
                f"{path} is not valid JSON: {error}. Download or write it again."
            ) from error
        if not isinstance(content, dict):
            raise ModelFilesError(
                f"{path} holds {type_name(content)}, expected a JSON object. Download or write it again."
            )
        return content

    def check_name(self, name: str | Path) -> None:
        """Check that a path stays inside the folder.

        Raises:
            ModelFilesError: If it is absolute or has a "..".
        """
        text = str(name)
        parts = PurePosixPath(text.replace(os.sep, "/")).parts
        if not text or "\0" in text or ".." in parts or Path(text).is_absolute():
            raise ModelFilesError(
                f"A file of {self.path} names {text!r}, expected a path inside the model folder. Do not "
                f"trust this model, or correct the file."
            )

    def _allowed(self) -> list[Path]:
        folder = self.path.resolve()
        # The hub's cache: REPOSITORY/snapshots/COMMIT holds links to REPOSITORY/blobs.
        cached = folder.parent.name == "snapshots"
        return [folder, folder.parents[1] / "blobs"] if cached else [folder]


def content_stamp(path: Path) -> ContentStamp:
    """Return numbers that change when the content of a file changes."""
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def sha256(path: Path) -> bytes:
    """Return the SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
