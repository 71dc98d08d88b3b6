"""Bar charts of tokens for papers, by matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from numbers import Integral
from typing import Any, Final

from splade_retriever.drawing.palette import LIGHT, STYLES
from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.printable import printable

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'plot() needs matplotlib, which is not installed. Run: pip install "splade-retriever[plot]"'
    ) from error

__all__ = ["Bar", "TokenFigure", "bar_chart"]

_WIDTH_INCHES: Final = 3.5
"""The width of a column of most papers."""
_INCHES_PER_BAR: Final = 0.19
_FONT_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """One token."""

    label: str
    value: float
    kind: str | None = None
    """Kind of the token; None for one without a kind."""


class TokenFigure(Figure):
    """A figure of matplotlib. It belongs to no window, so notebooks draw it by this method."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=150)
        return content.getvalue()


def bar_chart(
    bars: Sequence[Bar], *, axis: str, max_tokens: int, legend: Mapping[str, str] | None = None
) -> TokenFigure:
    """Draw horizontal bars, the first at the top.

    A kind has a colour and a pattern, so that a print without colours shows it too. The legend has the kinds
    that occur.

    Args:
        bars: Tokens in descending order.
        axis: What the values are.
        max_tokens: How many bars to draw.
        legend: Kind -> what the legend says of it; None for the kinds of an explanation.

    Raises:
        InputError: `max_tokens` is not an int of 1 or more.
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, Integral) or max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens!r}, expected an int of 1 or more.")
    bars = bars[:max_tokens]
    words = legend or {kind: style.words for kind, style in STYLES.items()}
    height = 0.7 + _INCHES_PER_BAR * max(1, len(bars)) + (0.35 if any(bar.kind for bar in bars) else 0.0)
    figure = TokenFigure(figsize=(_WIDTH_INCHES, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for place, bar in enumerate(bars):
        axes.barh(place, bar.value, height=0.72, **_style(bar.kind))
    axes.set_yticks(range(len(bars)), [_literal_text(bar.label) for bar in bars], fontsize=_FONT_SIZE)
    axes.set_ylim(max(1, len(bars)) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=_FONT_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(axis, fontsize=_FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = [kind for kind in STYLES if any(bar.kind == kind for bar in bars)]
    if kinds:
        handles = [Patch(label=words[kind], **_style(kind)) for kind in kinds]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=2, fontsize=_FONT_SIZE - 1, frameon=False
        )
    return figure


def _style(kind: str | None) -> dict[str, Any]:
    if kind is None:
        return {"facecolor": LIGHT["edge"], "edgecolor": LIGHT["edge"], "linewidth": 0.8}
    style = STYLES[kind]
    colour = LIGHT[style.colour]
    return {
        "facecolor": "white" if style.hatch else colour,
        "edgecolor": colour,
        "hatch": style.hatch,
        "linewidth": 0.8,
    }


def _literal_text(label: str) -> str:
    """Escape what matplotlib reads as a formula."""
    return printable(label).replace("$", r"\$")
