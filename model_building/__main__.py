"""Make the bundled model, from the data to the model card, in one command. An interrupted run resumes.

    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER --minutes 100 95

The steps are prepare, train (one round per number of minutes), export, evaluate and card; each is a module
that also runs alone. The records behind the card are in the folder `record` of `--out`; those of the bundled
model are kept in `model_building/record`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Parse the arguments and run the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/model"))
    parser.add_argument("--to", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--notes", type=Path, default=Path("model_building/README.md"))
    parser.add_argument("--minutes", type=float, nargs="+", default=[100, 95], help="minutes of each round")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=None, help="steps of each round, in place of minutes"
    )
    parser.add_argument("--floor", type=float, default=0.0, help="lighter weights become 0")
    parser.add_argument("--end-share", type=float, default=None, help="see model_building.export")
    parser.add_argument(
        "--count-share", type=float, default=0.0, help="share of BM25's count that a weight gains"
    )
    parser.add_argument(
        "--expanding",
        type=int,
        default=None,
        help="maximum number of entries that expand texts; without it all do",
    )
    parser.add_argument(
        "--query-power", type=float, default=None, help="exponent of a query's weights, if not the recipe's"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the data to use, for a quick test")
    arguments = parser.parse_args()
    prepared = arguments.out / "data"
    if not (prepared / "sources.json").exists():
        _step(
            "prepare",
            data=arguments.data,
            evaluation=arguments.evaluation,
            out=prepared,
            share=arguments.share,
        )
    lengths = arguments.steps or arguments.minutes
    rounds = [arguments.out / f"round-{number}" for number in range(1, len(lengths) + 1)]
    for earlier, run, length in zip([None, *rounds], rounds, lengths, strict=False):
        limit = {"steps" if arguments.steps else "minutes": length}
        _step("train", data=prepared, out=run, earlier=earlier, **limit)
    _step(
        "export",
        run=rounds[-1],
        to=arguments.to,
        floor=arguments.floor,
        **{
            "count-share": arguments.count_share,
            "expanding": arguments.expanding,
            "data": prepared,
            "query-power": arguments.query_power,
            "end-share": arguments.end_share,
        },
    )
    record = arguments.out / "record"
    record.mkdir(exist_ok=True)
    for file in (prepared / "sources.json", rounds[-1] / "recipe.json"):
        shutil.copy(file, record)
    _step("evaluate", evaluation=arguments.evaluation, model=arguments.to, json=record / "quality.json")
    _step(
        "card",
        record=record,
        model=arguments.to,
        docs=arguments.docs,
        notes=arguments.notes,
        attribution=_if_exists(arguments.data / "docs" / "SOURCE.md"),
    )


def _step(module: str, **options: object) -> None:
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    subprocess.run([sys.executable, "-m", f"model_building.{module}", *arguments], check=True)


def _if_exists(file: Path) -> Path | None:
    return file if file.exists() else None


if __name__ == "__main__":
    main()
