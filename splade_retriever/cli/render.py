"""What a terminal shows: explanations, hits, weights and reports, drawn with rich.

Colour is never the only sign: where a console has none, marked words stand in brackets, and bars of
expansion are drawn lighter.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from splade_retriever.explanation import Explanation, bar, marked_text
from splade_retriever.files.passages import FileIssue

if TYPE_CHECKING:
    from splade_retriever.cli.diagnostics import Check
    from splade_retriever.files.sync import SyncReport
    from splade_retriever.index.documents import Hit
    from splade_retriever.maintenance.migrate import Migration
    from splade_retriever.maintenance.reindex import Reindexing

__all__ = [
    "Progress",
    "best_part",
    "checks_view",
    "counted",
    "facts_view",
    "hits_view",
    "migration_view",
    "models_view",
    "reindexing_view",
    "report_view",
    "shown_path",
    "weights_view",
]

_EXCERPT_LINES: Final = 4
_INDENT: Final = 4
_LONGEST_VALUE: Final = 40
_PLACES_NAMED: Final = 5
_PLACE_KEYS: Final = ("source", "line", "passage", "heading")


# -- search --------------------------------------------------------------------------------------------------


def hits_view(
    query: str, found: Sequence[tuple[Hit, Explanation]], *, full: bool, tokens: int, total: int = 0
) -> RenderableType:
    """Draw ranked hits: where each is from, its best part with words marked, and the tokens of its score.

    Args:
        query: What was looked for.
        found: Hits, best first, each with its explanation.
        full: Whole passages in place of their best part.
        tokens: Tokens to name for each hit.
        total: Documents in the index, told where none is found.
    """
    if not found:
        return Text(f"Nothing found for {query!r} among {counted(total, 'passage')}.")
    views: list[RenderableType] = []
    for rank, (hit, explanation) in enumerate(found, start=1):
        views.append(_HitView(rank, hit, explanation, full=full, tokens=tokens))
        views.append(Text())
    legend = "~ marks expansion: a token that the model added to the query, to the passage, or to both."
    return Group(*views, Text(legend, "dim"))


@dataclass(frozen=True, slots=True)
class _HitView:
    rank: int
    hit: Hit
    explanation: Explanation
    full: bool
    tokens: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = Table.grid(expand=True, padding=(0, 1, 0, 0))
        head.add_column(width=3, justify="right", style="bold cyan")
        head.add_column(ratio=1, overflow="fold")
        head.add_column(justify="right", style="bold green", no_wrap=True)
        head.add_row(f"{self.rank}.", _origin(self.hit), f"{self.hit.score:.2f}")
        yield head
        text = self.explanation.text
        room = _EXCERPT_LINES * max(20, options.max_width - _INDENT)
        start, end = (0, len(text)) if self.full else best_part(self.explanation, room)
        marked = marked_text(self.explanation, console, start=start, end=end)
        excerpt = Text.assemble("... " if start else "", marked, " ..." if end < len(text) else "")
        yield Padding(excerpt if self.full else _on_one_line(excerpt), (0, 0, 0, _INDENT))
        for line in _token_lines(self.explanation, self.tokens, options.max_width - _INDENT):
            yield Padding(line, (0, 0, 0, _INDENT))


def _origin(hit: Hit) -> Text:
    """Say where a hit is from: file and line, headings, and what else its metadata has."""
    rest = {key: value for key, value in hit.metadata.items() if key not in _PLACE_KEYS}
    source, line = hit.metadata.get("source"), hit.metadata.get("line")
    if isinstance(source, str):
        place = shown_path(source) + (f":{line}" if isinstance(line, int) else "")
        origin = Text(place, "bold")
        if not hit.id.startswith(f"{source}#"):
            origin.append(f"  {hit.id}", "cyan")
    else:
        origin = Text(hit.id, "bold")
    if heading := hit.metadata.get("heading"):
        origin.append(f"  {heading}")
    for key, value in rest.items():
        origin.append(f"  {key}={_short(value)}", "dim")
    return origin


def _short(value: object) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return told if len(told) <= _LONGEST_VALUE else told[: _LONGEST_VALUE - 3] + "..."


def shown_path(source: str) -> str:
    """Write a path as short as it can be: relative to the current folder where it lies in it."""
    path = Path(source)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return source


def best_part(explanation: Explanation, room: int) -> tuple[int, int]:
    """Find the part of a text whose marked words score most, each word counted once.

    Args:
        explanation: Of the text.
        room: Most characters.

    Returns:
        (start, end) in characters, at ends of words; the whole text if it fits.
    """
    text, marks = explanation.text, explanation.marks
    if len(text) <= room:
        return 0, len(text)
    best_start, best_score = 0, -1.0
    for begin in [0, *(max(0, mark.start - room // 8) for mark in marks)]:
        words: dict[str, float] = {}
        for mark in marks:
            if begin <= mark.start and mark.end <= begin + room:
                words[text[mark.start : mark.end].lower()] = mark.score
        score = fsum(words.values())
        if score > best_score:
            best_start, best_score = begin, score
    start = min(best_start, len(text) - room)
    end = start + room
    if start > 0:
        blank = re.search(r"\s", text[start:end])
        start += blank.end() if blank else 0
    if end < len(text):
        blank = re.search(r"\s(?=\S*$)", text[start:end])
        end = start + blank.start() if blank else end
    return start, end


def _on_one_line(text: Text) -> Text:
    """Join lines, keeping the marks."""
    joined = Text()
    for piece in text.split("\n"):
        if piece.plain.strip():
            if joined:
                joined.append(" ")
            joined.append_text(piece)
    return joined


def _token_lines(explanation: Explanation, most: int, width: int) -> list[Text]:
    """Name the tokens that made a score, expansion told from literal, and sum up the rest."""
    shares: list[Text] = []
    for contribution in explanation.contributions[:most]:
        literal = contribution.in_query and contribution.in_text
        name = contribution.token if literal else f"~{contribution.token}"
        style = "bold yellow" if literal else "cyan"
        shares.append(Text.assemble((name, style), (f" {contribution.score:.2f}", "dim")))
    rest = explanation.contributions[most:]
    if rest:
        shares.append(Text(f"+ {len(rest)} more {fsum(c.score for c in rest):.2f}", "dim"))
    lines: list[Text] = []
    for share in shares:  # rich would break a line between a token and its figure
        if lines and lines[-1].cell_len + 2 + share.cell_len <= width:
            lines[-1].append("  ").append_text(share)
        else:
            lines.append(share)
    return lines


# -- encode, models ------------------------------------------------------------------------------------------


def weights_view(
    weights: Mapping[str, float], own: Collection[str], *, most: int, cut: int
) -> RenderableType:
    """Draw the weights of a text as bars.

    Args:
        weights: Token -> weight, the heaviest first.
        own: Those of the tokens that the text has; the others are the model's expansion.
        most: Tokens to draw.
        cut: Tokens of the text that the model did not read.
    """
    return _WeightsView(weights, own, most, cut)


@dataclass(frozen=True, slots=True)
class _WeightsView:
    weights: Mapping[str, float]
    own: Collection[str]
    most: int
    cut: int

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
        for token, weight in list(self.weights.items())[: self.most]:
            literal = token in self.own
            drawn = bar(weight / heaviest, width=width, literal=literal, ascii_only=options.ascii_only)
            table.add_row(Text(token, "bold" if literal else ""), f"{weight:.3f}", drawn)
        yield table
        expanded = sum(1 for token in self.weights if token not in self.own)
        full, light = ("#", "-") if options.ascii_only else ("█", "░")
        told = (
            f"{len(self.weights)} tokens: {len(self.weights) - expanded} of the text ({full}), "
            f"{expanded} by expansion ({light})"
        )
        hidden = len(self.weights) - self.most
        yield Text(told + (f"; {hidden} lighter ones are not shown" if hidden > 0 else ""), "dim")
        if self.cut:
            yield Text(f"The text is longer than the model reads: its last {self.cut} tokens were left out.")


def models_view(cards: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw the models: name, licence and size, and below them what each is."""
    drawn: list[RenderableType] = []
    for card in cards:
        licence = (str(card["license"]), "yellow" if card["non_commercial"] else "green")
        size = f"  {card['size_in_GB']:.2f} GB" if card["size_in_GB"] else ""
        drawn.append(Text.assemble((str(card["model"]), "bold"), "  ", licence, size))
        told = [str(card["description"])]
        if card["query_side"] != "symmetric":
            told.append("Queries need no network.")
        if card["export_needed"]:
            told.append("No ONNX file is published: export it first.")
        if card["non_commercial"]:
            told.append("Not for commercial use.")
        drawn.append(Padding(Text(" ".join(told), "dim"), (0, 0, 0, _INDENT)))
    return Group(*drawn)


