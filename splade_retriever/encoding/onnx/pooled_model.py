"""The pooled graph of an MLM export: rewritten once, then kept in a cache.

`rewrite`, which imports onnx, is imported only when a graph has to be rewritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from splade_retriever.encoding.model_cards import Activation, Precision
from splade_retriever.encoding.onnx.onnx_wire import OnnxSummary, read_summary
from splade_retriever.errors import ModelFilesError, ModelGraphError, SpladeError, StorageError

__all__ = ["VERSION", "is_pooled", "pooled_graph"]

VERSION = 7
"""Version of the rewriting; a cached graph of another version is written again."""

_ABANDONED_AFTER_S = 600
logger = logging.getLogger(__name__)


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
    `NAME.onnx.data`, where NAME states the source's content, the settings and the version of the rewriting.
    Several processes may call this at once, and may be killed while they write.

    Args:
        source: An MLM export that ends in logits (batch, tokens, vocab), or a graph that is pooled already;
            in fp32 the latter is returned unchanged, its own activation included.
        activation: See `GraphBuilder.activation`.
        precision: "int8" multiplies 8-bit codes, with one scale per row and one per column.
        screened: Whether an fp32 graph skips decoder columns whose weight is 0, for processors: the same
            numbers in less time (`decoder_screening`).
        cache: Folder for the graph; None is the source's folder, or the user's cache where that one cannot
            be written.

    Raises:
        ModelFilesError: If the source, or a weight file it names, is missing.
        ModelGraphError: If the source is not a graph that can be pooled or quantised.
        StorageError: If no folder can be written.
    """
    summary = read_summary(source)
    if is_pooled(summary) and precision == "fp32":
        return source
    current = f"{_digest(source, summary)}-v{VERSION}-"
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
                pooled=is_pooled(summary),
                activation=activation,
                precision=precision,
                screened=screened,
            )
        except (SpladeError, MemoryError):
            raise
        except OSError as error:
            failures.append(f"{folder}: {error.strerror or error}")
        except Exception as error:
            raise ModelGraphError(
                f"{source} is damaged, or is not an ONNX model that can be read ({type(error).__name__}: "
                f"{error}). Download or export it again."
            ) from error
        else:
            _clean(folder, stem, current)
            return path
    raise StorageError(
        f"The pooled graph of {source} could not be written ({'; '.join(failures)}). "
        f"Free disk space there, or set XDG_CACHE_HOME to a folder that can be written."
    )


def is_pooled(summary: OnnxSummary) -> bool:
    """Return whether a graph ends in (batch, vocab), and no output has another or an unknown rank."""
    ranks = list(summary.output_ranks.values())
    return ranks[0] == 2 and 3 not in ranks and None not in ranks


def _digest(source: Path, summary: OnnxSummary) -> str:
    digest = hashlib.sha256()
    for name in ["", *sorted(summary.external_files)]:
        path = source.parent / name if name else source
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError as error:
            raise ModelFilesError(
                f"{source} keeps weights in {name!r}, which is not in {source.parent}. "
                f"Download or copy all files of the model."
            ) from error
    return digest.hexdigest()[:16]


def _places(source: Path, cache: Path | None) -> list[tuple[Path, str]]:
    # A shared folder holds graphs of many models named "model.onnx", so the path is part of the name there.
    place = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:8]
    shared = f"{source.stem}-{place}.pooled-"
    if cache is not None:
        return [(cache, shared)]
    return [(source.parent, f"{source.stem}.pooled-"), (_user_cache(), shared)]


def _user_cache() -> Path:
    return platformdirs.user_cache_path("splade_retriever", appauthor=False) / "graphs"


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

    logger.info("Rewriting %s once, with %s in %s, to %s", source, activation, precision, path)
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
        # The weights first: a process that finds the graph then finds its weights too.
        for new, final in ((new_data, data), (new_path, path)):
            try:
                new.replace(final)
            except PermissionError:
                # Windows does not replace a file that another process has open; it holds the same bytes.
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
    """Remove graphs of older content or version, and partial files of killed processes."""
    for path in folder.iterdir():
        old = path.name.startswith(stem) and not path.name.startswith(stem + current)
        partial = path.name.startswith(f".{stem}") and path.name.endswith(".tmp")
        with contextlib.suppress(OSError):
            if old or (partial and time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S):
                path.unlink()
