"""An MLM export in, the path of its pooled graph out: rewritten once, kept beside the model.

The rewriting itself is in `surgery`, which is only imported when there is something to rewrite.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from splade_retriever.encoding.onnx.onnx_wire import Outline, outline
from splade_retriever.errors import ModelFilesError, ModelGraphError, SpladeError, StorageError

__all__ = ["VERSION", "Activation", "Precision", "is_pooled", "pooled_graph"]

Activation = Literal["log1p", "log1p_log1p"]
Precision = Literal["fp32", "int8"]

VERSION = 7
"""Counts changes of the rewriting; files of another version are written anew."""

_ABANDONED_AFTER_S = 600
log = logging.getLogger(__name__)


def pooled_graph(
    source: Path,
    *,
    activation: Activation = "log1p",
    precision: Precision = "fp32",
    screened: bool = False,
    cache: Path | None = None,
) -> Path:
    """Return the path of a graph that ends in one weight per vocabulary entry.

    The graph maps `input_ids` and `attention_mask` (and `token_type_ids` where the source wants it), all
    (batch, tokens), to `weights`, (batch, vocab) float32 >= 0. It is written once, as `NAME.onnx` and
    `NAME.onnx.data`, where NAME tells the source's content, the settings and the version of the rewriting.
    Any number of processes may ask for it at once, and be killed while they write it.

    Args:
        source: An MLM export that ends in logits (batch, tokens, vocab), or a graph that is pooled already;
            in fp32 the latter is returned as it is, its own activation included.
        activation: "log1p" is log(1 + relu(x)); "log1p_log1p" is log(1 + log(1 + relu(x))), of the OpenSearch
            v3 models.
        precision: "int8" multiplies codes of 8 bits, one scale a row and one a column.
        screened: Whether an fp32 graph leaves out what cannot weigh, for processors: the same numbers in
            less time (`screening`).
        cache: Folder to keep the graph in; None is the source's own, or the user's cache where that one
            cannot be written.

    Raises:
        ModelFilesError: If the source, or a weight file it names, is missing.
        ModelGraphError: If the source is not a graph that can be pooled or quantised.
        StorageError: If no folder can be written.
    """
    found = outline(source)
    if is_pooled(found) and precision == "fp32":
        return source
    current = f"{_digest(source, found)}-v{VERSION}-"
    screened = screened and precision == "fp32"
    settings = f"{activation}-{precision}{'-screened' if screened else ''}"
    places = _places(source, cache)
    for folder, stem in places:
        path = folder / f"{stem}{current}{settings}.onnx"
        if path.is_file() and _data(path).is_file():
            return path
    failures = []
    for folder, stem in places:
        path = folder / f"{stem}{current}{settings}.onnx"
        try:
            _write(
                source,
                path,
                pooled=is_pooled(found),
                activation=activation,
                precision=precision,
                screened=screened,
            )
        except (SpladeError, MemoryError):
            raise
        except OSError as err:
            failures.append(f"{folder}: {err.strerror or err}")
        except Exception as err:
            raise ModelGraphError(
                f"{source} is damaged, or not an ONNX model that is understood here ({type(err).__name__}: "
                f"{err}). Download or export it again."
            ) from err
        else:
            _clean(folder, stem, current)
            return path
    raise StorageError(
        f"The pooled graph of {source} could not be written ({'; '.join(failures)}). "
        f"Make room, or pass a folder that can be written."
    )


def is_pooled(found: Outline) -> bool:
    """Tell whether a graph ends in (batch, vocab) and nowhere in (batch, tokens, something)."""
    ranks = list(found.ranks.values())
    return ranks[0] == 2 and 3 not in ranks and None not in ranks


def _digest(source: Path, found: Outline) -> str:
    digest = hashlib.sha256()
    for name in ["", *sorted(found.external)]:
        path = source.parent / name if name else source
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError as err:
            raise ModelFilesError(
                f"{source} keeps weights in {name!r}, which is not in {source.parent}. "
                f"Download or copy all files of the model."
            ) from err
    return digest.hexdigest()[:16]


def _places(source: Path, cache: Path | None) -> list[tuple[Path, str]]:
    # A shared folder holds graphs of many models called "model.onnx": there the path is part of the name.
    place = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:8]
    shared = f"{source.stem}-{place}.pooled-"
    if cache is not None:
        return [(cache, shared)]
    return [(source.parent, f"{source.stem}.pooled-"), (_user_cache(), shared)]


def _user_cache() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "splade_retriever" / "graphs"


def _write(
    source: Path,
    path: Path,
    *,
    pooled: bool,
    activation: Activation,
    precision: Precision,
    screened: bool,
) -> None:
    from splade_retriever.encoding.onnx.rewrite import rewrite

    log.info("Rewriting %s once, with %s in %s, into %s", source, activation, precision, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _data(path)
    with _temporary(data) as new_data, _temporary(path) as new_path:
        with new_data.open("xb") as file:
            model = rewrite(
                source,
                file,
                data.name,
                pooled=pooled,
                activation=activation,
                precision=precision,
                screened=screened,
            )
            file.flush()
            os.fsync(file.fileno())
        with new_path.open("xb") as file:
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        # The weights first: whoever sees the graph finds its weights.
        for new, final in ((new_data, data), (new_path, path)):
            try:
                new.replace(final)
            except PermissionError:
                # Windows keeps a file that another process has open; it holds the same bytes.
                if not final.is_file():
                    raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _data(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


@contextlib.contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    path = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _clean(folder: Path, stem: str, current: str) -> None:
    """Remove graphs of older content or version, and what killed processes left behind."""
    for path in folder.iterdir():
        old = path.name.startswith(stem) and not path.name.startswith(stem + current)
        left = path.name.startswith(f".{stem}") and path.name.endswith(".tmp")
        with contextlib.suppress(OSError):
            if old or (left and time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S):
                path.unlink()
