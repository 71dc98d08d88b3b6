"""SpladeSparseEmbeddings: a sparse encoder for langchain-qdrant's `QdrantVectorStore`."""

import asyncio

from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import MissingExtraError
from splade_retriever.sparse import SparseEmbedding

try:
    from langchain_qdrant import SparseEmbeddings, SparseVector
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "SpladeSparseEmbeddings needs langchain-qdrant, which is not installed. Run: "
        'pip install "splade-retriever[langchain]"'
    ) from error

__all__ = ["SpladeSparseEmbeddings"]


class SpladeSparseEmbeddings(SparseEmbeddings):
    """Encodes for `QdrantVectorStore(sparse_embedding=...)`, in SPARSE and in HYBRID mode.

    The vectors are those of `SparseTextEmbedding`; queries are encoded as queries. A document that is longer
    than the model reads is encoded in windows, whose vectors are merged. Threads can share one object.
    """

    def __init__(self, model: ModelArgument = None) -> None:
        """Choose the model; its weights are loaded when the first text is encoded.

        Args:
            model: An encoder, a model's name or folder, or None for the bundled model.

        Raises:
            InputError: If it is neither an encoder nor a name.
            UnknownModelError: If no model has this name.
            ModelFilesError: If its files are not on this machine and could not be downloaded.
        """
        self.model = load_encoder(model)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Encode documents completely, also long ones, one vector per text, in order."""
        return [_sparse_vector(vector) for vector in embed_complete_texts(texts, self.model)]

    def embed_query(self, text: str) -> SparseVector:
        """Encode one query."""
        (vector,) = self.model.query_embed([text])
        return _sparse_vector(vector)

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Async version of `embed_documents`; encodes in a worker thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> SparseVector:
        """Async version of `embed_query`; encodes in a worker thread."""
        return await asyncio.to_thread(self.embed_query, text)


def _sparse_vector(embedding: SparseEmbedding) -> SparseVector:
    return SparseVector(indices=embedding.indices.tolist(), values=embedding.values.tolist())
