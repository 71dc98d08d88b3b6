"""README and docs: every Python block runs, every command prints what the page says it prints."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from splade_retriever import errors
from tests.command import run_command, run_script

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"^```(?P<kind>[\w-]+)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
KINDS = {"python", "console", "bash", "json", "jsonl", "yaml", "toml", "text", "markdown", "csv", "mermaid"}
"""`python` and `console` run here, the README's `bash` in `.ci/run`; other `bash` blocks install an extra."""


def blocks(page: Path, kind: str) -> list[str]:
    return [found["code"] for found in BLOCK.finditer(page.read_text("utf-8")) if found["kind"] == kind]


def with_blocks(kind: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, kind)]


def layered_parts() -> list[str]:
    """Return the packages and modules that lie directly in the package."""
    folder = ROOT / "splade_retriever"
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted([*packages, *(path.stem for path in folder.glob("[!_]*.py"))])


def named(page: Path) -> str:
    return page.name


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder like a fresh checkout, for code that reads examples/ and writes ./index."""
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "examples" / "data")
    return tmp_path


def environment(desk: Path) -> dict[str, str]:
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        "HOME": str(desk),
        "PATH": commands,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUTF8": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_has_a_known_kind(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text("utf-8"), re.M)
    openings = fences[::2]
    assert len(fences) % 2 == 0
    assert {opening.split()[0] if opening else "" for opening in openings} <= KINDS


@pytest.mark.parametrize("page", with_blocks("python"), ids=named)
def test_the_python_blocks_of_a_page_run_one_after_another(
    page: Path, desk: Path, request: pytest.FixtureRequest
) -> None:
    script = desk / "page.py"
    script.write_text("\n".join(blocks(page, "python")), "utf-8")
    if not request.config.getoption("--slow"):
        run_script(script, environment=environment(desk))
        return
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=desk,
        env=environment(desk),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", with_blocks("console"), ids=named)
def test_the_commands_of_a_page_run_and_print_what_it_shows(
    page: Path, checkout: "Checkout", request: pytest.FixtureRequest
) -> None:
    checkout.clean()
    processes = request.config.getoption("--slow")
    for block in blocks(page, "console"):
        for command, shown in transcript(block):
            if command == INDEXING and not (checkout.folder / "index").exists():
                done = checkout.repeat_indexing()
            else:
                done = run_shell(command, checkout.folder, processes=processes)
            assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"
            for line in shown:
                assert fits(line, done.stdout), f"{page.name}: {command}\nno line {line!r} in\n{done.stdout}"


INDEXING = "splade index examples/data/astronomy --to ./index"
"""The first command of two pages; it encodes 300 passages."""


@dataclass(frozen=True)
class Checkout:
    """A folder like a fresh checkout, and what `INDEXING` did there."""

    folder: Path
    index: Path
    indexing: subprocess.CompletedProcess[str]

    def clean(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(ROOT / "examples" / "data", self.folder / "examples" / "data")

    def repeat_indexing(self) -> subprocess.CompletedProcess[str]:
        """Make the same index again without encoding."""
        shutil.copytree(self.index, self.folder / "index")
        return self.indexing


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A folder whose path is the same for all pages: an index has the absolute paths of its files."""
    place = tmp_path_factory.mktemp("checkout")
    folder, kept = place / "splade-retriever", place / "kept"
    shutil.copytree(ROOT / "examples" / "data", folder / "examples" / "data")
    indexing = run_shell(INDEXING, folder, processes=True)
    assert indexing.returncode == 0, indexing.stderr
    shutil.move(folder / "index", kept)
    return Checkout(folder, kept, indexing)


def run_shell(command: str, desk: Path, *, processes: bool) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell; unless `processes`, a call of `splade` alone runs in the tests' process."""
    if command.startswith("splade ") and not processes and not set(command) & set("|<>&;$`"):
        return run_command(shlex.split(command)[1:], desk, environment=environment(desk))
    return subprocess.run(
        ["bash", "-c", command],
        cwd=desk,
        env=environment(desk),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def transcript(block: str) -> list[tuple[str, list[str]]]:
    """Read `$ command` lines, each with the lines it prints."""
    steps: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line.strip() and steps:
            steps[-1][1].append(line)
    return steps


def fits(line: str, output: str) -> bool:
    """Find a line in an output; "..." matches anything, and figures may differ in the last digits."""
    pattern = r".*".join(re.escape(part) for part in squeezed(line).split("..."))
    # Speeds and times are this run's own; a weight may differ in its last digit from machine to machine.
    pattern = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", pattern)
    return any(re.search(pattern, squeezed(found)) for found in output.splitlines())


def squeezed(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


def test_the_readme_names_the_two_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert len(blocks(ROOT / "README.md", "bash")) == 2
    for name in ("main", "test"):
        assert f"<!-- {name} -->\n```bash\n" in readme
        assert f"command_of {name}" in script


def test_the_package_names_the_versions_of_python_that_ci_runs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    newer = re.search(r"^NEWER_PYTHONS = \((.*)\)$", (ROOT / "noxfile.py").read_text("utf-8"), re.M)
    assert newer is not None
    assert named == {project["requires-python"].removeprefix(">="), *re.findall(r'"(.*?)"', newer[1])}


def test_ci_and_contributors_run_the_sessions_of_the_noxfile() -> None:
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", noxfile, re.M))
    commands = re.findall(r"^nox --sessions (.+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)
    in_ci = set(" ".join(commands).split())
    described = set(re.findall(r"^\| `(\w+)` \|", CONTRIBUTING.read_text("utf-8"), re.M))
    assert in_ci == sessions - {"tests"}, "README's second command runs the tests"
    assert described == {"lint", "types", "contracts", "words", "tests"} <= sessions


def test_the_lowest_versions_are_those_that_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def direct(lines: list[str]) -> Iterator[Requirement]:
        for requirement in map(Requirement, lines):
            if requirement.name == project["name"]:
                for extra in requirement.extras:
                    yield from direct(project["optional-dependencies"][extra])
            else:
                yield requirement

    listed = (ROOT / "tests" / "lowest_versions.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in listed if not line.startswith("#"))
    allowed = {
        r.name.lower().replace("_", "-"): r.specifier
        for r in direct([f"{project['name']}[test]", *project["dependencies"]])
    }
    assert pins.keys() == allowed.keys()
    assert [name for name, version in pins.items() if version not in allowed[name]] == []


@pytest.mark.parametrize("name", layered_parts())
def test_the_architecture_page_draws_every_package_and_module(name: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert f"<b>{name}</b>" in page


@pytest.mark.parametrize(
    "page", [page for page in with_blocks("bash") if page.name != "README.md"], ids=named
)
def test_a_page_installs_only_extras_that_there_are(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for command in "".join(blocks(page, "bash")).splitlines():
        asked = re.fullmatch(r'pip install "splade-retriever\[([a-z,-]+)\]"', command)
        assert asked, f"{page.name}: {command}"
        assert set(asked[1].split(",")) <= set(extras)


def test_every_link_inside_the_repository_has_a_target() -> None:
    for page in [*PAGES, CONTRIBUTING]:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_link_to_a_heading_has_one() -> None:
    for page in [*PAGES, CONTRIBUTING]:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
            linked = page.parent / target if target else page
            if linked.suffix == ".md":
                assert anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"<.*?>", "", heading.lower())).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "SpladeError"])
def test_every_error_has_an_entry_in_troubleshooting(name: str) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    bases = [base.__name__ for base in getattr(errors, name).__bases__ if base is not errors.SpladeError]
    assert f"### `{name}` ({', '.join(bases)})\n" in page
