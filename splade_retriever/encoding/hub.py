"""Model files on this machine: from the hub at one revision, offline first; the only place that downloads."""

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

__all__ = ["Snapshot", "fetch"]

log = logging.getLogger(__name__)

_MAIN: Final = "main"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's files at one commit.

    Attributes:
        folder: Where they lie.
        revision: The full commit hash.
    """

    folder: Path
    revision: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to fetch, and for whom: everything that a message must name."""

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

    Where all files of that revision are here, nothing is asked of the network. The folder is the cache that
    all programs on huggingface_hub share, so a model that one of them has downloaded is found. A download
    that was cut off goes on where it stopped, in this process or the next.

    Args:
        repo: "owner/name" on the hub.
        files: Paths in the repository; the large one last.
        model: The model's name, for messages.
        revision: A commit hash, branch or tag; None is the main branch.
        cache_dir: The cache folder; None is huggingface_hub's (`HF_HUB_CACHE`, `HF_HOME`).
        local_files_only: Never use the network; `HF_HUB_OFFLINE=1` does the same.

    Raises:
        ModelFilesError: If a file is not here and cannot be had; the message says why, where was looked and
            what to do.
    """
    cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE).expanduser()
    wanted = _Wanted(model=model, repo=repo, revision=revision or _MAIN, cache=cache)
    missing = [name for name in files if _cached(wanted, name) is None]
    if missing:
        if local_files_only or constants.HF_HUB_OFFLINE:
            raise _offline(wanted, missing, local_files_only=local_files_only)
        with _told(wanted):
            return _download(wanted, files)
    return _snapshot(wanted, files[0])


def _cached(wanted: _Wanted, name: str) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(
        wanted.repo, name, cache_dir=wanted.cache, revision=wanted.revision
    )
    return Path(found) if isinstance(found, str) else None


def _snapshot(wanted: _Wanted, name: str) -> Snapshot:
    found = _cached(wanted, name)
    if found is None:
        raise ModelFilesError(
            f"The file {name!r} of model {wanted.model!r} was downloaded to {wanted.cache} and is not there "
            f"any more. Is another program emptying that folder? Pass cache_dir= with another one."
        )
    folder = found
    for _ in Path(name).parts:
        folder = folder.parent
    return Snapshot(folder=folder, revision=folder.name)


def _download(wanted: _Wanted, files: Sequence[str]) -> Snapshot:
    log.info("downloading model %r from %s to %s", wanted.model, wanted.repo, wanted.cache)
    _reach(wanted, files[0])
    # The first file resolves the revision; all others come from that very commit.
    huggingface_hub.hf_hub_download(wanted.repo, files[0], cache_dir=wanted.cache, revision=wanted.revision)
    snapshot = _snapshot(wanted, files[0])
    pinned = _Wanted(wanted.model, wanted.repo, snapshot.revision, wanted.cache)
    for name in files[1:]:
        if _cached(pinned, name) is None:
            _resume(pinned, name)
            huggingface_hub.hf_hub_download(
                pinned.repo, name, cache_dir=pinned.cache, revision=pinned.revision
            )
    return snapshot


def _reach(wanted: _Wanted, name: str) -> None:
    """Ask for one file, once: where there is no way to the hub, the library's own retries take 20 seconds."""
    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(wanted.repo, name, revision=wanted.revision)
        )
    except (errors.HfHubHTTPError, errors.EntryNotFoundError):
        raise
    except Exception as err:
        raise _failed(wanted, f"it cannot be reached ({type(err).__name__}: {err})", _OFFLINE_WAY) from err


