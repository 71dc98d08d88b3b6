"""A model in one file, for machines without a network: a tar archive with a SHA-256 digest of every file.

The first member is `MANIFEST.json`; the others are the files that it names. An archive is unpacked once into
the user's cache folder. Every byte is compared with the manifest before the model is opened, and nothing but
the named regular files is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

import platformdirs

from splade_retriever.encoding.model_cards import ModelCard
from splade_retriever.encoding.model_folder import ModelFolder
from splade_retriever.encoding.model_root import MAX_WEIGHTS_BYTES, content_stamp, sha256
from splade_retriever.errors import InputError, ModelFilesError, StorageError

__all__ = ["Archive", "is_archive", "unpack", "write_archive"]

_SUFFIX: Final = ".tar"
_MANIFEST: Final = "MANIFEST.json"
_STAMPS: Final = ".stamps.json"
_FORMAT: Final = 1
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_MAX_MANIFEST_BYTES: Final = 1 << 20
_MAX_FILES: Final = 1000
_MAX_JSON_BYTES: Final = 16 << 20
_TERMS: Final = ("readme", "license", "licence", "notice", "model_card")


@dataclass(frozen=True, slots=True)
class Archive:
    """An unpacked archive.

    Attributes:
        folder: The folder with its files.
        commit: The commit that a published model was downloaded at; None for a model that was a folder.
    """

    folder: Path
    commit: str | None


def is_archive(path: Path) -> bool:
    """Return whether a path is an archive of a model."""
    return path.suffix == _SUFFIX and path.is_file()


def write_archive(model: ModelFolder, target: Path, *, commit: str | None) -> dict[str, int]:
    """Write a model to an archive, with its card and its licence.

    Args:
        model: The files of the model.
        target: The file to write; its name ends in .tar.
        commit: The commit of a downloaded model.

    Returns:
        The size of each file, in bytes.

    Raises:
        InputError: If the target has another extension.
        StorageError: If it cannot be written.
    """
    if target.suffix != _SUFFIX:
        raise InputError(f"The archive is {str(target)!r}, expected a name that ends in {_SUFFIX}.")
    contents = _contents(model)
    manifest = {
        "format": _FORMAT,
        "model": model.card.model,
        "license": model.card.license,
        "commit": commit,
        "files": {
            name: {"sha256": _digest(body).hex(), "bytes": _size(body)} for name, body in contents.items()
        },
    }
    members = {_MANIFEST: json.dumps(manifest, indent=2).encode(), **contents}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, body in members.items():
                # Nothing about this machine or moment: the same model is the same archive.
                header = tarfile.TarInfo(name)
                header.size, header.mode = _size(body), 0o644
                with io.BytesIO(body) if isinstance(body, bytes) else body.open("rb") as file:
                    archive.addfile(header, file)
        temporary.replace(target)
    except (OSError, ValueError) as error:  # a ValueError is a name that is too long for the format
        raise StorageError(f"The archive {target} cannot be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return {name: _size(body) for name, body in contents.items()}


def unpack(path: Path, *, cache: Path | None = None) -> Archive:
    """Unpack an archive into the cache, or return the folder that it was unpacked to before.

    Args:
        path: The archive.
        cache: The folder for unpacked archives; None is `models` in the user's cache folder.

    Raises:
        ModelFilesError: If the archive, or the folder that it was unpacked to, is not what the manifest says.
        StorageError: If the cache cannot be written.
    """
    models = cache or platformdirs.user_cache_path("splade_retriever", appauthor=False) / "models"
    with path.open("rb") as file:
        reader = _Reader(path, file)
        manifest, digest = reader.manifest()
        place = hashlib.sha256(f"{digest} {path.resolve()}".encode()).hexdigest()[:32]
        folder, stamp = models / place, list(content_stamp(path))
        if folder.is_dir() and _is_unpacked(folder, manifest, stamp):
            return Archive(folder, manifest["commit"])
        try:
            models.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=models) as temporary:
                work = Path(temporary, "model")
                work.mkdir()
                reader.copy_files(work, manifest["files"])
                _write_stamps(work, manifest, stamp)
                shutil.rmtree(folder, ignore_errors=True)
                work.rename(folder)
        except ModelFilesError:
            raise
        except OSError as error:
            if folder.is_dir() and _is_unpacked(folder, manifest, stamp):  # by another process, meanwhile
                return Archive(folder, manifest["commit"])
            raise StorageError(f"The archive {path} cannot be unpacked to {models}: {error}.") from error
    return Archive(folder, manifest["commit"])


def _contents(model: ModelFolder) -> dict[str, bytes | Path]:
    """Return the files of an archive by name: as they lie in the folder, the licence first."""
    root = model.path
    paths = [path for path in (*model.weight_files, model.tokenizer, model.query_weights) if path is not None]
    described = [
        path
        for pattern in ("*.json", "*/*.json")
        for path in root.glob(pattern)
        if path.is_file() and path.stat().st_size <= _MAX_JSON_BYTES
    ]
    terms = [path for path in root.glob("*") if path.is_file() and path.name.lower().startswith(_TERMS)]
    files: dict[str, bytes | Path] = {
        _name(path, root): path for path in sorted({*terms, *described}) + paths
    }
    if not any(name.lower().startswith(("license", "licence")) for name in files):
        files = {"LICENSE.txt": _license_text(model.card), **files}
    if "card.json" not in files:
        files["card.json"] = json.dumps(_card_content(model), indent=2).encode()
    return files


def _name(path: Path, root: Path) -> str:
    """Return the path of a file in the archive; a file that the model shares with another lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _license_text(card: ModelCard) -> bytes:
    source = f"Source: https://huggingface.co/{card.source}\n" if card.source else ""
    return f"Model: {card.model}\nLicence: {card.license or 'not stated'} (SPDX)\n{source}".encode()


