"""Cuts texts into passages of a limited number of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from splade_retriever.encoding.windows import WindowTokenizer, spans_of
from splade_retriever.errors import InputError

__all__ = ["Splitter"]

_MIN_TOKENS: Final = 16
_MAX_TOKENIZED: Final = 65_536
"""Characters of a text that are tokenised at once, since a tokenizer needs some 250 bytes for each. A longer
piece is cut without being counted."""
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE: Final = re.compile(r"(?<=[.!?…])[\"')\]”’»]*\s+|(?<=[。！？])\s*")  # noqa: RUF001 - ends of sentences in Chinese

_Span = tuple[int, int]
"""Start and end of a part of a text, in characters."""


class Splitter:
    """Cuts texts into passages of at most `max_tokens` tokens.

    Cuts are made between paragraphs. A paragraph that is too long is cut between sentences, a sentence that
    is too long between words. The passages of one text have about the same length, and only white space is
    lost.

    Attributes:
        max_length: Tokens that the model reads, special ones included.
        max_tokens: Maximum number of tokens in a passage, special ones included.
        special_tokens: Number of special tokens that the model adds to a text.

    Args:
        tokenizer: The tokenizer of the model.
        max_tokens: As the attribute.

    Raises:
        InputError: If `max_tokens` is below 16 or above what the model reads.
    """

    def __init__(self, tokenizer: WindowTokenizer, max_tokens: int = 256) -> None:
        if not _MIN_TOKENS <= max_tokens <= tokenizer.max_length:
            raise InputError(
                f"The passage size is {max_tokens} tokens, expected {_MIN_TOKENS}..{tokenizer.max_length} "
                "(the model reads no more). Pass another number."
            )
        self.max_tokens = max_tokens
        self.max_length = tokenizer.max_length
        self.special_tokens = len(tokenizer.encode_batch([""])[0].offsets)
        self._tokenizer = tokenizer

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text, without special ones."""
        return [
            len(encoding.offsets) + encoding.truncated - self.special_tokens
            for encoding in self._tokenizer.encode_batch(texts)
        ]

    def context(self, headings: Sequence[str]) -> str:
        """Join headings, outermost first, without the outer ones that leave too little room for a text."""
        for first in range(len(headings)):
            joined = " > ".join(headings[first:])
            if len(joined) <= _MAX_TOKENIZED and self.count([joined])[0] <= self.max_length // 2:
                return joined
        return ""

    def is_one_passage(self, text: str, *, context: str = "") -> bool:
        """Return whether the model reads a text and its context without truncation."""
        if len(text) > _MAX_TOKENIZED:
            return False
        return sum(self.count([context, text])) + self.special_tokens <= self.max_length

    def split(self, text: str, *, context: str = "") -> list[_Span]:
        """Find the passages of a text.

        Args:
            text: Any text.
            context: Text that is encoded before each passage.

        Returns:
            (start, end) in characters, in order, without white space at either end; none for a blank text.
        """
        (taken,) = self.count([context])
        limit = max(_MIN_TOKENS, min(self.max_tokens, self.max_length - taken) - self.special_tokens)
        pieces = _cut(text, 0, len(text), between=_PARAGRAPH)
        sizes = self._sizes(text, pieces)
        for cut in (partial(_cut, text, between=_SENTENCE), partial(self._cut_words, text, limit=limit)):
            if any(size is None or size > limit for size in sizes):
                pieces = list(_refined(pieces, sizes, limit, cut))
                sizes = self._sizes(text, pieces)
        return _packed(pieces, [limit if size is None else size for size in sizes], limit)

    def _sizes(self, text: str, pieces: Sequence[_Span]) -> list[int | None]:
        """Count the tokens of each piece; None for a piece that is too long to be counted."""
        sizes: list[int | None] = []
        for batch in _batches(pieces):
            countable = [(start, end) for start, end in batch if end - start <= _MAX_TOKENIZED]
            counted = iter(self.count([text[start:end] for start, end in countable]))
            sizes += [next(counted) if end - start <= _MAX_TOKENIZED else None for start, end in batch]
        return sizes

    def _cut_words(self, text: str, start: int, end: int, *, limit: int) -> list[_Span]:
        """Cut a sentence that is too long, or a long run of characters without a blank."""
        tokenizer = _LimitedTokenizer(self._tokenizer, limit)
        pieces: list[_Span] = []
        for first, last in _blocks(text, start, end):
            (windows,) = spans_of([text[first:last]], tokenizer, overlap=0)
            for window_start, window_end in windows:
                pieces.extend(_stripped(text, first + window_start, first + window_end))
        return pieces


