"""What every kept notebook must be."""

import json
from pathlib import Path
from typing import Any


def check_kept_outputs(notebook: Path) -> None:
    """Assert that its outputs are of one run from top to bottom, without an error or a warning."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = [cell for cell in book["cells"] if cell["cell_type"] == "code"]

    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
