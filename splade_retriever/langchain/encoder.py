"""The sparse encoder that an adapter was given, or that was named."""

from splade_retriever.seams import Encoder

__all__ = ["opened_encoder"]


def opened_encoder(model: Encoder | str | None) -> Encoder:
    """Give an encoder as it is, or open the one of that name (None: the bundled model).

    Raises:
        UnknownModelError: There is no such model.
        ModelFilesError: Its files are not here and could not be had.
    """
    if model is None or isinstance(model, str):
        from splade_retriever.encoder import SparseTextEmbedding

        return SparseTextEmbedding(model)
    return model
