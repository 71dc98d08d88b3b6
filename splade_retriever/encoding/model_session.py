"""The ONNX session of a model's files, at a precision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from splade_retriever.encoding.model_cards import Precision
from splade_retriever.encoding.model_files import ModelFiles
from splade_retriever.encoding.session import PROCESSOR, Session, checked_providers
from splade_retriever.errors import ModelGraphError

__all__ = ["open_session"]

logger = logging.getLogger(__name__)


def open_session(
    files: ModelFiles,
    *,
    precision: Precision,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Session:
    """Open the session of a model; the graph of a published one is rewritten once before.

    Args:
        files: The model's files; the ONNX file is downloaded if that was left for later.
        precision: "fp32" or "int8".
        threads: Calls that the caller will run at once; None means one per core.
        providers: ONNX Runtime execution providers, used exactly as given.

    Raises:
        InputError: If `threads` or `providers` are not valid.
        ModelFilesError: If a file is missing and could not be downloaded.
        ModelGraphError: If the ONNX file cannot be opened or quantised.
    """
    chosen = checked_providers(providers)
    card, source = files.card, files.onnx_file()
    if not (files.folder.finished and precision == card.precision):
        source = _pooled(source, files, precision, screened=chosen == [PROCESSOR])
    return Session(source, threads=threads, providers=chosen, activation=card.activation)


def _pooled(source: Path, files: ModelFiles, precision: Precision, *, screened: bool) -> Path:
    from splade_retriever.encoding.onnx.pooled_model import pooled_graph

    try:
        # Other devices have no products of 8-bit codes, which screening needs.
        return pooled_graph(source, activation=files.card.activation, precision=precision, screened=screened)
    except ModelGraphError as error:
        if precision == "int8":
            raise
        logger.warning(
            "The graph of model %r cannot be pooled inside (%s). It is pooled outside, which returns the "
            "same numbers and needs more memory and time.",
            files.card.model,
            error,
        )
        return source
