"""Views of models and of the vectors that they make."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from splade_retriever.explanation import bar

__all__ = ["models_view", "weights_view"]

_INDENT: Final = 4


def weights_view(
    weights: Mapping[str, float], literal: Collection[str], *, max_tokens: int, truncated: int
) -> RenderableType:
    """Draw the weights of a text as bars.

    Args:
        weights: Token -> weight, in descending order of weight.
        literal: The tokens that are in the text; the model added the others.
        max_tokens: Number of tokens to draw.
        truncated: Number of tokens of the text that the model did not read.
    """
    return _WeightsView(weights, literal, max_tokens, truncated)


@dataclass(frozen=True, slots=True)
class _WeightsView:
    weights: Mapping[str, float]
    literal: Collection[str]
    max_tokens: int
    truncated: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.weights:
            yield Text("No token has a weight.")
            return
        width = max(4, min(50, options.max_width - 30))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(overflow="fold")
        table.add_column(justify="right", overflow="fold")
        table.add_column(width=width)
        heaviest = max(self.weights.values())
        for token, weight in list(self.weights.items())[: self.max_tokens]:
            literal = token in self.literal
            drawn = bar(weight / heaviest, width=width, literal=literal, ascii_only=options.ascii_only)
            table.add_row(Text(token, "bold" if literal else ""), f"{weight:.3f}", drawn)
        yield table
        expanded = sum(1 for token in self.weights if token not in self.literal)
        full, light = ("#", "-") if options.ascii_only else ("█", "░")
        summary = (
            f"{len(self.weights)} tokens: {len(self.weights) - expanded} of the text ({full}), "
            f"{expanded} by expansion ({light})"
        )
        hidden = len(self.weights) - self.max_tokens
        yield Text(summary + (f"; {hidden} lighter ones are not shown" if hidden > 0 else ""), "dim")
        if self.truncated:
            yield Text(
                f"The text is longer than the model reads: its last {self.truncated} tokens were not read."
            )


def models_view(cards: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw the name, licence and size of each model, with its description below."""
    views: list[RenderableType] = []
    for card in cards:
        licence = (str(card["license"]), "yellow" if card["non_commercial"] else "green")
        size = f"  {card['size_in_GB']:.2f} GB" if card["size_in_GB"] else ""
        views.append(Text.assemble((str(card["model"]), "bold"), "  ", licence, size))
        sentences = [str(card["description"])]
        if card["query_side"] != "symmetric":
            sentences.append("Queries need no network.")
        if card["export_needed"]:
            sentences.append(f"No ONNX file is published: splade export {card['model']} FOLDER.")
        if card["non_commercial"]:
            sentences.append("Not for commercial use.")
        views.append(Padding(Text(" ".join(sentences), "dim"), (0, 0, 0, _INDENT), expand=False))
    return Group(*views)
