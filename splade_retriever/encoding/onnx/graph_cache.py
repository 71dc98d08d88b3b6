"""A private folder of rewritten graphs, whose files are verified before they are used.

An entry is three files: NAME.onnx, its weights NAME.onnx.data, and NAME.onnx.json with the SHA-256 digests of
both, which is written last. Only the user can read or write them, for any umask. Files of another user are
not used, and an entry that fails its verification is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import platformdirs

from splade_retriever.encoding.model_root import content_stamp, sha256
from splade_retriever.errors import SpladeError, StorageError

__all__ = ["GraphCache"]

_ABANDONED_AFTER_S: Final = 600
_MAX_MANIFEST_BYTES: Final = 10_000


class GraphCache:
    """Rewritten graphs by name; any number of processes may use one folder.

    Args:
        folder: The folder; None is the user's cache folder of this system (`XDG_CACHE_HOME` on Linux).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own_parent = folder is None
        self.folder = folder or (platformdirs.user_cache_path("splade_retriever", appauthor=False) / "graphs")

    def find(self, name: str) -> Path | None:
        """Return the path of a complete, unchanged graph; None if there is none.

        Raises:
            StorageError: If the folder belongs to another user.
        """
        path = self.folder / f"{name}.onnx"
        if not self.folder.exists():
            return None
        self._check_folder()
        return path if _verified(path) else None

    def write(self, name: str, make: Callable[[BinaryIO, str], bytes]) -> Path:
        """Store a graph; a process that is killed while it writes leaves no entry.

        Args:
            name: The name of the entry.
            make: Called with the file for the weights and its name; returns the bytes of the graph.

        Raises:
            StorageError: If the folder cannot be written, or belongs to another user.
        """
        path = self.folder / f"{name}.onnx"
        try:
            self._make_folder()
            self._write(path, make)
        except SpladeError:
            raise
        except OSError as error:
            raise StorageError(
                f"The graph {path} cannot be written: {error.strerror or error}. Free disk space there, or "
                f"set XDG_CACHE_HOME to a folder that can be written."
            ) from error
        return path

    def clean(self, prefix: str, *, keep: str) -> None:
        """Remove the entries of a prefix except those that start with `keep`, and abandoned partial files."""
        for path in self.folder.iterdir():
            old = path.name.startswith(prefix) and not path.name.startswith(keep)
            partial = path.name.startswith(f".{prefix}") and path.name.endswith(".tmp")
            with contextlib.suppress(OSError):
                if old or (partial and time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S):
                    path.unlink()

    def _make_folder(self) -> None:
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                folder.chmod(0o700)  # a umask can remove these permissions too
        self._check_folder()

    def _check_folder(self) -> None:
        """Check that only this user can write to the folder, and to the package's folder around it."""
        if os.name != "posix":
            return
        for folder in (self.folder.parent, self.folder) if self._own_parent else (self.folder,):
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode):
                raise StorageError(
                    f"{folder} is not a folder. Remove it, or set XDG_CACHE_HOME to another folder."
                )
            if status.st_uid != os.geteuid():
                raise StorageError(
                    f"{folder} belongs to another user (uid {status.st_uid}, this process has uid "
                    f"{os.geteuid()}). Set XDG_CACHE_HOME to a folder of your own."
                )
            if stat.S_IMODE(status.st_mode) & 0o077:
                folder.chmod(0o700)

    def _write(self, path: Path, make: Callable[[BinaryIO, str], bytes]) -> None:
        data = _data(path)
        with _temporary(data) as new_data, _temporary(path) as new_path, _temporary(_manifest(path)) as new:
            with _create(new_data) as file:
                graph = make(file, data.name)
            with _create(new_path) as file:
                file.write(graph)
            digests = {path.name: sha256(new_path).hex(), data.name: sha256(new_data).hex()}
            # The weights first: a process that finds the graph then finds its weights too.
            for temporary, final in ((new_data, data), (new_path, path)):
                _replace(temporary, final)
            stamps = {final.name: content_stamp(final) for final in (path, data)}
            with _create(new) as file:
                file.write(json.dumps({"sha256": digests, "stamps": stamps}).encode())
            _replace(new, _manifest(path))
        _sync_folder(path.parent)


def _verified(path: Path) -> bool:
    """Return whether a graph and its weights are what was written."""
    files = (path, _data(path))
    try:
        if not all(_is_private(file) for file in (*files, _manifest(path))):
            return False
        if _manifest(path).stat().st_size > _MAX_MANIFEST_BYTES:
            return False
        manifest = json.loads(_manifest(path).read_text(encoding="utf-8"))
        # A file's change time cannot be set, so an equal stamp means equal content, without reading it.
        if all(manifest["stamps"][file.name] == list(content_stamp(file)) for file in files):
            return True
        return all(manifest["sha256"][file.name] == sha256(file).hex() for file in files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_private(path: Path) -> bool:
    """Return whether a path is a regular file, not a link, that only this user can change."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return False
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


@contextlib.contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    """Create a file that only this user can read, and write it to the disk on exit."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if os.name == "posix":
            os.fchmod(descriptor, 0o600)
        yield file
        file.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    path = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _replace(temporary: Path, final: Path) -> None:
    try:
        temporary.replace(final)
    except PermissionError:
        # Windows does not replace a file that another process has open; it holds the same bytes.
        if not final.is_file():
            raise


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _data(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _manifest(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