def _card_content(model: ModelFolder) -> dict[str, Any]:
    card = model.card
    names = [
        *("model", "source", "model_file", "description", "license", "vocab_size", "max_length"),
        *("activation", "query_side", "query_max_active_dims", "query_power", "zero_special_tokens"),
    ]
    # `precision` in a card states that the graph is pooled or quantised already.
    return {name: getattr(card, name) for name in [*names, *(["precision"] if model.finished else [])]}


class _Reader:
    """Reads an archive from its beginning to its end, one header at a time.

    The archive may come from somebody else. Extended headers, links, devices and sparse files are refused, so
    a member has the name and the size that the manifest states, and nothing is read into memory but the
    manifest.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._members = self._headers()

    def manifest(self) -> tuple[dict[str, Any], str]:
        """Read the manifest; also return its digest."""
        header = next(self._members, None)
        if header is None or header.name != _MANIFEST or header.size > _MAX_MANIFEST_BYTES:
            raise self._error(f"its first member is not {_MANIFEST}")
        body = self._file.read(header.size)
        try:
            manifest = json.loads(body)
            files = manifest["files"]
            valid = manifest["format"] == _FORMAT and 0 < len(files) <= _MAX_FILES
            valid &= manifest["commit"] is None or isinstance(manifest["commit"], str)
            for name, entry in files.items():
                parts = PurePosixPath(name).parts
                valid &= (
                    ".." not in parts and not name.startswith(("/", ".")) and not set(name) & set("\\:\0")
                )
                valid &= name == "/".join(parts) and name != _MANIFEST
                valid &= isinstance(entry["bytes"], int) and 0 <= entry["bytes"] <= MAX_WEIGHTS_BYTES
                valid &= isinstance(entry["sha256"], str)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"its {_MANIFEST} cannot be read ({error!r})") from error
        if not valid:
            raise self._error(f"its {_MANIFEST} names files that an archive of a model cannot have")
        return manifest, hashlib.sha256(body).hexdigest()

    def copy_files(self, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the files that the manifest names, and compare each with its digest."""
        missing = dict(files)
        for header in self._members:
            entry = missing.pop(header.name, None)
            if entry is None:
                raise self._error(f"it holds {header.name!r}, which its manifest does not name")
            if header.size != entry["bytes"]:
                raise self._error(f"{header.name} has {header.size:,} bytes, expected {entry['bytes']:,}")
            target = folder / header.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._copy(target, header.size) != entry["sha256"]:
                raise self._error(f"{header.name} has another SHA-256 digest than the manifest states")
        if missing:
            raise self._error(f"it ends before {next(iter(missing))}")

    def _copy(self, target: Path, size: int) -> str:
        digest, rest = hashlib.sha256(), size
        with target.open("xb") as output:
            while rest and (chunk := self._file.read(min(rest, _CHUNK))):
                digest.update(chunk)
                output.write(chunk)
                rest -= len(chunk)
        return digest.hexdigest()

    def _headers(self) -> Iterator[tarfile.TarInfo]:
        while True:
            block = self._file.read(_BLOCK)
            if len(block) < _BLOCK or not any(block):
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.TarError, ValueError) as error:
                raise self._error(f"a header is damaged ({error})") from error
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.size < 0:
                raise self._error(f"its member {header.name!r} is not a regular file")
            start = self._file.tell()
            yield header
            self._file.seek(start + -(-header.size // _BLOCK) * _BLOCK)

    def _error(self, reason: str) -> ModelFilesError:
        return ModelFilesError(
            f"{self._path} is not an unchanged archive of a model: {reason}. Copy it again, or write it "
            f"again with `splade bundle`."
        )


def _is_unpacked(folder: Path, manifest: Mapping[str, Any], stamp: list[int]) -> bool:
    """Return whether the archive was unpacked here, and neither it nor a file of the folder changed since."""
    try:
        stamps = json.loads((folder / _STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    # A change time cannot be set, so an equal stamp means equal content, without reading it.
    return bool(stamps == _stamps(folder, manifest, stamp))


def _write_stamps(folder: Path, manifest: Mapping[str, Any], stamp: list[int]) -> None:
    content = json.dumps(_stamps(folder, manifest, stamp))
    (folder / _STAMPS).write_text(content, encoding="utf-8")


def _stamps(folder: Path, manifest: Mapping[str, Any], stamp: list[int]) -> dict[str, list[int]]:
    files = {
        name: list(content_stamp(folder / name)) for name in manifest["files"] if (folder / name).is_file()
    }
    return {"": stamp, **files}


def _digest(body: bytes | Path) -> bytes:
    return hashlib.sha256(body).digest() if isinstance(body, bytes) else sha256(body)


def _size(body: bytes | Path) -> int:
    return len(body) if isinstance(body, bytes) else body.stat().st_size