def _resume(wanted: _Wanted, name: str) -> None:
    """Bring a file's content into the cache, going on where an earlier attempt stopped.

    huggingface_hub resumes within one call, but drops the partial file when that call fails. So the bytes are
    gathered here, under a name that outlives the process, and put where the cache has them; the library then
    finds them and writes the rest of its bookkeeping.
    """
    url = huggingface_hub.hf_hub_url(wanted.repo, name, revision=wanted.revision)
    found = huggingface_hub.get_hf_file_metadata(url)
    if not found.etag or not found.size:
        return  # nothing to tell a whole file by: the library fetches it in one go
    repo_folder = wanted.cache / file_download.repo_folder_name(repo_id=wanted.repo, repo_type="model")
    blob = repo_folder / "blobs" / found.etag
    partial = blob.with_name(f"{found.etag}.partial")
    lock = wanted.cache / ".locks" / repo_folder.name / f"{found.etag}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Bytes must be counted as stored, and a content store elsewhere must not be sent the user's token.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)
    with WeakFileLock(lock):
        if blob.exists():
            return
        with partial.open("ab") as target:
            have = target.tell()
            if have > found.size:  # not ours: a whole file can only be as long as the server says
                target.truncate(0)
                have = 0
            file_download.http_get(
                found.location,
                target,
                resume_size=have,
                headers=headers,
                expected_size=found.size,
                displayed_filename=name,
            )
        _verify(wanted, name, partial, found.etag)
        os.replace(partial, blob)


def _verify(wanted: _Wanted, name: str, path: Path, etag: str) -> None:
    """Compare a large file with its digest, which is its ETag: its parts came at different times."""
    if not _SHA256.fullmatch(etag):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.unlink()
        reason = f"the file {name!r} arrived damaged (sha256 {digest}, expected {etag}) and was removed"
        raise _failed(wanted, reason, "call again")


@contextmanager
def _told(wanted: _Wanted) -> Iterator[None]:
    """Translate what the hub library raises into one error in plain words."""
    try:
        yield
    except ModelFilesError:
        raise
    except errors.GatedRepoError as err:
        reason, way_out = (
            "its repository is gated and this account has not been let in",
            f"accept its terms at {constants.ENDPOINT}/{wanted.repo} and log in with `hf auth login` or "
            f"HF_TOKEN",
        )
        raise _failed(wanted, reason, way_out) from err
    except errors.RepositoryNotFoundError as err:
        reason, way_out = (
            "there is no such repository, or it is private and no valid login was sent",
            "check the name, and log in with `hf auth login` or HF_TOKEN if it is private",
        )
        raise _failed(wanted, reason, way_out) from err
    except errors.RevisionNotFoundError as err:
        reason, way_out = f"there is no revision {wanted.revision!r}", "leave revision= out, or correct it"
        raise _failed(wanted, reason, way_out) from err
    except errors.LocalEntryNotFoundError as err:
        raise _failed(wanted, "it cannot be reached", _OFFLINE_WAY) from err
    except errors.EntryNotFoundError as err:
        reason = f"a file is missing there ({str(err).strip().splitlines()[-1]})"
        way_out = "check the card's model_file, or open a local folder that has the file"
        raise _failed(wanted, reason, way_out) from err
    except errors.HfHubHTTPError as err:
        if err.response is not None and err.response.status_code in (401, 403):
            reason, way_out = "access was refused", "log in with `hf auth login` or set HF_TOKEN"
        else:
            reason, way_out = f"the hub answered with an error ({str(err).strip().splitlines()[0]})", _AGAIN
        raise _failed(wanted, reason, way_out) from err
    except Exception as err:
        # The library's transport (requests, later httpx) has errors of its own, which differ by version.
        reason = f"the transfer failed ({type(err).__name__}: {err})"
        raise _failed(wanted, reason, _AGAIN) from err


_AGAIN = "call again to go on where it stopped, pass specific_model_path= with a local folder"
_OFFLINE_WAY = (
    "check the connection, HTTPS_PROXY and HF_ENDPOINT, or pass specific_model_path= with a local folder"
)


def _failed(wanted: _Wanted, reason: str, way_out: str) -> ModelFilesError:
    return ModelFilesError(
        f"Model {wanted.model!r} is not in {wanted.cache} and could not be downloaded from {wanted.repo!r} "
        f"at {constants.ENDPOINT}: {reason}. To have it, {way_out}; SparseTextEmbedding() without a name is "
        f"the bundled model, which needs no download."
    )


def _offline(wanted: _Wanted, missing: Sequence[str], *, local_files_only: bool) -> ModelFilesError:
    why = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE=1"
    return ModelFilesError(
        f"Model {wanted.model!r} (repository {wanted.repo!r}, revision {wanted.revision!r}) is not complete "
        f"in {wanted.cache}: {', '.join(missing)} missing, and {why} forbids a download. Open it once with "
        f"the network, copy that folder from a machine that has it, or pass specific_model_path= with a "
        f"local folder."
    )
