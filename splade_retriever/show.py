"""What a terminal shows: explanations, hits, weights and reports, drawn with rich.

Colour is never the only sign: where a console has none, marked words stand in brackets, and bars of
expansion are drawn lighter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from splade_retriever.explain import Explanation, kind_of

__all__ = ["bar", "explanation_view", "marked_text"]

_TOKENS_SHOWN: Final = 20
_WORTH_MARKING: Final = 0.05
"""Share of the best marked word's score below which a word is left unmarked."""
_LITERAL: Final = "bold black on yellow"
_EXPANDED: Final = "underline"
_BAR_WIDTH: Final = 24
_FULL_TABLE: Final = 74
"""Characters that the full table of tokens takes, with a token of 12."""


def explanation_view(explanation: Explanation, *, tokens: int = _TOKENS_SHOWN) -> RenderableType:
    """Draw an explanation: the text with its words marked, then a bar a token, the heaviest first."""
    return _ExplanationView(explanation, tokens)


@dataclass(frozen=True, slots=True)
class _ExplanationView:
    explanation: Explanation
    tokens: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
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

    Words of the query are marked strongest; words that the query was expanded by are underlined. A console
    without colours gets [brackets] around the first and [~brackets] around the others. Words that gave next
    to nothing, such as "the", stay unmarked.
    """
    drawn = Text()
    least = _WORTH_MARKING * max((mark.score for mark in explanation.marks), default=0.0)
    plain = console.color_system is None
    for piece, mark in explanation.pieces(start, end):
        if mark is None or mark.score < least:
            drawn.append(piece)
        elif mark.in_query:
            drawn.append(f"[{piece}]" if plain else piece, _LITERAL)
        else:
            drawn.append(f"[~{piece}]" if plain else piece, _EXPANDED)
    return drawn


def bar(share: float, *, width: int = _BAR_WIDTH, literal: bool = True, ascii_only: bool = False) -> Text:
    """Draw a bar.

    Args:
        share: 0..1 of `width`; anything above 0 is at least one character.
        width: Characters of a full bar.
        literal: Solid if true, light if the token comes from expansion.
        ascii_only: Draw with ASCII characters.
    """
    length = max(1 if share > 0 else 0, round(share * width))
    signs = "#-" if ascii_only else "█░"
    return Text(signs[0 if literal else 1] * length, "yellow" if literal else "cyan")


def _token_table(explanation: Explanation, most: int, options: ConsoleOptions) -> Table:
    """Draw a row a token; a narrow console gets shorter bars and not the columns that can be done without."""
    narrow = options.max_width < _FULL_TABLE
    bar_width = max(4, min(_BAR_WIDTH, options.max_width - 26)) if narrow else _BAR_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("token", overflow="fold")
    table.add_column("score", justify="right", overflow="fold")
    table.add_column("", width=bar_width, overflow="fold")
    if not narrow:
        table.add_column("query x text", justify="right", style="dim", overflow="fold")
        table.add_column("from", style="dim", overflow="fold")
    shown = explanation.contributions[:most]
    for contribution in shown:
        literal = contribution.in_query and contribution.in_text
        cells: list[RenderableType] = [
            Text(contribution.token, "bold" if literal else ""),
            f"{contribution.score:.3f}",
            bar(
                contribution.score / shown[0].score,
                width=bar_width,
                literal=literal,
                ascii_only=options.ascii_only,
            ),
        ]
        if not narrow:
            cells.append(f"{contribution.query_weight:.2f} x {contribution.document_weight:.2f}")
            cells.append(kind_of(contribution))
        table.add_row(*cells)
    rest = explanation.contributions[most:]
    if rest:
        table.add_row(Text(f"{len(rest)} more", "dim"), f"{fsum(c.score for c in rest):.3f}")
    table.add_row(Text("sum", "bold"), Text(f"{explanation.score:.3f}", "bold"))
    return table