# -- reports -------------------------------------------------------------------------------------------------


def report_view(report: SyncReport, *, to: str, total: int) -> RenderableType:
    """Draw what an indexing run did."""
    changes = [
        (report.new, "new"),
        (report.changed, "changed"),
        (report.unchanged, "unchanged"),
        (report.removed, "removed"),
    ]
    lines = [
        Text.assemble(
            (f"{counted(report.passages, 'passage')} from {counted(report.files, 'file')}", "bold"),
            ": " + ", ".join(f"{n:,} {word}" for n, word in changes if n or word == "new"),
        )
    ]
    speed = f", {report.encoded / report.seconds:.1f} texts/s" if report.encoded and report.seconds else ""
    lines.append(Text(f"{report.encoded:,} encoded in {report.seconds:.1f} s{speed}"))
    lines.append(Text(f"{to} now holds {counted(total, 'passage')}"))
    for title, issues in (("Skipped", report.skipped), ("Warnings", report.warnings)):
        if issues:
            lines.append(Text(f"{title}:", "yellow"))
            lines.extend(Text(f"  {line}") for line in _grouped(issues))
    return Group(*lines)


def _grouped(notes: Sequence[FileIssue]) -> list[str]:
    """Tell each note, and many of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        by_reason.setdefault(note.reason, []).append(shown_path(note.place))
    lines: list[str] = []
    for reason, places in by_reason.items():
        if len(places) <= _PLACES_NAMED:
            lines.extend(f"{place} {reason}" for place in places)
        else:
            lines.append(f"{places[0]} and {len(places) - 1} more: {reason}")
    return lines


def facts_view(facts: Mapping[str, Any]) -> RenderableType:
    """Draw what an index is like."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    size = facts["size_bytes"]
    rows = [
        ("index", facts["index"]),
        ("collection", facts["collection"]),
        ("engine", facts["engine"]),
        ("documents", f"{facts['documents']:,}"),
        ("on disk", None if size is None else f"{size / 1e6:.1f} MB"),
        ("model", facts["model"] or "not remembered: another program made this collection"),
    ]
    encoder = {key: value for key, value in (facts["encoder"] or {}).items() if key != "model"}
    for name, values in (("encoder", encoder), ("settings", facts["settings"])):
        told = ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
        rows.append((name, told or None))
    for name, value in rows:
        if value is not None:
            table.add_row(name, str(value))
    return table


