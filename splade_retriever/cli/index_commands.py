"""Commands that fill and describe an index: `splade index` and `splade info`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from splade_retriever.cli.options import (
    BaseOption,
    CollectionOption,
    IndexOption,
    JsonOption,
    KeyOption,
    ModelOption,
    ReadOnlyOption,
    SecondModelOption,
    copied_stdin,
    load_model,
    open_index,
    open_to_read,
    with_server_options,
)
from splade_retriever.cli.output import print_error, print_result, stderr_console
from splade_retriever.cli.termination import closed_on_termination
from splade_retriever.errors import InputError
from splade_retriever.validation import resolved_location

if TYPE_CHECKING:
    from splade_retriever.files.passages import FileIssue, ReadOptions
    from splade_retriever.files.splitter import Splitter
    from splade_retriever.files.sync import SyncReport
    from splade_retriever.index.options import ServerKeywords
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["index", "info"]

_INTERRUPTED: Final = 130
_STDIN: Final = Path("-")
_MAX_SKIPPED: Final = 5
"""Skipped files in a message."""


@with_server_options
def index(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Files and folders; - reads stdin.")
    ] = None,
    *,
    to: Annotated[
        str,
        typer.Option("--to", "-t", metavar="LOCATION", help="Index folder to write, or URL of a server."),
    ],
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    second_model: SecondModelOption = None,
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
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Skip files and folders of this name; repeatable."),
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Read hidden files and folders.")] = False,
    no_ignore: Annotated[
        bool, typer.Option("--no-ignore", help="Read what .gitignore files name, and node_modules.")
    ] = False,
    stdin_name: Annotated[
        str,
        typer.Option("--stdin-name", metavar="NAME", help="Name of stdin, which PATH - reads."),
    ] = "stdin.txt",
    base: BaseOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file or line that cannot be read.")
    ] = False,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", metavar="FILE", help="Add the file of `splade encode --out`, not PATHs."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and update the index whenever files change.")
    ] = False,
    api_key: KeyOption = None,
    server: ServerKeywords,
    as_json: JsonOption = False,
) -> None:
    """Read files into an index: text, Markdown, JSONL, CSV, code; PDF, DOCX, PPTX, HTML, EPUB, ipynb.

    Run it again to encode what is new or changed, and to remove what is gone from the files. The formats from
    PDF to EPUB need the extra `files`.
    """
    from splade_retriever.cli.bulk_views import load_file
    from splade_retriever.cli.report_views import sync_view
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.passages import FileIssue, ReadOptions
    from splade_retriever.files.splitter import Splitter
    from splade_retriever.files.watch import wait_for_changes

    paths = paths or []
    if bool(paths) == (vectors is not None):
        raise typer.BadParameter("Name files and folders, or a file of vectors with --vectors.")
    if watch and (_STDIN in paths or vectors):
        raise InputError("--watch cannot watch stdin. Name files or folders.")
    location = resolved_location(to)
    open_target = partial(
        open_index,
        location,
        collection,
        model=model,
        second_model=second_model,
        api_key=api_key,
        server=server,
        create=True,
    )
    if vectors is not None:
        with closed_on_termination(), open_target() as opened:
            load_file(opened, vectors, location=to, as_json=as_json)
        return
    with ExitStack() as stack:
        stack.enter_context(closed_on_termination())
        names = {}
        if _STDIN in paths:
            copy = stack.enter_context(copied_stdin(stdin_name))
            names[copy] = stdin_name
            paths = [copy if path == _STDIN else path for path in paths]
        options = ReadOptions(
            text_field=text_field,
            id_field=id_field,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            hidden=hidden,
            use_gitignore=not no_ignore,
            base=base,
            names=names,
        )
        files = list(find_files(paths, options, excluded_folder=Path(location)))
        if not watch and all(isinstance(item, FileIssue) for item in files):
            raise _nothing_to_read(paths, files)
        changes = wait_for_changes(paths, excluded_folder=Path(location)) if watch else ()
        opened = stack.enter_context(open_target())
        # BM25 has no tokenizer with a limit: its texts are cut as those of the bundled model.
        tokenizer = getattr(opened.model, "tokenizer", None) or load_model(None).tokenizer
        splitter = Splitter(tokenizer, max_tokens=passage_tokens)

        def update(files: Sequence[Path | FileIssue]) -> SyncReport:
            report = _sync_with_progress(
                opened,
                files,
                options=options,
                splitter=splitter,
                folders=[path for path in paths if path.is_dir()],
                strict=strict,
            )
            total = opened.count()
            print_result(
                lambda: sync_view(report, location=to, total=total),
                _sync_data(report, location=to, collection=collection, total=total),
                as_json=as_json,
            )
            return report

        report = update(files)
        for _ in changes:
            update(list(find_files(paths, options, excluded_folder=Path(location))))
    if report.skipped and not report.passages and not report.removed:
        print_error("no passage was indexed; see above why.")
        raise typer.Exit(1)


@with_server_options
def info(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    api_key: KeyOption = None,
    server: ServerKeywords,
    read_only: ReadOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Describe an index: its documents, the model that made it, its settings and its size."""
    from splade_retriever.cli.diagnostics import describe
    from splade_retriever.cli.report_views import facts_view

    with open_to_read(
        index,
        collection,
        model=None,
        api_key=api_key,
        server=server,
        read_only=read_only,
    ) as opened:
        facts = describe(opened, resolved_location(index))
    print_result(lambda: facts_view(facts), facts, as_json=as_json)


def _sync_with_progress(
    opened: SpladeIndex,
    files: Sequence[Path | FileIssue],
    *,
    options: ReadOptions,
    splitter: Splitter,
    folders: Sequence[Path],
    strict: bool,
) -> SyncReport:
    from splade_retriever.cli.index_progress import IndexProgress
    from splade_retriever.files.sync import sync_files

    with IndexProgress(stderr_console(), files) as progress:
        try:
            return sync_files(
                opened,
                files,
                options=options,
                splitter=splitter,
                folders=folders,
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


def _nothing_to_read(paths: list[Path], issues: Sequence[Path | FileIssue]) -> InputError:
    places = ", ".join(str(path) for path in paths)
    skipped = [f"{issue.place} {issue.reason}" for issue in issues if not isinstance(issue, Path)]
    shown = "".join(f"\n  {line}" for line in skipped[:_MAX_SKIPPED])
    return InputError(f"No file that can be read was found in {places}, but {len(skipped)} others.{shown}")


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
        "unreadable": report.unreadable,
        "total": total,
        "skipped": listed(report.skipped),
        "ignored": listed(report.ignored),
        "warnings": listed(report.warnings),
        "seconds": round(report.seconds, 3),
    }
