"""The weights of a vector by token, for people to read."""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import ClassVar

__all__ = ["TokenWeights"]


class TokenWeights(dict[str, float]):
    """`{token: weight}`, the largest weight first: a dict, shown as a table with bars in a notebook."""

    _MAX_ROWS: ClassVar[int] = 30

    def _repr_html_(self) -> str:
        largest = max(self.values(), default=1.0)
        rows = "".join(
            f"<tr><td>{escape(token)}</td><td>{weight:.3f}</td><td><div style='height:0.8em;width:"
            f"{100 * weight / largest:.0f}px;background:currentColor;opacity:0.4'></div></td></tr>"
            for token, weight in islice(self.items(), self._MAX_ROWS)
        )
        hidden = len(self) - self._MAX_ROWS
        more = f"<p>and {hidden} with smaller weights</p>" if hidden > 0 else ""
        return f"<table><tr><th>token</th><th>weight</th><th></th></tr>{rows}</table>{more}"
