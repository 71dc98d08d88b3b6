"""The progress line of `splade index` and `splade encode --out`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from splade_retriever.files.passages import FileIssue

__all__ = ["IndexProgress"]


class IndexProgress:
    """A progress line while files are read; it is drawn only if the console is a terminal."""

    def __init__(
        self, console: Console, files: Sequence[Path | FileIssue], *, title: str = "indexing"
    ) -> None:
        total = sum(_size(file) for file in files if isinstance(file, Path))
        self.passages = 0
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[passages]} passages, {task.fields[speed]} per second"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total or None, passages="0", speed="0")
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stop(self) -> None:
        """Remove the line, so that a message can be printed."""
        self._bar.stop()

    def advance(self, passages: int, characters: int, encoded: int | None = None) -> None:
        """Draw how much is done; safe to call from another thread.

        Args:
            passages: Passages that are done.
            characters: Their length.
            encoded: Those of them that count for the speed; None for all. An earlier run did the others.
        """
        self.passages = passages
        speed = (passages if encoded is None else encoded) / (time.perf_counter() - self._started)
        self._bar.update(self._task, completed=characters, passages=f"{passages:,}", speed=f"{speed:.1f}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # reading it reports why
        return 0
