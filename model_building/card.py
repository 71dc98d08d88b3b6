"""Write the model card of a trained model: its data, how it was made, and what it reaches.

    python -m model_building.card

Everything that it tells comes from the model folder and from a folder of records; that of the bundled model
is `model_building/record`, so that anyone can write its card again:

- `recipe.json`, which a run keeps, `sources.json`, which `prepare` writes, and `quality.json`, by `evaluate`;
- where they are there, `fp32.json` and `int8.json`, by `evaluate`, too: the same weights in both precisions
  (of the bundled model's only the mean of some collections was kept, before its floor was raised);
- where they are there, `expansions.md`, `teachers.md`, `steps.md` and `ways.md`, printed by `expansions`,
  `ceiling`, `variants` and `ways`.

The card goes beside the model (`MODEL_CARD.md`) and into the docs (`model.md`); with `--attribution`, the
table of the `docs` source's repositories goes into `model_data.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from model_building.sources import SOURCES

LIMITS = """\
- English only; other languages fall apart into word pieces.
- 512 tokens; the rest of a longer text is cut and counted (or read in windows by `SpladeIndex`).
- The data is encyclopaedic, scientific, medical and technical: slang, chat and code are not in it. It carries
  the views and gaps of its authors, mostly those of the English Wikipedia and of US institutions.
- A weight says how much a token matters to matching, not that a statement is true. Scores are comparable
  within one query only."""
TABLES = {
    "teachers.md": """\
## What its teachers know

nDCG@10 of each teacher by itself, before quantisation, is the most that a student can learn from it:

    python -m research.ceiling --evaluation EVALUATION_FOLDER --data DATA --run FIRST_ROUND""",
    "expansions.md": """\
## Which entries expand

An expansion is an entry that weighs in a text which does not hold it. A quarter of the vocabulary makes none
in training texts and queries, and some entries make very few. The decoder has no columns for those; in a text
that holds one, it weighs by its own place. The last column estimates what texts of a new kind would keep: the
entries are chosen without one source after the other, and the worst of them is told. Counted on texts and
queries as training reads them, with all entries and the floor of this model:

    python -m model_building.expansions --model MODEL_WITH_ALL_ENTRIES --data DATA""",
    "steps.md": """\
## What each step gains

nDCG@10 of each round in int8, as it ended and averaged with what it started from, searched with all weights,
then with fewer ones, steeper ones, and with counts:

    python -m research.variants --evaluation EVALUATION_FOLDER --runs FIRST_ROUND SECOND_ROUND ...

`--collections` names those of the table.""",
    "ways.md": """\
## What each way of training gains

nDCG@10 of short first rounds, each with one way of the recipe changed, on the same budget: seven minutes of
one core. So short a round shows what helps early; that it would help a long one is not said. What two seeds
differ by is chance. Texts and queries are cut as in training; "with counts" is the last column again, after
counts are added to the weights.

    python -m research.ways --evaluation EVALUATION_FOLDER --data DATA

`--collections` names those of the table. A larger batch is one here; gradient caching (arXiv 2101.06983)
would give the same gradients in less memory, which was not what was short.""",
}
"""A table of the records -> what stands above it."""
EXPORTED = {"floor": 0.0, "count_share": 0.0, "expanding": None, "query_power": 1.0, "end_share": 1.0}
"""What `card.json` says of the export -> what stands for nothing, or None to say nothing."""
CURVE = {
    "contrastive": "contrastive loss",
    "distillation": "distillation",
    "softened": "softened",
    "flops": "FLOPS",
    "text_dims": "dimensions a text",
    "query_dims": "a query",
}
ADAPTING = """\
It can go on learning from your own texts, without labels; what that gains is measured on files held out.
`examples/train_your_own.ipynb` shows it step by step, and in one command it is

    python -m model_building.adapt --texts FOLDER --to my-model"""


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "record")
    parser.add_argument("--model", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--attribution", type=Path, default=None, help="SOURCE.md of the `docs` source")
    arguments = parser.parse_args()
    text = card(arguments.record, arguments.model)
    (arguments.model / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    (arguments.docs / "model.md").write_text(text, encoding="utf-8")
    if arguments.attribution is not None:
        page = attribution(arguments.attribution.read_text(encoding="utf-8"))
        (arguments.docs / "model_data.md").write_text(page, encoding="utf-8")


def card(record: Path, model: Path) -> str:
    """Return the model card as Markdown.

    Args:
        record: The folder of records.
        model: The model's folder.
    """
    told, trained, counts, measured = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (
            model / "card.json",
            *(record / name for name in ("recipe.json", "sources.json", "quality.json")),
        )
    )
    both = [record / f"{precision}.json" for precision in ("fp32", "int8")]
    precisions = [json.loads(path.read_text(encoding="utf-8")) for path in both if path.exists()]
    file = model / "model.onnx"
    rounds = list(rounds_of(trained))
    kept, power = told.get("query_max_active_dims") or "all", told.get("query_power", 1.0)
    steps, minutes = sum(told["steps"] for told in rounds), [f"{told['minutes']:.0f}" for told in rounds]
    sections = {
        f"The bundled model: {told['model']}": f"""\
