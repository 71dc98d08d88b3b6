"""Drawing an explanation in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Final

from splade_retriever.drawing.html import Row, as_text, paragraph, table, view
from splade_retriever.explanation.contributions import Contribution, Scored, Span

__all__ = ["explanation_body", "explanation_html"]

_TOKENS_SHOWN: Final = 20
_TIMES: Final = "\N{MULTIPLICATION SIGN}"
_MIN_MARKED_SHARE: Final = 0.05
"""Share of the best marked word's score below which a word is drawn unmarked."""


def explanation_html(explanation: Scored) -> str:
    """Draw the text with its words marked, and one bar per token."""
    return view([explanation_body(explanation)])


def explanation_body(explanation: Scored) -> str:
    """Return what `explanation_html` draws, as a part of a larger view."""
    second = explanation.second
    return _one_model(explanation) + (
        "" if second is None else paragraph("second model", "head") + _one_model(second)
    )


def _one_model(explanation: Scored) -> str:
    shown = explanation.contributions[:_TOKENS_SHOWN]
    rest = explanation.contributions[len(shown) :]
    return "".join(
        [
            paragraph(f"{explanation.query}: score {explanation.score:.3f}", "head"),
            f'<p class="text">{"".join(_marked_text(explanation, shown))}</p>',
            paragraph(_shares(explanation)),
            table(
                ("token", "score", f"query {_TIMES} text", "from"),
                [_row(explanation, contribution, n) for n, contribution in enumerate(shown)],
            )
            if shown
            else paragraph("Query and text share no token."),
            paragraph(f"and {len(rest)} lighter tokens: {fsum(c.score for c in rest):.3f}" if rest else ""),
            paragraph(_unmatched(explanation)),
        ]
    )


@dataclass(slots=True)
class _Marked:
    """A word of the text that is drawn with a mark."""

    span: Span
    css_class: str
    score: float
    linked: list[int]
    """Numbers of the tokens that stand here, or come from here."""


def _marked_text(explanation: Scored, shown: tuple[Contribution, ...]) -> Iterator[str]:
    """Yield the text with the words marked that decided, and those that expansions come from."""
    end = 0
    for mark in sorted(_marked_words(explanation, shown), key=lambda mark: mark.span):
        start, stop = mark.span
        if start < end:
            continue
        yield as_text(explanation.text[end:start])
        yield (
            f'<mark class="{mark.css_class}" data-n="{" ".join(map(str, mark.linked))}" '
            f'title="{mark.score:.3f}">{as_text(explanation.text[start:stop])}</mark>'
        )
        end = stop
    yield as_text(explanation.text[end:])


def _marked_words(explanation: Scored, shown: tuple[Contribution, ...]) -> list[_Marked]:
    min_score = _MIN_MARKED_SHARE * max((mark.score for mark in explanation.marks), default=0.0)
    words = {
        (mark.start, mark.end): _Marked(
            (mark.start, mark.end), "literal" if mark.in_query else "expanded", mark.score, []
        )
        for mark in explanation.marks
        if mark.score >= min_score
    }
    for n, contribution in enumerate(shown):
        origin = contribution.text_origin
        for span in contribution.places if origin is None else (origin,):
            if origin is not None and span not in words:
                words[span] = _Marked(span, "origin", contribution.score, [])
            if span in words:
                words[span].linked.append(n)
    return list(words.values())


def _row(explanation: Scored, contribution: Contribution, n: int) -> Row:
    product = f"{contribution.query_weight:.3f} {_TIMES} {contribution.document_weight:.3f}"
    return Row(
        contribution.token,
        contribution.score,
        contribution.kind,
        (product, _source(explanation, contribution)),
        n,
    )


def _source(explanation: Scored, contribution: Contribution) -> str:
    """Say where a token comes from, and name the words that the model expanded, where they are known."""
    sides = ((explanation.query, contribution.query_origin), (explanation.text, contribution.text_origin))
    words = " / ".join(text[slice(*span)] for text, span in sides if span is not None)
    control = "" if contribution.control is None else f", {contribution.control}"
    return contribution.kind + (f": {words}" if words else "") + control


def _shares(explanation: Scored) -> str:
    shares = sorted(explanation.shares.items(), key=lambda share: -share[1])
    shown = ", ".join(f"{share:.0%} {kind}" for kind, share in shares if share > 0)
    controls = f". Controls: {'; '.join(explanation.controls)}" if explanation.controls else ""
    return shown + controls


def _unmatched(explanation: Scored) -> str:
    names = [token.token if token.in_query else f"~{token.token}" for token in explanation.unmatched]
    more = f" and {len(names) - _TOKENS_SHOWN} more" if len(names) > _TOKENS_SHOWN else ""
    return f"not matched: {', '.join(names[:_TOKENS_SHOWN])}{more}" if names else ""
