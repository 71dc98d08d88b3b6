"""Why a text was found: the tokens that made the score, and the words of the text they stand for."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import fsum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from splade_retriever.sparse import SparseEmbedding

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Contribution", "Explanation", "LiteralTokenizer", "Mark", "explain", "kind_of"]

_WORD: Final = re.compile(
    # An ideograph is a word of its own, as in BERT's tokenizer; accents and Indic vowel signs that stand as
    # characters of their own belong to their word.
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|(?:[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])+"
)
_SHOWN_IN_A_NOTEBOOK: Final = 20


class _Encoding(Protocol):
    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def offsets(self) -> Sequence[tuple[int, int]]: ...


@runtime_checkable
class LiteralTokenizer(Protocol):
    """What explaining needs of an encoder's `tokenizer`."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[_Encoding]:
        """Tokenise; each token's id, and its place in the text, (0, 0) for one that is not in it."""
        ...

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entries of `ids`, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Contribution:
    """One token's share of a score."""

    token: str
    query_weight: float
    document_weight: float
    score: float
    """The product of the two weights."""
    in_query: bool
    """The query has this token itself; if not, the model expanded the query by it."""
    in_text: bool
    """The text has this token itself; if not, the model expanded the text by it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of the text that has a token of the score."""

    start: int
    """In characters of the text."""
    end: int
    score: float
    """Sum over the word's tokens of their contributions."""
    in_query: bool
    """One of these tokens is in the query too; if not, the word was met by expansion of the query."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The sum behind a score, token by token. Printed by `rich`, and drawn in notebooks."""

    query: str
    text: str
    score: float
    """Dot product of the two vectors: the sum of all contributions."""
    contributions: tuple[Contribution, ...]
    """Every token that both vectors have, the heaviest first."""
    marks: tuple[Mark, ...]
    """Words of the text whose tokens contributed, from left to right; punctuation is never marked."""

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where the marked words lie in the text: start and end in characters, ascending, no overlap."""
        return tuple((mark.start, mark.end) for mark in self.marks)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: `query`, `score`, `contributions`, `spans`; the text is the caller's."""
        return {
            "query": self.query,
            "score": self.score,
            "contributions": [asdict(contribution) for contribution in self.contributions],
            "spans": [list(span) for span in self.spans],
        }

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Mark | None]]:
        """Cut the text, or a part of it, at its marks: each piece in order, with its mark or None."""
        end = len(self.text) if end is None else min(end, len(self.text))
        at = start
        for mark in self.marks:
            if mark.end <= at or mark.start >= end:
                continue
            if mark.start > at:
                yield self.text[at : mark.start], None
            at, begin = min(mark.end, end), max(mark.start, at)
            yield self.text[begin:at], mark
        if at < end:
            yield self.text[at:end], None

    def __rich__(self) -> RenderableType:
        """Draw for a terminal: the text with its words marked, and a bar a token."""
        from splade_retriever.cli.render import explanation_view

        return explanation_view(self)

    def _repr_html_(self) -> str:
        """Draw for a notebook; colours are see-through, so they fit light and dark themes."""
        text = "".join(_html_piece(piece, mark) for piece, mark in self.pieces())
        shown = self.contributions[:_SHOWN_IN_A_NOTEBOOK]
        most = shown[0].score if shown else 1.0
        rows = "".join(_html_row(contribution, most) for contribution in shown)
        rest = self.contributions[len(shown) :]
        more = f"<p>and {len(rest)} lighter tokens: {fsum(c.score for c in rest):.3f}</p>" if rest else ""
        return (
            f'<div style="line-height:1.5"><p style="white-space:pre-wrap">{text}</p>'
            f"<table><tr><th>token</th><th>score {self.score:.3f}</th><th>query &times; text</th>"
            f"<th>from</th></tr>"
            f"{rows}</table>{more}</div>"
        )


