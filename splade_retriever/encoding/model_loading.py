"""From a `model` argument (an encoder, a name, a folder or None) to an encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from splade_retriever.encoding.bm25 import BM25_MODEL, Bm25Embedding
from splade_retriever.errors import InputError
from splade_retriever.protocols import Encoder
from splade_retriever.validation import type_name

__all__ = ["ModelArgument", "check_model_argument", "check_plain_weights", "load_encoder"]

ModelArgument: TypeAlias = Encoder | str | os.PathLike[str] | None
"""An encoder, the name of a model, the path of a model folder, or None for the bundled model."""


def load_encoder(
    model: ModelArgument = None, *, lazy_load: bool = True, settings: Mapping[str, Any] | None = None
) -> Encoder:
    """Return the encoder that a `model` argument names or is.

    Args:
        model: An encoder, which is returned unchanged; a model's name, or "Qdrant/bm25"; the path of a model
            folder or archive; or None for the bundled model.
        lazy_load: Open the ONNX session of a named model when its first text is encoded.
        settings: More arguments of `SparseTextEmbedding` for a named model, such as `precision`; an argument
            that is None counts as not passed.

    Raises:
        InputError: If `model` or `settings` has another type, or `settings` are passed with an encoder.
        SpladeError: What `SparseTextEmbedding` raises.
    """
    check_model_argument(model)
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(
            f"settings is {type_name(settings)}, expected a dict of arguments of SparseTextEmbedding, such "
            f"as {{'threads': 2}}."
        )
    passed = {name: value for name, value in (settings or {}).items() if value is not None}
    if model is None or isinstance(model, str | os.PathLike):
        if isinstance(model, str) and model.lower() == BM25_MODEL.lower():
            return _bm25(passed)
        from splade_retriever.encoding.text_embedding import SparseTextEmbedding

        return SparseTextEmbedding(model, **{"lazy_load": lazy_load, **passed})
    if passed:
        raise InputError(
            f"{', '.join(f'{name}={value!r}' for name, value in passed.items())} cannot be applied to a "
            f"{type(model).__name__}, which has settings already. Leave it out, or pass the model's name."
        )
    return model


def check_plain_weights(encoder: Encoder, use: str) -> None:
    """Check that an encoder's vectors can be multiplied without an engine.

    Args:
        encoder: The encoder.
        use: What multiplies them, for the message.

    Raises:
        InputError: If the engine has a part in their weights, as the inverse document frequency of BM25.
    """
    modifier = encoder.fingerprint.get("modifier")
    if modifier is not None:
        raise InputError(
            f"{use} multiplies vectors without an engine, and those of {encoder.fingerprint.get('model')} "
            f"need the engine's modifier {modifier!r}. Pass a SPLADE model."
        )


def _bm25(settings: Mapping[str, Any]) -> Encoder:
    settings = {name: value for name, value in settings.items() if name != "local_files_only"}  # has no files
    if settings:
        raise InputError(
            f"{', '.join(f'{name}={value!r}' for name, value in settings.items())} cannot be applied to "
            f"{BM25_MODEL}, which has no network. Leave it out, or pass Bm25Embedding(...) with its "
            f"parameters."
        )
    return Bm25Embedding()


def check_model_argument(model: object) -> None:
    """Check the type of a `model` argument without opening it.

    Raises:
        InputError: If it is not an encoder, a str, a path or None.
    """
    if model is None or isinstance(model, str | os.PathLike):
        return
    if isinstance(model, Encoder) and not isinstance(model, type):
        return
    kind = f"the class {model.__name__}" if isinstance(model, type) else f"{type_name(model)}"
    raise InputError(
        f"model is {kind}, expected a model's name, the path of a model folder, or an encoder with "
        f"fingerprint, passage_embed and query_embed, such as SparseTextEmbedding()."
    )
