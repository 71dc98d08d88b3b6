"""SPLADE for LlamaIndex: sparse-only and hybrid retrieval without a dense model or an API key.

SpladeRetriever        returns nodes for a query
SpladeVectorStore      stores nodes without dense embeddings; nodes come back equal
SpladeRerank           sorts the nodes of any retriever
SpladeSparseEmbedding  a sparse embedding, and a step of an `IngestionPipeline`
sparse_encoders        a pair of functions for LlamaIndex's `QdrantVectorStore`
create_tools           tools for an agent: search, get, explain, why_not
SparseOnly             an `embed_model` for `VectorStoreIndex` that makes no dense embeddings
"""

try:
    from splade_retriever.llama_index.reranker import SpladeRerank
    from splade_retriever.llama_index.retriever import SpladeRetriever
    from splade_retriever.llama_index.sparse_embedding import SpladeSparseEmbedding, sparse_encoders
    from splade_retriever.llama_index.sparse_only import SparseOnly
    from splade_retriever.llama_index.tools import create_tools
    from splade_retriever.llama_index.vector_store import SpladeVectorStore
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    from splade_retriever.errors import MissingExtraError

    raise MissingExtraError(
        "splade_retriever.llama_index needs llama-index-core, which is not installed. "
        'Run: pip install "splade-retriever[llama-index]"'
    ) from error

__all__ = [
    "SparseOnly",
    "SpladeRerank",
    "SpladeRetriever",
    "SpladeSparseEmbedding",
    "SpladeVectorStore",
    "create_tools",
    "sparse_encoders",
]
