"""Notebooks about vectors, quality and servers run from top to bottom without a key, and keep outputs."""

from pathlib import Path

import pytest

from tests.notebooks import check_kept_outputs, run_notebook

pytestmark = pytest.mark.notebook

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = ["examine_weights", "evaluate_and_tune", "laptop_to_server"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_keeps_the_outputs_of_a_run_without_errors(name: str) -> None:
    check_kept_outputs(EXAMPLES / f"{name}.ipynb")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_a_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("QDRANT_URL", str(tmp_path / "second folder"))  # restored: the notebook sets it
    monkeypatch.delenv("QDRANT_URL")
    if name != "laptop_to_server":
        pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    run_notebook(
        EXAMPLES / f"{name}.ipynb", tmp_path, monkeypatch, complete=request.config.getoption("--slow")
    )
