"""Every notebook of examples/ runs from top to bottom without a key, and keeps the outputs of such a run."""

import json
from pathlib import Path

import pytest

from tests.notebooks import check_kept_outputs, run_notebook

pytestmark = pytest.mark.notebook

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTED_ELSEWHERE = {"train_your_own"}
"""tests/training runs its code, which needs PyTorch."""
NOTEBOOKS = sorted(path.stem for path in EXAMPLES.glob("*.ipynb") if path.stem not in TESTED_ELSEWHERE)
EXTRAS = {
    "evaluate_and_tune": ("matplotlib",),
    "examine_weights": ("matplotlib",),
    "explain": ("matplotlib",),
    "langchain_hybrid": ("langchain_core",),
    "langchain_rag": ("langchain_core",),
    "llama_index_hybrid": ("llama_index.core",),
    "llama_index_rag": ("llama_index.core",),
}
"""Packages that a notebook needs beside the package itself."""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_keeps_the_outputs_of_a_run_without_errors(name: str) -> None:
    check_kept_outputs(EXAMPLES / f"{name}.ipynb")


def test_the_notebooks_of_both_frameworks_exist() -> None:
    frameworks = [name for name in NOTEBOOKS if name.startswith(("langchain_", "llama_index_"))]
    assert frameworks == ["langchain_hybrid", "langchain_rag", "llama_index_hybrid", "llama_index_rag"]


def test_the_notebook_about_explanations_shows_views_and_plots() -> None:
    cells = json.loads((EXAMPLES / "explain.ipynb").read_text("utf-8"))["cells"]
    kinds = {kind for cell in cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert kinds == {"text/plain", "text/html", "image/png"}


@pytest.mark.parametrize("name", ["llama_index_hybrid", "llama_index_rag"])
def test_each_cell_that_shows_something_keeps_an_output(name: str) -> None:
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code if "show(" in "".join(cell["source"]).split("def show")[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_a_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for package in EXTRAS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("QDRANT_URL", str(tmp_path / "second folder"))  # restored: a notebook sets it
    monkeypatch.delenv("QDRANT_URL")
    run_notebook(
        EXAMPLES / f"{name}.ipynb", tmp_path, monkeypatch, complete=request.config.getoption("--slow")
    )
