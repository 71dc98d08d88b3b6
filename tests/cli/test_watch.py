"""`splade index --watch`: the index follows the files."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("watchfiles", reason="needs the extra `files`")

ROOT = Path(__file__).parents[2]


def test_changes_of_files_reach_the_index_and_an_interrupt_ends_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("The lander reached the Moon.\n", encoding="utf-8")
    command = [sys.executable, "-m", "splade_retriever", "index", str(folder), "--to", str(folder / "index")]
    with subprocess.Popen(
        [*command, "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        assert process.stdout is not None
        timer = threading.Timer(90, process.kill)
        timer.start()

        def report() -> dict[str, int]:
            text = ""
            assert process.stdout is not None
            for line in process.stdout:
                text += line
                if line == "}\n":
                    break
            return dict(json.loads(text))

        assert report()["new"] == 1
        (folder / "b.md").write_text("Tides follow the Moon.\n", encoding="utf-8")
        assert report()["new"] == 1
        (folder / "a.md").unlink()
        assert report()["removed"] == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        timer.cancel()

    assert process.returncode == 130
    assert "interrupted" in errors
