"""SPLADE for Haystack: a document store with its retriever, and sparse embedders for other stores.

SpladeDocumentStore     stores documents in a `SpladeIndex`
SpladeRetriever         finds documents of that store, in a pipeline
SpladeTextEmbedder      makes the sparse embedding of a query, for QdrantDocumentStore and others
SpladeDocumentEmbedder  makes the sparse embeddings of documents
"""

try:
    from splade_retriever.haystack.document_store import SpladeDocumentStore
    from splade_retriever.haystack.embedders import SpladeDocumentEmbedder, SpladeTextEmbedder
    from splade_retriever.haystack.retriever import SpladeRetriever
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "haystack":
        raise
    from splade_retriever.errors import MissingExtraError

    raise MissingExtraError(
        "splade_retriever.haystack needs haystack-ai, which is not installed. Run: "
        'pip install "splade-retriever[haystack]"'
    ) from error

__all__ = ["SpladeDocumentEmbedder", "SpladeDocumentStore", "SpladeRetriever", "SpladeTextEmbedder"]
