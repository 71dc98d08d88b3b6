"""The checks of this repository; `.ci/run` calls the same sessions.

Sessions run in the environment that nox is installed in (`pip install -e '.[dev]'`), so nothing is installed
again. `oldest`, `pythons` and `wheel` add what they need in a temporary folder.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "contracts", "words", "tests"]

PART = [
    "tests/langchain",
    "tests/llama_index",
    "tests/haystack",
    "tests/files",
    "tests/bulk",
    "tests/web",
    "tests/test_agents.py",
    "tests/cli/test_commands.py",
    "tests/index/test_search.py",
    "tests/encoding/test_session.py",
    "tests/test_filters.py",
]
"""Tests that use each direct dependency."""

NEEDS_NEWER = "tests/langchain/test_swap.py"
"""Uses packages beside the frameworks, which in turn need newer frameworks."""

LOWEST = "tests/lowest_versions.txt"

NEWER_PYTHONS = ("3.12", "3.13", "3.14")

MERMAID = "mermaid@11"
"""Draws the diagrams of the documentation; from npm."""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, in the package and in its tests."""
    session.run("mypy")


@nox.session
def contracts(session: nox.Session) -> None:
    """Check which layer imports which, and where heavy dependencies are imported."""
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def words(session: nox.Session) -> None:
    """Check spelling and the word list."""
    session.run("codespell")
    session.run("pytest", "-q", "tests/test_language.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the offline test suite; arguments after `--` go to pytest."""
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run a part of the tests on the lowest version of each direct dependency that pyproject.toml allows."""
    # An old release uses what a newer release of its dependencies deprecates.
    tests = ("-W", "default::DeprecationWarning", "--ignore", NEEDS_NEWER, *PART)
    with tempfile.TemporaryDirectory() as folder:
        run_in_new_environment(session, sys.executable, Path(folder), ("-c", LOWEST), tests)


@nox.session
def pythons(session: nox.Session) -> None:
    """Run a part of the tests on each newer Python on the PATH; arguments after `--` replace the part."""
    for version in NEWER_PYTHONS:
        python = shutil.which(f"python{version}")
        if python is None or subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode:
            session.warn(f"Python {version} is skipped: it is not on the PATH")
            continue
        with tempfile.TemporaryDirectory() as folder:
            run_in_new_environment(session, python, Path(folder), (), session.posargs or PART)


def run_in_new_environment(
    session: nox.Session, python: str, folder: Path, install: Sequence[str], tests: Sequence[str]
) -> None:
    """Install the test extra in a new environment, and run tests there."""
    session.run(python, "-m", "venv", str(folder), external=True)
    new_python = str(folder / "bin" / "python")
    session.run(new_python, "-m", "pip", "install", "--quiet", *install, ".[test]", external=True)
    command = (new_python, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal")
    session.run(*command, *tests, external=True, env={"PYTHONPATH": "."})


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation in ./site, and check it; diagrams are drawn where npm can fetch Mermaid."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": "."}
        if shutil.which("npm") is not None:
            packed = session.run(
                "npm", "pack", MERMAID, "--silent", "--pack-destination", folder, silent=True, external=True
            )
            session.run("tar", "-xzf", f"{folder}/{str(packed).strip()}", "-C", folder, external=True)
            environment["MERMAID_JS"] = f"{folder}/package/dist/mermaid.min.js"
        # With --quiet, --strict would not see the warnings.
        session.run("mkdocs", "build", "--strict", env=environment)
    session.run("pytest", "-q", "tests/test_site.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """Check what is built; use the wheel in a new environment: alone, then typed and with frameworks."""
    session.run("pytest", "-q", "tests/test_release.py")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        session.run("python", "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
        (built,) = home.glob("splade_retriever-*.whl")
        session.log(f"the wheel has {built.stat().st_size / 1e6:.1f} MB")
        texts = str(Path("examples", "data", "astronomy").resolve())
        script = shutil.copy(Path("tests", "user_script.py"), home)
        session.run("python", "-m", "venv", str(home / "new"))
        programs = home / "new" / "bin"
        python, splade = str(programs / "python"), str(programs / "splade")
        alone = {"HOME": folder, "HF_HUB_OFFLINE": "1", "PYTHONPATH": None}
        with session.chdir(folder):
            started = time.monotonic()
            session.run(python, "-m", "pip", "install", "--quiet", str(built), external=True)
            session.run(splade, "index", texts, "--to", "index", external=True, env=alone)
            session.run(
                splade, "search", "why do stars explode?", "--index", "index", external=True, env=alone
            )
            session.log(f"from pip install to the first result: {time.monotonic() - started:.0f} s")
            extras = f"{built}[langchain,llama-index]"
            session.run(python, "-m", "pip", "install", "--quiet", extras, "mypy", "pyright", external=True)
            session.run(python, script, "typed", external=True, env=alone)
            checked = {"PYTHONPATH": None}
            session.run(python, "-m", "mypy", "--strict", script, external=True, env=checked)
            if shutil.which("npm") is None:
                session.warn("pyright is skipped: it needs npm")
            else:
                session.run(
                    python,
                    "-m",
                    "pyright",
                    "--pythonpath",
                    python,
                    script,
                    external=True,
                    env={"PYTHONPATH": None},
                )


@nox.session
def oracle(session: nox.Session) -> None:
    """Compare with PyTorch implementations; needs torch and the extras oracle and model-building."""
    session.run("pytest", "-m", "oracle")
    session.run("pytest", "--research", "tests/training", "tests/model_building", "tests/research")
