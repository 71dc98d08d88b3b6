"""Views of the documents of an index: its files, and what was deleted or optimized."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splade_retriever.cli.wording import counted, shown_path

__all__ = ["deletion_view", "files_view", "optimization_view"]


def files_view(files: Mapping[str, int], *, others: int) -> RenderableType:
    """Draw the number of passages of each file."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for source, passages in files.items():
        table.add_row(f"{passages:,}", Text(shown_path(source)))
    summary = f"{counted(sum(files.values()), 'passage')} from {counted(len(files), 'file')}"
    if others:
        summary += f", {counted(others, 'document')} from elsewhere"
    return Group(table, Text(summary, "bold"))


def deletion_view(deleted: int, total: int, *, dry_run: bool) -> RenderableType:
    """Draw how many documents were deleted, or would be."""
    if dry_run:
        return Text(f"{counted(deleted, 'document')} of {total:,} would be deleted")
    return Text(f"{counted(deleted, 'document')} deleted, {counted(total, 'document')} left")


def optimization_view(*, changed: bool) -> RenderableType:
    """Draw whether there was something to optimize."""
    return Text("optimized" if changed else "nothing to do: the collection is small or optimized already")
