"""The progress line of `splade index` and `splade encode --out`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from splade_retriever.files.passages import FileIssue
from splade_retriever.files.progress import ReadProgress

__all__ = ["IndexProgress"]


class IndexProgress:
    """A progress line while files are read; it is drawn only if the console is a terminal."""

    def __init__(
        self, console: Console, files: Sequence[Path | FileIssue], *, title: str = "indexing"
    ) -> None:
        self._total = ReadProgress(files).total
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
        self._task = self._bar.add_task("", total=self._total or None, passages="0", speed="0")
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # the last files may have no passage
            self._bar.update(self._task, completed=self._total)
        self.stop()

    def stop(self) -> None:
        """Remove the line, so that a message can be printed."""
        if not self._bar.disable:  # Rich before 14 prints an empty line where nothing was drawn
            self._bar.stop()

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        task = self._bar.tasks[0]
        return task.completed / task.total if task.total else 0.0

    def advance(self, passages: int, read: int, encoded: int | None = None) -> None:
        """Draw how much is done; safe to call from another thread.

        Args:
            passages: Passages that are done.
            read: Bytes of the files that they end at.
            encoded: Those of them that count for the speed; None for all. An earlier run did the others.
        """
        self.passages = passages
        speed = (passages if encoded is None else encoded) / (time.perf_counter() - self._started)
        self._bar.update(self._task, completed=read, passages=f"{passages:,}", speed=f"{speed:.1f}")
