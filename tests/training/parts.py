"""Parts that the tests of the training pipeline share: a tiny sample, and what the pipeline makes of it."""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_building.export import arrays, write_folder
from model_building.prepare import prepare
from model_building.train import (
    Recipe,
    Run,
    finished,
)

TEXTS = Path(__file__).parents[2] / "examples" / "data" / "astronomy"
RECIPE = Recipe(batch=6, dims_text=60.0, dims_query=20.0)
STEPS = 3


@dataclass(frozen=True)
class Made:
    """What the pipeline left behind."""

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


@pytest.fixture(name="made", scope="module")
def made_of_the_sample(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Run the pipeline once: 150 pairs, of which two overlap with the evaluation, and three steps."""
    root = tmp_path_factory.mktemp("training")
    made = Made(*(root / name for name in ("data", "evaluation", "prepared", "run", "model")))
    taught, measured = passages()[50:200], passages()[-40:]
    queries = [f"what about {heading.lower()} and {opening(text, 6)}" for heading, text in measured]
    pairs = [{"query": f"{heading}: {opening(text, 5)}", "text": text} for heading, text in taught]
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
    Run(RECIPE, made.prepared, made.run).train(seconds=600, steps=STEPS)
    write_folder(weights_of(made.run), made.model, "int8")
    return made


def weights_of(run: Path) -> dict[str, Any]:
    return arrays(finished(run))
