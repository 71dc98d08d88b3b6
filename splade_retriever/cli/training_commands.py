"""Commands that make models, with PyTorch: `splade adapt` and `splade export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from splade_retriever.cli.options import JsonOption
from splade_retriever.cli.output import print_result, print_step, progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from splade_retriever.evaluation.evaluate import Quality
    from splade_retriever.exporting.export import ExportReport
    from splade_retriever.training.corpus import Corpus

__all__ = ["adapt", "export"]


def adapt(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of Markdown and text files to learn from.")
    ],
    *,
    to: Annotated[Path, typer.Option("--to", "-t", metavar="FOLDER", help="Model folder to write.")],
    start: Annotated[
        Path | None,
        typer.Option("--start", metavar="FOLDER", help="Adapted model to start from; else the bundled one."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Number of training steps.")] = 40,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Share of the files to measure with.")
    ] = 0.3,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Decides the held-out files and the batches.")
    ] = 13,
    as_json: JsonOption = False,
) -> None:
    """Adapt the bundled model to your texts, without labels, and measure it. Needs the extra `train`.

    Some files are held out: their headings are queries for the passages of all files.
    """
    from splade_retriever.training import AdaptSettings, Corpus, bundled_folder, measure
    from splade_retriever.training import adapt as train

    corpus = Corpus.read(folder, held_out=held_out, seed=seed)
    with progress_bar("step") as advance:
        train(corpus, to, start=start, settings=AdaptSettings(steps=steps, seed=seed), on_step=advance)
    qualities = measure(corpus, {"before": start or bundled_folder(), "after": to})
    print_result(lambda: _view(corpus, qualities, to), _report(corpus, qualities, to), as_json=as_json)


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, a name, or OWNER/NAME on the hub."),
    ],
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder to write.")],
    *,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to a quarter of the size.")] = False,
    activation: Annotated[
        str | None,
        typer.Option("--activation", metavar="NAME", help="log1p or log1p_log1p, if no file states it."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Commit, branch or tag on the hub.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use downloaded files only.")] = False,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="You comply with a non-commercial licence.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the model contains.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a PyTorch SPLADE model to a folder that opens here. Needs the extra `export`.

    The folder is written only if its weights equal those of PyTorch on sample texts.
    """
    from typing import get_args

    from splade_retriever.encoding.model_cards import Activation
    from splade_retriever.exporting import export_model

    if activation is not None and activation not in get_args(Activation):
        raise typer.BadParameter(
            f"It is {activation!r}, expected {' or '.join(get_args(Activation))}.", param_hint="--activation"
        )
    report = export_model(
        model,
        to,
        int8=int8,
        activation=cast("Activation | None", activation),
        revision=revision,
        local_files_only=offline,
        accept_license=accept_license,
        trust_remote_code=trust_remote_code,
        on_step=print_step,
    )
    print_result(lambda: _export_view(report), _export_report(report), as_json=as_json)


def _export_report(report: ExportReport) -> dict[str, object]:
    return {
        "folder": str(report.folder),
        "model": report.card.model,
        "license": report.card.license,
        "precision": report.card.precision,
        "activation": report.card.activation,
        "query_side": report.card.query_side,
        "max_length": report.card.max_length,
        "vocab_size": report.card.vocab_size,
        "bytes": report.size,
        "compared_with": report.library,
        "texts": report.texts,
        "max_difference": report.max_difference,
        "int8_cosine": report.cosine,
    }


def _export_view(report: ExportReport) -> RenderableType:
    from rich.text import Text

    card = report.card
    queries = {"symmetric": "encoded", "idf": "looked up in a table", "ones": "their tokens, each 1.0"}
    lines = [
        f"{card.model}, licence {card.license or 'not stated'}, {report.size / 1e6:,.0f} MB",
        f"activation {card.activation}, up to {card.max_length} tokens, queries {queries[card.query_side]}",
        f"{report.texts} texts equal those of {report.library} to {report.max_difference:.1e}",
    ]
    if report.cosine is not None:
        lines.append(f"int8: mean cosine {report.cosine:.4f} with PyTorch's vectors")
    lines.append(f"The model is in {report.folder}")
    return Text("\n".join(lines))


def _report(corpus: Corpus, qualities: Mapping[str, Quality], to: Path) -> dict[str, object]:
    return {
        "model": str(to),
        "passages": len(corpus.passages),
        "pairs": sum(map(len, corpus.sections())),
        "held_out_files": sorted(corpus.held_out),
        "questions": len(corpus.questions()),
        "quality": {
            name: {
                "ndcg_at_10": quality.ndcg_at_10,
                "mrr_at_10": quality.mrr_at_10,
                "recall_at_100": quality.recall_at_100,
            }
            for name, quality in qualities.items()
        },
    }


def _view(corpus: Corpus, qualities: Mapping[str, Quality], to: Path) -> RenderableType:
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.text import Text

    from splade_retriever.training import quality_table

    return Group(
        Text(str(corpus)), Markdown(quality_table(qualities)), Text(f"\nThe adapted model is in {to}")
    )
