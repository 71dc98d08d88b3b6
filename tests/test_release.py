"""The wheel and the source archive: reproducible, complete, without other files, with licences and SBOM."""

import email
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from splade_retriever import __version__

ROOT = Path(__file__).parents[1]
INFO = f"splade_retriever-{__version__}.dist-info"
DATA_FILES = {
    "splade_retriever/py.typed",
    "splade_retriever/bundled/MODEL_CARD.md",
    "splade_retriever/bundled/card.json",
    "splade_retriever/bundled/model.onnx",
    "splade_retriever/bundled/tokenizer.json",
    "splade_retriever/encoding/stop_words.json",
    "splade_retriever/web/static/index.html",
    "splade_retriever/web/static/page.css",
    "splade_retriever/web/static/page.js",
    "splade_retriever/web/static/theme.js",
    "splade_retriever/bundled_doc/card.json",
    "splade_retriever/bundled_doc/queries.safetensors",
    "splade_retriever/drawing/notebook.css",
    "splade_retriever/drawing/style.css",
}
LICENSES = {"LICENSE", "NOTICE", "splade_retriever/bundled/MODEL_CARD.md", "docs/model_data.md"}
INFO_FILES = {
    "METADATA",
    "RECORD",
    "WHEEL",
    "entry_points.txt",
    "sboms/splade-retriever.cdx.json",
    *(f"licenses/{name}" for name in LICENSES),
}
SOURCE_ARCHIVE = {
    *(".ci", ".codespell.txt", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("LICENSE", "NOTICE", "PKG-INFO", "README.md", "benchmarks", "docs", "examples", "hatch_build.py"),
    *(
        "mkdocs.yml",
        "model_building",
        "noxfile.py",
        "pyproject.toml",
        "research",
        "splade_retriever",
        "tests",
    ),
}
SUFFIXES = {
    *(
        ".css",
        ".csv",
        ".html",
        ".ipynb",
        ".js",
        ".json",
        ".jsonl",
        ".md",
        ".onnx",
        ".png",
        ".py",
        ".svg",
        ".tsv",
    ),
    *(".toml", ".txt", ".typed", ".yaml", ".yml", ".gz", ".safetensors", ".zip"),
}
MAX_MEGABYTES = 25
"""The bundled model has 24 MB; PyPI takes 100."""


@dataclass(frozen=True)
class Built:
    """A wheel and a source archive."""

    wheel: Path
    archive: Path

    @property
    def members(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as wheel:
            return set(wheel.namelist())

    @property
    def metadata(self) -> Message:
        return email.message_from_bytes(self.read(f"{INFO}/METADATA"))

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.wheel) as wheel:
            return wheel.read(name)


def build(source: Path, target: Path, *kinds: str) -> None:
    arguments = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-d",
        str(target),
        *(f"-t{kind}" for kind in kinds),
    ]
    subprocess.run(arguments, cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module", name="built")
def built_from_the_tree(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    target = tmp_path_factory.mktemp("dist")
    build(ROOT, target, "sdist", "wheel")
    (wheel,), (archive,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, archive)


def test_the_same_sources_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    """From the source archive, with other times and permissions, in another folder."""
    with tarfile.open(built.archive) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for path in source.rglob("*.py"):
        path.touch()
        path.chmod(0o600)
    (source / "PKG-INFO").unlink()
    build(source, tmp_path / "dist", "sdist", "wheel")
    again = {path.name: digest(path) for path in (tmp_path / "dist").iterdir()}
    assert again == {path.name: digest(path) for path in (built.wheel, built.archive)}


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    package = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "splade_retriever").rglob("*.py")
    } | DATA_FILES
    assert built.members == package | {f"{INFO}/{name}" for name in INFO_FILES}
    assert built.wheel.stat().st_size < MAX_MEGABYTES * 1e6


def test_the_source_archive_holds_the_project_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.archive) as archive:
        members = [PurePosixPath(*PurePosixPath(item.name).parts[1:]) for item in archive if item.isfile()]
    assert {path.parts[0] for path in members} == SOURCE_ARCHIVE
    assert not strays(members)
    package = {name for name in built.members if name.startswith("splade_retriever/")}
    assert package <= {str(path) for path in members}


def strays(members: Iterable[PurePosixPath]) -> list[str]:
    """Files of a kind that the project does not have, but for files without a suffix at known places."""
    plain = {".ci/run", "LICENSE", "NOTICE", "PKG-INFO", ".gitignore", "examples/data/NOTICE"}
    return [str(path) for path in members if path.suffix not in SUFFIXES and str(path) not in plain]


def test_the_metadata_names_the_licences_of_all_that_is_in_the_wheel(built: Built) -> None:
    metadata = built.metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND BSD-3-Clause AND PostgreSQL"
    assert set(metadata.get_all("License-File", [])) == LICENSES
    assert metadata["Version"] == __version__
    notice = built.read(f"{INFO}/licenses/NOTICE").decode()
    assert all(
        name in notice
        for name in ("model.onnx", "tokenizer.json", "queries.safetensors", "MODEL_CARD.md", "model_data.md")
    )
    for holder in ("Dr Martin Porter", "Richard Boulton", "PostgreSQL Global Development Group"):
        assert holder in notice


def test_the_bill_of_materials_describes_the_files_in_the_wheel(built: Built) -> None:
    document = json.loads(built.read(f"{INFO}/sboms/splade-retriever.cdx.json"))
    components = {component["name"]: component for component in document["components"]}
    card = json.loads((ROOT / "splade_retriever/bundled/card.json").read_text("utf-8"))
    model = components[card["model"]]
    assert document["metadata"]["component"]["version"] == __version__
    assert hashes(model) == [hashlib.sha256(built.read("splade_retriever/bundled/model.onnx")).hexdigest()]
    tokenizer = components[f"{card['model']} tokenizer"]
    assert hashes(tokenizer) == [
        hashlib.sha256(built.read("splade_retriever/bundled/tokenizer.json")).hexdigest()
    ]
    queries = components[f"{card['model']}-doc"]
    table = built.read("splade_retriever/bundled_doc/queries.safetensors")
    assert hashes(queries) == [hashlib.sha256(table).hexdigest()]
    words = components["stop words of Snowball, and of PostgreSQL for Turkish"]
    listed = built.read("splade_retriever/encoding/stop_words.json")
    assert hashes(words) == [hashlib.sha256(listed).hexdigest()]
    assert [entry["license"]["id"] for entry in words["licenses"]] == ["BSD-3-Clause", "PostgreSQL"]
    datasets = model["modelCard"]["modelParameters"]["datasets"]
    assert {"squad-part", "docs", "enwiki", "openstax"} <= {dataset["name"] for dataset in datasets}
    assert all(dataset["contents"]["properties"][0]["value"] for dataset in datasets)


def hashes(component: dict[str, Any]) -> list[str]:
    return [entry["content"] for entry in component["hashes"]]


def test_the_bill_of_materials_is_valid_cyclonedx(built: Built) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs the extra `dev`")
    schema = pytest.importorskip("cyclonedx.schema")
    text = built.read(f"{INFO}/sboms/splade-retriever.cdx.json").decode()
    fault = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert fault is None, fault


def test_the_changelog_dates_the_version_that_is_released() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines() if line[:3] == "## "]
    assert any(heading.startswith(f"## {__version__} - 20") for heading in headings)
    assert headings[0] == "## Unreleased" or headings[0].startswith(f"## {__version__} - ")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
