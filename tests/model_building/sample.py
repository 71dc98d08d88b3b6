"""A tiny sample of training data, and the pipeline run on it."""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_building.export import export_bundled
from model_building.prepare import prepare
from model_building.train import Recipe, Run, finished
from splade_retriever import SparseTextEmbedding
from splade_retriever.training.export import arrays

TEXTS = Path(__file__).parents[2] / "examples" / "data" / "astronomy"
RECIPE = Recipe(batch=6, dims_text=60.0, dims_query=20.0)
STEPS = 3


@dataclass(frozen=True)
class Made:
    """The folders that the pipeline read and wrote."""

    data: Path
    evaluation: Path
    prepared: Path
    run: Path
    model: Path


def passages() -> list[tuple[str, str]]:
    """Read (heading, opening of a paragraph) from the sample texts; short, so that a step takes little."""
    found = []
    for file in sorted(TEXTS.glob("*.md")):
        heading = file.stem.replace("-", " ")
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("#"):
                heading = line.strip("# ")
            elif len(line.split()) > 30:
                found.append((heading, " ".join(line.split()[:30])))
    return found


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def opening(text: str, words: int) -> str:
    return " ".join(re.findall(r"\w+", text)[:words])


def run_pipeline(root: Path) -> Made:
    """Run the pipeline on 150 pairs, of which two overlap with the evaluation, for three steps."""
    made = Made(*(root / name for name in ("data", "evaluation", "prepared", "run", "model")))
    training, measured = passages()[50:200], passages()[-40:]
    queries = [f"what about {heading.lower()} and {opening(text, 6)}" for heading, text in measured]
    pairs = [{"query": f"{heading}: {opening(text, 5)}", "text": text} for heading, text in training]
    pairs[0]["query"] = queries[0].upper()  # an evaluation query
    pairs[1]["text"] = "Some say: " + opening(measured[1][1], 13)  # thirteen words of an evaluation document
    write_rows(made.data / "squad-part" / "pairs.jsonl.gz", pairs[:90])
    write_rows(made.data / "qamr" / "pairs.jsonl.gz", pairs[90:])
    tiny = made.evaluation / "tiny"
    write_rows(
        tiny / "corpus.jsonl.gz",
        [{"_id": f"d{n}", "title": heading, "text": text} for n, (heading, text) in enumerate(measured)],
    )
    write_rows(tiny / "queries.jsonl.gz", [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)])
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(len(measured)))
    (tiny / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)

    prepare(made.data, made.evaluation, made.prepared)
    # The number of threads decides the rounding of sums; the tests use one, see `one_thread`.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Run(RECIPE, made.prepared, made.run).train(seconds=600, steps=STEPS)
    torch.set_num_threads(threads)
    export_bundled(weights_of(made.run), made.model)
    return made


def weights_of(run: Path) -> dict[str, Any]:
    return arrays(finished(run))


def dense_rows(model: SparseTextEmbedding, texts: Sequence[str]) -> Any:
    rows = np.zeros((len(texts), model.vocab_size), dtype=np.float32)
    for row, embedding in zip(rows, model.embed(texts), strict=True):
        row[embedding.indices] = embedding.values
    return rows
