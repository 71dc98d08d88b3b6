"""Colours and patterns of the kinds of tokens, for CSS and for plots."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

__all__ = ["DARK", "LIGHT", "STYLES", "BarStyle", "style_sheet"]

LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff",
    "ink": "#1b1b1f",
    "quiet": "#55555e",
    "line": "#d6d6de",
    "panel": "#f6f6f9",
    "edge": "#85858f",
    "focus": "#0b57d0",
    "literal": "#e3a008",
    "query-expanded": "#3b6fd4",
    "text-expanded": "#1f8a5b",
    "both-expanded": "#8a4fbf",
    "mark": "#ffe9a8",
    "mark-expanded": "#dbe7ff",
    "chosen": "#b3261e",
}
"""CSS variable -> colour on a light ground."""
DARK: Final[Mapping[str, str]] = {
    "paper": "#17171b",
    "ink": "#ececf1",
    "quiet": "#b4b4bf",
    "line": "#3d3d46",
    "panel": "#202027",
    "edge": "#85858f",
    "focus": "#8ab4f8",
    "literal": "#f0b429",
    "query-expanded": "#7ea6f4",
    "text-expanded": "#4fc08d",
    "both-expanded": "#c39bea",
    "mark": "#5c4708",
    "mark-expanded": "#26385e",
    "chosen": "#ff8a80",
}
"""CSS variable -> colour on a dark ground."""
_LIGHT_THEMES: Final = (
    ":root[data-theme=light]",  # the switch of the search page
    "body[data-jp-theme-light=true]",  # JupyterLab
    "body.vscode-light",
)
_DARK_THEMES: Final = (
    ":root[data-theme=dark]",
    "body[data-jp-theme-light=false]",
    "body.vscode-dark",
    "html[theme=dark]",  # Colab
)


@dataclass(frozen=True, slots=True)
class BarStyle:
    """How the bar of a kind of token is drawn."""

    css_class: str
    colour: str
    """Name of a colour of the palette."""
    hatch: str
    """Pattern of matplotlib; empty for a filled bar."""
    words: str
    """Says in a legend where the token comes from."""


STYLES: Final[Mapping[str, BarStyle]] = {
    "literal": BarStyle("literal", "literal", "", "in query and text"),
    "query expanded": BarStyle("query", "query-expanded", "////", "added to the query"),
    "text expanded": BarStyle("text-side", "text-expanded", "..", "added to the text"),
    "both expanded": BarStyle("both", "both-expanded", "xxxx", "added to both"),
}
"""Kind of token -> style."""


def style_sheet() -> str:
    """Return the CSS of bars and marks inside an element of class `splade`, in light and dark colours.

    The colours follow the theme of JupyterLab, VS Code, Colab or the page, and else the system's setting.
    """
    light, dark = _variables(LIGHT), _variables(DARK)
    rules = files("splade_retriever.drawing").joinpath("style.css").read_text(encoding="utf-8")
    return (
        f".splade{{{light}}}\n"
        f"@media (prefers-color-scheme: dark){{.splade{{{dark}}}}}\n"
        f"{_inside(_LIGHT_THEMES)}{{{light}}}\n"
        f"{_inside(_DARK_THEMES)}{{{dark}}}\n"
        f"{rules}"
    )


def _variables(colours: Mapping[str, str]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in colours.items())


def _inside(themes: tuple[str, ...]) -> str:
    return ",".join(f"{theme} .splade" for theme in themes)
