"""Splits long documents into overlapping windows that the model can read, and merges their vectors."""

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np

from splade_retriever.encoding.tokenizer import checked_texts
from splade_retriever.errors import InputError
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["WindowTokenizer", "embed_complete_texts", "merged", "spans_of"]

DEFAULT_OVERLAP: Final = 32
"""Tokens that neighbouring windows share, unless set otherwise."""
_MAX_PIECE = 1 << 18
"""A window has at most twice this many characters, however few tokens they have."""
_CHARACTERS_PER_TOKEN = 8
"""This much text per token nearly always fills a window; if not, it is doubled."""


class _Encoding(Protocol):
    @property
    def offsets(self) -> Sequence[tuple[int, int]]: ...

    @property
    def truncated(self) -> int: ...


@runtime_checkable
class WindowTokenizer(Protocol):
    """The part of an encoder's `tokenizer` that splitting needs."""

    @property
    def max_length(self) -> int:
        """Tokens per text that the model reads, special ones included."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> Sequence[_Encoding]:
        """Tokenise, truncate to `max_length` and count the truncated tokens."""
        ...


def embed_complete_texts(
    texts: Sequence[str], encoder: Encoder, *, overlap: int = DEFAULT_OVERLAP
) -> list[SparseEmbedding]:
    """Encode documents of any length, one vector per text, in order.

    A text that is longer than the model reads is encoded in windows, whose vectors are merged by maximum. An
    encoder without a tokenizer gets every text as it is.

    Raises:
        InputError: If `texts` is no list of texts; the message states the position of what is no text.
    """
    texts = checked_texts(texts)
    if not isinstance(getattr(encoder, "tokenizer", None), WindowTokenizer):
        return list(encoder.passage_embed(texts))
    spans = spans_of(texts, encoder, overlap=overlap)
    pieces = [text[start:end] for text, windows in zip(texts, spans, strict=True) for start, end in windows]
    return merged(list(encoder.passage_embed(pieces)), [len(windows) for windows in spans])


def spans_of(texts: Sequence[str], encoder: object, *, overlap: int) -> list[list[tuple[int, int]]]:
    """Split texts into windows of as many tokens as the model reads.

    A window ends between two words if its second half has a space, and the next begins about `overlap`
    tokens before that. Together the windows cover the text without a gap.

    Args:
        texts: The documents.
        encoder: An encoder with a `tokenizer` (`WindowTokenizer`).
        overlap: Tokens that neighbouring windows share; at most half a window.

    Returns:
        The windows of each text as (start, end) in characters; one window for a text that fits.

    Raises:
        InputError: If the encoder has no tokenizer.
    """
    tokenizer = getattr(encoder, "tokenizer", None)
    if not isinstance(tokenizer, WindowTokenizer):
        raise InputError(
            f"Encoder {type(encoder).__name__} has no tokenizer, which windows need. "
            "Use SparseTextEmbedding, or windows='truncate'."
        )
    size = tokenizer.max_length * _CHARACTERS_PER_TOKEN
    first = tokenizer.encode_batch([text[:size] for text in texts])
    return [
        [(0, len(text))]
        if not encoding.truncated and len(text) <= size
        else _windows(text, tokenizer, size, overlap)
        for text, encoding in zip(texts, first, strict=True)
    ]


def _windows(text: str, tokenizer: WindowTokenizer, size: int, overlap: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = 0
    while True:
        end, following = _next_window(text, start, tokenizer, size, overlap)
        spans.append((start, end))
        if end == len(text):
            return spans
        start = following


def _next_window(
    text: str, start: int, tokenizer: WindowTokenizer, size: int, overlap: int
) -> tuple[int, int]:
    """Return the end of the window that begins at `start`, and the start of the next window."""
    while True:
        piece = text[start : start + size]
        (encoding,) = tokenizer.encode_batch([piece])
        if encoding.truncated:
            break
        if start + len(piece) == len(text):
            return len(text), len(text)
        if size >= _MAX_PIECE:
            return start + len(piece), start + len(piece)
        size *= 2  # few tokens in many characters, such as a long run of spaces
    tokens = [span for span in encoding.offsets if span[1] > span[0]]
    half = len(tokens) // 2
    # The last token before a space, so that no word is split and its tokens do not change.
    last = next(
        (n for n in range(len(tokens) - 1, half, -1) if piece[tokens[n][1] : tokens[n][1] + 1].isspace()),
        len(tokens) - 1,
    )
    end = start + tokens[last][1]
    if overlap == 0 or last == 0:
        return end, end
    shared = max(1, last + 1 - min(overlap, half))
    begin = next(
        (n for n in range(shared, last + 1) if piece[tokens[n][0] - 1 : tokens[n][0]].isspace()), shared
    )
    return end, start + tokens[begin][0]


def merged(vectors: Sequence[SparseEmbedding], counts: Sequence[int]) -> list[SparseEmbedding]:
    """Merge the windows of each document by the maximum of each weight.

    SPLADE pools by the maximum over tokens, which equals the maximum over windows of their maxima.

    Args:
        vectors: The windows of all documents, in order.
        counts: The number of windows of each document.
    """
    documents = []
    start = 0
    for count in counts:
        parts = vectors[start : start + count]
        start += count
        if count == 1:
            documents.append(parts[0])
            continue
        indices, places = np.unique(np.concatenate([part.indices for part in parts]), return_inverse=True)
        values = np.zeros(len(indices), dtype=np.float32)
        np.maximum.at(values, places, np.concatenate([part.values for part in parts]))
        documents.append(SparseEmbedding(values=values, indices=indices))
    return documents
