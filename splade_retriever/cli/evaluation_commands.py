"""The command that measures a model: `splade eval`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splade_retriever.cli.options import JsonOption, ModelOption
from splade_retriever.cli.output import print_result
from splade_retriever.encoding.model_cards import Precision

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["evaluate"]


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A collection in BEIR layout.")],
    *,
    model: ModelOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Instead of the precision in the model's card."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Judgements to use: qrels/NAME.tsv.")
    ] = "test",
    every_nth: Annotated[
        int,
        typer.Option("--every-nth", min=1, metavar="N", help="Use every N-th judged query only."),
    ] = 1,
    linear: Annotated[
        bool, typer.Option("--linear", help="Gains in nDCG are the grades, not 2^grade - 1.")
    ] = False,
    max_active_dims: Annotated[
        int | None,
        typer.Option("--max-active-dims", min=1, metavar="N", help="Heaviest weights kept of a document."),
    ] = None,
    query_max_active_dims: Annotated[
        int | None,
        typer.Option("--query-max-active-dims", min=1, metavar="N", help="Heaviest weights kept of a query."),
    ] = None,
    bm25: Annotated[bool, typer.Option(help="Compare with BM25.")] = True,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="NAME", help="Compare with this sentence-transformers model."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on judged queries: nDCG@10, R@100, MRR@10, size and speed, with BM25 to compare."""
    from splade_retriever.evaluation.evaluate import evaluate as measure

    report = measure(
        folder,
        model,
        precision=precision,
        split=split,
        every_nth=every_nth,
        gains="linear" if linear else "exponential",
        max_active_dims=max_active_dims,
        query_max_active_dims=query_max_active_dims,
        bm25=bm25,
        dense=dense,
        show_progress=sys.stderr.isatty(),
    )
    print_result(lambda: _markdown(report.to_markdown()), report.to_dict(), as_json=as_json)


def _markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown

    return Markdown(text)
