"""Explanations of a score: the share of each token, and the words of the text that the tokens stand for.

Explanations are drawn here too, for terminals (by rich, which is imported only then) and for notebooks.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import fsum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from splade_retriever.printable import printable
from splade_retriever.sparse import SparseEmbedding

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "Contribution",
    "Explanation",
    "LiteralTokenizer",
    "Mark",
    "bar",
    "explain",
    "explanation_view",
    "kind_of",
    "marked_text",
]

_WORD: Final = re.compile(
    # An ideograph is one word, as in BERT's tokenizer. Accents and Indic vowel signs that are separate
    # characters belong to the word before them.
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|(?:[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])+"
)
_TOKENS_SHOWN: Final = 20
_MIN_MARKED_SHARE: Final = 0.05
"""Share of the best marked word's score below which a word is drawn unmarked."""
_LITERAL_STYLE: Final = "bold black on yellow"
_EXPANDED_STYLE: Final = "underline"
_BRACKETS: Final = (("[", "]"), ("{", "}"), ("<", ">"), ("[[", "]]"))
_MIN_BAR_WIDTH: Final = 4
_BAR_WIDTH: Final = 24
_FULL_TABLE_WIDTH: Final = 74
"""Width in characters of the token table with all its columns, for tokens of 12 characters."""


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
class Contribution:
    """One token's share of a score."""

    token: str
    query_weight: float
    document_weight: float
    score: float
    """The product of the two weights."""
    in_query: bool
    """True if the query contains this token, False if the model expanded the query by it."""
    in_text: bool
    """True if the text contains this token, False if the model expanded the text by it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of the text with at least one token that contributed to the score."""

    start: int
    """In characters of the text."""
    end: int
    score: float
    """Sum of the contributions of the word's tokens."""
    in_query: bool
    """True if the query contains one of these tokens, False if the word matches its expansion only."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The sum behind a score, token by token. `rich.print` and notebooks draw it."""

    query: str
    text: str
    score: float
    """Dot product of the two vectors: the sum of all contributions."""
    contributions: tuple[Contribution, ...]
    """Every token that both vectors have, in descending order of score."""
    marks: tuple[Mark, ...]
    """Words of the text whose tokens contributed, from left to right; never punctuation."""

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Positions of the marked words: start and end in characters, ascending, without overlap."""
        return tuple((mark.start, mark.end) for mark in self.marks)

    def to_dict(self) -> dict[str, Any]:
        """Return `query`, `score`, `contributions` and `spans` as JSON values, without the text."""
        return {
            "query": self.query,
            "score": self.score,
            "contributions": [asdict(contribution) for contribution in self.contributions],
            "spans": [list(span) for span in self.spans],
        }

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Mark | None]]:
        """Split the text, or a part of it, at its marks: each piece in order, with its mark or None."""
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
        """Draw for a terminal: the text with its words marked, and one bar per token."""
        return explanation_view(self)

    def _repr_html_(self) -> str:
        """Draw for a notebook, in translucent colours that fit light and dark themes."""
        text = "".join(_html_piece(piece, mark) for piece, mark in self.pieces())
        shown = self.contributions[:_TOKENS_SHOWN]
        max_score = shown[0].score if shown else 1.0
        rows = "".join(_html_row(contribution, max_score) for contribution in shown)
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
    """Split the score of a text into the contributions of its tokens.

    score = sum over tokens j of query weight_j * document weight_j.

    Args:
        query: The query as it was encoded.
        text: The document; marks are positions in this string.
        query_vector: Vector of `query`.
        document_vector: Vector of `text`, as it was scored.
        tokenizer: The tokenizer of the model that made both vectors.
        windows: The parts of the text, (start, end) in characters, that the document's vector was made from;
            None where it was made from the beginning of the text, as far as the model reads.

    Returns:
        The contributions in descending order (ties by token id), and the words of the text they stand for.
    """
    shared, query_rows, document_rows = np.intersect1d(
        query_vector.indices, document_vector.indices, assume_unique=True, return_indices=True
    )
    query_weights = query_vector.values[query_rows].astype(np.float64)
    document_weights = document_vector.values[document_rows].astype(np.float64)
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
    """Name the source of a token: "literal" or the side that the model expanded."""
    if contribution.in_query:
        return "literal" if contribution.in_text else "text expanded"
    return "query expanded" if contribution.in_text else "both expanded"


def _places(
    text: str, windows: Sequence[tuple[int, int]], tokenizer: LiteralTokenizer
) -> Iterator[tuple[int, int, int]]:
    """Iterate over the tokens of a text: id, start, end; without special tokens, which have no place."""
    encodings = tokenizer.encode_batch([text[start:end] for start, end in windows])
    for (begin, _), encoding in zip(windows, encodings, strict=True):
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end > start:
                yield token_id, begin + start, begin + end


def _marks(
    text: str, places: Sequence[tuple[int, int, int]], found: Mapping[int, Contribution]
) -> Iterator[Mark]:
    """Join contributing tokens to the words they are in."""
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
        shares = [found[token_id] for token_id in tokens_of[word]]
        yield Mark(*words[word], fsum(c.score for c in shares), any(c.in_query for c in shares))


# -- terminal ------------------------------------------------------------------------------------------------


def explanation_view(explanation: Explanation, *, tokens: int = _TOKENS_SHOWN) -> RenderableType:
    """Draw an explanation: the text with its words marked, then one bar per token in descending order."""
    return _ExplanationView(explanation, tokens)


@dataclass(frozen=True, slots=True)
class _ExplanationView:
    explanation: Explanation
    tokens: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        explanation = self.explanation
        yield marked_text(explanation, console)
        yield Text()
        if not explanation.contributions:
            yield Text("Score 0: query and text share no token.")
            return
        yield _token_table(explanation, self.tokens, options)


def marked_text(
    explanation: Explanation, console: Console, *, start: int = 0, end: int | None = None
) -> Text:
    """Draw the text of an explanation, or a part of it, with its words marked.

    Words of the query are highlighted; words of its expansion are underlined. A console without colours shows
    [brackets] around the first and [~brackets] around the others, of a kind that the text does not contain.
    Words with a small share of the score, such as "the", stay unmarked. Control characters are made visible.
    """
    from rich.text import Text

    drawn = Text()
    min_score = _MIN_MARKED_SHARE * max((mark.score for mark in explanation.marks), default=0.0)
    opening, closing = _brackets(explanation.text[start:end]) if _is_plain(console) else ("", "")
    for piece, mark in explanation.pieces(start, end):
        shown = printable(piece)
        if mark is None or mark.score < min_score:
            drawn.append(shown)
        elif mark.in_query:
            drawn.append(f"{opening}{shown}{closing}", _LITERAL_STYLE)
        else:
            drawn.append(f"{opening}{opening and '~'}{shown}{closing}", _EXPANDED_STYLE)
    return drawn


def _is_plain(console: Console) -> bool:
    """Return whether a console draws without colours, as it does with NO_COLOR."""
    return console.color_system is None or console.no_color


def _brackets(text: str) -> tuple[str, str]:
    """Return a pair of brackets that a text does not contain; the last pair if it contains all."""
    free = ((left, right) for left, right in _BRACKETS if left not in text and right not in text)
    return next(free, _BRACKETS[-1])


def bar(share: float, *, width: int = _BAR_WIDTH, literal: bool = True, ascii_only: bool = False) -> Text:
    """Draw a bar.

    Args:
        share: 0..1 of `width`; anything above 0 is at least one character.
        width: Characters of a full bar.
        literal: True for a solid bar, False for the lighter one of an expansion token.
        ascii_only: Draw with ASCII characters.
    """
    from rich.text import Text

    length = max(1 if share > 0 else 0, round(share * width))
    signs = "#-" if ascii_only else "█░"
    return Text(signs[0 if literal else 1] * length, "yellow" if literal else "cyan")


def _token_table(explanation: Explanation, max_tokens: int, options: ConsoleOptions) -> Table:
    """Draw one row per token; a narrow console gets shorter bars and fewer columns."""
    from rich.table import Table
    from rich.text import Text

    room_for_bar = _BAR_WIDTH - (_FULL_TABLE_WIDTH - options.max_width)
    narrow = room_for_bar < _MIN_BAR_WIDTH
    bar_width = max(_MIN_BAR_WIDTH, min(_BAR_WIDTH, options.max_width - 26 if narrow else room_for_bar))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("token", overflow="fold")
    table.add_column("score", justify="right", overflow="fold")
    table.add_column("", width=bar_width, overflow="fold")
    if not narrow:
        table.add_column("query x text", justify="right", style="dim", overflow="fold")
        table.add_column("from", style="dim", overflow="fold")
    shown = explanation.contributions[:max_tokens]
    for contribution in shown:
        literal = contribution.in_query and contribution.in_text
        share = contribution.score / shown[0].score
        cells: list[RenderableType] = [
            Text(printable(contribution.token), "bold" if literal else ""),
            f"{contribution.score:.3f}",
            bar(share, width=bar_width, literal=literal, ascii_only=options.ascii_only),
        ]
        if not narrow:
            cells.append(f"{contribution.query_weight:.2f} x {contribution.document_weight:.2f}")
            cells.append(kind_of(contribution))
        table.add_row(*cells)
    rest = explanation.contributions[max_tokens:]
    if rest:
        table.add_row(Text(f"{len(rest)} more", "dim"), f"{fsum(c.score for c in rest):.3f}")
    table.add_row(Text("sum", "bold"), Text(f"{explanation.score:.3f}", "bold"))
    return table


# -- notebook ------------------------------------------------------------------------------------------------


def _html_piece(piece: str, mark: Mark | None) -> str:
    if mark is None:
        return escape(printable(piece))
    opacity = 0.45 if mark.in_query else 0.2
    return (
        f'<mark style="background:rgba(245,180,0,{opacity});color:inherit" '
        f'title="{mark.score:.3f}">{escape(printable(piece))}</mark>'
    )


def _html_row(contribution: Contribution, max_score: float) -> str:
    width = 70 * contribution.score / max_score if max_score else 0.0
    colour = (
        "rgba(245,180,0,0.8)" if contribution.in_query and contribution.in_text else "rgba(80,140,220,0.7)"
    )
    return (
        f'<tr><td style="text-align:left"><code>{escape(printable(contribution.token))}</code></td>'
        f'<td style="text-align:left;min-width:12em">'
        f'<span style="display:inline-block;height:0.7em;width:{width:.1f}%;background:{colour}"></span> '
        f"{contribution.score:.3f}</td>"
        f"<td>{contribution.query_weight:.3f} &times; {contribution.document_weight:.3f}</td>"
        f'<td style="text-align:left">{kind_of(contribution)}</td></tr>'
    )
