"""SPLADE for LangChain: a retriever, a vector store, a reranker, and sparse embeddings for langchain-qdrant.

SpladeRetriever         returns documents for a query, in any chain
SpladeVectorStore       the complete vector store: add, delete, filters, MMR, hybrid
SpladeReranker          sorts the documents of any retriever
SpladeSparseEmbeddings  a sparse encoder for langchain-qdrant's `QdrantVectorStore`
SpladeTranslator        translates the filters of `SelfQueryRetriever`
create_tools            tools for an agent: search, get, explain, why_not
"""

from typing import TYPE_CHECKING

try:
    from splade_retriever.index.hit_report import METADATA_KEY
    from splade_retriever.langchain.filters import SpladeTranslator
    from splade_retriever.langchain.reranker import SpladeReranker
    from splade_retriever.langchain.retriever import SpladeRetriever
    from splade_retriever.langchain.tools import create_tools
    from splade_retriever.langchain.vector_store import SpladeVectorStore
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    from splade_retriever.errors import MissingExtraError

    raise MissingExtraError(
        "splade_retriever.langchain needs langchain-core, which is not installed. Run: "
        'pip install "splade-retriever[langchain]"'
    ) from error

if TYPE_CHECKING:
    from splade_retriever.langchain.sparse_embeddings import SpladeSparseEmbeddings

__all__ = [
    "METADATA_KEY",
    "SpladeReranker",
    "SpladeRetriever",
    "SpladeSparseEmbeddings",
    "SpladeTranslator",
    "SpladeVectorStore",
    "create_tools",
]


def __getattr__(name: str) -> object:
    # Only the sparse embeddings need langchain-qdrant; everything else works without it.
    if name == "SpladeSparseEmbeddings":
        from splade_retriever.langchain.sparse_embeddings import SpladeSparseEmbeddings

        return SpladeSparseEmbeddings
    raise AttributeError(f"module 'splade_retriever.langchain' has no attribute {name!r}")
