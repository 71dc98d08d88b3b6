"""Measure a model folder against BM25 on every collection under a folder.

    python -m model_building.evaluate --evaluation EVAL_FOLDER --model splade_retriever/bundled

Prints one line per collection, then their mean: nDCG@10 (exponential gains) and R@100 beside BM25 in the same
run, active dimensions, and documents encoded per second. `splade_retriever.evaluation.evaluate` measures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

from splade_retriever import SparseTextEmbedding
from splade_retriever.evaluation.evaluate import EvaluationReport, evaluate

COLUMNS = {
    "bm25": "BM25",
    "splade": "SPLADE",
    "ratio": "ratio",
    "bm25_recall": "R@100 BM25",
    "splade_recall": "R@100 SPLADE",
    "dims": "dims doc",
    "query_dims": "dims query",
    "rate": "texts/s",
}
DIGITS = {"ratio": 3, "dims": 0, "query_dims": 0, "rate": 1}
"""Number of decimal places, if it is not 4."""


def main() -> None:
    """Parse the arguments, and print one line per collection, then the mean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_collection_options(parser)
    parser.add_argument("--model", default=None, help="a model folder; without it the bundled model")
    parser.add_argument("--json", type=Path, default=None, help="also write the table to this file")
    arguments = parser.parse_args()
    folders = chosen_collections(arguments)
    model = SparseTextEmbedding(arguments.model)
    print(f"| collection | {' | '.join(COLUMNS.values())} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    rows = {}
    for folder, every_nth in folders.items():
        rows[folder.name] = figures(evaluate(folder, model, every_nth=every_nth))
        _show(folder.name, rows[folder.name])
    rows["mean"] = mean(list(rows.values()))
    _show("mean", rows["mean"])
    if arguments.json:
        table = [{"name": name, **row} for name, row in rows.items()]
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def figures(report: EvaluationReport) -> dict[str, float]:
    """Return one line of the table, by the keys of `COLUMNS`."""
    if report.bm25 is None:
        raise ValueError("The report has no figures of BM25.")
    return {
        "bm25": report.bm25.ndcg_at_10,
        "splade": report.splade.ndcg_at_10,
        "ratio": report.splade.ndcg_at_10 / report.bm25.ndcg_at_10,
        "bm25_recall": report.bm25.recall_at_100,
        "splade_recall": report.splade.recall_at_100,
        "dims": report.cost.document_dims,
        "query_dims": report.cost.query_dims,
        "rate": report.cost.documents_per_s,
    }


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean line; its ratio is that of the means."""
    means = {key: fmean(row[key] for row in rows) for key in COLUMNS}
    return means | {"ratio": means["splade"] / means["bm25"]}


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `chosen_collections` reads."""
    parser.add_argument("--evaluation", type=Path, required=True, help="a folder of collections, BEIR layout")
    parser.add_argument("--collections", nargs="*", default=None, help="only these")
    parser.add_argument(
        "--every-nth",
        nargs="*",
        type=_sampled,
        default=[("squad-dev", 10)],
        metavar="NAME=N",
        help="ask every N-th query of a collection; default squad-dev=10",
    )


def chosen_collections(arguments: argparse.Namespace) -> dict[Path, int]:
    """Return the chosen folders, each with the N of "ask every N-th query".

    Raises:
        SystemExit: If a collection does not exist.
    """
    every_nth = dict(arguments.every_nth)
    folders = collections(arguments.evaluation, arguments.collections)
    return {folder: every_nth.get(folder.name, 1) for folder in folders}


def collections(root: Path, names: list[str] | None) -> list[Path]:
    """Return the folders of the collections under a folder, or only of those with the given names.

    Raises:
        SystemExit: If a collection does not exist.
    """
    judged = {file.parent for file in (*root.glob("*/qrels.tsv"), *root.glob("*/qrels"))}
    folders = {folder.name: folder for folder in sorted(judged)}
    missing = [name for name in names or () if name not in folders]
    if missing or not folders:
        raise SystemExit(
            f"Folder {root} has no collection {', '.join(missing) or 'in BEIR layout'} (found: "
            f"{', '.join(folders) or 'none'})."
        )
    return [folders[name] for name in names or folders]


def _sampled(argument: str) -> tuple[str, int]:
    """Parse an argument NAME=N."""
    name, _, every = argument.rpartition("=")
    if not name or not every.isdigit():
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=N")
    return name, int(every)


def _show(name: str, row: dict[str, float]) -> None:
    shown = (f"{row[key]:.{DIGITS.get(key, 4)}f}" for key in COLUMNS)
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
