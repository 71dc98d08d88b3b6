"""SPLADE for LangChain: a retriever, a vector store, a reranker, and sparse embeddings for langchain-qdrant.

SpladeRetriever         documents for a query; drops into any chain
SpladeVectorStore       the full vector store: add, delete, filters, MMR, hybrid
SpladeReranker          reorders what any retriever found
SpladeSparseEmbeddings  the sparse side of langchain-qdrant's own `QdrantVectorStore`
SpladeTranslator        what `SelfQueryRetriever` needs of a vector store
"""

from typing import TYPE_CHECKING

try:
    from splade_retriever.langchain.documents import METADATA_KEY
    from splade_retriever.langchain.filters import SpladeTranslator
    from splade_retriever.langchain.reranker import SpladeReranker
    from splade_retriever.langchain.retriever import SpladeRetriever
    from splade_retriever.langchain.store import SpladeVectorStore
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    from splade_retriever.errors import MissingExtraError

    raise MissingExtraError(
        "splade_retriever.langchain needs langchain-core, which is not installed. Run: "
        'pip install "splade-retriever[langchain]"'
    ) from error

if TYPE_CHECKING:
    from splade_retriever.langchain.sparse import SpladeSparseEmbeddings

__all__ = [
    "METADATA_KEY",
    "SpladeReranker",
    "SpladeRetriever",
    "SpladeSparseEmbeddings",
    "SpladeTranslator",
    "SpladeVectorStore",
]


def __getattr__(name: str) -> object:
    # Only the sparse embeddings need langchain-qdrant; everything else works without it.
    if name == "SpladeSparseEmbeddings":
        from splade_retriever.langchain.sparse import SpladeSparseEmbeddings

        return SpladeSparseEmbeddings
    raise AttributeError(f"module 'splade_retriever.langchain' has no attribute {name!r}")
