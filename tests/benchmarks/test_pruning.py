"""The pruning benchmark at a tiny size: what it measures is what `evaluate` finds."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pruning
from benchmarks.pruning import Documents
from splade_retriever.evaluation.evaluate import evaluate
from tests.words import WordEncoder

WORDS = [f"word{n}" for n in range(12)]


@pytest.fixture
def collections(tmp_path: Path) -> Any:
    """Two collections of 80 documents in which words occur once or several times."""
    for seed, name in enumerate(("first", "second")):
        folder = tmp_path / "collections" / name
        folder.mkdir(parents=True)
        chance = random.Random(seed)
        texts = {str(n): " ".join(chance.choices(WORDS, k=6 + n % 14)) for n in range(80)}
        with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"_id": id, "text": text}) + "\n" for id, text in texts.items())
        queries = {f"q{n}": " ".join(chance.sample(WORDS, 3)) for n in range(11)}
        rows = [json.dumps({"_id": id, "text": text}) for id, text in queries.items()]
        (folder / "queries.jsonl").write_text("\n".join(rows), "utf-8")
        judged = [
            f"{query}\t{id}\t1\n"
            for query, words in queries.items()
            for id, text in texts.items()
            if set(words.split()) <= set(text.split())
        ]
        (folder / "qrels.tsv").write_text("".join(judged), "utf-8")
    return tmp_path / "collections"


@pytest.fixture
def encoded(collections: Any, tmp_path: Path) -> Any:
    return pruning.encode(pruning.read(collections), WordEncoder(), tmp_path / "vectors")


@pytest.mark.parametrize(
    ("documents", "query_dims"),
    [(Documents(), None), (Documents(max_active_dims=2), 2), (Documents(min_weight=1.5), None)],
)
def test_what_is_measured_is_what_evaluate_finds(
    collections: Any, encoded: Any, documents: Documents, query_dims: int | None
) -> None:
    (found,) = pruning.measure(encoded, WordEncoder(), documents, [query_dims])
    for name in ("first", "second"):
        report = evaluate(
            collections / name,
            WordEncoder(),
            bm25=False,
            max_active_dims=documents.max_active_dims,
            query_max_active_dims=query_dims,
            min_weight=documents.min_weight,
        )
        assert found.ndcg[name] == pytest.approx(report.splade.ndcg_at_10, abs=1e-9)
    assert found.index_mb > 0
    assert found.p50_ms > 0


def test_vectors_are_encoded_again_only_for_another_model_or_other_texts(
    collections: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "vectors"
    read = pruning.read(collections)
    first, again, other = WordEncoder(), WordEncoder(), WordEncoder("another")
    once = pruning.encode(read, first, folder)
    assert pruning.encode(read, again, folder) == once
    assert (first.encoded, again.encoded) == (160, 0)
    pruning.encode(read, other, folder)
    pruning.encode(read[:1], other, folder)
    assert other.encoded == 160 + 80


def test_the_report_has_a_row_a_setting_and_a_grid(encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BY_DIMS", (Documents(), Documents(max_active_dims=2)))
    found = [
        one
        for documents in (*pruning.BY_DIMS, Documents(datatype="uint8"))
        for one in pruning.measure(
            encoded, WordEncoder(), documents, [None] if documents.datatype == "uint8" else [None, 2]
        )
    ]
    lines = [*pruning.conditions(encoded, WordEncoder()), *pruning.tables(found)]
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows[1:5]] == [
        "nothing pruned, float32",
        "`query_max_active_dims=2`",
        "`max_active_dims=2`",
        '`datatype="uint8"`',
    ]
    assert rows[1][-1] == "+0.0000 |"
    assert rows[-1][:2] == ["| 2", f"{found[2].mean:.4f}, {found[2].p50_ms:.2f} ms"]
    assert any("first (80 documents, 11 queries)" in line for line in lines)