A learned sparse model (SPLADE, arXiv 2109.10086). {told["description"]}

- licence of the weights: {told["license"]}
- model.onnx: {file.stat().st_size / 1e6:.1f} MB, {told["precision"]}
- weights below {told.get("floor", 0.0):g} are left out
- a token of the text gets {told.get("count_share", 0.0):g} x its gain x BM25's count on top (`LexicalHead`)
{_expanding(told)}- a query keeps its {kept} heaviest weights, each to the power of {power:g}
- sha256: `{sha256(file.read_bytes()).hexdigest()}`""",
        "How it was made": f"""\
Six layers of 384 from all-MiniLM-L6-v2 (Apache-2.0) with a lexical head, which starts at matching words by
their IDF (`model_building/model.py`), trained towards the in-batch scores of a hybrid teacher
(`model_building/teachers.py`): the cosines of all-MiniLM-L6-v2, word matches, and from the second round on
the model of the round before.{_averages(told)}

{steps:,} steps of {trained["recipe"]["batch"]} pairs in rounds of {", ".join(minutes)} minutes on
{trained.get("hardware", "unknown hardware")}, beside other work; the schedule followed the minutes.
The whole pipeline again, from the data to this card:

    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER \\
        --minutes {" ".join(minutes)} {options(told)}

{recipes(rounds)}""",
        "Training curve": "\n\n".join(curve(number, told) for number, told in enumerate(rounds, 1)),
        "Quality": quality_table(measured, precisions),
        "Data": data_table(counts),
        "Limits": LIMITS,
        "Adapting it": ADAPTING,
    }
    parts = [
        f"{'#' if n == 0 else '##'} {title}\n\n{body}" for n, (title, body) in enumerate(sections.items())
    ]
    for name, above in TABLES.items():
        if (record / name).exists():
            parts.append(f"{above}\n\n{(record / name).read_text('utf-8').strip()}")
    return "\n\n".join(parts) + "\n"


def options(told: dict[str, Any]) -> str:
    """Return what a command line says of the export."""
    values = {name: told.get(name, base) for name, base in EXPORTED.items()}
    said = {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    return " ".join(f"--{name} {value:g}" for name, value in said.items())


def _expanding(told: dict[str, Any]) -> str:
    if "expanding" not in told:
        return ""
    return (
        f"- {told['expanding']:,} of {told['vocab_size']:,} entries expand texts; other words weigh only in "
        "texts that hold them\n"
    )


def _averages(told: dict[str, Any]) -> str:
    if "end_share" not in told:
        return ""
    share = told["end_share"]
    return (
        f" What a later round has made, and what ships, is an average:\n{share:g} x the weights at its end + "
        f"{1 - share:g} x those at its start (`model_building.train.finished`)."
    )


def rounds_of(trained: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what each round tells of itself, the first one first."""
    if trained.get("earlier") is not None:
        yield from rounds_of(trained["earlier"])
    yield trained


def recipes(rounds: Sequence[dict[str, Any]]) -> str:
    """Return the first round's recipe, and what is another in each later one.

    A round whose recipe was changed on the way has a `note`, which a person wrote into its `recipe.json`.
    """
    lines, before = [], {}
    for number, told in enumerate(rounds, 1):
        new = {name: value for name, value in told["recipe"].items() if before.get(name) != value}
        shown = ", ".join(f"{name} {value:g}" for name, value in new.items())
        lines.append(f"- round {number}, {told['steps']:,} steps: {shown}{told.get('note', '')}.")
        before = told["recipe"]
    return "\n".join(lines)


