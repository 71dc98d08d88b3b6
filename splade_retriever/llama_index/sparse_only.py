"""SparseOnly: an embedding model that makes no embeddings."""

from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["SparseOnly"]


class SparseOnly(BaseEmbedding):
    """Tells LlamaIndex to use no dense embeddings; without an `embed_model` it uses OpenAI's.

    Pass it to `VectorStoreIndex.from_vector_store(store, embed_model=SparseOnly())`, or set
    `Settings.embed_model = SparseOnly()` for all indexes. Its embeddings are empty, so a store of dense
    vectors refuses them.
    """

    model_name: str = "sparse-only"

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialised form."""
        return "SparseOnly"

    def _get_query_embedding(self, query: str) -> list[float]:
        return []

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return []

    def _get_text_embedding(self, text: str) -> list[float]:
        return []

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return []
