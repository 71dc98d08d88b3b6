"""The words of a text, each with its tokens."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from splade_retriever.explanation.contributions import Span

__all__ = [
    "LiteralTokenizer",
    "Places",
    "Word",
    "literal_tokenizer",
    "places_of",
    "word_by_token",
    "words_of",
]

_INNER_CHARACTER: Final = (
    # Accents and Indic vowel signs that are separate characters belong to the word before them.
    r"(?:[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])"
)
# An ideograph is one word, as in BERT's tokenizer.
_WORD: Final = re.compile(rf"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|{_INNER_CHARACTER}+")
_INNER: Final = re.compile(_INNER_CHARACTER)


@dataclass(frozen=True, slots=True)
class Places:
    """The tokens of a text, from left to right."""

    ids: Sequence[int]
    spans: Sequence[Span]
    """Start and end of each token in characters; (0, 0) for a special token."""


class _Encoding(Protocol):
    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def offsets(self) -> Sequence[tuple[int, int]]: ...


@runtime_checkable
class LiteralTokenizer(Protocol):
    """The methods of an encoder's `tokenizer` that an explanation needs."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[_Encoding]:
        """Tokenise texts: the id and the character offsets of each token; (0, 0) for a special token."""
        ...

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entries of `ids`, in their order."""
        ...


@runtime_checkable
class _NamingEncoder(Protocol):
    """An encoder whose ids have names only beside a text, as those of BM25, which are hashes."""

    def literal_tokenizer(self, text: str) -> LiteralTokenizer: ...


def literal_tokenizer(encoder: object, query: str) -> LiteralTokenizer | None:
    """Return what splits texts into the tokens of an encoder, and names those of a query.

    Returns:
        The tokenizer; None for an encoder without one.
    """
    if isinstance(encoder, _NamingEncoder):
        return encoder.literal_tokenizer(query)
    tokenizer = getattr(encoder, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, LiteralTokenizer) else None


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text with its tokens, or a token that is not in a word, such as punctuation."""

    ids: tuple[int, ...]
    label: str
    start: int
    end: int
    is_word: bool

    @property
    def span(self) -> Span:
        """Start and end in characters."""
        return self.start, self.end


def places_of(
    documents: Sequence[tuple[str, Sequence[Span] | None]], tokenizer: LiteralTokenizer
) -> list[Places]:
    """Tokenise texts, all at once, and return the places of each one's tokens, from left to right.

    Args:
        documents: Texts, each with the parts of it that were read, (start, end) in characters; None for all.
        tokenizer: The tokenizer.
    """
    parts = [
        part
        for text, windows in documents
        for part in ([text] if windows is None else [text[start:end] for start, end in windows])
    ]
    encodings = iter(tokenizer.encode_batch(parts))
    return [
        _all_of(next(encodings)) if windows is None else _joined(windows, encodings)
        for _, windows in documents
    ]


def _all_of(encoding: _Encoding) -> Places:
    return Places(encoding.ids, encoding.offsets)


def _joined(windows: Sequence[Span], encodings: Iterator[_Encoding]) -> Places:
    """Join the tokens of the windows of a text; where two windows overlap, those of the first count."""
    ids: list[int] = []
    spans: list[Span] = []
    read = 0
    for begin, end in windows:
        encoding = next(encodings)
        for id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if stop > start and begin + start >= read:
                ids.append(id)
                spans.append((begin + start, begin + stop))
        read = end
    return Places(ids, spans)


def words_of(text: str, places: Places, *, containing: Container[int] | None = None) -> list[Word]:
    """Join the tokens of a text to its words, from left to right.

    Args:
        text: The text.
        places: Its tokens, as `places_of` returns them.
        containing: Return only words with one of these tokens; None for all.
    """
    words: list[Word] = []
    end = 0
    for n, id in enumerate(places.ids):
        if containing is not None and id not in containing:
            continue
        start, stop = places.spans[n]
        if stop <= end:  # a special token, or a further token of the last word
            continue
        spans = _word_spans(text, max(start, end), stop, floor=end)
        if not spans and start >= end:
            words.append(_word(text, (start, stop), places, n, is_word=False))
            end = stop
        for span in spans:
            words.append(_word(text, span, places, n, is_word=True))
            end = span[1]
    return words


def _word_spans(text: str, start: int, stop: int, *, floor: int) -> list[Span]:
    """Find the words that have a character in a part of a text, none of which begins before `floor`."""
    if _INNER.match(text, start):
        while start > floor and _INNER.match(text, start - 1):
            start -= 1
    spans = []
    found = _WORD.search(text, start, stop)
    while found is not None:
        complete = _WORD.match(text, found.start())
        assert complete is not None
        spans.append(complete.span())
        found = _WORD.search(text, complete.end(), stop)
    return spans


def _word(text: str, span: Span, places: Places, n: int, *, is_word: bool) -> Word:
    """Collect the tokens that overlap a word, one of which is token `n`."""
    start, end = span
    ids, spans = places.ids, places.spans
    first = last = n
    while first > 0 and spans[first - 1][1] > start:
        first -= 1
    while last + 1 < len(ids) and spans[last + 1][0] < end and spans[last + 1][1] > start:
        last += 1
    tokens = (
        ids[first : last + 1] if is_word else [ids[m] for m in range(first, last + 1) if spans[m] == span]
    )
    return Word(tuple(tokens), text[start:end].lower(), start, end, is_word)


def word_by_token(words: Sequence[Word]) -> dict[int, Word]:
    """Map each token id to the word it belongs to: a word of this token alone, or else the first one."""
    first: dict[int, Word] = {}
    for word in words:
        for id in word.ids:
            if id not in first or (len(word.ids) == 1 and len(first[id].ids) > 1):
                first[id] = word
    return first
