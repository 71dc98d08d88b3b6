"""The parts of an explanation: contributions of tokens, query tokens without a match, and marked words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Protocol, TypeAlias

__all__ = ["KINDS", "Contribution", "Kind", "Mark", "Scored", "Span", "UnmatchedToken", "kind_of", "split_at"]

Span: TypeAlias = tuple[int, int]
"""Start and end in characters."""
Kind: TypeAlias = Literal["literal", "query expanded", "text expanded", "both expanded"]
"""The source of a token: both texts contain it, or the model added it to one of them, or to both."""
KINDS: Final[tuple[Kind, ...]] = ("literal", "query expanded", "text expanded", "both expanded")


@dataclass(frozen=True, slots=True)
class Contribution:
    """The share of a token, or of a word that is several tokens, in a score."""

    token: str
    """The vocabulary entry, or the word whose pieces are summed."""
    query_weight: float
    """Weight in the query; the sum of the weights of several pieces."""
    document_weight: float
    """Weight in the text; for several pieces the average, weighted by the query."""
    score: float
    """The product of the two weights."""
    in_query: bool
    """True if the query contains this token or word, False if the model expanded the query by it."""
    in_text: bool
    """True if the text contains this token or word, False if the model expanded the text by it."""
    pieces: tuple[str, ...]
    """The vocabulary entries whose products are summed."""
    query_origin: Span | None = None
    """The word of the query that the model expanded to this token; None unless origins were requested."""
    text_origin: Span | None = None
    """The word of the text that the model expanded to this token; None unless origins were requested."""

    places: tuple[Span, ...] = ()
    """The words of the text that contain this token, or one of its pieces; empty for an expansion of it."""
    control: str | None = None
    """What a control of the query did to the weight, such as "boost x2"."""

    @property
    def kind(self) -> Kind:
        """The source of the token."""
        if self.in_query:
            return "literal" if self.in_text else "text expanded"
        return "query expanded" if self.in_text else "both expanded"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the kind."""
        return {**{name: getattr(self, name) for name in _CONTRIBUTION}, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class UnmatchedToken:
    """A token, or a word that is several tokens, that the query has and the text does not."""

    token: str
    """The vocabulary entry, or the word whose pieces are summed."""
    weight: float
    """Weight in the query; the sum of the weights of several pieces."""
    in_query: bool
    """True if the query contains this token or word, False if the model expanded the query by it."""
    pieces: tuple[str, ...]
    """The vocabulary entries whose weights are summed."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {name: getattr(self, name) for name in _UNMATCHED}


# `asdict` copies each value, which takes longer than the search of a page.
_CONTRIBUTION: Final = tuple(field.name for field in fields(Contribution))
_UNMATCHED: Final = tuple(field.name for field in fields(UnmatchedToken))


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of the text that contributed to the score."""

    start: int
    """In characters of the text."""
    end: int
    score: float
    """Sum of the contributions of the word's tokens."""
    in_query: bool
    """True if the query contains this word, False if the word matches its expansion only."""


class Scored(Protocol):
    """What is drawn of an explanation."""

    @property
    def query(self) -> str:
        """The query."""
        ...

    @property
    def text(self) -> str:
        """The document."""
        ...

    @property
    def score(self) -> float:
        """The sum of all contributions."""
        ...

    @property
    def contributions(self) -> tuple[Contribution, ...]:
        """Contributions in descending order."""
        ...

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Marked words from left to right."""
        ...

    @property
    def controls(self) -> tuple[str, ...]:
        """What the controls of the query do."""
        ...

    @property
    def unmatched(self) -> tuple[UnmatchedToken, ...]:
        """Tokens of the query that the text does not have."""
        ...

    @property
    def shares(self) -> dict[Kind, float]:
        """The share of the score of each kind of token."""
        ...

    @property
    def second(self) -> Scored | None:
        """The same of the second model; None where there is none."""
        ...


def kind_of(contribution: Contribution) -> Kind:
    """Name the source of a token: "literal" or the side that the model expanded."""
    return contribution.kind


def split_at(
    text: str, marks: Sequence[Mark], start: int = 0, end: int | None = None
) -> Iterator[tuple[str, Mark | None]]:
    """Split a text, or a part of it, at marks: each piece in order, with its mark or None."""
    end = len(text) if end is None else min(end, len(text))
    at = start
    for mark in marks:
        if mark.end <= at or mark.start >= end:
            continue
        if mark.start > at:
            yield text[at : mark.start], None
        at, begin = min(mark.end, end), max(mark.start, at)
        yield text[begin:at], mark
    if at < end:
        yield text[at:end], None
