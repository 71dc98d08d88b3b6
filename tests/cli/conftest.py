"""A folder to run the `splade` command in, on real files, with the bundled model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SparseTextEmbedding
from tests.command import run_command

ROOT = Path(__file__).parents[2]
SPLADE = [sys.executable, "-m", "splade_retriever"]
MOON = "# Moon\n\nThe lander touched down near the lunar south pole.\n\n# Bread\n\nFlour, water and yeast.\n"


class Desk:
    """A folder to work in."""

    def __init__(self, folder: Path, *, processes: bool = False) -> None:
        """Run commands in a folder: in the tests' process, or with `processes` as a user's shell does."""
        self.folder = folder
        self.processes = processes

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        own = {"HOME": str(self.folder), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
        return {"PATH": os.environ.get("PATH", "")} | own | dict(extra or {})

    def run(
        self,
        *arguments: str,
        status: int = 0,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        variables = self.environment(environment)
        if self.processes:
            done = subprocess.run(
                [*SPLADE, *arguments],
                cwd=self.folder,
                env=variables,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                check=False,
                timeout=120,
            )
        else:
            done = run_command(arguments, self.folder, environment=variables, stdin=stdin)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.stderr == ""
        return json.loads(done.stdout)


@pytest.fixture(scope="package", autouse=True)
def _loaded_model() -> Iterator[None]:
    """Keep the bundled model in memory, which indexes share, so that no command loads it again."""
    model = SparseTextEmbedding()
    yield
    del model


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    """A desk whose commands run in this process; with --slow, or `desk_of_processes`, as processes."""
    return Desk(tmp_path, processes=request.config.getoption("--slow"))


@pytest.fixture
def desk_of_processes(tmp_path: Path) -> Desk:
    """A desk for what depends on the process: its locks, the environment at its start, its exit."""
    return Desk(tmp_path, processes=True)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Desk:
    """A desk with files and an index of them, to be read only."""
    desk = Desk(tmp_path_factory.mktemp("desk"), processes=request.config.getoption("--slow"))
    desk.write("docs/moon.md", MOON)
    desk.write("docs/old.jsonl", '{"id": "a", "text": "A rover drove over the dust.", "year": 2019}\n')
    desk.write("docs/new.csv", "id,text,year\nb,The rover found water ice.,2023\n")
    desk.run("index", "docs", "--to", "index")
    return desk
