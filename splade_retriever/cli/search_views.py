"""Views of search results: where each hit comes from, its best part with words marked, and its tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from splade_retriever.cli.output import UNWRAPPED_WIDTH
from splade_retriever.cli.wording import counted, shown_path
from splade_retriever.explanation import Explanation, marked_text
from splade_retriever.index.documents import Hit
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.printable import printable

__all__ = ["best_part", "hits_view"]

_EXCERPT_LINES: Final = 4
_EXCERPT_WIDTH: Final = 100
"""Characters of a line of an excerpt where the output is not wrapped."""
_INDENT: Final = 4
_MAX_VALUE: Final = 40
_PLACE_KEYS: Final = ("source", "line", "page", "passage", "heading")


def hits_view(
    query: str,
    hits: Sequence[tuple[Hit, Explanation]],
    *,
    full: bool,
    tokens: int,
    total: int = 0,
    matching: int | None = None,
    unreadable: bool = False,
) -> RenderableType:
    """Draw ranked hits.

    Args:
        query: The query.
        hits: Hits, best first, each with its explanation.
        full: Draw all of each passage, not its best part.
        tokens: Number of tokens to draw for each hit.
        total: Number of documents in the index, drawn if there is no hit.
        matching: Number of documents that match the filter, where there is one and no hit.
        unreadable: The query has no token that the model knows.
    """
    controls = query.controls.notes() if isinstance(query, SpladeQuery) else ()
    applied = [Text(printable(f"controls: {'; '.join(controls)}"), "dim")] if controls else []
    query = str(query)
    if unreadable:
        return Text(f"Nothing found: {query!r} has no token that the model knows.")
    if not hits:
        return Group(Text(_nothing(query, total, matching)), *applied)
    views: list[RenderableType] = []
    for rank, (hit, explanation) in enumerate(hits, start=1):
        views.append(_HitView(rank, hit, explanation, full=full, tokens=tokens))
        views.append(Text())
    legend = "~ marks expansion: a token that the model added to the query, to the passage, or to both."
    return Group(*views, *applied, Text(legend, "dim"))


def _nothing(query: str, total: int, matching: int | None) -> str:
    if total and matching == 0:
        return (
            f"Nothing found for {query!r}: none of {counted(total, 'passage')} matches the filter. Check its "
            "keys and values; --json shows the metadata of hits."
        )
    among = counted(total, "passage") if matching is None else f"{counted(matching, 'passage')} of the filter"
    return f"Nothing found for {query!r} among {among}."


@dataclass(frozen=True, slots=True)
class _HitView:
    rank: int
    hit: Hit
    explanation: Explanation
    full: bool
    tokens: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wrapped = options.max_width < UNWRAPPED_WIDTH
        head = Table.grid(expand=wrapped, padding=(0, 1, 0, 0))
        head.add_column(width=3, justify="right", style="bold cyan")
        head.add_column(ratio=1 if wrapped else None, overflow="fold")
        head.add_column(justify="right", style="bold green", no_wrap=True)
        head.add_row(f"{self.rank}.", _origin(self.hit), _score(self.hit))
        yield head
        text = self.explanation.text
        width = options.max_width if wrapped else _EXCERPT_WIDTH
        room = _EXCERPT_LINES * max(20, width - _INDENT)
        start, end = (0, len(text)) if self.full else best_part(self.explanation, room)
        marked = marked_text(self.explanation, console, start=start, end=end)
        excerpt = Text.assemble("... " if start else "", marked, " ..." if end < len(text) else "")
        yield _indented(excerpt if self.full else _on_one_line(excerpt))
        for line in _token_lines(self.explanation, self.tokens, width - _INDENT):
            yield _indented(line)
        if self.explanation.second is not None:
            yield _indented(Text("second model:", "dim"))
            for line in _token_lines(self.explanation.second, self.tokens, width - _INDENT):
                yield _indented(line)


def _score(hit: Hit) -> str:
    """Return the score; of a hybrid search also its parts, since fused scores are all close to each other."""
    if not hit.branches:
        return f"{hit.score:.2f}"
    parts = ", ".join(f"{name} {branch.score:.2f}" for name, branch in hit.branches.items())
    return f"{hit.score:.4f} ({parts})"


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, _INDENT), expand=False)


def _origin(hit: Hit) -> Text:
    """Draw where a hit comes from: file and line or page, headings, and its other metadata."""
    source = hit.metadata.get("source")
    if isinstance(source, str):
        origin = Text(shown_path(source) + _place_in_file(hit), "bold")
        if not hit.id.startswith(f"{source}#"):
            origin.append(f"  {hit.id}", "cyan")
    else:
        origin = Text(hit.id, "bold")
    if heading := hit.metadata.get("heading"):
        origin.append(f"  {heading}")
    for key, value in hit.metadata.items():
        if key not in _PLACE_KEYS:
            origin.append(f"  {key}={_shortened(value)}", "dim")
    return origin


def _place_in_file(hit: Hit) -> str:
    line, page = hit.metadata.get("line"), hit.metadata.get("page")
    if isinstance(line, int):
        return f":{line}"
    return f", page {page}" if isinstance(page, int) else ""


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


def best_part(explanation: Explanation, room: int) -> tuple[int, int]:
    """Find the part of a text whose marked words have the highest score, each word counted once.

    Args:
        explanation: The text and its marks.
        room: Maximum length of the part in characters.

    Returns:
        (start, end) in characters, between words; all of the text if it fits.
    """
    text, marks = explanation.text, explanation.marks
    if len(text) <= room:
        return 0, len(text)
    best_start, best_score = 0, -1.0
    for begin in [0, *(max(0, mark.start - room // 8) for mark in marks)]:
        words: dict[str, float] = {}
        for mark in marks:
            if begin <= mark.start and mark.end <= begin + room:
                words[text[mark.start : mark.end].lower()] = mark.score
        score = fsum(words.values())
        if score > best_score:
            best_start, best_score = begin, score
    start = min(best_start, len(text) - room)
    end = start + room
    if start > 0:
        blank = re.search(r"\s", text[start:end])
        start += blank.end() if blank else 0
    if end < len(text):
        blanks = [match.start() for match in re.finditer(r"\s", text[start:end])]
        end = start + blanks[-1] if blanks else end
    return start, end


def _on_one_line(text: Text) -> Text:
    """Join lines; the marks stay."""
    joined = Text()
    for line in text.split("\n"):
        if line.plain.strip():
            if joined:
                joined.append(" ")
            joined.append_text(line)
    return joined


def _token_lines(explanation: Explanation, max_tokens: int, width: int) -> list[Text]:
    """Draw the tokens of a score, those of expansion with a ~, and the sum of the tokens not drawn."""
    shares: list[Text] = []
    for contribution in explanation.contributions[:max_tokens]:
        literal = contribution.in_query and contribution.in_text
        name = contribution.token if literal else f"~{contribution.token}"
        style = "bold yellow" if literal else "cyan"
        shares.append(Text.assemble((name, style), (f" {contribution.score:.2f}", "dim")))
    rest = explanation.contributions[max_tokens:]
    if rest:
        shares.append(Text(f"+ {len(rest)} more {fsum(c.score for c in rest):.2f}", "dim"))
    lines: list[Text] = []
    for share in shares:  # rich would break a line between a token and its score
        if lines and lines[-1].cell_len + 2 + share.cell_len <= width:
            lines[-1].append("  ").append_text(share)
        else:
            lines.append(share)
    return lines
