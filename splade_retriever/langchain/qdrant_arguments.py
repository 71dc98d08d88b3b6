"""Arguments of langchain-qdrant's `QdrantVectorStore` -> those of an index."""

from typing import Any
from urllib.parse import urlsplit

from langchain_core.embeddings import Embeddings

from splade_retriever.encoding.model_loading import ModelArgument
from splade_retriever.errors import InputError
from splade_retriever.index.payload import Layout
from splade_retriever.validation import checked_int, type_name

__all__ = ["dense_for_mode", "existing_layout", "location_of", "model_of"]


def location_of(
    *,
    location: str | None,
    url: str | None,
    path: str | None,
    host: str | None,
    port: int | None,
    https: bool | None,
    prefix: str | None,
    has_key: bool,
) -> str:
    """Return the one place that is named, as a folder, a URL or ":memory:".

    Args:
        location: A URL or ":memory:".
        url: A URL; without a port it means `port`, as in qdrant-client.
        path: A folder.
        host: The host of a server.
        port: Its port.
        https: Whether to use https with `host`; None to use it with a key, as qdrant-client does.
        prefix: The path of the server behind its host.
        has_key: Whether an API key is passed.

    Raises:
        InputError: If not exactly one of location, url, path and host is passed.
    """
    named = [value for value in (location, url, path, host) if value is not None]
    if len(named) != 1:
        raise InputError(
            f"{len(named)} of location=, url=, path=, host= and client= are passed, expected exactly one."
        )
    port = checked_int("port", port, minimum=1, optional=True)
    if path is not None:
        return path
    place = location if url is None else url
    if place == ":memory:":
        return place
    if place is None:
        uses_https = has_key if https is None else https
        place = f"{'https' if uses_https else 'http'}://{host}"
    parts = urlsplit(place)
    if port is not None and parts.netloc and ":" not in parts.netloc.rpartition("]")[2]:
        parts = parts._replace(netloc=f"{parts.netloc}:{port}")
    return f"{parts.geturl().rstrip('/')}/{prefix.strip('/')}" if prefix else parts.geturl()


def existing_layout(content_payload_key: str, metadata_payload_key: str) -> Layout | None:
    """Return the layout of a collection whose payload has these keys; None for the usual ones.

    A collection with the usual keys may also be one of LlamaIndex or Haystack, which is recognised.
    """
    layout = Layout(content_payload_key, metadata_payload_key, native_ids=True)
    return None if layout == Layout(native_ids=True) else layout


def model_of(model: ModelArgument, sparse_embedding: object) -> ModelArgument:
    """Return the sparse encoder.

    Raises:
        InputError: If there is none, or it is one that another package made.
    """
    found = getattr(sparse_embedding, "model", None) if model is None else model
    if found is None or (model is None and not hasattr(found, "fingerprint")):
        passed = (
            "" if sparse_embedding is None else f", and sparse_embedding is {type_name(sparse_embedding)}"
        )
        raise InputError(
            f"No model is passed{passed}. Pass model= with the name of the model that made the sparse "
            "vectors, which such a collection does not store, or sparse_embedding=SpladeSparseEmbeddings()."
        )
    return found


def dense_for_mode(embedding: Embeddings | None, retrieval_mode: Any) -> Embeddings | None:
    """Return the dense encoder that a retrieval mode searches with.

    Raises:
        InputError: If the mode needs an encoder that is not passed, or does not search by SPLADE.
    """
    mode = getattr(retrieval_mode, "value", retrieval_mode)
    if mode not in (None, "sparse", "hybrid"):
        raise InputError(
            f"retrieval_mode is {mode!r}, expected 'sparse' or 'hybrid'. A store of both is searched by "
            "dense vectors alone with similarity_search(query, mode='dense')."
        )
    if mode == "hybrid" and embedding is None:
        raise InputError("retrieval_mode is 'hybrid' and embedding is None. Pass the dense encoder.")
    return None if mode == "sparse" else embedding
