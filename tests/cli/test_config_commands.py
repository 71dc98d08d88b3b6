"""`splade config`: write, check and show configuration files."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from splade_retriever import RetrieverConfig, SpladeIndex
from splade_retriever.cli.commands import app
from splade_retriever.config import json_schema


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def splade(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["config", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_init_writes_a_configuration_and_its_schema_and_replaces_nothing() -> None:
    assert "Wrote retriever.yaml and splade.schema.json" in splade("init", "--index", "notes").output

    first, *_ = Path("retriever.yaml").read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=./splade.schema.json"
    assert json.loads(Path("splade.schema.json").read_text(encoding="utf-8")) == json_schema()
    assert RetrieverConfig.read("retriever.yaml").location == "notes"
    assert "exists. Name another, or replace it with --force" in splade("init", status=1).stderr
    splade("init", "--force", "--index", "other")
    assert RetrieverConfig.read("retriever.yaml").location == "other"


def test_check_lists_every_fault_with_its_line() -> None:
    Path("c.yaml").write_text("location: i\nkk: 3\nmode: fast\n", encoding="utf-8")

    lines = splade("check", "c.yaml", status=1).stderr.splitlines()

    assert [line.partition(": has")[0] for line in lines if ": has" in line] == [
        "splade: c.yaml:3",
        "splade: c.yaml:2",
    ]


def test_check_opens_the_indexes_when_asked() -> None:
    with SpladeIndex("notes") as index:
        index.add(["A lander on the Moon."])
    Path("c.yaml").write_text(
        "retrievers: {notes: {location: notes}, other: {location: other}}\n", encoding="utf-8"
    )

    checked = " ".join(splade("check", "c.yaml").output.split())
    assert "other: other, collection splade: no faults found" in checked
    found = " ".join(splade("check", "c.yaml", "--open", status=1).output.split())
    assert "notes: notes, collection splade: 1 documents, model splade-retriever/" in found
    assert "other: other, collection splade: " in found
    results = json.loads(splade("check", "c.yaml", "--open", "--json", status=1).stdout)
    assert results["notes"]["documents"] == 1
    assert "error" in results["other"]


def test_show_prints_defaults_and_names_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLADE_T", "s3cret")
    Path("c.yaml").write_text("location: i\nindex: {vector_name: '${SPLADE_T}'}\n", encoding="utf-8")

    shown = yaml.safe_load(splade("show", "c.yaml").stdout)["retrievers"]["c"]

    assert shown["k"] == 4
    assert shown["index"] == {"vector_name": "${SPLADE_T}"}
    assert json.loads(splade("show", "c.yaml", "--json").stdout)["retrievers"]["c"] == shown


def test_check_names_variables_that_are_not_set() -> None:
    Path("c.yaml").write_text("location: i\napi_key_variable: SPLADE_NO_KEY\n", encoding="utf-8")

    assert "variable SPLADE_NO_KEY is not set" in splade("check", "c.yaml", status=1).stderr


def test_schema_prints_the_schema() -> None:
    assert json.loads(splade("schema").stdout) == json_schema()


def test_options_of_commands_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with SpladeIndex("notes", collection="mine") as index:
        index.add(["A lander on the Moon."], ids=["moon"])
    monkeypatch.setenv("SPLADE_LOCATION", "notes")
    monkeypatch.setenv("SPLADE_COLLECTION", "mine")

    result = CliRunner().invoke(app, ["search", "lander", "--json"])

    assert [hit["id"] for hit in json.loads(result.stdout)["hits"]] == ["moon"]
