"""The notebook that adapts the bundled model."""

from pathlib import Path

import pytest

from tests.notebooks import check_kept_outputs

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "train_your_own.ipynb"


def test_the_notebook_keeps_the_outputs_of_a_run_without_errors() -> None:
    check_kept_outputs(NOTEBOOK)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: docs)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra: docs)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra: docs)")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(NOTEBOOK, as_version=4)

    nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()

    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert len(shown) > 3
