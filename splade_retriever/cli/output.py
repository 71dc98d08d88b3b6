"""Prints results on stdout, and errors, warnings and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

__all__ = [
    "UNWRAPPED_WIDTH",
    "Progress",
    "print_error",
    "print_message",
    "print_result",
    "print_step",
    "print_warnings_of_the_package",
    "progress_bar",
    "stderr_console",
    "use_any_encoding",
]

Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""

UNWRAPPED_WIDTH: Final = 1_000_000
"""Width of piped output, whose lines are never broken."""


def print_result(
    view: Callable[[], RenderableType], data: Mapping[str, Any] | list[dict[str, Any]], *, as_json: bool
) -> None:
    """Print a result as JSON, or as a view for people; the view is built only if it is printed."""
    if as_json:
        document = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
        sys.stdout.write(printable_json(document) + "\n")
    else:
        _console(sys.stdout).print(_PrintableView(view()), crop=False)
    sys.stdout.flush()  # `splade index --watch` keeps running, and may write into a pipe


def print_error(message: str) -> None:
    """Print an error message on stderr."""
    _print_message("splade: ", "bold red", message)


def print_message(message: str) -> None:
    """Print a message on stderr."""
    _print_message("", "", message)


def print_step(step: str) -> None:
    """Print a step of a long command on stderr."""
    _print_message("", "", f"{step} ...")


def print_warnings_of_the_package() -> None:
    """Print what the package logs as warnings on stderr."""
    logger = logging.getLogger("splade_retriever")
    if not logger.handlers:
        logger.addHandler(_WarningHandler(logging.WARNING))


def use_any_encoding() -> None:
    """Let stdout and stderr replace characters that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Draw a progress bar if stderr is a terminal; yields the function that advances it."""
    from tqdm import tqdm

    with tqdm(unit=unit, unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def stderr_console() -> Console:
    """Return a console for stderr."""
    return _console(sys.stderr)


class _WarningHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print_message("splade: warning: ", "bold yellow", record.getMessage())


def _print_message(prefix: str, style: str, message: str) -> None:
    from rich.text import Text

    stderr_console().print(Text.assemble((prefix, style), printable(message)), soft_wrap=True)


def _console(file: Any) -> Console:
    from rich.console import Console

    wrapped = file.isatty() or "COLUMNS" in os.environ
    return Console(file=file, highlight=False, emoji=False, width=None if wrapped else UNWRAPPED_WIDTH)


@dataclass(frozen=True, slots=True)
class _PrintableView:
    """A view with its control characters made visible; rich keeps its own codes apart from the text."""

    view: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self.view, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