def _cut(text: str, start: int, end: int, *, between: re.Pattern[str]) -> list[_Span]:
    """Cut text[start:end] at each match of `between`; blank parts are left out."""
    pieces: list[_Span] = []
    piece_start = start
    for match in between.finditer(text, start, end):
        pieces.extend(_stripped(text, piece_start, match.end()))
        piece_start = match.end()
    pieces.extend(_stripped(text, piece_start, end))
    return pieces


def _refined(
    pieces: Sequence[_Span],
    sizes: Sequence[int | None],
    limit: int,
    cut: Callable[[int, int], list[_Span]],
) -> Iterator[_Span]:
    for (start, end), size in zip(pieces, sizes, strict=True):
        if size is not None and size <= limit:
            yield start, end
        else:
            yield from cut(start, end)


def _stripped(text: str, start: int, end: int) -> Iterator[_Span]:
    """Yield the part without white space at its ends, unless it is blank."""
    piece = text[start:end]
    if piece.strip():
        start += len(piece) - len(piece.lstrip())
        yield start, start + len(piece.strip())


def _batches(pieces: Sequence[_Span]) -> Iterator[list[_Span]]:
    """Group pieces so that a group has little more than `_MAX_TOKENIZED` characters to count."""
    batch: list[_Span] = []
    characters = 0
    for start, end in pieces:
        batch.append((start, end))
        characters += end - start
        if characters > _MAX_TOKENIZED:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _blocks(text: str, start: int, end: int) -> Iterator[_Span]:
    """Cut text[start:end] into blocks of at most `_MAX_TOKENIZED` characters, at blanks if there are any."""
    while end - start > _MAX_TOKENIZED:
        last = start + _MAX_TOKENIZED
        blank = next((at for at in range(last, start, -1) if text[at - 1].isspace()), last)
        yield start, blank
        start = blank
    yield start, end


def _packed(pieces: Sequence[_Span], sizes: Sequence[int], limit: int) -> list[_Span]:
    """Join neighbours to passages of at most `limit` tokens, each about as long as the others."""
    total = sum(sizes)
    target = -(-total // max(1, -(-total // limit)))
    passages: list[_Span] = []
    passage_size = 0
    for (start, end), size in zip(pieces, sizes, strict=True):
        if passages and passage_size < target and passage_size + size <= limit:
            passages[-1] = (passages[-1][0], end)
            passage_size += size
        else:
            passages.append((start, end))
            passage_size = size
    return passages


@dataclass(frozen=True, slots=True)
class _LimitedTokenizer:
    """An encoder, as `spans_of` expects it, that reads fewer tokens than the model."""

    tokenizer_of_model: WindowTokenizer
    max_length: int

    @property
    def tokenizer(self) -> _LimitedTokenizer:
        return self

    def encode_batch(self, texts: Sequence[str]) -> list[_LimitedEncoding]:
        limited = []
        for encoding in self.tokenizer_of_model.encode_batch(texts):
            offsets = [span for span in encoding.offsets if span[1] > span[0]]
            beyond = max(0, len(offsets) - self.max_length) + encoding.truncated
            limited.append(_LimitedEncoding(offsets[: self.max_length], beyond))
        return limited


@dataclass(frozen=True, slots=True)
class _LimitedEncoding:
    offsets: Sequence[_Span]
    truncated: int
