"""Commands that fill and describe an index: `splade index` and `splade info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from splade_retriever.cli.options import (
    CollectionOption,
    IndexOption,
    JsonOption,
    KeyOption,
    ModelOption,
    expanded_location,
    open_index,
)
from splade_retriever.cli.output import print_error, print_result, stderr_console
from splade_retriever.errors import InputError

if TYPE_CHECKING:
    from splade_retriever.files.passages import FileIssue
    from splade_retriever.files.sync import SyncReport

__all__ = ["index", "info"]

_INTERRUPTED: Final = 130


def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders to read.")],
    *,
    to: Annotated[
        str,
        typer.Option("--to", "-t", metavar="LOCATION", help="Index folder to write, or URL of a server."),
    ],
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    passage_tokens: Annotated[
        int, typer.Option("--passage-tokens", min=16, metavar="N", help="Maximum tokens of a passage.")
    ] = 256,
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="Field or column of a record with its text.")
    ] = "text",
    id_field: Annotated[
        str | None,
        typer.Option("--id-field", metavar="NAME", help="Field or column with its id; else `id` or `_id`."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Read files of this name as text too; repeatable."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FOLDER", help="Store file names relative to FOLDER, not absolute."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file or line that cannot be read.")
    ] = False,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read text, Markdown, JSONL and CSV files into an index.

    Run it again to encode what is new or changed, and to remove what is gone from the files.
    """
    from splade_retriever.cli.index_progress import IndexProgress
    from splade_retriever.cli.report_views import sync_view
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.passages import FileIssue, ReadOptions
    from splade_retriever.files.splitter import Splitter
    from splade_retriever.files.sync import sync_files

    location = expanded_location(to)
    options = ReadOptions(text_field=text_field, id_field=id_field, include=tuple(include or ()), base=base)
    files = list(find_files(paths, options, excluded_folder=Path(location)))
    if all(isinstance(item, FileIssue) for item in files):
        raise _nothing_to_read(paths, len(files))
    with open_index(location, collection, model=model, api_key=api_key, create=True) as opened:
        splitter = Splitter(getattr(opened.model, "tokenizer"), max_tokens=passage_tokens)  # noqa: B009 - the command's models are SparseTextEmbedding
        with IndexProgress(stderr_console(), files) as progress:
            try:
                report = sync_files(
                    opened,
                    files,
                    options=options,
                    splitter=splitter,
                    folders=[path for path in paths if path.is_dir()],
                    strict=strict,
                    on_written=progress.advance,
                )
            except KeyboardInterrupt:
                progress.stop()
                print_error(
                    f"interrupted. {progress.passages} passages are stored. Run the same command again to "
                    "continue."
                )
                raise typer.Exit(_INTERRUPTED) from None
        total = opened.count()
    print_result(
        lambda: sync_view(report, location=to, total=total),
        _sync_data(report, location=to, collection=collection, total=total),
        as_json=as_json,
    )


def info(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe an index: its documents, the model that made it, its settings and its size."""
    from splade_retriever.cli.diagnostics import describe
    from splade_retriever.cli.report_views import facts_view

    with open_index(index, collection, model=None, api_key=api_key, create=False) as opened:
        facts = describe(opened, expanded_location(index))
    print_result(lambda: facts_view(facts), facts, as_json=as_json)


def _nothing_to_read(paths: list[Path], skipped: int) -> InputError:
    places = ", ".join(str(path) for path in paths)
    return InputError(
        f"No text, Markdown, JSONL or CSV file was found in {places} ({skipped} other files were skipped). "
        "Name a file, or add a kind of text file: --include '*.py'."
    )


def _sync_data(report: SyncReport, *, location: str, collection: str, total: int) -> dict[str, Any]:
    def listed(issues: list[FileIssue]) -> list[dict[str, str]]:
        return [{"place": issue.place, "reason": issue.reason} for issue in issues]

    return {
        "index": location,
        "collection": collection,
        "files": report.files,
        "passages": report.passages,
        "new": report.new,
        "changed": report.changed,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "replaced": report.replaced,
        "total": total,
        "skipped": listed(report.skipped),
        "warnings": listed(report.warnings),
        "seconds": round(report.seconds, 3),
    }