def migration_view(report: Migration) -> RenderableType:
    """Say what a migration did, or would do."""
    goal = f"collection {report.target_collection} at {report.target}"
    lines = []
    if report.state == "complete":
        lines.append(f"{report.present:,} points were there already, none was written")
    elif report.dry_run:
        lines.append(f"{report.copied:,} points would be copied to {goal} ({report.state})")
    else:
        already = f", {report.present:,} were there already" if report.present else ""
        removed = f", {report.removed:,} that are gone from the source were removed" if report.removed else ""
        lines.append(f"{report.copied:,} points copied{already}{removed}")
    if not report.dry_run or report.state == "complete":
        lines.append(f"{goal} is complete: counts are equal, {report.queries} queries gave equal hits")
    lines.append(f"model: {report.model or 'not remembered: another program made this collection'}")
    lines.append(f"vectors: {', '.join(name or 'unnamed' for name in report.vectors)}")
    if report.payload_indexes:
        lines.append(f"payload indexes: {', '.join(report.payload_indexes)}")
    return Text("\n".join(lines))


def reindexing_view(report: Reindexing) -> RenderableType:
    """Say what a reindexing did, and what to open from now on."""
    if report.switch == "nothing to do":
        return Text(
            f"nothing to do: collection {report.collection} is of this model and these settings already"
        )
    lines = [f"{report.documents:,} documents, {report.encoded:,} encoded in this run with {report.model}"]
    if report.other_text:
        lines.append(
            f"{report.other_text:,} of them had been encoded with another text than the stored one, and are "
            "now encoded by their stored text"
        )
    lines.append(
        {
            "replaced": f"collection {report.collection} now holds the new vectors",
            "alias": f"{report.collection} now leads to {report.new_collection}; the old collection is kept",
        }.get(
            report.switch,
            f"the new vectors are in collection {report.new_collection}: open that one from now on, and "
            f"delete {report.collection} when nobody uses it (a Qdrant server renames no collection; where "
            "the name is an alias, that is switched)",
        )
    )
    return Text("\n".join(lines))


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """Draw what the doctor found."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold", ratio=1)
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("FAILED", "bold red")
        table.add_row(mark, check.name, check.found)
    failed = sum(1 for check in checks if not check.ok)
    told = "Everything works." if not failed else f"{counted(failed, 'check')} failed."
    return Group(table, Text(), Text(told, "bold" if not failed else "bold red"))


def counted(n: int, noun: str) -> str:
    """Write a number of things: "1 file", "1,204 files"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


class Progress:
    """A progress line on stderr while files are indexed; nothing where stderr is no terminal."""

    def __init__(self, console: Console, files: Sequence[Path | FileIssue]) -> None:
        total = sum(file.stat().st_size for file in files if isinstance(file, Path))
        self.passages = 0
        self._bar = Bars(
            TextColumn("indexing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[passages]} passages, {task.fields[speed]} a second"),
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
        """Take the line away, for a message."""
        self._bar.stop()

    def advance(self, passages: int, characters: int) -> None:
        """Show how far the run is; safe to call from another thread."""
        self.passages = passages
        speed = passages / (time.perf_counter() - self._started)
        self._bar.update(self._task, completed=characters, passages=f"{passages:,}", speed=f"{speed:.1f}")
