"""Commands that keep an index and the installation in order: `splade migrate`, `reindex` and `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
from splade_retriever.validation import is_url, resolved_location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splade_retriever.index.options import ServerKeywords
    from splade_retriever.maintenance.diagnosis import Diagnosis

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
    second_model: Annotated[
        str | None,
        typer.Option(
            "--second-model",
            metavar="NAME",
            help="Add this second sparse model, such as Qdrant/bm25; none to remove it.",
        ),
    ] = None,
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
        changes = (model, second_model, into, max_active_dims, min_weight, windows, window_overlap)
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
            second_model=second_model,
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


@with_server_options
def doctor(
    *,
    index: Annotated[
        str | None,
        typer.Option("--index", "-i", metavar="LOCATION", help="Check this index folder or server instead."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Check the retrievers of this configuration."),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME", help="Check this collection only, not all of --index."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Model name or folder that would be used."),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="KEY", help="Metadata key that filters use; may be repeated."),
    ] = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    as_json: JsonOption = False,
) -> None:
    """Check this installation, an index, a server, or a configuration file. Nothing is changed.

    Without options: versions, processor, model and engine, and a small index that is made and searched.
    """
    from splade_retriever.cli.report_views import diagnoses_view

    of_index = (collection, model, fields)
    if index is not None and config is not None:
        raise typer.BadParameter("Pass --index or --config, not both.", param_hint="--config")
    if index is None and any(value is not None for value in of_index):
        raise typer.BadParameter("It needs --index.", param_hint="--collection, --model, --field")
    if config is not None:
        from splade_retriever.config import diagnose_config

        diagnoses: Mapping[str, Diagnosis] = diagnose_config(config)
        data: dict[str, Any] = {"retrievers": {name: item.to_dict() for name, item in diagnoses.items()}}
    elif index is not None:
        from splade_retriever.maintenance.diagnosis import diagnose

        key = api_key if is_url(resolved_location(index)) else None
        place = {"collection": collection, "model": model, "fields": fields or ()}
        diagnosis = diagnose(index, **place, api_key=key, **server)  # type: ignore[arg-type]
        diagnoses, data = {"": diagnosis}, dict(diagnosis.to_dict())
    else:
        _check_installation(as_json=as_json)
        return
    ok = all(item.ok for item in diagnoses.values())
    print_result(lambda: diagnoses_view(diagnoses), {"ok": ok, **data}, as_json=as_json)
    if not ok:
        raise typer.Exit(1)


def _check_installation(*, as_json: bool) -> None:
    from splade_retriever.cli.diagnostics import check_all
    from splade_retriever.cli.report_views import checks_view

    checks = check_all()
    ok = all(check.ok for check in checks)
    data = {"ok": ok, "checks": [asdict(check) for check in checks]}
    print_result(lambda: checks_view(checks), data, as_json=as_json)
    if not ok:
        raise typer.Exit(1)


def _repair(index: str, target: str, collection: str, *, as_json: bool) -> None:
    from splade_retriever.cli.report_views import repair_view
    from splade_retriever.maintenance.repair import repair

    with progress_bar("document") as advance:
        report = repair(index, target, collection=collection, on_progress=advance)
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    print_result(lambda: repair_view(report), data, as_json=as_json)
