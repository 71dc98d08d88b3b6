"""docs/benchmarks.md: each benchmark replaces its section, between its marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PAGE = Path("docs/benchmarks.md")


def write(name: str, heading: str, content: str) -> None:
    """Write a report between the marks of its benchmark; a page without them gets a section."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    page = PAGE.read_text("utf-8") if PAGE.is_file() else "# Benchmarks\n"
    if start not in page:
        page += f"\n## {heading}\n\n{start}\n{end}\n"
    before, rest = page.split(start, 1)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def ratio(value: float) -> str:
    """Format a factor."""
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}x" if value >= 100 else f"{value:.2f}x"
