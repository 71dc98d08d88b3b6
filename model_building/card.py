"""Write the model card and the lab notes of a trained model.

    python -m model_building.card

The card is for users: size, quality, data, limits. The lab notes say how the model was made: recipes, curves
and experiments. Everything in them comes from the model folder and from a folder of records. The records of
the bundled model are `model_building/record`, so its card can be written again without training:

- `recipe.json` by a run, `sources.json` by `prepare`, and `quality.json` by `evaluate`;
- optional: `pool.json` by `pool`, the numbers of texts and queries of a round over mined candidates;
- optional: `fp32.json` and `int8.json` by `evaluate`, of the same weights in both precisions;
- optional: `query_table.json` by `query_table`, `quality_doc.json` by `evaluate --model NAME-doc`, and
  `query_sides.json` by `benchmarks.query_sides`, of the model whose queries need no network;
- optional: `expansions.md`, `teachers.md`, `steps.md` and `ways.md`, the output of `expansions` and of
  `research.ceiling`, `research.variants` and `research.ways`, and `noise.md`, `queries.md`, `pieces.md`,
  `documentation.md` and `cpu_round.md`, made by hand.

The card is written twice with the same text: beside the model (`MODEL_CARD.md`) and into the docs
(`model.md`). The lab notes are `model_building/README.md`. With `--attribution`, the table of the `docs`
source's repositories is written to `docs/model_data.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from textwrap import fill
from typing import Any

from model_building.sources import SOURCES, UNLABELLED
from splade_retriever.encoding.onnx.bundled_graph import LAYERS
from splade_retriever.encoding.onnx.related_entries import RELATED

HERE = Path(__file__).parent

LIMITS = """\
- English only; other languages become word pieces that carry little meaning.
- 512 tokens; the rest of a longer text is cut and counted (or `SpladeIndex` reads it in windows).
- The data is encyclopaedic, scientific, medical and technical; it has no slang, chat or code. It has the
  views and gaps of its authors, mostly those of the English Wikipedia and of US institutions.
- A weight says how much a token matters to matching, not that a statement is true. Scores are comparable
  within one query only."""
ADAPTING = """\
It can learn from your texts, without labels; the gain is measured on files that are held out:

    pip install "splade-retriever[train]"
    splade adapt FOLDER --to my-model

`examples/train_your_own.ipynb` shows each step."""
PUBLISHED = """\
SciFact is the only one of these collections on which published SPLADE models have a comparable figure (the
same documents and 300 queries; grades are 0 and 1): nDCG@10 is 0.7041 for SPLADE++
CoCondenser-EnsembleDistil, which has 110 million parameters, in Anserini's regression
`beir-v1.0.0-scifact.splade-pp-ed`. The training data is not
comparable: that model was trained on MS MARCO only, this one also on scientific texts. The mean over the six
collections has no published counterpart."""
TABLES = {
    "teachers.md": """\
## Quality of the teachers

nDCG@10 of each teacher alone, before quantisation; a student can hardly exceed its teacher:

    python -m research.ceiling --evaluation EVALUATION_FOLDER --data DATA --run FIRST_ROUND""",
    "expansions.md": """\
## Entries that expand texts

An expansion is an entry that has a weight in a text which does not hold it. A quarter of the vocabulary
makes none in training texts and queries, and some entries make very few. No other token is related to
those, so they have a weight only in texts that hold them. The last column estimates the share for
texts of a new kind: the entries are chosen without one source after the other, and the column shows the
worst of these. Counted on texts and queries as training reads them, with all entries and the floor of
the third version of the model; the fourth chose its 21,504 entries in the same way, before punctuation and
single letters were left out:

    python -m model_building.expansions --model MODEL_WITH_ALL_ENTRIES --data DATA""",
    "noise.md": """\
## Special tokens, punctuation and single letters

nDCG@10 of the fourth version where special tokens make no weights, and where texts expand to fewer entries
that say nothing. [SEP] gave `”` a weight in one of seven texts and in texts without a word, other tokens in
one of six; a text now has weights by its words only. Measured once, on the weights of the int8 graph at each
token, by exact search; the figures of the first line differ from those of the card of that graph by the
rounding of codes.""",
    "queries.md": """\
## Queries without the network

