"""The command that trains a model: `splade adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splade_retriever.cli.options import JsonOption
from splade_retriever.cli.output import print_result, progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from splade_retriever.evaluation.evaluate import Quality
    from splade_retriever.training.corpus import Corpus

__all__ = ["adapt"]


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