def explain(
    query: str,
    text: str,
    *,
    query_vector: SparseEmbedding,
    document_vector: SparseEmbedding,
    tokenizer: LiteralTokenizer,
    windows: Sequence[tuple[int, int]] | None = None,
) -> Explanation:
    """Split the score of a text into what each token gave.

    score = sum over tokens j of query weight_j * document weight_j.

    Args:
        query: As it was encoded.
        text: The document; its marks are places in this string.
        query_vector: Of `query`.
        document_vector: Of `text`, as it was scored.
        tokenizer: The one of the model that made both vectors.
        windows: The parts of the text, (start, end) in characters, that the document's vector was made from;
            None where it was made in one go, from as much as the model reads.

    Returns:
        The contributions, heaviest first (on ties by token id), and the words of the text they stand for.
    """
    shared, mine, theirs = np.intersect1d(
        query_vector.indices, document_vector.indices, assume_unique=True, return_indices=True
    )
    query_weights = query_vector.values[mine].astype(np.float64)
    document_weights = document_vector.values[theirs].astype(np.float64)
    products = query_weights * document_weights
    order = np.argsort(-products, kind="stable")

    in_query = {token_id for token_id, _, _ in _places(query, [(0, len(query))], tokenizer)}
    places = list(_places(text, windows or [(0, len(text))], tokenizer))
    in_text = {token_id for token_id, _, _ in places}
    ids = shared[order].tolist()
    found = {
        token_id: Contribution(
            token=token,
            query_weight=float(query_weights[n]),
            document_weight=float(document_weights[n]),
            score=float(products[n]),
            in_query=token_id in in_query,
            in_text=token_id in in_text,
        )
        for token_id, token, n in zip(ids, tokenizer.tokens(ids), order.tolist(), strict=True)
    }
    return Explanation(
        query=query,
        text=text,
        score=fsum(contribution.score for contribution in found.values()),
        contributions=tuple(found.values()),
        marks=tuple(_marks(text, places, found)),
    )


def kind_of(contribution: Contribution) -> str:
    """Say in a few words where a token comes from."""
    if contribution.in_query:
        return "literal" if contribution.in_text else "text expanded"
    return "query expanded" if contribution.in_text else "both expanded"


def _places(
    text: str, windows: Sequence[tuple[int, int]], tokenizer: LiteralTokenizer
) -> Iterator[tuple[int, int, int]]:
    """Walk over the tokens that stand in a text: id, start, end; special tokens stand nowhere."""
    encodings = tokenizer.encode_batch([text[start:end] for start, end in windows])
    for (begin, _), encoding in zip(windows, encodings, strict=True):
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end > start:
                yield token_id, begin + start, begin + end


def _marks(
    text: str, places: Sequence[tuple[int, int, int]], found: Mapping[int, Contribution]
) -> Iterator[Mark]:
    """Join the places of contributing tokens to whole words."""
    words = [match.span() for match in _WORD.finditer(text)]
    ends = [end for _, end in words]
    tokens_of: dict[int, set[int]] = {}
    for token_id, start, end in places:
        if token_id not in found:
            continue
        word = bisect_right(ends, start)  # the first that ends after the token's start
        while word < len(words) and words[word][0] < end:
            tokens_of.setdefault(word, set()).add(token_id)
            word += 1
    for word in sorted(tokens_of):
        own = [found[token_id] for token_id in tokens_of[word]]
        yield Mark(*words[word], fsum(c.score for c in own), any(c.in_query for c in own))


def _html_piece(piece: str, mark: Mark | None) -> str:
    if mark is None:
        return escape(piece)
    opacity = 0.45 if mark.in_query else 0.2
    return (
        f'<mark style="background:rgba(245,180,0,{opacity});color:inherit" '
        f'title="{mark.score:.3f}">{escape(piece)}</mark>'
    )


def _html_row(contribution: Contribution, most: float) -> str:
    width = 70 * contribution.score / most if most else 0.0
    colour = (
        "rgba(245,180,0,0.8)" if contribution.in_query and contribution.in_text else "rgba(80,140,220,0.7)"
    )
    return (
        f'<tr><td style="text-align:left"><code>{escape(contribution.token)}</code></td>'
        f'<td style="text-align:left;min-width:12em">'
        f'<span style="display:inline-block;height:0.7em;width:{width:.1f}%;background:{colour}"></span> '
        f"{contribution.score:.3f}</td>"
        f"<td>{contribution.query_weight:.3f} &times; {contribution.document_weight:.3f}</td>"
        f'<td style="text-align:left">{kind_of(contribution)}</td></tr>'
    )
