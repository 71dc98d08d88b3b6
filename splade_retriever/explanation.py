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
    """Split the score of a text into the contributions of its words and tokens.

    score = sum over tokens j of query weight_j * document weight_j.

    A rare word is several tokens (word pieces). Their products are summed into one contribution of the word
    that they are pieces of: the query's word, or, for tokens that only the text has, the text's word.

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
    weights = np.column_stack([query_vector.values[query_rows], document_vector.values[document_rows]])
    ids = shared.tolist()
    products = {
        id: _Product(token, *pair)
        for id, token, pair in zip(
            ids, tokenizer.tokens(ids), weights.astype(np.float64).tolist(), strict=True
        )
    }
    query_words = _words(query, [(0, len(query))], tokenizer)
    text_words = _words(text, windows or [(0, len(text))], tokenizer)
    contributions = _contributions(products, query_words, text_words)
    return Explanation(
        query=query,
        text=text,
        score=fsum(contribution.score for contribution in contributions),
        contributions=contributions,
        marks=tuple(_marks(products, query_words, text_words)),
    )


def kind_of(contribution: Contribution) -> str:
    """Name the source of a token: "literal" or the side that the model expanded."""
    if contribution.in_query:
        return "literal" if contribution.in_text else "text expanded"
    return "query expanded" if contribution.in_text else "both expanded"


@dataclass(frozen=True, slots=True)
class _Product:
    """A token that both vectors have."""

    token: str
    query_weight: float
    document_weight: float

    @property
    def score(self) -> float:
        return self.query_weight * self.document_weight


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a text with its tokens, or a token that is not in a word, such as punctuation."""

    ids: tuple[int, ...]
    label: str
    start: int
    end: int
    is_word: bool


def _words(text: str, windows: Sequence[tuple[int, int]], tokenizer: LiteralTokenizer) -> list[_Word]:
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
        _Word(tuple(tokens.values()), text[start:end].lower(), start, end, (start, end) in known)
        for (start, end), tokens in sorted(tokens_of.items())
    ]


def _places(
    text: str, windows: Sequence[tuple[int, int]], tokenizer: LiteralTokenizer
) -> Iterator[tuple[int, int, int]]:
    """Iterate over the tokens of a text: id, start, end; without special tokens, which have no place."""
    encodings = tokenizer.encode_batch([text[start:end] for start, end in windows])
    for (begin, _), encoding in zip(windows, encodings, strict=True):
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end > start:
                yield token_id, begin + start, begin + end


def _contributions(
    products: Mapping[int, _Product], query_words: Sequence[_Word], text_words: Sequence[_Word]
) -> tuple[Contribution, ...]:
    """Sum the products of word pieces by word, each product in one contribution."""
    query_word_of, text_word_of = _word_of(query_words), _word_of(text_words)
    in_text = {word.ids for word in text_words}
    groups: dict[tuple[int, ...], list[int]] = {}
    word_of: dict[tuple[int, ...], _Word | None] = {}
    for id in products:
        word = query_word_of.get(id) or text_word_of.get(id)
        key = (id,) if word is None else word.ids
        groups.setdefault(key, []).append(id)
        word_of[key] = word
    contributions = []
    for key, ids in groups.items():
        pieces = [products[id] for id in sorted(ids, key=key.index)]
        word = word_of[key]
        score = fsum(piece.score for piece in pieces)
        query_weight = fsum(piece.query_weight for piece in pieces)
        contributions.append(
            Contribution(
                token=pieces[0].token if len(key) == 1 or word is None else word.label,
                query_weight=query_weight,
                document_weight=pieces[0].document_weight if len(pieces) == 1 else score / query_weight,
                score=score,
                in_query=any(id in query_word_of for id in ids),
                in_text=key in in_text,
                pieces=tuple(piece.token for piece in pieces),
            )
        )
    return tuple(sorted(contributions, key=lambda contribution: -contribution.score))


def _word_of(words: Sequence[_Word]) -> dict[int, _Word]:
    """Map each token id to the word it belongs to: a word of this token alone, or else the first one."""
    first: dict[int, _Word] = {}
    for word in words:
        for id in word.ids:
            if id not in first or (len(word.ids) == 1 and len(first[id].ids) > 1):
                first[id] = word
    return first


def _marks(
    products: Mapping[int, _Product], query_words: Sequence[_Word], text_words: Sequence[_Word]
) -> Iterator[Mark]:
    """Mark the words of a text that contributed.

    A word of the query counts as found only where all its pieces are together: "async" does not mark "as".
    """
    of_query = {word.ids for word in query_words}
    query_ids = {id for ids in of_query for id in ids}
    for word in text_words:
        literal = word.ids in of_query
        shares = [
            products[id].score
            for id in dict.fromkeys(word.ids)
            if id in products and (literal or id not in query_ids)
        ]
        if shares and word.is_word:
            yield Mark(word.start, word.end, fsum(shares), literal)


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
