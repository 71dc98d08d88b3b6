"""Commands on the documents of an index: `splade list`, `delete` and `optimize`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splade_retriever.cli.options import (
    BaseOption,
    CollectionOption,
    FilterOption,
    IndexOption,
    JsonOption,
    KeyOption,
    ReadOnlyOption,
    open_index,
    open_to_read,
    parse_filter,
    with_server_options,
)
from splade_retriever.cli.output import print_result
from splade_retriever.errors import NotSupportedError
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from splade_retriever.index.options import ServerKeywords
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["delete", "list_files", "optimize"]


@with_server_options
def list_files(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    api_key: KeyOption = None,
    server: ServerKeywords,
    read_only: ReadOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the files in an index, with the number of passages of each."""
    from splade_retriever.cli.document_views import files_view
    from splade_retriever.files.sync import stored_passages

    with open_to_read(
        index,
        collection,
        model=None,
        api_key=api_key,
        server=server,
        read_only=read_only,
    ) as opened:
        counts = Counter(passage.file for passage in stored_passages(opened).values())
        total = opened.count()
    files = dict(sorted(counts.items()))
    others = total - sum(files.values())
    print_result(
        lambda: files_view(files, others=others),
        {
            "index": index,
            "collection": collection,
            "files": [{"source": source, "passages": passages} for source, passages in files.items()],
            "other_documents": others,
            "total": total,
        },
        as_json=as_json,
    )


@with_server_options
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of documents.")] = None,
    *,
    index: IndexOption,
    source: Annotated[
        list[Path] | None,
        typer.Option("--source", metavar="PATH", help="Delete what came from this file or folder."),
    ] = None,
    filter: FilterOption = None,
    base: BaseOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the number, and delete nothing.")] = False,
    collection: CollectionOption = "splade",
    api_key: KeyOption = None,
    server: ServerKeywords,
    as_json: JsonOption = False,
) -> None:
    """Delete documents by id, by the file or folder they came from, or by a filter."""
    from splade_retriever.cli.document_views import deletion_view

    conditions = parse_filter(filter)
    if sum((bool(ids), bool(source), conditions is not None)) != 1:
        raise typer.BadParameter("Pass ids, --source or --filter, and only one of them.")
    with open_index(
        index,
        collection,
        model=None,
        api_key=api_key,
        server=server,
        create=False,
    ) as opened:
        if conditions is not None:
            deleted = opened.count(conditions)
            if not dry_run:
                opened.delete(filter=conditions)
        else:
            chosen = _ids_from(opened, source or [], base) if source else _stored_ids(opened, ids or [])
            deleted = len(chosen)
            if not dry_run:
                opened.delete(chosen)
        total = opened.count()
    data = {"index": index, "collection": collection, "deleted": deleted, "total": total, "dry_run": dry_run}
    print_result(lambda: deletion_view(deleted, total, dry_run=dry_run), data, as_json=as_json)


def optimize(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    as_json: JsonOption = False,
) -> None:
    """Merge and index what was written to a folder, so that it opens faster; for the end of a large import.

    A server does it in the background.
    """
    from splade_retriever.cli.document_views import optimization_view

    with open_index(index, collection, model=None, api_key=None, create=False) as opened:
        if is_url(index):
            raise NotSupportedError(
                f"The index {index!r} is not a folder, expected one. A Qdrant server optimizes its "
                "collections in the background."
            )
        changed = opened.optimize()
    data = {"index": index, "collection": collection, "changed": changed}
    print_result(lambda: optimization_view(changed=changed), data, as_json=as_json)


def _stored_ids(index: SpladeIndex, ids: list[str]) -> list[str]:
    return [hit.id for hit in index.get(list(dict.fromkeys(ids)))]


def _ids_from(index: SpladeIndex, sources: list[Path], base: Path | None) -> list[str]:
    """Return the ids of the passages from files, or from files in folders, that need not exist any more."""
    from splade_retriever.files.passages import ReadOptions
    from splade_retriever.files.sync import stored_passages

    options = ReadOptions(base=base)
    names = [options.source_of(path) for path in sources]
    return [
        id
        for id, passage in stored_passages(index).items()
        if any(passage.file == name or passage.file.startswith(f"{name.rstrip('/')}/") for name in names)
    ]
