"""The sparse encoder that an adapter was given, or that was named."""

from typing import TypeVar

from splade_retriever.errors import InputError
from splade_retriever.protocols import Encoder

__all__ = ["checked_model", "opened_encoder"]

T = TypeVar("T")


def checked_model(model: T) -> T:
    """Give what may stand for an encoder: one of its own kind, a model's name, or None.

    Raises:
        InputError: It is something else.
    """
    if model is not None and not isinstance(model, str | Encoder):
        raise InputError(
            f"model is a {type(model).__name__}, expected a model's name, or an encoder with fingerprint, "
            "passage_embed and query_embed, such as SparseTextEmbedding."
        )
    return model


def opened_encoder(model: Encoder | str | None) -> Encoder:
    """Give an encoder as it is, or open the one of that name (None: the bundled model).

    Raises:
        InputError: It is neither an encoder nor a name.
        UnknownModelError: There is no such model.
        ModelFilesError: Its files are not here and could not be had.
    """
    model = checked_model(model)
    if model is None or isinstance(model, str):
        from splade_retriever.encoding.text_embedding import SparseTextEmbedding

        return SparseTextEmbedding(model)
    return model
