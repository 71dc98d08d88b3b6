"""The LlamaIndex notebooks run from top to bottom, without a key, and keep their outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

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
    cells = cells_of(notebook)

    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert all(cell["outputs"] for cell in cells if "show(" in "".join(cell["source"]).split("def show")[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_a_key(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: docs)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra: docs)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra: docs)")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    book = nbformat.read(notebook, as_version=4)

    nbclient.NotebookClient(
        book,
        timeout=240,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(EXAMPLES)}},
    ).execute()

    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert len(shown) > 5
