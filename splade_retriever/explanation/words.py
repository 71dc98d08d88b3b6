"""The words of a text, each with its tokens."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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


def words_of(text: str, windows: Sequence[Span], tokenizer: LiteralTokenizer) -> list[Word]:
    """Join the tokens of a text to its words, from left to right, without special tokens."""
    spans = [match.span() for match in _WORD.finditer(text)]
    ends = [end for _, end in spans]
    tokens_of: dict[tuple[int, int], dict[tuple[int, int], int]] = {}
    for id, start, end in sorted(set(_places(text, windows, tokenizer)), key=lambda place: place[1:]):
        word = bisect_right(ends, start)  # the first that ends after the token's start
        if word == len(spans) or spans[word][0] >= end:
            tokens_of.setdefault((start, end), {})[start, end] = id
        while word < len(spans) and spans[word][0] < end:
            tokens_of.setdefault(spans[word], {})[start, end] = id
            word += 1
    known = set(spans)
    return [
        Word(tuple(tokens.values()), text[start:end].lower(), start, end, (start, end) in known)
        for (start, end), tokens in sorted(tokens_of.items())
    ]


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
