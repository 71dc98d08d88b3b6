"""Commands that keep an index and the installation in order: `splade migrate`, `reindex` and `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from splade_retriever.cli.options import (
    CollectionOption,
    IndexOption,
    JsonOption,
    KeyOption,
    ModelOption,
    with_server_options,
)
from splade_retriever.cli.output import print_result, progress_bar
from splade_retriever.validation import resolved_location

if TYPE_CHECKING:
    from splade_retriever.cli.diagnostics import Check
    from splade_retriever.index.options import ServerKeywords

__all__ = ["doctor", "migrate", "reindex"]


@with_server_options
def migrate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Index folder, or URL of a Qdrant server.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Index folder to write, or URL of a Qdrant server.")
    ],
    *,
    collection: CollectionOption = "splade",
    target_collection: Annotated[
        str | None,
        typer.Option("--target-collection", metavar="NAME", help="Name in the target, if it differs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, metavar="N", help="Shards of a new collection on a cluster."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, metavar="N", help="Copies of each shard on a cluster.")
    ] = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    source_api_key: Annotated[
        str | None,
        typer.Option("--source-api-key", metavar="KEY", help="API key of the source, if it differs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a collection without encoding it again: between folders and servers.

    After an interrupt, run it again to continue. The source is only read.
    """
    from splade_retriever.cli.report_views import migration_view
    from splade_retriever.maintenance.migrate import migrate as copy_collection

    with progress_bar("point") as advance:
        report = copy_collection(
            resolved_location(source),
            resolved_location(target),
            collection=collection,
            target_collection=target_collection,
            source_api_key=source_api_key or api_key,
            api_key=api_key,
            **server,
            shard_number=shards,
            replication_factor=replicas,
            dry_run=dry_run,
            on_progress=advance,
        )
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    print_result(lambda: migration_view(report), data, as_json=as_json)


@with_server_options
def reindex(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="NAME", help="Name of the new collection on a server.")
    ] = None,
    max_active_dims: Annotated[
        int | None,
        typer.Option("--max-active-dims", min=0, metavar="N", help="Heaviest weights to keep; 0 for all."),
    ] = None,
    min_weight: Annotated[
        float | None, typer.Option("--min-weight", min=0.0, metavar="W", help="Drop weights below this.")
    ] = None,
    windows: Annotated[
        Literal["truncate", "merge", "points"] | None,
        typer.Option("--windows", help="How to treat texts that are longer than the model reads."),
    ] = None,
    window_overlap: Annotated[
        int | None,
        typer.Option("--window-overlap", min=0, metavar="N", help="Tokens that neighbouring windows share."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete what an interrupted run with other settings left.")
    ] = False,
    repair: Annotated[
        str | None,
        typer.Option(
            "--repair", metavar="FOLDER", help="Encode what can be read of a damaged index into this folder."
        ),
    ] = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    as_json: JsonOption = False,
) -> None:
    """Encode a collection again with another model or other settings, and switch to it when it is complete.

    After an interrupt, run it again to continue. Until the switch, searches use the old vectors.
    """
    from splade_retriever.cli.report_views import reindex_view
    from splade_retriever.maintenance.reindex import reindex as encode_again

    if repair is not None:
        changes = (model, into, max_active_dims, min_weight, windows, window_overlap)
        if restart or any(change is not None for change in changes):
            raise typer.BadParameter("It keeps the model and the settings.", param_hint="--repair")
        _repair(index, repair, collection, as_json=as_json)
        return
    with progress_bar("document") as advance:
        report = encode_again(
            resolved_location(index),
            model,
            collection=collection,
            into=into,
            max_active_dims=max_active_dims,
            min_weight=min_weight,
            windows=windows,
            window_overlap=window_overlap,
            restart=restart,
            api_key=api_key,
            **server,
            on_progress=advance,
        )
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    print_result(lambda: reindex_view(report), data, as_json=as_json)


def doctor(
    *,
    index: Annotated[
        str | None,
        typer.Option("--index", "-i", metavar="FOLDER", help="Check this index folder instead."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, processor, model and engine, and make a small index and search.

    With --index, check the files of an index folder, and the text of each document against its checksum.
    """
    from splade_retriever.cli.diagnostics import check_all, check_index
    from splade_retriever.cli.report_views import checks_view

    checks = check_all() if index is None else check_index(resolved_location(index))
    ok = all(check.ok for check in checks)
    data = {
        "ok": ok,
        "checks": [_check_data(check, with_documents=index is not None) for check in checks],
    }
    print_result(lambda: checks_view(checks), data, as_json=as_json)
    if not ok:
        raise typer.Exit(1)


def _check_data(check: Check, *, with_documents: bool) -> dict[str, Any]:
    data = {"name": check.name, "ok": check.ok, "found": check.found}
    return data | {"damaged_documents": list(check.damaged_documents)} if with_documents else data


def _repair(index: str, target: str, collection: str, *, as_json: bool) -> None:
    from splade_retriever.cli.report_views import repair_view
    from splade_retriever.maintenance.repair import repair

    with progress_bar("document") as advance:
        report = repair(index, target, collection=collection, on_progress=advance)
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    print_result(lambda: repair_view(report), data, as_json=as_json)
