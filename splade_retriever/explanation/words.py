"""The words of a text, each with its tokens."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from splade_retriever.explanation.contributions import Span

__all__ = ["LiteralTokenizer", "Word", "word_by_token", "words_of"]

_WORD: Final = re.compile(
    # An ideograph is one word, as in BERT's tokenizer. Accents and Indic vowel signs that are separate
    # characters belong to the word before them.
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|(?:[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])+"
)


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


def words_of(
    text: str,
    windows: Sequence[Span],
    tokenizer: LiteralTokenizer,
    *,
    containing: Container[int] | None = None,
) -> list[Word]:
    """Join the tokens of a text to its words, from left to right, without special tokens.

    Args:
        text: The text.
        windows: The parts of it that were read, (start, end) in characters.
        tokenizer: The tokenizer.
        containing: Return only words with one of these tokens; None for all.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    ends = [end for _, end in spans]
    known = set(spans)
    tokens_of: dict[Span, dict[Span, int]] = {}
    places = _sorted_places(text, windows, tokenizer)
    if containing is not None:
        places = _near(places, containing, spans, ends)
    for id, start, end in places:
        word = bisect_right(ends, start)  # the first that ends after the token's start
        if word == len(spans) or spans[word][0] >= end:
            tokens_of.setdefault((start, end), {})[start, end] = id
        while word < len(spans) and spans[word][0] < end:
            tokens_of.setdefault(spans[word], {})[start, end] = id
            word += 1
    return [
        Word(tuple(tokens.values()), text[start:end].lower(), start, end, (start, end) in known)
        for (start, end), tokens in sorted(tokens_of.items())
        if containing is None or any(id in containing for id in tokens.values())
    ]


def _near(
    places: Sequence[tuple[int, int, int]],
    ids: Container[int],
    spans: Sequence[Span],
    ends: Sequence[int],
) -> list[tuple[int, int, int]]:
    """Return the places of some tokens, and of the other tokens of their words: few of a long text."""
    starts, stops = [start for _, start, _ in places], [end for _, _, end in places]
    near: dict[tuple[int, int, int], None] = {}
    for place in places:
        if place[0] in ids:
            first, last = bisect_right(ends, place[1]), bisect_left(ends, place[2])
            begin = min([place[1], *(start for start, _ in spans[first : first + 1])])
            stop = max([place[2], *(end for _, end in spans[last : last + 1] if spans[last][0] < place[2])])
            near.update(dict.fromkeys(places[bisect_right(stops, begin) : bisect_left(starts, stop)]))
    return sorted(near, key=lambda place: place[1:])


def _sorted_places(
    text: str, windows: Sequence[Span], tokenizer: LiteralTokenizer
) -> Sequence[tuple[int, int, int]]:
    """Return the tokens of a text from left to right; those that windows share once."""
    places = list(_places(text, windows, tokenizer))
    return places if len(windows) == 1 else sorted(set(places), key=lambda place: place[1:])


def word_by_token(words: Sequence[Word]) -> dict[int, Word]:
    """Map each token id to the word it belongs to: a word of this token alone, or else the first one."""
    first: dict[int, Word] = {}
    for word in words:
        for id in word.ids:
            if id not in first or (len(word.ids) == 1 and len(first[id].ids) > 1):
                first[id] = word
    return first


def _places(
    text: str, windows: Sequence[Span], tokenizer: LiteralTokenizer
) -> Iterator[tuple[int, int, int]]:
    """Iterate over the tokens of a text: id, start, end; without special tokens, which have no place."""
    encodings = tokenizer.encode_batch([text[start:end] for start, end in windows])
    for (begin, _), encoding in zip(windows, encodings, strict=True):
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end > start:
                yield token_id, begin + start, begin + end
