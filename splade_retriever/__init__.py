"""SPLADE retrieval for LangChain and LlamaIndex: offline, explained, from a laptop to a cluster."""

import os as _os
from typing import TYPE_CHECKING

# ONNX Runtime reads this at its first import, which qdrant-client may do before this package. Without it,
# ONNX Runtime 1.32 stores a device id under the home folder and sends usage events.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = [
    "Bm25Embedding",
    "EdgeClient",
    "EdgeProcess",
    "Explanation",
    "Fusion",
    "Hit",
    "QueryControls",
    "RetrieverConfig",
    "SparseEmbedding",
    "SparseTextEmbedding",
    "SpladeError",
    "SpladeIndex",
    "SpladeQuery",
    "__version__",
    "evaluate",
    "migrate",
    "reindex",
]

if TYPE_CHECKING:
    from splade_retriever.config import RetrieverConfig
    from splade_retriever.edge.client import EdgeClient
    from splade_retriever.edge.process import EdgeProcess
    from splade_retriever.encoding.bm25 import Bm25Embedding
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding
    from splade_retriever.errors import SpladeError
    from splade_retriever.evaluation.evaluate import evaluate
    from splade_retriever.explanation import Explanation
    from splade_retriever.index.search_request import Fusion
    from splade_retriever.index.splade_index import Hit, SpladeIndex
    from splade_retriever.index.splade_query import QueryControls, SpladeQuery
    from splade_retriever.maintenance.migrate import migrate
    from splade_retriever.maintenance.reindex import reindex
    from splade_retriever.sparse import SparseEmbedding

_MODULE_OF = {
    "Bm25Embedding": "encoding.bm25",
    "EdgeClient": "edge.client",
    "EdgeProcess": "edge.process",
    "Explanation": "explanation",
    "Fusion": "index.search_request",
    "Hit": "index.splade_index",
    "QueryControls": "index.splade_query",
    "RetrieverConfig": "config",
    "SparseEmbedding": "sparse",
    "SparseTextEmbedding": "encoding.text_embedding",
    "SpladeError": "errors",
    "SpladeIndex": "index.splade_index",
    "SpladeQuery": "index.splade_query",
    "evaluate": "evaluation.evaluate",
    "migrate": "maintenance.migrate",
    "reindex": "maintenance.reindex",
}


def __getattr__(name: str) -> object:
    # PEP 562: a public name is imported when it is first used, so importing the package is fast.
    if name in _MODULE_OF:
        from importlib import import_module

        return getattr(import_module(f"splade_retriever.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'splade_retriever' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