nDCG@10 with the document vectors of the fourth version, where the weights of a query come from a table. The
loss is on queries whose words differ from those of the answers (cacm, cisi, mediqa). A weight per token
reaches 1.063 times BM25, and training it by the scores of the network over candidates gained nothing. What
helps is that a token adds weight to related entries. A table with the expansions that the network gives each
token alone has 1.078 without any training. Fitting it to the network's vectors of training queries lowers
the loss on queries that were held out from 0.214 to 0.129 (0.297 for IDF alone), and lowers the weights of
stop words. The average of both is trained by the scores of candidates, with a penalty that holds it near:
`python -m model_building.query_table`.

This was chosen on 3,165 training queries that were held out and 12,000 training texts, by two means over the
sources: nDCG@10 of the 1,518 queries with a label, and the share of the network's first ten hits that the
table finds, too. The start has 0.9020 and 73.7%, the average 0.9040 and 78.3%, what ships 0.9044 and 78.9%,
the network 0.9068. None of these is better on both: a share of 0.7 of the fit in the average (0.9035 and
78.9%), labels beside the scores (0.9041 and 78.7%), a tenth of the penalty (0.9034 and 78.5%), entries for
all words of one stem (0.9048 and 78.2% at best). Measured once on the collections, by exact search
over the weights of the int8 graph; differences below 0.003 mean nothing:""",
    "documentation.md": """\
## Documentation of Python packages

The training data has no code. nDCG@10 on collections made from the installed Python packages: headings that
ask for their sections. The command leaves out documents that share thirteen consecutive words with the
training data: none of these, and 2 of 2,858 docstrings. The figures depend on the versions of the
packages:

    python -m model_building.documentation --to COLLECTIONS --training TRAIN_FOLDER
    python -m model_building.evaluate --evaluation COLLECTIONS""",
    "pieces.md": """\
## Word pieces

A word that is not in the vocabulary is a chain of pieces, such as `ya` and `##ml`, and unrelated words share
pieces. On 276 headings of the documentation of Python packages (`model_building/documentation.py`), 175 have
such a word. In 9 of them the first hit changes if the pieces of a word (all but its first) count only in
texts that hold the word. None of these 9 first hits is the answer, and for 3 the answer becomes the first
hit; no query loses its answer. So pieces mislead in 3% of the queries. But the same pieces find inflections
and parts of names: each of these changes loses more than it gains on the mean, or gains less than 0.001, so
none ships. nDCG@10, measured once, by exact search over the weights of the int8 graph:""",
    "cpu_round.md": """\
## A further round on a CPU

One round was trained on a CPU, from the weights that ship. It does not gain, so nothing of it ships. The
pool had 4,389 texts, cut at 112 tokens, and 5,001 queries, 3,477 of them with a label: 697 queries, the
texts nearest to each by BM25, and the queries about these texts, cut once by hand out of a pool with
`--share 0.15`. One thread of 2 cores beside other work mined the pool in 24 minutes and trained for 60
minutes: 238 steps of 24 queries and about 90 texts, 21,341 texts in all, an eightieth of what round 4 saw.
Training the gains of the entries alone, on stored vectors, did not gain either: 0.9074 at best in place of
0.9068, on 1,518 labelled queries that were held out.

    python -m model_building.mined_round --pool POOL --start splade_retriever/bundled --out RUN \\
        --minutes 60 --device cpu --queries 24 --neighbours 8 --listed 4 --frozen 3 --layer-rate 3e-5 \\
        --head-rate 2e-4 --warm-up 0.05 --floor-from 0.3 --dims-text 85.4 --dims-query 28.2 \\
        --text-pressure 4 --query-pressure 10 --count-share 0.4 --score-scale 0.6

New were the formula of the word matches with the IDF of the query, and counts in the scores, as in use. With
counts the scores of the start are sharper than the teacher's: the divergence from it is 0.31, and 0.19 where
they are multiplied by 0.6, the best of nine factors.

nDCG@10 in int8 on 8,150 labelled training queries (the mean over 13 sources) among 10,543 texts, cut at 128
tokens, none of which was in the pool; round 4 had trained on nearly all of them. The interval holds 95% of
2,000 samples of the queries, by source. The score of 2% of the queries changes. Each interval contains 0, so
the six collections were not searched:""",
    "steps.md": """\
## Gain of each step

