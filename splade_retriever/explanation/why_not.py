"""WhyNot: the reasons why a search did not return a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import fsum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from splade_retriever.drawing.html import as_text, paragraph, view
from splade_retriever.explanation.explanation import Explanation
from splade_retriever.explanation.html import explanation_body
from splade_retriever.explanation.terminal import why_not_view

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Place", "Reason", "ReasonKind", "TokenDifference", "WhyNot", "differences"]

ReasonKind: TypeAlias = Literal[
    "rank",
    "no shared token",
    "filter",
    "score threshold",
    "fusion depth",
    "document pruning",
    "query pruning",
    "truncation",
]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, or one loss that lowered the score."""

    kind: ReasonKind
    message: str


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a document in a complete ranking."""

    rank: int | None
    """From 1, exact at any depth; None where the ranking does not contain the document."""
    score: float


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """What a token or word contributes to the scores of two documents."""

    token: str
    score: float
    other_score: float

    @property
    def difference(self) -> float:
        """By how much the other document has more."""
        return self.other_score - self.score


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a document is not among the first `k` hits of a query. `rich.print` and notebooks draw it."""

    query: str
    id: str
    k: int
    found: bool
    """True if the search returned the document after all; then there are no reasons."""
    rank: int | None
    """Rank among the documents that match the filter, from 1, exact at any depth; None where the document
    has no rank: it shares no token with the query, or a hybrid search did not read as far."""
    score: float
    """Its score in the ranking; 0.0 without a rank."""
    explanation: Explanation
    """Its sparse score, token by token."""
    cut_id: str | None = None
    """The last hit of the search, which it would have to pass; None where fewer than `k` were found."""
    cut_score: float | None = None
    cut_explanation: Explanation | None = None
    reasons: tuple[Reason, ...] = ()
    """What kept it out, and what lowered its score, the decisive one first."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Of a hybrid search: "sparse", "second" and "dense", of which the index has two or three -> place in the
    complete ranking of that branch."""

    @property
    def needed(self) -> float | None:
        """The score that it lacks to reach the last hit; None where there is none to reach."""
        return None if self.cut_score is None else max(0.0, self.cut_score - self.score)

    @property
    def differences(self) -> tuple[TokenDifference, ...]:
        """What each token contributes here and to the last hit, where the hit gains most first."""
        if self.cut_explanation is None:
            return ()
        return differences(self.explanation, self.cut_explanation)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without the texts."""
        return {
            "query": self.query,
            "id": self.id,
            "k": self.k,
            "found": self.found,
            "rank": self.rank,
            "score": self.score,
            "cut_id": self.cut_id,
            "cut_score": self.cut_score,
            "needed": self.needed,
            "reasons": [asdict(reason) for reason in self.reasons],
            "differences": [asdict(part) for part in self.differences],
            "places": {name: asdict(place) for name, place in self.places.items()},
            "explanation": self.explanation.to_dict(),
        }

    def __rich__(self) -> RenderableType:
        """Draw for a terminal."""
        return why_not_view(self)

    def _repr_html_(self) -> str:
        """Draw for a notebook."""
        reasons = "".join(f"<li>{as_text(reason.message)}</li>" for reason in self.reasons)
        found = paragraph(f"{self.id} was found, on rank {self.rank}." if self.found else "", "head")
        return view([found, f"<ul>{reasons}</ul>" if reasons else "", explanation_body(self.explanation)])


def differences(explanation: Explanation, other: Explanation) -> tuple[TokenDifference, ...]:
    """Compare two explanations of one query token by token.

    The differences sum to the difference of the scores. The other document's largest gain is first.
    """
    ours, theirs = _by_token(explanation), _by_token(other)
    parts = [
        TokenDifference(token, ours.get(token, 0.0), theirs.get(token, 0.0)) for token in {**ours, **theirs}
    ]
    return tuple(sorted(parts, key=lambda part: -part.difference))


def _by_token(explanation: Explanation) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for contribution in explanation.contributions:
        scores.setdefault(contribution.token, []).append(contribution.score)
    return {token: fsum(parts) for token, parts in scores.items()}
