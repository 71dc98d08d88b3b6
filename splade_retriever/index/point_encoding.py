"""Documents -> points: windows, encoding, pruning, payload."""

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.documents import Document, Layout, content_hash, point_id, to_payload
from splade_retriever.index.search_request import to_sparse_vector
from splade_retriever.protocols import DenseEncoder, Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["pruned", "to_points"]


def to_points(
    batch: Sequence[Document],
    memory: CollectionSettings,
    layout: Layout,
    encoder: Encoder,
    dense: DenseEncoder | None,
) -> list[list[models.PointStruct]]:
    """Encode documents into their points.

    1. cut long texts into windows, where the collection has them;
    2. encode all windows of the batch at once, but for documents that bring their vector;
    3. merge windows by maximum, where the collection says so;
    4. prune, and join vectors and payload.

    A text without a single token gets no sparse vector: it can be read, never found.

    Returns:
        The points of each document, in order.

    Raises:
        InputError: If the encoder gives another number of vectors.
        CollectionMismatchError: If the dense encoder is missing or gives vectors of another length.
    """
    encoded_texts = [doc.text if doc.encoded_text is None else doc.encoded_text for doc in batch]
    _check_parts(batch, memory)
    spans = _spans(batch, encoded_texts, memory, encoder)
    texts = [text[start:end] for text, own in zip(encoded_texts, spans, strict=True) for start, end in own]
    ready = [doc.vector for doc, own in zip(batch, spans, strict=True) for _ in own]
    vectors = _vectors(texts, ready, encoder)
    if memory.windows == "merge":
        from splade_retriever.encoding.windows import merged

        vectors = merged(vectors, [len(own) for own in spans])
        spans = [[(0, len(text))] for text in encoded_texts]
        texts = encoded_texts
    dense_vectors = None if memory.dense_name is None else _dense_vectors(texts, memory, dense)
    recipe = memory.recipe()
    points: list[list[models.PointStruct]] = []
    at = 0
    for document, own in zip(batch, spans, strict=True):
        hash = content_hash(document, recipe)
        windows = []
        for n, (start, end) in enumerate(own):
            window = (n, len(own), start, end) if len(own) > 1 else None
            vector: dict[str, Any] = {}
            weights = pruned(vectors[at], memory.max_active_dims, memory.min_weight)
            if len(weights):
                vector[memory.vector_name] = to_sparse_vector(weights)
            if dense_vectors is not None and memory.dense_name is not None:
                vector[memory.dense_name] = [float(value) for value in dense_vectors[at]]
            payload = to_payload(document, layout, hash, window)
            windows.append(
                models.PointStruct(id=point_id(document.id, layout, n), payload=payload, vector=vector)
            )
            at += 1
        points.append(windows)
    return points


def _check_parts(batch: Sequence[Document], memory: CollectionSettings) -> None:
    """Refuse what does not fit together with windows.

    Raises:
        InputError: An encoded text of its own, which has no windows that could be shown; or a ready vector of
            a text that may need several.
    """
    for document in batch:
        for name, value in (("encoded_texts", document.encoded_text), ("vectors", document.vector)):
            if value is not None and memory.windows == "points":
                raise InputError(
                    f"document {document.id!r} comes with {name}, but the collection keeps each window of "
                    "a text by itself (windows='points'). Nothing of this batch was written. Leave "
                    f"{name} out, or use a collection with windows='truncate' or 'merge'."
                )


def _spans(
    batch: Sequence[Document], texts: list[str], memory: CollectionSettings, encoder: Encoder
) -> list[list[tuple[int, int]]]:
    whole = [[(0, len(text))] for text in texts]
    if memory.windows == "truncate":
        return whole
    from splade_retriever.encoding.windows import spans_of

    spans = spans_of(texts, encoder, overlap=memory.window_overlap)
    return [
        all_of_it if doc.vector is not None else own
        for doc, all_of_it, own in zip(batch, whole, spans, strict=True)
    ]


def _vectors(
    texts: list[str], ready: list[SparseEmbedding | None], encoder: Encoder
) -> list[SparseEmbedding]:
    """Encode the texts that have no vector yet."""
    missing = [text for text, vector in zip(texts, ready, strict=True) if vector is None]
    encoded = list(encoder.passage_embed(missing)) if missing else []
    if len(encoded) != len(missing):
        raise InputError(
            f"the model gave {len(encoded)} vectors for {len(missing)} texts, expected one a text. Nothing "
            "of this batch was written; mend the encoder."
        )
    news = iter(encoded)
    return [next(news) if vector is None else vector for vector in ready]


def _dense_vectors(
    texts: list[str], memory: CollectionSettings, dense: DenseEncoder | None
) -> Sequence[Sequence[float]]:
    if dense is None:
        raise CollectionMismatchError(
            f"the collection has dense vectors {memory.dense_name!r}, but no dense= is given to encode new "
            "documents. Nothing was written. Open it with its dense encoder."
        )
    vectors = dense.embed_documents(texts)
    sizes = sorted({len(vector) for vector in vectors})
    if len(vectors) != len(texts) or sizes != [memory.dense_size]:
        raise CollectionMismatchError(
            f"the dense encoder gave {len(vectors)} vectors of lengths {sizes}, expected {len(texts)} of "
            f"{memory.dense_size}. Nothing of this batch was written. Use the collection's dense encoder."
        )
    return vectors


def pruned(embedding: SparseEmbedding, most: int | None, min_weight: float = 0.0) -> SparseEmbedding:
    """Leave out weights below `min_weight`, then keep the `most` heaviest (None: all)."""
    if min_weight > 0.0:
        kept = embedding.values >= min_weight
        embedding = SparseEmbedding(values=embedding.values[kept], indices=embedding.indices[kept])
    return embedding if most is None or len(embedding) <= most else embedding.top(most)
