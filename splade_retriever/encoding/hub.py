"""Downloads model files from the hub at one revision, if they are not in the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors, file_download
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from splade_retriever.errors import ModelFilesError

__all__ = ["Snapshot", "fetch", "list_files"]

logger = logging.getLogger(__name__)

_MAIN: Final = "main"
_TIMEOUT_S: Final = 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's files at one commit.

    Attributes:
        folder: The folder that holds them.
        revision: The full commit hash.
    """

    folder: Path
    revision: str


@dataclass(frozen=True, slots=True)
class _Request:
    """The download, with everything that a message must name."""

    model: str
    repo: str
    revision: str
    cache: Path


def fetch(
    repo: str,
    files: Sequence[str],
    *,
    model: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Snapshot:
    """Return a folder that holds the files of a repository, downloading those that are missing.

    If all files of that revision are in the cache, no request is sent. The cache is the one that all programs
    with huggingface_hub share. An interrupted download continues where it stopped, in this process or
    another.

    Args:
        repo: "owner/name" on the hub.
        files: Paths in the repository; the large one last.
        model: The model's name, for messages.
        revision: A commit hash, branch or tag; None is the main branch.
        cache_dir: The cache folder; None is huggingface_hub's (`HF_HUB_CACHE`, `HF_HOME`).
        local_files_only: Never use the network; `HF_HUB_OFFLINE=1` does the same.

    Raises:
        ModelFilesError: If a file is not in the cache and could not be downloaded; the message states the
            reason, the cache and what to do.
    """
    cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE).expanduser()
    request = _Request(model=model, repo=repo, revision=revision or _MAIN, cache=cache)
    missing = [name for name in files if _cached(request, name) is None]
    if missing:
        if local_files_only or constants.HF_HUB_OFFLINE:
            raise _offline(request, missing, local_files_only=local_files_only)
        with _translated_errors(request):
            return _download(request, files)
    return _snapshot(request, files[0])


def list_files(
    repo: str,
    *,
    model: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> list[str]:
    """Return the names of a repository's files, by one request; offline, of those in the cache.

    Args:
        repo: As for `fetch`.
        model: As for `fetch`.
        revision: As for `fetch`.
        cache_dir: As for `fetch`.
        local_files_only: As for `fetch`.

    Raises:
        ModelFilesError: If the repository cannot be reached, or offline is not in the cache.
    """
    cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE).expanduser()
    request = _Request(model=model, repo=repo, revision=revision or _MAIN, cache=cache)
    if local_files_only or constants.HF_HUB_OFFLINE:
        return _cached_files(request, local_files_only=local_files_only)
    with _translated_errors(request):
        try:
            info = huggingface_hub.HfApi().model_info(repo, revision=request.revision, timeout=_TIMEOUT_S)
        except errors.HfHubHTTPError:
            raise
        except Exception as error:
            raise _failed(
                request, f"it cannot be reached ({type(error).__name__}: {error})", _OFFLINE_ADVICE
            ) from error
    return sorted(sibling.rfilename for sibling in info.siblings or [])


def _cached_files(request: _Request, *, local_files_only: bool) -> list[str]:
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                request.repo, revision=request.revision, cache_dir=request.cache, local_files_only=True
            )
        )
    except errors.LocalEntryNotFoundError as error:
        raise _offline(request, ["all files"], local_files_only=local_files_only) from error
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _cached(request: _Request, name: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(
        request.repo, name, cache_dir=request.cache, revision=request.revision
    )
    return Path(path) if isinstance(path, str) else None


def _snapshot(request: _Request, name: str) -> Snapshot:
    path = _cached(request, name)
    if path is None:
        raise ModelFilesError(
            f"The file {name!r} of model {request.model!r} was downloaded to {request.cache} and then "
            f"removed, possibly by another program. Pass cache_dir= with another folder."
        )
    folder = path
    for _ in Path(name).parts:
        folder = folder.parent
    return Snapshot(folder=folder, revision=folder.name)


def _download(request: _Request, files: Sequence[str]) -> Snapshot:
    logger.info("Downloading model %r from %s to %s", request.model, request.repo, request.cache)
    _reach(request, files[0])
    # The first file resolves the revision; all others come from that very commit.
    huggingface_hub.hf_hub_download(
        request.repo, files[0], cache_dir=request.cache, revision=request.revision
    )
    snapshot = _snapshot(request, files[0])
    pinned = _Request(request.model, request.repo, snapshot.revision, request.cache)
    for name in files[1:]:
        if _cached(pinned, name) is None:
            _resume(pinned, name)
            huggingface_hub.hf_hub_download(
                pinned.repo, name, cache_dir=pinned.cache, revision=pinned.revision
            )
    return snapshot


def _reach(request: _Request, name: str) -> None:
    """Request one file's metadata without the library's retries, which take 20 seconds offline."""
    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(request.repo, name, revision=request.revision)
        )
    except (errors.HfHubHTTPError, errors.EntryNotFoundError):
        raise
    except Exception as error:
        raise _failed(
            request, f"it cannot be reached ({type(error).__name__}: {error})", _OFFLINE_ADVICE
        ) from error


