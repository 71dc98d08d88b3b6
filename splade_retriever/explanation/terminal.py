"""Drawing an explanation in a terminal, by rich, which is imported only then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Final, Protocol

from splade_retriever.explanation.contributions import Contribution, Scored, split_at
from splade_retriever.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["bar", "explanation_view", "marked_text", "why_not_view"]

_TOKENS_SHOWN: Final = 20
_UNMATCHED_SHOWN: Final = 8
_MIN_MARKED_SHARE: Final = 0.05
"""Share of the best marked word's score below which a word is drawn unmarked."""
_LITERAL_STYLE: Final = "bold black on yellow"
_EXPANDED_STYLE: Final = "underline"
_BRACKETS: Final = (("[", "]"), ("{", "}"), ("<", ">"), ("[[", "]]"))
_MIN_BAR_WIDTH: Final = 4
_BAR_WIDTH: Final = 24
_FULL_TABLE_WIDTH: Final = 74
"""Width in characters of the token table with all its columns, for tokens of 12 characters."""


def explanation_view(explanation: Scored, *, tokens: int = _TOKENS_SHOWN) -> RenderableType:
    """Draw an explanation: the text with its words marked, then one bar per token in descending order."""
    return _ExplanationView(explanation, tokens)


@dataclass(frozen=True, slots=True)
class _ExplanationView:
    explanation: Scored
    tokens: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        explanation = self.explanation
        yield marked_text(explanation, console)
        yield from self._weights(explanation, options)
        if explanation.second is not None:
            yield Text()
            yield Text("second model", "bold")
            yield from self._weights(explanation.second, options)

    def _weights(self, explanation: Scored, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text()
        if not explanation.contributions:
            yield Text("Score 0: query and text share no token.")
            return
        yield _token_table(explanation, self.tokens, options)
        yield Text()
        yield Text(_shares_line(explanation), "dim")
        if explanation.controls:
            yield Text(printable(f"controls: {'; '.join(explanation.controls)}"), "dim")
        if explanation.unmatched:
            yield Text(_unmatched_line(explanation), "dim")


def _shares_line(explanation: Scored) -> str:
    shares = sorted(explanation.shares.items(), key=lambda share: -share[1])
    return "score: " + ", ".join(f"{share:.0%} {kind}" for kind, share in shares if share > 0)


def _unmatched_line(explanation: Scored) -> str:
    """List the query's tokens that the text does not have, the words of the query first."""
    tokens = sorted(explanation.unmatched, key=lambda token: not token.in_query)
    names = [printable(token.token) if token.in_query else f"~{printable(token.token)}" for token in tokens]
    more = len(names) - _UNMATCHED_SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return f"not matched: {', '.join(names[:_UNMATCHED_SHOWN])}{rest}"


def marked_text(explanation: Scored, console: Console, *, start: int = 0, end: int | None = None) -> Text:
    """Draw the text of an explanation, or a part of it, with its words marked.

    Words of the query are highlighted; words of its expansion are underlined. A console without colours shows
    [brackets] around the first and [~brackets] around the others, of a kind that the text does not contain.
    Words with a small share of the score, such as "the", stay unmarked. Control characters are made visible.
    """
    from rich.text import Text

    drawn = Text()
    min_score = _MIN_MARKED_SHARE * max((mark.score for mark in explanation.marks), default=0.0)
    opening, closing = _brackets(explanation.text[start:end]) if _is_plain(console) else ("", "")
    for piece, mark in split_at(explanation.text, explanation.marks, start, end):
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


def _token_table(explanation: Scored, max_tokens: int, options: ConsoleOptions) -> Table:
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
            cells.append(_source(explanation, contribution))
        table.add_row(*cells)
    rest = explanation.contributions[max_tokens:]
    if rest:
        table.add_row(Text(f"{len(rest)} more", "dim"), f"{fsum(c.score for c in rest):.3f}")
    table.add_row(Text("sum", "bold"), Text(f"{explanation.score:.3f}", "bold"))
    return table


class _Reason(Protocol):
    @property
    def message(self) -> str: ...


class _Difference(Protocol):
    @property
    def token(self) -> str: ...

    @property
    def score(self) -> float: ...

    @property
    def other_score(self) -> float: ...

    @property
    def difference(self) -> float: ...


class Missing(Protocol):
    """What is drawn of a document that was not found."""

    @property
    def reasons(self) -> Sequence[_Reason]:
        """What kept it out, the decisive one first."""
        ...

    @property
    def differences(self) -> Sequence[_Difference]:
        """What each token contributes here and to the last hit."""
        ...

    @property
    def found(self) -> bool:
        """Whether the search returned the document."""
        ...

    @property
    def id(self) -> str:
        """The document."""
        ...

    @property
    def rank(self) -> int | None:
        """Its rank."""
        ...

    @property
    def cut_id(self) -> str | None:
        """The last hit."""
        ...


def why_not_view(missing: Missing, *, tokens: int = _TOKENS_SHOWN) -> RenderableType:
    """Draw the reasons, then what each token contributes to the document and to the last hit."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if missing.found:
        return Text(f"{printable(missing.id)} was found, on rank {missing.rank}.")
    parts: list[RenderableType] = [Text(printable(reason.message)) for reason in missing.reasons]
    if missing.differences:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("token", overflow="fold")
        for heading in (printable(missing.id), printable(missing.cut_id or ""), "difference"):
            table.add_column(Text(heading), justify="right", overflow="fold")
        for part in missing.differences[:tokens]:
            table.add_row(
                Text(printable(part.token)),
                f"{part.score:.3f}",
                f"{part.other_score:.3f}",
                f"{part.difference:+.3f}",
            )
        parts += [Text(), table]
    return Group(*parts)


def _source(explanation: Scored, contribution: Contribution) -> Text:
    """Draw where a token comes from, and the words that the model expanded, where they are known."""
    from rich.text import Text

    origins = []
    for text, span in (
        (explanation.query, contribution.query_origin),
        (explanation.text, contribution.text_origin),
    ):
        if span is not None:
            origins.append(printable(text[slice(*span)]))
    control = "" if contribution.control is None else f", {printable(contribution.control)}"
    return Text(contribution.kind + (f": {' / '.join(origins)}" if origins else "") + control)
