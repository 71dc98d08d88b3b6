"""Documents -> points: windows, encoding, pruning, payload."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from splade_retriever.encoding.windows import embed_complete_texts, merged, spans_of
from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.documents import Document
from splade_retriever.index.payload import ContentHasher, Layout, point_id, to_payload
from splade_retriever.index.points import Point
from splade_retriever.protocols import DenseEncoder, Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Encoders", "prune", "to_points"]


@dataclass(frozen=True, slots=True)
class Encoders:
    """What makes the vectors of a collection."""

    sparse: Encoder
    dense: DenseEncoder | None = None
    second: Encoder | None = None
    """The second sparse encoder."""


def to_points(
    batch: Sequence[Document], settings: CollectionSettings, layout: Layout, encoders: Encoders
) -> list[list[Point]]:
    """Encode documents into their points.

    1. cut long texts into windows, where the collection has them;
    2. encode all windows of the batch at once, except for documents that come with a vector;
    3. merge windows by maximum, where the collection says so;
    4. encode with the second model and the dense encoder, where the collection has their vectors;
    5. prune the vectors of the model, and join vectors and payload.

    A text without a single token gets no sparse vector: it can be read, never found.

    Returns:
        The points of each document, in order.

    Raises:
        InputError: The encoder returns another number of vectors.
        CollectionMismatchError: The dense encoder is missing or returns vectors of another length.
    """
    _check_parts(batch, settings)
    encoded_texts = [doc.text if doc.encoded_text is None else doc.encoded_text for doc in batch]
    spans = _spans(batch, encoded_texts, settings, encoders.sparse)
    texts = [
        text[start:end] for text, windows in zip(encoded_texts, spans, strict=True) for start, end in windows
    ]
    ready = [doc.vector for doc, windows in zip(batch, spans, strict=True) for _ in windows]
    vectors = _sparse_vectors(texts, ready, encoders.sparse)
    if settings.windows == "merge":
        vectors = merged(vectors, [len(windows) for windows in spans])
        spans = [[(0, len(text))] for text in encoded_texts]
        texts = encoded_texts
    second = None if settings.second_name is None else _second_vectors(texts, settings, encoders.second)
    dense = None if settings.dense_name is None else _dense_vectors(texts, settings, encoders.dense)
    hasher = ContentHasher(settings.recipe())
    points: list[list[Point]] = []
    position = 0
    for document, windows in zip(batch, spans, strict=True):
        with_vector, text_hash = hasher.hashes(document)
        hashes = (text_hash, None) if with_vector is None else (with_vector, text_hash)
        points.append([])
        for n, (start, end) in enumerate(windows):
            window = (n, len(windows), start, end) if len(windows) > 1 else None
            named = _named_vectors(
                settings,
                vectors[position],
                second=None if second is None else second[position],
                dense=None if dense is None else dense[position],
            )
            points[-1].append(
                Point(
                    id=point_id(document.key, layout, n),
                    payload=to_payload(document, layout, hashes[0], window, text_hash=hashes[1]),
                    vector=named,
                )
            )
            position += 1
    return points


def prune(
    embedding: SparseEmbedding, max_active_dims: int | None, min_weight: float = 0.0
) -> SparseEmbedding:
    """Leave out weights below `min_weight`, then keep the `max_active_dims` heaviest (None: all)."""
    if min_weight > 0.0:
        kept = embedding.values >= min_weight
        embedding = SparseEmbedding(values=embedding.values[kept], indices=embedding.indices[kept])
    if max_active_dims is None or len(embedding) <= max_active_dims:
        return embedding
    return embedding.top(max_active_dims)


def _check_parts(batch: Sequence[Document], settings: CollectionSettings) -> None:
    """Refuse what does not fit together with `windows="points"`.

    Raises:
        InputError: A document comes with another text to encode, which has no windows that could be shown; or
            with a vector, although its text may need several.
    """
    for document in batch:
        for name, value in (("encoded_texts", document.encoded_text), ("vectors", document.vector)):
            if value is not None and settings.windows == "points":
                raise InputError(
                    f"Document {document.id!r} comes with {name}, but the collection stores each window of a "
                    "text as a point (windows='points'). Nothing of this batch was written. Leave "
                    f"{name} out, or use a collection with windows='truncate' or 'merge'."
                )


def _spans(
    batch: Sequence[Document], texts: list[str], settings: CollectionSettings, encoder: Encoder
) -> list[list[tuple[int, int]]]:
    complete = [[(0, len(text))] for text in texts]
    if settings.windows == "truncate":
        return complete
    spans = spans_of(texts, encoder, overlap=settings.window_overlap)
    return [
        one_window if doc.vector is not None else windows
        for doc, one_window, windows in zip(batch, complete, spans, strict=True)
    ]


def _sparse_vectors(
    texts: list[str], ready: list[SparseEmbedding | None], encoder: Encoder
) -> list[SparseEmbedding]:
    """Encode the texts that have no vector yet."""
    missing = [text for text, vector in zip(texts, ready, strict=True) if vector is None]
    encoded = list(encoder.passage_embed(missing)) if missing else []
    _check_count(encoded, missing)
    remaining = iter(encoded)
    return [next(remaining) if vector is None else vector for vector in ready]


def _second_vectors(
    texts: list[str], settings: CollectionSettings, encoder: Encoder | None
) -> list[SparseEmbedding]:
    """Encode by the second model, texts of collections with windows completely."""
    if encoder is None:
        raise CollectionMismatchError(
            f"The collection has vectors {settings.second_name!r} of a second model, but no second_model= is "
            "passed to encode new documents. Nothing was written. Open it with SpladeIndex, which loads it."
        )
    if settings.windows == "merge":
        vectors = embed_complete_texts(texts, encoder, overlap=settings.window_overlap)
    else:
        vectors = list(encoder.passage_embed(texts))
    _check_count(vectors, texts)
    return vectors


def _check_count(vectors: Sequence[SparseEmbedding], texts: Sequence[str]) -> None:
    if len(vectors) != len(texts):
        raise InputError(
            f"The model returned {len(vectors)} vectors for {len(texts)} texts, expected one per text. "
            "Nothing of this batch was written. Fix the encoder."
        )


def _dense_vectors(
    texts: list[str], settings: CollectionSettings, dense: DenseEncoder | None
) -> Sequence[Sequence[float]]:
    if dense is None:
        raise CollectionMismatchError(
            f"The collection has dense vectors {settings.dense_name!r}, but no dense= is passed to encode "
            "new documents. Nothing was written. Open it with its dense encoder."
        )
    vectors = dense.embed_documents(texts)
    sizes = sorted({len(vector) for vector in vectors})
    if len(vectors) != len(texts) or sizes != [settings.dense_size]:
        raise CollectionMismatchError(
            f"The dense encoder returned {len(vectors)} vectors of lengths {sizes}, expected {len(texts)} of "
            f"{settings.dense_size}. Nothing of this batch was written. Use the collection's dense encoder."
        )
    return vectors


def _named_vectors(
    settings: CollectionSettings,
    sparse: SparseEmbedding,
    *,
    second: SparseEmbedding | None,
    dense: Sequence[float] | None,
) -> dict[str, Any]:
    vectors: dict[str, Any] = {}
    weights = prune(sparse, settings.max_active_dims, settings.min_weight)
    if len(weights):
        vectors[settings.vector_name] = weights
    if second and settings.second_name is not None:
        vectors[settings.second_name] = second
    if dense is not None and settings.dense_name is not None:
        vectors[settings.dense_name] = [float(value) for value in dense]
    return vectors
