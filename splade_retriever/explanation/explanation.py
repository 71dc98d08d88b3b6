"""Explanation: the sum behind a score, and how it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from splade_retriever.explanation.contributions import (
    KINDS,
    Contribution,
    Kind,
    Mark,
    UnmatchedToken,
    split_at,
)
from splade_retriever.explanation.html import explanation_html
from splade_retriever.explanation.terminal import explanation_view

if TYPE_CHECKING:
    from rich.console import RenderableType

    from splade_retriever.drawing.plot import TokenFigure

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The sum behind a score, token by token. `rich.print` and notebooks draw it."""

    query: str
    text: str
    score: float
    """Dot product of the two vectors: the sum of all contributions."""
    contributions: tuple[Contribution, ...]
    """Every token that both vectors have, summed by word, in descending order of score."""
    marks: tuple[Mark, ...]
    """Words of the text whose tokens contributed, from left to right; never punctuation."""
    unmatched: tuple[UnmatchedToken, ...] = ()
    """Every token of the query that the text does not have, summed by word, in descending order of weight."""
    controls: tuple[str, ...] = ()
    """What the controls of the query do, such as "boost rover x2"; empty for a query without controls."""
    second: Explanation | None = None
    """The score in the ranking of the second model, of an index that has one."""

    @property
    def shares(self) -> dict[Kind, float]:
        """The share of the score of each kind of token, 0 to 1; all are 0 where the score is 0."""
        sums = {kind: fsum(c.score for c in self.contributions if c.kind == kind) for kind in KINDS}
        return {kind: part / self.score if self.score else 0.0 for kind, part in sums.items()}

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Positions of the marked words: start and end in characters, ascending, without overlap."""
        return tuple((mark.start, mark.end) for mark in self.marks)

    def to_dict(self) -> dict[str, Any]:
        """Return `query`, `score`, `shares`, `contributions`, `unmatched` and `spans` as JSON values.

        Of an index with a second model also `second`, the same values of that model's ranking.
        """
        second = {} if self.second is None else {"second": self.second.to_dict()}
        return {
            "query": self.query,
            "score": self.score,
            "shares": dict(self.shares),
            "contributions": [contribution.to_dict() for contribution in self.contributions],
            "unmatched": [token.to_dict() for token in self.unmatched],
            "controls": list(self.controls),
            "spans": [list(span) for span in self.spans],
            **second,
        }

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Mark | None]]:
        """Split the text, or a part of it, at its marks: each piece in order, with its mark or None."""
        return split_at(self.text, self.marks, start, end)

    def __rich__(self) -> RenderableType:
        """Draw for a terminal: the text with its words marked, and one bar per token."""
        return explanation_view(self)

    def plot(self, *, max_tokens: int = 20) -> TokenFigure:
        """Draw the largest contributions as bars, in a figure of matplotlib.

        Colour and pattern show the kind of a token: literal, or expanded on one side or on both. The figure
        has the width of a column of a paper; `figure.savefig("score.svg")` writes it, also as PNG or PDF.

        Args:
            max_tokens: How many contributions to draw.

        Raises:
            InputError: `max_tokens` is less than 1.
            MissingExtraError: matplotlib is not installed.
        """
        from splade_retriever.drawing.plot import Bar, bar_chart

        bars = [Bar(c.token, c.score, c.kind) for c in self.contributions]
        return bar_chart(bars, axis="Contribution to the score", max_tokens=max_tokens)

    def _repr_html_(self) -> str:
        """Draw for a notebook."""
        return explanation_html(self)
