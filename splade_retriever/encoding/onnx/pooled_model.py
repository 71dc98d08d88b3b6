"""The pooled graph of an MLM export: rewritten once, then kept in a cache.

`rewrite`, which imports onnx, is imported only when a graph has to be rewritten.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import BinaryIO

from splade_retriever.encoding.model_cards import Activation, Precision
from splade_retriever.encoding.model_root import sha256
from splade_retriever.encoding.onnx.graph_cache import GraphCache
from splade_retriever.encoding.onnx.onnx_wire import OnnxSummary, external_files, read_summary
from splade_retriever.errors import ModelGraphError, SpladeError

__all__ = ["VERSION", "forget_graphs", "is_pooled", "pooled_graph", "write_pooled"]

VERSION = 7
"""Version of the rewriting; a cached graph of another version is written again."""

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
    `NAME.onnx.data`, where NAME states the source's path and content, the settings and the version of the
    rewriting, and verified before it is used again.
    Several processes may call this at once, and may be killed while they write.

    Args:
        source: An MLM export that ends in logits (batch, tokens, vocab), or a graph that is pooled already;
            in fp32 the latter is returned unchanged, its own activation included.
        activation: See `GraphBuilder.activation`.
        precision: "int8" multiplies 8-bit codes, with one scale per row and one per column. "fp16" computes
            in half precision, for GPUs.
        screened: Whether an fp32 graph skips decoder columns whose weight is 0, for processors: the same
            numbers in less time (`decoder_screening`).
        cache: Folder for the graph; None is the user's cache folder.

    Raises:
        ModelFilesError: If the source, or a weight file it names, is missing.
        ModelGraphError: If the source is not a graph that can be pooled or quantised.
        StorageError: If the folder cannot be written, or belongs to another user.
    """
    summary = read_summary(source)
    pooled = is_pooled(summary)
    if pooled and precision == "fp32":
        return source
    graphs = GraphCache(cache)
    prefix = _prefix(source)
    current = f"{prefix}{_digest(source)}-v{VERSION}-"
    screened = screened and precision == "fp32"
    name = f"{current}{activation}-{precision}{'-screened' if screened else ''}"
    if (path := graphs.find(name)) is not None:
        return path
    logger.info("Rewriting %s once, with %s in %s, to %s", source, activation, precision, graphs.folder)
    make = partial(
        _rewrite, source, pooled=pooled, activation=activation, precision=precision, screened=screened
    )
    path = graphs.write(name, make)
    graphs.clean(prefix, keep=current)
    return path


def write_pooled(source: Path, target: Path, *, activation: Activation, precision: Precision) -> None:
    """Write the graph of `pooled_graph` to a file, with its weights beside it in `NAME.data`.

    Raises:
        ModelFilesError: As `pooled_graph`.
        ModelGraphError: As `pooled_graph`.
    """
    pooled = is_pooled(read_summary(source))
    data = target.with_name(f"{target.name}.data")
    with data.open("wb") as file:
        graph = _rewrite(
            source,
            file,
            data.name,
            pooled=pooled,
            activation=activation,
            precision=precision,
            screened=False,
        )
    target.write_bytes(graph)


def forget_graphs(source: Path, *, cache: Path | None = None) -> None:
    """Remove the graphs of a source from the cache: for a file that will be moved or removed.

    Args:
        source: As for `pooled_graph`.
        cache: As for `pooled_graph`.
    """
    graphs = GraphCache(cache)
    if graphs.folder.exists():
        graphs.clean(_prefix(source), keep="\0")


def _prefix(source: Path) -> str:
    # The cache holds graphs of many models named "model.onnx", so the source's path is part of the name.
    place = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:8]
    return f"{source.stem}-{place}.pooled-"


def is_pooled(summary: OnnxSummary) -> bool:
    """Return whether a graph ends in (batch, vocab), and no output has another or an unknown rank."""
    ranks = list(summary.output_ranks.values())
    return ranks[0] == 2 and 3 not in ranks and None not in ranks


def _digest(source: Path) -> str:
    digest = hashlib.sha256()
    for path in (source, *external_files(source)):
        digest.update(sha256(path))
    return digest.hexdigest()[:16]


def _rewrite(
    source: Path,
    data: BinaryIO,
    data_name: str,
    *,
    pooled: bool,
    activation: Activation,
    precision: Precision,
    screened: bool,
) -> bytes:
    from splade_retriever.encoding.onnx.rewrite import rewrite

    try:
        return rewrite(
            source,
            data,
            data_name,
            pooled=pooled,
            activation=activation,
            precision=precision,
            screened=screened,
        )
    except (SpladeError, MemoryError, OSError):
        raise
    except Exception as error:
        raise ModelGraphError(
            f"{source} is damaged, or is not an ONNX model that can be read ({type(error).__name__}: "
            f"{error}). Download or export it again."
        ) from error
