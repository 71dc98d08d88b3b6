"""Views of what a command did or found: indexing, migrating, reindexing, an index's facts, checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splade_retriever.cli.diagnostics import Check
from splade_retriever.cli.wording import counted, shown_path
from splade_retriever.files.passages import FileIssue
from splade_retriever.files.sync import SyncReport
from splade_retriever.maintenance.diagnosis import Diagnosis
from splade_retriever.maintenance.migrate import MigrationReport
from splade_retriever.maintenance.reindex import ReindexReport
from splade_retriever.maintenance.repair import RepairReport

__all__ = [
    "checks_view",
    "diagnoses_view",
    "facts_view",
    "migration_view",
    "reindex_view",
    "repair_view",
    "sync_view",
]

_MAX_PLACES: Final = 5
_FOREIGN: Final = "unknown: another program made this collection"


def sync_view(report: SyncReport, *, location: str, total: int) -> RenderableType:
    """Draw the result of `splade index`."""
    changes = [
        (report.new, "new"),
        (report.changed, "changed"),
        (report.unchanged, "unchanged"),
        (report.removed, "removed"),
        (report.replaced, "replaced by a later one of the same id"),
    ]
    lines = [
        Text.assemble(
            (f"{counted(report.passages, 'passage')} from {counted(report.files, 'file')}", "bold"),
            ": " + ", ".join(f"{n:,} {word}" for n, word in changes if n or word == "new"),
        )
    ]
    speed = f", {report.encoded / report.seconds:.1f} texts/s" if report.encoded and report.seconds else ""
    lines.append(Text(f"{report.encoded:,} encoded in {report.seconds:.1f} s{speed}"))
    if report.unreadable:
        lines.append(
            Text(
                f"{counted(report.unreadable, 'passage')} without a token that the model knows: stored, and "
                "found by no query",
                "yellow",
            )
        )
    lines.append(Text(f"{location} now holds {counted(total, 'passage')}"))
    groups = (("Skipped", report.skipped), ("Ignored", report.ignored), ("Warnings", report.warnings))
    for title, issues in groups:
        if issues:
            lines.append(Text(f"{title}:", "yellow"))
            lines.extend(Text(f"  {line}") for line in _grouped(issues))
    return Group(*lines)


def _grouped(issues: Sequence[FileIssue]) -> list[str]:
    """Write one line per issue, and one line for many issues with the same reason."""
    places_by_reason: dict[str, list[str]] = {}
    for issue in issues:
        places_by_reason.setdefault(issue.reason, []).append(shown_path(issue.place))
    lines: list[str] = []
    for reason, places in places_by_reason.items():
        if len(places) <= _MAX_PLACES:
            lines.extend(f"{place} {reason}" for place in places)
        else:
            lines.append(f"{places[0]} and {len(places) - 1} more: {reason}")
    return lines


def facts_view(facts: Mapping[str, Any]) -> RenderableType:
    """Draw the facts of `splade info`."""
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
        ("model", facts["model"] or _FOREIGN),
        ("second model", facts["second_model"]),
    ]
    encoder = {key: value for key, value in (facts["encoder"] or {}).items() if key != "model"}
    for name, values in (("encoder", encoder), ("settings", facts["settings"])):
        listed = ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
        rows.append((name, listed or None))
    for name, value in rows:
        if value is not None:
            table.add_row(name, Text(str(value)))
    return table


def migration_view(report: MigrationReport) -> RenderableType:
    """Draw the result of `splade migrate`, or its plan."""
    goal = f"collection {report.target_collection} at {report.target}"
    lines = []
    if report.state == "complete":
        lines.append(f"all {report.present:,} points exist in the target, nothing was written")
    elif report.dry_run:
        lines.append(f"{report.copied:,} points would be copied to {goal} ({report.state})")
    else:
        present = f", {report.present:,} existed already" if report.present else ""
        removed = f", {report.removed:,} that are gone from the source removed" if report.removed else ""
        lines.append(f"{report.copied:,} points copied{present}{removed}")
    if not report.dry_run or report.state == "complete":
        lines.append(f"{goal} is complete: equal counts, equal hits for {report.queries} queries")
    lines.append(f"model: {report.model or _FOREIGN}")
    lines.append(f"vectors: {', '.join(name or 'unnamed' for name in report.vectors)}")
    if report.payload_indexes:
        lines.append(f"payload indexes: {', '.join(report.payload_indexes)}")
    return Text("\n".join(lines))


def repair_view(report: RepairReport) -> RenderableType:
    """Draw the result of `splade reindex --repair`, with the documents that could not be saved."""
    lines = [f"{report.documents:,} documents of collection {report.collection} saved in {report.target}"]
    if report.unverified:
        lines.append(f"{report.unverified:,} of them have no checksum, so their texts are not verified")
    if report.other_text:
        lines.append(f"{report.other_text:,} of them are now encoded by their stored text alone")
    if report.damaged:
        lines.append(f"{len(report.damaged):,} damaged documents were left out:")
        lines.extend(f"  {document.id}: {document.reason}" for document in report.damaged)
    return Text("\n".join(lines))


def reindex_view(report: ReindexReport) -> RenderableType:
    """Draw the result of `splade reindex`, with the collection to open afterwards."""
    if report.switch == "nothing to do":
        return Text(
            f"nothing to do: collection {report.collection} has this model and these settings already"
        )
    lines = [f"{report.documents:,} documents, {report.encoded:,} encoded in this run with {report.model}"]
    if report.other_text:
        lines.append(
            f"{report.other_text:,} of them had been encoded by a text that is not stored, and are now "
            "encoded by their stored text"
        )
    if report.carried_over:
        lines.append(
            f"{report.carried_over:,} documents that changed during the switch were repeated after it"
        )
    switched = {
        "replaced": f"collection {report.collection} now holds the new vectors",
        "alias": (
            f"alias {report.collection} now points to collection {report.new_collection}; the old collection "
            "still exists"
        ),
        "new name": (
            f"the new vectors are in collection {report.new_collection}: open it from now on, and delete "
            f"{report.collection} when nobody uses it (a Qdrant server cannot rename a collection; an alias "
            "would be switched)"
        ),
    }
    return Text("\n".join([*lines, switched[report.switch]]))


def diagnoses_view(diagnoses: Mapping[str, Diagnosis]) -> RenderableType:
    """Draw the results of `splade doctor` for an index or for each retriever of a file."""
    parts: list[RenderableType] = []
    for name, diagnosis in diagnoses.items():
        if name:
            parts.append(Text(f"{name}: {diagnosis.location}", "bold"))
        parts += [_findings_table(diagnosis), Text()]
    counts = [
        sum(len(diagnosis.at_level(level)) for diagnosis in diagnoses.values())
        for level in ("fault", "warning")
    ]
    if not any(counts):
        return Group(*parts, Text("Nothing is wrong.", "bold"))
    summary = f"{counted(counts[0], 'fault')}, {counted(counts[1], 'warning')}."
    return Group(*parts, Text(summary, "bold red" if counts[0] else "bold yellow"))


def _findings_table(diagnosis: Diagnosis) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        place = "" if finding.collection is None else f"{finding.collection}: "
        lines = Text(finding.found)
        if finding.advice:
            lines.append(f"\n{finding.advice}")
        table.add_row(_MARKS[finding.level](), Text(place + finding.check), lines)
    return table


_MARKS: Final[Mapping[str, Callable[[], Text]]] = {
    "ok": lambda: Text("ok", "green"),
    "warning": lambda: Text("WARNING", "yellow"),
    "fault": lambda: Text("FAULT", "bold red"),
}


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """Draw the results of `splade doctor`."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("FAILED", "bold red")
        table.add_row(mark, Text(check.name), Text(check.found))
    failed = sum(1 for check in checks if not check.ok)
    summary = f"{counted(failed, 'check')} failed." if failed else "Everything works."
    return Group(table, Text(), Text(summary, "bold red" if failed else "bold"))
