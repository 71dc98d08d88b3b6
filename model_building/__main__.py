"""Make the bundled model, from the data to the model card, in one command. An interrupted run resumes.

    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER --minutes 100 95
    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER --device cuda \\
        --steps 1670 1431 1498 --mined-steps 1903
    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER --device cuda \\
        --start splade_retriever/bundled --mined-steps 1903 --to runs/next

The steps are prepare, train (one round per number of minutes), export, evaluate and card; each is a module
that also runs alone. With `--mined-steps`, a further round over mined candidates follows (pool,
mined_round), which needs a GPU for so many steps. With `--start` that round starts from a model folder and is
the only one. The table of query weights of the model whose queries need no network is made afterwards, by
`model_building.query_table`.

The records behind the card are in the folder `record` of `--out`; those of the bundled model are kept in
`model_building/record`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Parse the arguments and run the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument(
        "--mined-steps", type=int, default=None, help="steps of a last round over mined candidates"
    )
    parser.add_argument(
        "--start", type=Path, default=None, help="model folder that --mined-steps starts from, without rounds"
    )
    parser.add_argument("--device", default=None, help='"cpu" or "cuda"; without it a GPU if there is one')
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
    if arguments.start is not None and arguments.mined_steps is None:
        parser.error(
            "--start needs --mined-steps: only the round over mined candidates starts from a folder."
        )
    run = _trained(arguments)
    _export(arguments, run, arguments.to)
    record = arguments.out / "record"
    record.mkdir(exist_ok=True)
    files = [arguments.out / "data" / "sources.json", run / "recipe.json"]
    if arguments.mined_steps is not None:
        files.append(arguments.out / "pool" / "pool.json")
    for file in files:
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


def _trained(arguments: argparse.Namespace) -> Path:
    """Prepare the data and train the rounds; return the folder of the last one."""
    out: Path = arguments.out
    prepared = out / "data"
    if not (prepared / "sources.json").exists():
        _step("prepare", out=prepared, **_data_options(arguments))
    if arguments.start is not None:
        return _mined_round(arguments, start=arguments.start)
    lengths = arguments.steps or arguments.minutes
    rounds = [out / f"round-{number}" for number in range(1, len(lengths) + 1)]
    for earlier, run, length in zip([None, *rounds], rounds, lengths, strict=False):
        limit = {"steps" if arguments.steps else "minutes": length}
        _step("train", data=prepared, out=run, earlier=earlier, device=arguments.device, **limit)
    if arguments.mined_steps is None:
        return rounds[-1]
    start = out / "start"
    _export(arguments, rounds[-1], start)
    return _mined_round(arguments, start=start, start_record=rounds[-1] / "recipe.json")


def _mined_round(arguments: argparse.Namespace, **start: Path) -> Path:
    """Train the round over mined candidates, if that is not done; return its folder."""
    out: Path = arguments.out
    pool, run = out / "pool", out / "mined"
    if not (pool / "pool.json").exists():
        _step("pool", out=pool, **_data_options(arguments))
    if not (run / "recipe.json").exists():
        steps, device = arguments.mined_steps, arguments.device
        _step("mined_round", pool=pool, out=run, steps=steps, device=device, **start)
    return run


def _data_options(arguments: argparse.Namespace) -> dict[str, object]:
    return {"data": arguments.data, "evaluation": arguments.evaluation, "share": arguments.share}


def _export(arguments: argparse.Namespace, run: Path, to: Path) -> None:
    _step(
        "export",
        run=run,
        to=to,
        data=arguments.out / "data",
        floor=arguments.floor,
        count_share=arguments.count_share,
        expanding=arguments.expanding,
        query_power=arguments.query_power,
        end_share=arguments.end_share,
    )


def _step(module: str, **options: object) -> None:
    arguments = [
        f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None
    ]
    subprocess.run([sys.executable, "-m", f"model_building.{module}", *arguments], check=True)


def _if_exists(file: Path) -> Path | None:
    return file if file.exists() else None


if __name__ == "__main__":
    main()