nDCG@10 of each of the first three rounds in int8, at its end and averaged with its start, searched with all
weights, then with fewer weights, with a power, and with counts:

    python -m research.variants --evaluation EVALUATION_FOLDER --runs FIRST_ROUND SECOND_ROUND ...

`--collections` names those of the table.""",
    "ways.md": """\
## Gain of each way of training

nDCG@10 of short first rounds, each with one change of the recipe, on the same budget: seven minutes of one
core. Such a short round shows which changes help early, not which help a long round. The difference between
two seeds is chance. Texts and queries are cut as in training. "With counts" is the last column after counts
are added to the weights.

    python -m research.ways --evaluation EVALUATION_FOLDER --data DATA

`--collections` names those of the table. A larger batch is one round here; gradient caching (arXiv
2101.06983) would compute the same gradients in less memory, but memory was not short.""",
}
"""File of the records -> the text above its table."""
_ORIGIN = """
    Six layers of 384 from all-MiniLM-L6-v2 (Apache-2.0) with a lexical head that starts from word matching
    by IDF (`splade_retriever/training/model.py`). The first three rounds learned the in-batch scores of a
    hybrid teacher (`model_building/teachers.py`): cosines of all-MiniLM-L6-v2, word matches, and from the
    second round on the model of the earlier round."""
EXPORTED = {"floor": 0.0, "count_share": 0.0, "expanding": None, "query_power": 1.0, "end_share": 1.0}
"""Field of `card.json` -> its value if it is missing there; None for an option that is then left out."""
CURVE = {
    "contrastive": "contrastive loss",
    "distillation": "distillation",
    "softened": "softened",
    "flops": "FLOPS",
    "text_dims": "dimensions per text",
    "query_dims": "per query",
}


def main() -> None:
    """Parse the arguments, and write the card and the lab notes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=HERE / "record")
    parser.add_argument("--model", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--notes", type=Path, default=HERE / "README.md", help="file of the lab notes")
    parser.add_argument("--attribution", type=Path, default=None, help="SOURCE.md of the `docs` source")
    arguments = parser.parse_args()
    text = card(arguments.record, arguments.model)
    for file in (arguments.model / "MODEL_CARD.md", arguments.docs / "model.md"):
        file.write_text(text, encoding="utf-8")
    arguments.notes.write_text(lab_notes(arguments.record, arguments.model), encoding="utf-8")
    if arguments.attribution is not None:
        page = attribution(arguments.attribution.read_text(encoding="utf-8"))
        (arguments.docs / "model_data.md").write_text(page, encoding="utf-8")


def card(record: Path, model: Path) -> str:
    """Return the model card as Markdown.

    Args:
        record: The folder of records.
        model: The model's folder.
    """
    facts, counts, rows = (
        _json(file) for file in (model / "card.json", record / "sources.json", record / "quality.json")
    )
    precisions = [_json(file) for name in ("fp32", "int8") if (file := record / f"{name}.json").exists()]
    file = model / "model.onnx"
    kept, power = facts.get("query_max_active_dims") or "all", facts.get("query_power", 1.0)
    return _page(
        {
            f"The bundled model: {facts['model']}": f"""\
{_filled(_summary(facts, rows, file))}

- licence of the weights: {facts["license"]}
- model.onnx: {file.stat().st_size / 1e6:.1f} MB, {facts["precision"]}
- weights below {facts.get("floor", 0.0):g} are 0
- a token of the text gains {facts.get("count_share", 0.0):g} x its gain x BM25's count (`LexicalHead`)
- an entry has a weight only in texts with a token that it is related to: each token has at most {RELATED}
  related entries, those nearest to its embedding (`encoding/onnx/related_entries.py`)
{_expanding(facts)}- a query keeps its {kept} heaviest weights, each to the power of {power:g}
- special tokens add nothing: a text without a token that the model knows has an empty vector
- ligatures, full-width letters and other compatibility forms are read as plain letters (Unicode NFKC)
- sha256: `{sha256(file.read_bytes()).hexdigest()}`
- how it was made: `model_building/README.md` in the repository""",
            "Quality": f"{quality_table(rows, precisions)}",
            **_without_network(facts["model"], rows, record),
            "Published models": _filled(PUBLISHED),
            "Data": "\n\n".join([data_table(counts), *_unlabelled(record / "pool.json")]),
            "Limits": LIMITS,
            "Adapting it": ADAPTING,
        }
    )


def _summary(facts: dict[str, Any], rows: Sequence[dict[str, Any]], file: Path) -> str:
    mean = next(row for row in rows if row["name"] == "mean")
    return f"""
        A learned sparse model (SPLADE, arXiv 2109.10086) for English texts of up to {facts["max_length"]}
        tokens. It has {file.stat().st_size / 1e6:.0f} MB, ships in the package and works offline. On
        {len(rows) - 1} collections its mean nDCG@10 is {mean["splade"]:.4f}, {mean["ratio"]:.2f} times that
        of BM25, with {mean["dims"]:.0f} weights per text and {mean["query_dims"]:.0f} per query on average.
        `docs/benchmarks.md` has its speed."""


def lab_notes(record: Path, model: Path) -> str:
    """Return how the model was made, as Markdown; the arguments are those of `card`."""
    facts, trained = _json(model / "card.json"), _json(record / "recipe.json")
    rounds = list(rounds_of(trained))
    page = _page(
        {
            f"How {facts['model']} was made": f"""\
{_filled(f"{_ORIGIN} {_average(facts)}")}

{_schedule(rounds, options(facts))}

{recipes(rounds)}

`docs/model.md` is the card for users; `model_building/record` has the records behind both pages.""",
            "Training curve": "\n\n".join(curve(number, each) for number, each in enumerate(rounds, 1)),
        }
    )
    tables = [
        f"{above}\n\n{(record / name).read_text(encoding='utf-8').strip()}\n"
        for name, above in TABLES.items()
        if (record / name).exists()
    ]
    return "\n".join([page, *tables])


def _without_network(model: str, rows: Sequence[dict[str, Any]], record: Path) -> dict[str, str]:
    """Return the section on the model whose queries need no network, if there are records of one."""
    files = [record / name for name in ("query_table.json", "quality_doc.json", "query_sides.json")]
    if not all(file.exists() for file in files):
        return {}
    trained, of_doc, costs = map(_json, files)
    first = {row["name"]: row["splade"] for row in rows}
    quality = [
        "| collection | BM25 | the network | the table | against BM25 |",
        "|---|---|---|---|---|",
    ]
    quality += [
        f"| {row['name']} | {row['bm25']:.4f} | {first[row['name']]:.4f} | {row['splade']:.4f} "
        f"| {row['ratio']:.3f} |"
        for row in of_doc
    ]
    speed = ["| query weights by | encoding a query, p50 | search, p50 | queries/s |", "|---|---|---|---|"]
    speed += [
        f"| {side} | {cost['query_p50_ms']:.2f} ms | {cost['search_p50_ms']:.1f} ms "
        f"| {cost['queries_per_s']:.0f} |"
        for side, cost in zip(("the network", "the table"), costs["models"].values(), strict=True)
    ]
    text = f"""
        `{model}-doc` encodes documents by this network and looks queries up in a table of
        {trained["entries"]:,} weights: each token has one, and adds others to related entries. Both models
        give a document the same vector, so either searches a collection of the other. The table was fitted
        to the network's vectors of {trained["queries"]:,} training queries, then trained to rank
        {trained["texts"]:,} training texts as the network does (`model_building/query_table.py`).
        {trained.get("remark", "")}"""
    measured = f"""
        Times are of {costs["documents"]:,} documents and queries of ten words, on {costs["machine"]}
        (`python -m benchmarks.query_sides`); the models took turns. {costs.get("remark", "")}"""
    below = [row["name"] for row in of_doc if row["ratio"] < 1]
    if below:
        text += f" The table is below BM25 on: {', '.join(below)}."
    parts = [_filled(text), "\n".join(quality), "\n".join(speed), _filled(measured)]
    return {"Queries without a network": "\n\n".join(parts)}


def _page(sections: dict[str, str]) -> str:
    """Join sections, title -> text, the first of which is the page's."""
    parts = [
        f"{'#' if n == 0 else '##'} {title}\n\n{text}\n" for n, (title, text) in enumerate(sections.items())
    ]
    return "\n".join(parts)


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _schedule(rounds: Sequence[dict[str, Any]], exported: str) -> str:
    """Describe steps, minutes and hardware of the rounds, and the command that runs them again."""
    in_batch, mined = (
        [each for each in rounds if ("shares" in each) == is_mined] for is_mined in (False, True)
    )
    minutes = [f"{each['minutes']:.0f}" for each in in_batch]
    steps, batch = sum(each["steps"] for each in in_batch), in_batch[-1]["recipe"]["batch"]
    text = f"""
        {steps:,} steps of {batch} pairs in rounds of {", ".join(minutes)} minutes on
        {in_batch[-1].get("hardware", "unknown hardware")}, beside other work; the schedule followed the
        minutes."""
    lengths = f"--minutes {' '.join(minutes)}"
    if mined:
        lengths = f"--steps {' '.join(str(each['steps']) for each in in_batch)}"
        lengths += f" --mined-steps {mined[-1]['steps']} --device cuda"
    again = [
        "    python -m model_building --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER \\",
        f"        {lengths} \\",
        f"        {exported}",
    ]
    parts = [_filled(text), *map(_mined_round, mined), "The command:", "\n".join(again)]
    return "\n\n".join(parts)


def _mined_round(trained: dict[str, Any]) -> str:
    """Describe a round over mined candidates."""
    recipe, shares = trained["recipe"], trained["shares"]
    layers = f"The upper {LAYERS - frozen}" if (frozen := recipe.get("frozen", 0)) else "All six"
    text = f"""
        A further round (`model_building/mined_round.py`) of {trained["steps"]:,} steps ran in
        {trained["minutes"]:.0f} minutes on an {trained["hardware"]}. A step had {recipe["queries"]} queries,
        each with its answer and {recipe["listed"] - 1} mined candidates. The teacher was {shares["dense"]:g}
        x the cosine of all-mpnet-base-v2 (Apache-2.0) + {shares["words"]:g} x word matches +
        {shares["model"]:g} x the scores of the model of the round before. {layers} layers were trained.
        {trained.get("remark", "")}"""
    return _filled(text)


def options(facts: dict[str, Any]) -> str:
    """Return the export's command-line options."""
    values = {name: facts.get(name, default) for name, default in EXPORTED.items()}
    present = {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    return " ".join(f"--{name} {value:g}" for name, value in present.items())


def _expanding(facts: dict[str, Any]) -> str:
    if "expanding" not in facts:
        return ""
    return (
        f"- {facts['expanding']:,} of {facts['vocab_size']:,} entries expand texts; the others, such as "
        "punctuation and single letters,\n  have a weight only in texts that hold them\n"
    )


def _average(facts: dict[str, Any]) -> str:
    if "end_share" not in facts:
        return ""
    share = facts["end_share"]
    return (
        "The result of a later round, and the model that ships, is an average: "
        f"{share:g} x the weights at its end + {1 - share:g} x those at its start (`train.finished`)."
    )


def _filled(text: str) -> str:
    """Wrap a paragraph."""
    return fill(" ".join(text.split()), 110, break_long_words=False, break_on_hyphens=False)


def rounds_of(trained: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the record of each round, the first one first."""
    if trained.get("earlier") is not None:
        yield from rounds_of(trained["earlier"])
    yield trained


def recipes(rounds: Sequence[dict[str, Any]]) -> str:
    """Return the first round's recipe, and the differences of each later one from the one before.

    A round whose recipe was changed while it ran has a `note`, which a person wrote into its `recipe.json`.
    """
    lines: list[str] = []
    before: dict[str, Any] = {}
    for number, trained in enumerate(rounds, 1):
        changed = {name: value for name, value in trained["recipe"].items() if before.get(name) != value}
        shown = ", ".join(f"{name} {value:g}" for name, value in changed.items())
        lines.append(f"- round {number}, {trained['steps']:,} steps: {shown}{trained.get('note', '')}.")
        before = trained["recipe"]
    return "\n".join(lines)


def curve(number: int, trained: dict[str, Any]) -> str:
    """Return about ten points of a round's losses, each a mean over the steps since the last logged one."""
    points = trained.get("curve") or []
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
        lines.append(f"| {point['step']} | {point['minutes']:.1f} | {' | '.join(figures)} |")
    return "\n".join(lines)


def quality_table(rows: list[dict[str, Any]], precisions: Sequence[list[dict[str, Any]]] = ()) -> str:
    """Return nDCG@10 and R@100 beside BM25, one line per collection, the mean last.

    Args:
        rows: The figures that `evaluate` wrote.
        precisions: The figures of an export in fp32 and of one in int8, of the same weights, or nothing.
    """
    measured = """
        nDCG@10 (exponential gains) and R@100, exact search; BM25 is bm25s on stemmed words, k1 0.9, b 0.4, in
        the same run. No text or query of these collections is in the training data
        (`model_building/overlap.py` checks)."""
    chosen = """
        The mean of these collections decided the shares of the teacher's parts, the average of the rounds,
        the floor, the share of the counts, and how many weights a query keeps and to which power. The
        figures therefore flatter the model a little."""
    lines = [
        _filled(measured),
        "",
        "    python -m model_building.evaluate --evaluation EVALUATION_FOLDER",
        "",
        "| collection | BM25 | this model | ratio | R@100 BM25 | R@100 | dimensions per text | per query |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [f"{row[key]:.4f}" for key in ("bm25", "splade")] + [f"{row['ratio']:.3f}"]
        figures += [f"{row[key]:.3f}" for key in ("bm25_recall", "splade_recall")]
        figures += [f"{row[key]:.0f}" for key in ("dims", "query_dims")]
        lines.append(f"| {row['name']} | {' | '.join(figures)} |")
    if len(precisions) == 2:
        lines += ["", quantisation_loss(*precisions)]
    lines += ["", _filled(chosen)]
    below = [row["name"] for row in rows if row["ratio"] < 1]
    if below:
        lines += ["", f"It is below BM25 on: {', '.join(below)}."]
    return "\n".join(lines)


def quantisation_loss(fp32: list[dict[str, Any]], int8: list[dict[str, Any]]) -> str:
    """Return what int8 costs, on the collections that were measured in both precisions."""
    in_fp32 = {row["name"]: row["splade"] for row in fp32 if row["name"] != "mean"}
    pairs = [(row["splade"], in_fp32[row["name"]]) for row in int8 if row["name"] in in_fp32]
    after, before = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return (
        f"Before quantisation (fp32) the mean over {', '.join(in_fp32)} is {before:.4f}, in int8 {after:.4f}"
        f": {after / before - 1:+.1%}."
    )


def data_table(counts: dict[str, dict[str, int]]) -> str:
    """Return the training data with licences and counts."""
    lines = [
        "Pairs that share a query or thirteen consecutive words with a collection above are left out.",
        "",
        "| source | query, text of a pair | licence, attribution | pairs | left out |",
        "|---|---|---|---|---|",
    ]
    for source in SOURCES:
        if source.name in counts:
            count = counts[source.name]
            pairs = f"{count['kept']:,} | {count['overlapping']:,}"
            lines.append(f"| {source.name} | {source.what} | {source.licence} | {pairs} |")
    total, dropped = (sum(count[key] for count in counts.values()) for key in ("kept", "overlapping"))
    lines.append(f"| all | | | {total:,} | {dropped:,} |")
    return "\n".join(lines)


def _unlabelled(file: Path) -> Iterator[str]:
    """Yield the data without labels, if a round used any."""
    if not file.exists():
        return
    pool = _json(file)
    yield _filled(f"""
        The last round used all pairs of these sources (of `oewn` 8,000), and data without labels, which a
        teacher scores: {pool["texts"]:,} texts and {pool["queries"]:,} queries in total, of which
        {pool["questions"]:,} are questions without an answer and {pool["sentences"]:,} are sentences of the
        texts. The same check was applied. {pool.get("remark", "")}""")
    lines = ["| source without labels | content | licence, attribution |", "|---|---|---|"]
    lines += [f"| {source.name} | {source.what} | {source.licence} |" for source in UNLABELLED]
    yield "\n".join(lines)


def attribution(source: str) -> str:
    """Return the repositories of the `docs` source with their licences, from its SOURCE.md."""
    lines = ["| repository | licence | commit | attribution |", "|---|---|---|---|"]
    for line in source.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("|") and len(cells) == 6 and "/" in cells[0]:
            lines.append(f"| {cells[0]} | {cells[1]} | {cells[2]} | {cells[5]} |")
    head = "# Repositories of the training source `docs`\n\nPublic repositories, at the commit that was read."
    return head + "\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
