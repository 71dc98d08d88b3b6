"""`diagnose_config`: the indexes that a configuration file names."""

import json
from pathlib import Path
from typing import get_args

import pytest

from splade_retriever.config import diagnose_config
from splade_retriever.config.arguments import encoder_types, index_types
from splade_retriever.errors import InputError
from splade_retriever.index.splade_index import SpladeIndex


@pytest.fixture(scope="module", name="folder")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, to be read only."""
    folder = tmp_path_factory.mktemp("config")
    with SpladeIndex(folder / "index") as index:
        index.add(["The lander touched down."], [{"year": 2023, "topic": "moon"}])
    return folder


def test_each_retriever_is_checked_with_its_model_and_filter(folder: Path) -> None:
    file = folder / "retrievers.yaml"
    file.write_text(
        "defaults: {location: ./index}\n"
        "retrievers:\n"
        "  right: {filter: {year: {$gte: 2000}}}\n"
        "  wrong: {model: Qdrant/bm25}\n"
        "  missing: {location: ./nowhere}\n"
        "  made_on_opening: {filter: {topic: moon}, index: {indexed_fields: {topic: keyword}}}\n"
    )
    diagnoses = diagnose_config(file)
    assert {name: diagnosis.ok for name, diagnosis in diagnoses.items()} == {
        "right": True,
        "wrong": False,
        "missing": False,
        "made_on_opening": True,
    }
    checks = {name: {item.check for item in diagnosis.findings} for name, diagnosis in diagnoses.items()}
    assert "payload index of 'year'" in checks["right"]
    assert not any(check.startswith("payload index") for check in checks["made_on_opening"])
    (fault,) = diagnoses["wrong"].at_level("fault")
    assert (fault.check, "'Qdrant/bm25' would be used" in fault.found) == ("model", True)
    (missing,) = diagnoses["missing"].at_level("fault")
    assert "There is no index" in missing.found
    assert not (folder / "nowhere").exists()


def test_every_argument_that_may_be_null_is_as_if_left_out(folder: Path) -> None:
    named: dict[str, dict[str, None]] = {}
    for group, types in (("index", index_types()), ("encoder", encoder_types())):
        optional = [name for name, hint in types.items() if type(None) in get_args(hint)]
        named[group] = dict.fromkeys(optional)
    assert "indexed_fields" in named["index"]
    file = folder / "null.yaml"
    fields = {"location": "./index", "model": "splade-retriever/minilm-l6-v4", "filter": {"year": 2023}}
    file.write_text(json.dumps(fields | named))
    (with_null,) = diagnose_config(file).values()
    file.write_text(json.dumps(fields))
    (without,) = diagnose_config(file).values()
    checks, expected = (
        [(item.check, item.level) for item in diagnosis.findings] for diagnosis in (with_null, without)
    )
    assert with_null.ok
    assert checks == expected


def test_faults_of_the_file_are_findings_with_their_lines(folder: Path) -> None:
    file = folder / "faulty.yaml"
    file.write_text("location: ./index\nfiltr: {}\n")
    (diagnosis,) = diagnose_config(file).values()
    (fault,) = diagnosis.findings
    assert fault.level == "fault"
    assert fault.found.startswith(f"{file}:2 has the unknown name 'filtr'")


def test_a_variable_that_is_not_set_is_a_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLADE_TEST_FOLDER", raising=False)
    file = folder / "variable.yaml"
    file.write_text("location: ${SPLADE_TEST_FOLDER}\n")
    (diagnosis,) = diagnose_config(file).values()
    assert "SPLADE_TEST_FOLDER, which is not set" in diagnosis.findings[0].found


def test_a_file_that_cannot_be_read_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        diagnose_config(folder / "none.yaml")
