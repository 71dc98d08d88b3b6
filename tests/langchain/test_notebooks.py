"""The LangChain notebooks run from top to bottom, without a key, and keep their outputs."""

from pathlib import Path

import pytest

from tests.notebooks import check_kept_outputs

pytestmark = pytest.mark.notebook

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = ["langchain_hybrid", "langchain_rag"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_keeps_the_outputs_of_a_run_without_errors(name: str) -> None:
    check_kept_outputs(EXAMPLES / f"{name}.ipynb")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `test`)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `test`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `test`)")
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LANGSMITH_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)

    # A kernel's start and a cell may take long on a busy machine; neither is what is tested here.
    nbclient.NotebookClient(
        book,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(EXAMPLES)}},
    ).execute()

    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert len(shown) > 5
