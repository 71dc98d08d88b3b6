"""Views for notebooks, readable without scripts; every text is escaped.

Hosts that remove style sheets, such as GitHub, show the same tables without bars and colours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Final

from splade_retriever.drawing.palette import STYLES, style_sheet
from splade_retriever.printable import printable

__all__ = ["Row", "as_text", "bar_of", "paragraph", "table", "view"]

_LINKED: Final = 20
"""Numbers of rows and marks that highlight each other under the pointer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: a name, a value, its bar, and further cells."""

    name: str
    value: float
    kind: str | None = None
    """Kind of the token, which decides colour and pattern of the bar."""
    cells: tuple[str, ...] = ()
    linked: int | None = None
    """Number that this row shares with marks: the pointer on one highlights the others."""


def as_text(text: str) -> str:
    """Return a text as HTML that shows it: markup escaped, control characters visible."""
    return escape(printable(text))


def paragraph(text: str, css_class: str = "quiet") -> str:
    """Return a paragraph; nothing for an empty text."""
    return f'<p class="{css_class}">{as_text(text)}</p>' if text else ""


def table(headings: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table of names, values and bars.

    Args:
        headings: Of the name, of the value, and of the further cells.
        rows: In descending order of their values.
    """
    name, value, *further = headings
    head = "".join(f'<th scope="col">{as_text(part)}</th>' for part in (name, value))
    head += '<th><span class="spoken">bar</span></th>'
    head += "".join(f'<th scope="col">{as_text(part)}</th>' for part in further)
    largest = max((row.value for row in rows), default=0.0) or 1.0
    body = "".join(_row(row, largest) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{as_text(name)}s">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bar_of(share: float, kind: str | None = None) -> str:
    """Return a bar of a part of its room, 0 to 1, in colour and pattern of a kind of token."""
    css_class = "plain" if kind is None else STYLES[kind].css_class
    return f'<span class="bar {css_class}" style="width:{100 * share:.1f}%"></span>'


def view(parts: Iterable[str]) -> str:
    """Return the complete view with its style sheet, in light and dark colours."""
    return f'<div class="splade splade-view"><style>{_notebook_style()}</style>{"".join(parts)}</div>'


def _row(row: Row, largest: float) -> str:
    linked = "" if row.linked is None else f' data-n="{row.linked}"'
    cells = "".join(f"<td>{as_text(cell)}</td>" for cell in row.cells)
    return (
        f'<tr{linked}><th scope="row">{as_text(row.name)}</th><td class="value">{row.value:.3f}</td>'
        f'<td class="room">{bar_of(row.value / largest, row.kind)}</td>'
        f"{cells}</tr>"
    )


def _notebook_style() -> str:
    rules = files("splade_retriever.drawing").joinpath("notebook.css").read_text(encoding="utf-8")
    links = ",".join(f'.splade-view:has([data-n~="{n}"]:hover) [data-n~="{n}"]' for n in range(_LINKED))
    return f"{style_sheet()}{rules}{links}{{outline-style:solid}}"
