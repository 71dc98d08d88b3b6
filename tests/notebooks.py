"""What every notebook of examples/ must be, and how it is run."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

_CHAPTER_BYTES = 2000


def run_notebook(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, complete: bool) -> None:
    """Run it from top to bottom, without a key.

    Args:
        notebook: The notebook.
        folder: An empty folder to run it in.
        monkeypatch: Removes the keys.
        complete: Whether it runs in Jupyter's kernel and reads the sample texts completely. If not, it runs
            in this process, which has imported the frameworks, and reads the start of each chapter.
    """
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `test`)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `test`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `test`)")
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LANGSMITH_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    book = nbformat.read(notebook, as_version=4)
    shutil.copytree(
        notebook.parent / "data", folder / "data", copy_function=shutil.copy2 if complete else _copy_start
    )

    if complete:
        outputs = _run_in_kernel(nbclient, book, folder)
    else:
        monkeypatch.chdir(folder)
        outputs = _run_in_this_process(book)
    assert outputs > 5


def _run_in_kernel(nbclient: Any, book: Any, folder: Path) -> int:
    """Run it as Jupyter does, and return the number of outputs."""
    # A kernel's start and a cell may take long on a busy machine; neither is what is tested here.
    nbclient.NotebookClient(
        book,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    return len(shown)


def _run_in_this_process(book: Any) -> int:
    """Run the cells in IPython's shell, and return the number of cells that show something."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    untyped: Any = InteractiveShell
    shell = untyped(user_ns={"__name__": "__main__"}, ipython_dir=str(_settings()))
    shown = 0
    for cell in (cell for cell in book.cells if cell.cell_type == "code"):
        with capture_output() as captured:
            result = shell.run_cell(cell.source, store_history=False)
        result.raise_error()
        shown += bool(captured.stdout or captured.outputs or result.result is not None)
    shell.reset()
    return shown


@functools.cache
def _settings() -> Path:
    """Return a folder for IPython's settings, which are else in the user's home folder."""
    folder = Path(tempfile.mkdtemp(prefix="ipython-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _copy_start(source: str, target: str) -> None:
    """Copy the first paragraphs of a chapter."""
    text = Path(source).read_text("utf-8")
    end = text.find("\n\n", _CHAPTER_BYTES)
    Path(target).write_text(text if end < 0 else text[:end], "utf-8")


def check_kept_outputs(notebook: Path) -> None:
    """Assert that its outputs are of one run from top to bottom, without an error or a warning."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = [cell for cell in book["cells"] if cell["cell_type"] == "code"]

    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
