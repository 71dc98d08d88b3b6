"""Drawing an explanation in a notebook, in translucent colours that fit light and dark themes."""

from __future__ import annotations

from html import escape
from math import fsum
from typing import Final

from splade_retriever.explanation.contributions import Contribution, Mark, Scored, split_at
from splade_retriever.printable import printable

__all__ = ["explanation_html"]

_TOKENS_SHOWN: Final = 20


def explanation_html(explanation: Scored) -> str:
    """Draw the text with its words marked, and one bar per token."""
    text = "".join(_html_piece(piece, mark) for piece, mark in split_at(explanation.text, explanation.marks))
    shown = explanation.contributions[:_TOKENS_SHOWN]
    max_score = shown[0].score if shown else 1.0
    rows = "".join(_html_row(contribution, max_score) for contribution in shown)
    rest = explanation.contributions[len(shown) :]
    more = f"<p>and {len(rest)} lighter tokens: {fsum(c.score for c in rest):.3f}</p>" if rest else ""
    return (
        f'<div style="line-height:1.5"><p style="white-space:pre-wrap">{text}</p>'
        f"<table><tr><th>token</th><th>score {explanation.score:.3f}</th><th>query &times; text</th>"
        f"<th>from</th></tr>"
        f"{rows}</table>{more}</div>"
    )


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
        f'<td style="text-align:left">{contribution.kind}</td></tr>'
    )
