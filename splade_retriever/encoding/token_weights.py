"""TokenWeights: a vector as `{token: weight}`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from splade_retriever.drawing.html import Row, paragraph, table, view

if TYPE_CHECKING:
    from splade_retriever.drawing.plot import TokenFigure

__all__ = ["TokenWeights"]


class TokenWeights(dict[str, float]):
    """`{token: weight}`, the largest weight first: a dict, shown as a table with bars in a notebook."""

    _MAX_ROWS: ClassVar[int] = 30

    def plot(self, *, max_tokens: int = 20) -> TokenFigure:
        """Draw the largest weights as a figure of matplotlib; see `SparseEmbedding.plot`.

        Raises:
            InputError: `max_tokens` is less than 1.
            MissingExtraError: matplotlib is not installed.
        """
        from splade_retriever.drawing.plot import Bar, bar_chart

        return bar_chart([Bar(*pair) for pair in self.items()], axis="Weight", max_tokens=max_tokens)

    def _repr_html_(self) -> str:
        rows = [Row(token, weight) for token, weight in islice(self.items(), self._MAX_ROWS)]
        hidden = len(self) - len(rows)
        more = f"and {hidden} with smaller weights" if hidden > 0 else ""
        return view([table(("token", "weight"), rows), paragraph(more)])
