"""SPLADE for LangChain: a retriever, a vector store, a reranker, and sparse embeddings for langchain-qdrant.

SpladeRetriever         documents for a query; drops into any chain
SpladeVectorStore       the full vector store: add, delete, filters, MMR, hybrid
SpladeReranker          reorders what any retriever found
SpladeSparseEmbeddings  the sparse side of langchain-qdrant's own `QdrantVectorStore`
SpladeTranslator        what `SelfQueryRetriever` needs of a vector store
"""

from typing import TYPE_CHECKING

from splade_retriever.errors import MissingExtraError

try:
    import langchain_core  # noqa: F401 - asked for here, so that its absence is told in one place
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "splade_retriever.langchain needs langchain-core, which is not installed. Run: "
        'pip install "splade-retriever[langchain]"'
    ) from error

from splade_retriever.langchain.documents import METADATA_KEY
from splade_retriever.langchain.filters import SpladeTranslator
from splade_retriever.langchain.reranker import SpladeReranker
from splade_retriever.langchain.retriever import SpladeRetriever
from splade_retriever.langchain.store import SpladeVectorStore

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
