"""SPLADE for LlamaIndex: sparse-only retrieval, and hybrid, without a dense model or a key.

A node goes in and comes out equal; what carries it is `splade_retriever.index.splade_index.SpladeIndex`:

    nodes.py       nodes <-> documents of an index
    filters.py     MetadataFilters -> filters of an index
    embedding.py   SpladeSparseEmbedding, sparse_encoders, SparseOnly
    store.py       SpladeVectorStore
    retriever.py   SpladeRetriever
    rerank.py      SpladeRerank
"""

try:
    from splade_retriever.llama_index.embedding import SparseOnly, SpladeSparseEmbedding, sparse_encoders
    from splade_retriever.llama_index.rerank import SpladeRerank
    from splade_retriever.llama_index.retriever import SpladeRetriever
    from splade_retriever.llama_index.store import SpladeVectorStore
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
    "sparse_encoders",
]