def curve(number: int, told: dict[str, Any]) -> str:
    """Return about ten points of a round's losses, each a mean over the steps since the last logged one."""
    points = told.get("curve") or []
    if not points:
        return f"Round {number}: no curve was kept."
    lines = [
        f"Round {number}:",
        "",
        f"| steps | minutes | {' | '.join(CURVE.values())} |",
        "|---" * (2 + len(CURVE)) + "|",
    ]
    chosen = {round(place * (len(points) - 1) / 9) for place in range(10)}
    for point in (points[place] for place in sorted(chosen)):
        figures = (f"{point[name]:.2f}" if name in point else "-" for name in CURVE)
        lines.append(f"| {point['step']} | {point['minutes']:.0f} | {' | '.join(figures)} |")
    return "\n".join(lines)


def quality_table(rows: list[dict[str, Any]], precisions: Sequence[list[dict[str, Any]]] = ()) -> str:
    """Return nDCG@10 and R@100 against BM25, one line a collection, the mean last.

    Args:
        rows: What `evaluate` measured.
        precisions: The same of an export in fp32 and of one in int8, of the same weights, or nothing.
    """
    lines = [
        "nDCG@10 (exponential gains) and R@100, exact search; BM25 is bm25s on stemmed words, k1 0.9, b 0.4,",
        "in the same run. No text or query of these collections is in the training data",
        "(`model_building/prepare.py` checks).",
        "",
        "    python -m model_building.evaluate --evaluation EVALUATION_FOLDER",
        "",
        "| collection | BM25 | this model | ratio | R@100 BM25 | R@100 | dimensions a text | a query |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [f"{row[key]:.4f}" for key in ("bm25", "splade")] + [f"{row['ratio']:.3f}"]
        figures += [f"{row[key]:.3f}" for key in ("bm25_recall", "splade_recall")]
        figures += [f"{row[key]:.0f}" for key in ("dims", "query_dims")]
        lines.append(f"| {row['name']} | {' | '.join(figures)} |")
    if len(precisions) == 2:
        lines += ["", quantisation_loss(*precisions)]
    lines += [
        "",
        "The shares of the teacher's parts, how the rounds are averaged, the floor, the share of the counts",
        "and how they saturate, and how many weights a query keeps and to which power were chosen by the",
        "mean of these collections, so that the figures flatter the model a little.",
    ]
    below = [row["name"] for row in rows if row["ratio"] < 1]
    if below:
        lines += ["", f"It is below BM25 on: {', '.join(below)}."]
    return "\n".join(lines)


def quantisation_loss(fp32: list[dict[str, Any]], int8: list[dict[str, Any]]) -> str:
    """Say what int8 costs, on the collections that were measured in both precisions."""
    whole = {row["name"]: row["splade"] for row in fp32 if row["name"] != "mean"}
    pairs = [(row["splade"], whole[row["name"]]) for row in int8 if row["name"] in whole]
    after, before = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return (
        f"Before quantisation (fp32) the mean over {', '.join(whole)} is {before:.4f}, in int8 {after:.4f}: "
        f"{after / before - 1:+.1%}."
    )


def data_table(counts: dict[str, dict[str, int]]) -> str:
    """Return the training data with licences and counts."""
    lines = [
        "Pairs that share a query or thirteen consecutive words with a collection above are left out.",
        "",
        "| source | what a pair is | licence, attribution | pairs | left out |",
        "|---|---|---|---|---|",
    ]
    for source in SOURCES:
        if source.name in counts:
            own = counts[source.name]
            rows = f"{own['kept']:,} | {own['overlapping']:,}"
            lines.append(f"| {source.name} | {source.what} | {source.licence} | {rows} |")
    total, dropped = (sum(own[key] for own in counts.values()) for key in ("kept", "overlapping"))
    lines.append(f"| all | | | {total:,} | {dropped:,} |")
    return "\n".join(lines)


def attribution(source: str) -> str:
    """Return the repositories of the `docs` source with their licences, from its SOURCE.md."""
    lines = ["| repository | licence | commit | attribution |", "|---|---|---|---|"]
    for line in source.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("|") and len(cells) == 6 and "/" in cells[0]:
            lines.append(f"| {cells[0]} | {cells[1]} | {cells[2]} | {cells[5]} |")
    head = (
        "# Where the training source `docs` comes from\n\nPublic repositories, at the commit that was read."
    )
    return head + "\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
