"""The LlamaIndex notebooks run from top to bottom, without a key, and keep their outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks import check_kept_outputs, run_notebook

pytestmark = pytest.mark.notebook

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("llama_index_*.ipynb"))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_both_notebooks_exist() -> None:
    assert [path.name for path in NOTEBOOKS] == ["llama_index_hybrid.ipynb", "llama_index_rag.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_outputs_of_a_run_without_errors(notebook: Path) -> None:
    check_kept_outputs(notebook)
    cells = cells_of(notebook)
    assert all(cell["outputs"] for cell in cells if "show(" in "".join(cell["source"]).split("def show")[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_a_key(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    run_notebook(notebook, tmp_path, monkeypatch, complete=request.config.getoption("--slow"))
