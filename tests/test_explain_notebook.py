"""The notebook about explanations runs from top to bottom, and keeps its outputs."""

import json
from pathlib import Path

import pytest

from tests.notebooks import check_kept_outputs, run_notebook

pytestmark = pytest.mark.notebook

NOTEBOOK = Path(__file__).parents[1] / "examples" / "explain.ipynb"


def test_the_notebook_keeps_the_outputs_of_a_run_without_errors() -> None:
    check_kept_outputs(NOTEBOOK)
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    kinds = {kind for cell in cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}

    assert kinds == {"text/plain", "text/html", "image/png"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    run_notebook(NOTEBOOK, tmp_path, monkeypatch, complete=request.config.getoption("--slow"))