def _resume(request: _Request, name: str) -> None:
    """Download a file into the cache, continuing an earlier attempt.

    huggingface_hub resumes within one call, but deletes the partial file when that call fails. So the bytes
    are written here, to a file that outlives the process, and moved to the cache's place for them; the
    library then finds them and writes its metadata.
    """
    url = huggingface_hub.hf_hub_url(request.repo, name, revision=request.revision)
    metadata = huggingface_hub.get_hf_file_metadata(url)
    if not metadata.etag or not metadata.size:
        return  # a complete file cannot be recognised: the library downloads it in one call
    repo_folder = request.cache / file_download.repo_folder_name(repo_id=request.repo, repo_type="model")
    blob = repo_folder / "blobs" / metadata.etag
    partial = blob.with_name(f"{metadata.etag}.partial")
    lock = request.cache / ".locks" / repo_folder.name / f"{metadata.etag}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Bytes must be counted as stored, and a content store on another host must not receive the user's token.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)
    with WeakFileLock(lock):
        if blob.exists():
            return
        with partial.open("ab") as target:
            downloaded = target.tell()
            if downloaded > metadata.size:  # other content: no file is longer than the server says
                target.truncate(0)
                downloaded = 0
            file_download.http_get(
                metadata.location,
                target,
                resume_size=downloaded,
                headers=headers,
                expected_size=metadata.size,
                displayed_filename=name,
            )
        _verify(request, name, partial, metadata.etag)
        os.replace(partial, blob)


def _verify(request: _Request, name: str, path: Path, etag: str) -> None:
    """Compare a large file with its digest, which is its ETag: its parts may be of different downloads."""
    if not _SHA256.fullmatch(etag):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.unlink()
        reason = f"the file {name!r} arrived damaged (sha256 {digest}, expected {etag}) and was removed"
        raise _failed(request, reason, "call again")


@contextmanager
def _translated_errors(request: _Request) -> Iterator[None]:
    """Translate the errors of huggingface_hub into ModelFilesError."""
    try:
        yield
    except ModelFilesError:
        raise
    except errors.GatedRepoError as error:
        reason, advice = (
            "its repository is gated and this account has no access",
            f"accept its terms at {constants.ENDPOINT}/{request.repo} and log in with `hf auth login` or "
            f"HF_TOKEN",
        )
        raise _failed(request, reason, advice) from error
    except errors.RepositoryNotFoundError as error:
        reason, advice = (
            "there is no such repository, or it is private and no valid login was sent",
            "check the name, and log in with `hf auth login` or HF_TOKEN if it is private",
        )
        raise _failed(request, reason, advice) from error
    except errors.RevisionNotFoundError as error:
        reason, advice = f"there is no revision {request.revision!r}", "leave revision= out, or correct it"
        raise _failed(request, reason, advice) from error
    except errors.LocalEntryNotFoundError as error:
        raise _failed(request, "it cannot be reached", _OFFLINE_ADVICE) from error
    except errors.EntryNotFoundError as error:
        reason = f"a file is missing in the repository ({str(error).strip().splitlines()[-1]})"
        advice = "check the card's model_file, or open a local folder that has the file"
        raise _failed(request, reason, advice) from error
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            reason, advice = "access was refused", "log in with `hf auth login` or set HF_TOKEN"
        else:
            reason, advice = (
                f"the hub answered with an error ({str(error).strip().splitlines()[0]})",
                _RETRY_ADVICE,
            )
        raise _failed(request, reason, advice) from error
    except Exception as error:
        # The library's transport (requests, later httpx) raises its own errors, which differ by version.
        reason = f"the transfer failed ({type(error).__name__}: {error})"
        raise _failed(request, reason, _RETRY_ADVICE) from error


_LOCAL = "pass a local folder (specific_model_path=, on the command line --model FOLDER)"
_RETRY_ADVICE = f"call again to continue where it stopped, or {_LOCAL}"
_OFFLINE_ADVICE = f"check the connection, HTTPS_PROXY and HF_ENDPOINT, or {_LOCAL}"


def _failed(request: _Request, reason: str, advice: str) -> ModelFilesError:
    return ModelFilesError(
        f"Model {request.model!r} is not in {request.cache} and could not be downloaded from "
        f"{request.repo!r} at {constants.ENDPOINT}: {reason}. To get it, {advice}. The bundled "
        "model needs no download: leave out the model's name."
    )


def _offline(request: _Request, missing: Sequence[str], *, local_files_only: bool) -> ModelFilesError:
    why = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE=1"
    return ModelFilesError(
        f"Model {request.model!r} (repository {request.repo!r}, revision {request.revision!r}) is not "
        f"complete in {request.cache}: {', '.join(missing)} missing, and {why} forbids a download. Open the "
        f"model once with network access, copy that folder from another machine, or "
        f"{_LOCAL}."
    )
