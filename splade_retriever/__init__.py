"""SPLADE retrieval for LangChain and LlamaIndex: offline, explained, from a laptop to a cluster."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Hit",
    "RetrieverConfig",
    "SparseEmbedding",
    "SparseTextEmbedding",
    "SpladeError",
    "SpladeIndex",
    "__version__",
]

if TYPE_CHECKING:
    from splade_retriever.config import RetrieverConfig
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding
    from splade_retriever.errors import SpladeError
    from splade_retriever.index.splade_index import Hit, SpladeIndex
    from splade_retriever.sparse import SparseEmbedding

_HOME = {
    "Hit": "index.splade_index",
    "RetrieverConfig": "config",
    "SparseEmbedding": "sparse",
    "SparseTextEmbedding": "encoding.text_embedding",
    "SpladeError": "errors",
    "SpladeIndex": "index.splade_index",
}


def __getattr__(name: str) -> object:
    # PEP 562: a public name is imported when first used, so importing the package costs nothing.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"splade_retriever.{_HOME[name]}"), name)
    raise AttributeError(f"module 'splade_retriever' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
