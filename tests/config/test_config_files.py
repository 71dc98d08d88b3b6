"""Configuration files: lines of faults, several retrievers, environment variables, dense encoders, schema."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from splade_retriever import Fusion, RetrieverConfig, SpladeIndex
from splade_retriever.config import json_schema, template, to_yaml
from splade_retriever.errors import ConfigurationError, InputError
from tests.words import LetterEncoder

ENCODER = f"{LetterEncoder.__module__}.{LetterEncoder.__qualname__}"


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "c.yaml",
            "location: ./index\n# how many\nkk: 3\nindex:\n  timeout: 5\n  windws: merge\nmode: fast\n",
        ),
        ("c.toml", 'location = "./index"\n# how many\nkk = 3\nmode = "fast"\n[index]\nwindws = "merge"\n'),
        (
            "c.json",
            '{"location": "./index",\n\n"kk": 3, "filter": {"a": "}{"},\n"mode": "fast",\n'
            '"index": {\n"windws": "merge"}}',
        ),
    ],
)
def test_every_fault_of_a_field_names_its_line_and_the_closest_name(
    name: str, content: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, content)

    with pytest.raises(ConfigurationError, match=r"line 3, has the unknown name 'kk'") as caught:
        RetrieverConfig.read(file)
    faults = {fault.path: fault for fault in caught.value.faults}
    mode_line = content.splitlines().index(next(line for line in content.splitlines() if "fast" in line)) + 1
    assert faults["kk",].line == 3
    assert faults["mode",].line == mode_line
    assert f"c{file.suffix}', line {mode_line}, has mode='fast', expected 'sparse'" in str(caught.value)

    right = content.replace('"kk": 3', '"k": 3').replace("kk", "k").replace("fast", "sparse")
    with pytest.raises(ConfigurationError, match="Did you mean 'windows'") as caught:
        RetrieverConfig.read(write(file, right))
    assert caught.value.faults[0].line == 6
    assert RetrieverConfig.read(write(file, right.replace("windws", "windows"))).index["windows"] == "merge"


SEVERAL = """\
defaults:
  location: ./index
  k: 2
retrievers:
  new:
    filter: {year: {$gte: 2000}}
  old:
    filter: {year: {$lt: 2000}}
    k: 5
"""


def test_a_file_holds_several_retrievers_with_shared_fields(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", SEVERAL)

    configs = RetrieverConfig.read_all(file)

    assert list(configs) == ["new", "old"]
    assert [config.k for config in configs.values()] == [2, 5]
    assert {config.location for config in configs.values()} == {str(tmp_path / "index")}
    assert RetrieverConfig.read(file, retriever="old") == configs["old"]
    with pytest.raises(
        InputError, match=r"holds the retrievers new, old, and none was named\. Pass retriever='new'"
    ):
        RetrieverConfig.read(file)
    with pytest.raises(InputError, match="there is no 'odl'"):
        RetrieverConfig.read(file, retriever="odl")


def test_relative_paths_of_a_file_start_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "folder").mkdir(parents=True)
    (tmp_path / "models" / "packed.tar").touch()
    file = write(
        tmp_path / "c.yaml",
        "location: index\n"
        "model: models/packed.tar\n"
        "second_model: models/folder\n"
        "encoder: {specific_model_path: models/tiny, cache_dir: cache}\n"
        "index: {ca: certificates/ca.pem}\n",
    )
    monkeypatch.chdir(Path(tmp_path.anchor))

    config = RetrieverConfig.read(file)

    assert config.location == str(tmp_path / "index")
    assert config.model == str(tmp_path / "models" / "packed.tar")
    assert config.second_model == str(tmp_path / "models" / "folder")
    assert config.encoder == {
        "specific_model_path": str(tmp_path / "models" / "tiny"),
        "cache_dir": str(tmp_path / "cache"),
    }
    assert config.index == {"ca": str(tmp_path / "certificates" / "ca.pem")}


def test_only_relative_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    values = {
        "location": "http://localhost:6333",
        "model": "Qdrant/bm25",
        "encoder": {"specific_model_path": "/models/tiny", "cache_dir": "~/cache"},
        "index": {"ca": "${SPLADE_TEST_CA}"},
    }

    config = RetrieverConfig.from_dict(values, base=tmp_path)

    assert (config.location, config.model, config.index) == (
        values["location"],
        values["model"],
        values["index"],
    )
    assert config.encoder == {
        "specific_model_path": "/models/tiny",
        "cache_dir": str(tmp_path / "home" / "cache"),
    }
    assert RetrieverConfig.from_dict({"location": Path("x")}, base=tmp_path).location == str(tmp_path / "x")
    assert RetrieverConfig.from_dict({"location": "~nobody-here"}, base=tmp_path).location.endswith("here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SEVERAL.replace("k: 2", "k: two"), "line 3, has k='two'"),
        (SEVERAL.replace("k: 5", "k: five"), "line 9, has k='five'"),
        (SEVERAL + "k: 3\n", "line 10, has 'k' beside retrievers"),
        ("retrievers: []\n", "has no names and values under retrievers"),
        ("retrievers: {a: 3}\n", "has no names and values under retrievers.a"),
        ("defaults: 3\nretrievers: {a: {location: x}}\n", "line 1, has no names and values under defaults"),
    ],
)
def test_a_fault_of_several_retrievers_is_reported_once_at_its_place(
    content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        RetrieverConfig.read_all(write(tmp_path / "c.yaml", content))
    assert str(caught.value).count("The configuration") == 1


# -- environment ---------------------------------------------------------------------------------------------


def test_variables_in_strings_are_replaced_when_the_index_opens_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SpladeIndex(tmp_path / "index", collection="s3cret") as index:
        index.add(["A lander on the Moon."], [{"user": "s3cret"}])
    values = {
        "location": str(tmp_path / "index"),
        "collection": "${SPLADE_T}",
        "filter": {"user": "${SPLADE_T}"},
    }
    config = RetrieverConfig.from_dict(values)
    monkeypatch.setenv("SPLADE_T", "s3cret")

    chain = config.langchain()
    assert len(chain.invoke("lander")) == 1
    chain.close()
    assert "s3cret" not in repr(config) + json.dumps(config.to_dict())

    monkeypatch.delenv("SPLADE_T")
    with pytest.raises(ConfigurationError, match="variable SPLADE_T, which is not set"):
        config.open()
    with pytest.raises(ConfigurationError) as caught:
        config.check_environment()
    assert [fault.path for fault in caught.value.faults] == [("collection",), ("filter", "user")]
    values["collection"] = "${SPLADE_T:-s3cret}"
    with RetrieverConfig.from_dict(values).open() as index:
        assert index.count() == 1


def test_fields_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LOCATION": "./i",
        "K": "7",
        "FILTER": '{"a": 1}',
        "MODE": "sparse",
        "MODEL": "m",
    }.items():
        monkeypatch.setenv(f"SPLADE_{name}", value)
    base = RetrieverConfig(location="./other", k=3, explain=True)

    config = RetrieverConfig.from_environment()
    changed = RetrieverConfig.from_environment(base)

    assert (config.location, config.k, config.filter, config.mode) == ("./i", 7, {"a": 1}, "sparse")
    assert (changed.location, changed.k, changed.explain) == ("./i", 7, True)
    monkeypatch.setenv("SPLADE_K", "seven")
    with pytest.raises(ConfigurationError, match="The environment variable SPLADE_K is not JSON"):
        RetrieverConfig.from_environment()


# -- dense encoder, fusion -----------------------------------------------------------------------------------


def test_a_dense_encoder_is_loaded_from_an_allowed_class(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", dense=LetterEncoder()) as index:
        index.add(["A lander on the Moon.", "Tides follow the Moon."])
    config = RetrieverConfig.read(
        write(
            tmp_path / "c.yaml",
            f"location: index\ndense: {{class: {ENCODER}}}\nfusion: {{weights: [1, 0.5], depth: 9}}\n",
        )
    )

    assert config.fusion == Fusion(weights=(1, 0.5), depth=9)
    assert RetrieverConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigurationError, match=rf"pass allowed_classes=\['{ENCODER}'\]"):
        config.langchain()
    chain = config.langchain(allowed_classes=[ENCODER])
    assert len(chain.invoke("lander")) == 2  # hybrid: SPLADE alone finds one
    chain.close()
    with pytest.raises(ConfigurationError, match="has fusion, which LlamaIndex does not have"):
        config.llama_index(allowed_classes=[ENCODER])


@pytest.mark.parametrize(
    ("dense", "allowed", "message"),
    [
        ({"class": "os.system", "args": {"command": "true"}}, [], "not in the list of allowed classes"),
        (
            {
                "class": "langchain_huggingface.HuggingFaceEmbeddings",
                "args": {"model_kwargs": {"trust_remote_code": True}},
            },
            [],
            "sets trust_remote_code",
        ),
        ({"class": "no.such.Encoder"}, ["no.such.Encoder"], "cannot be imported"),
        ({"class": ENCODER, "args": {"width": "s3cret"}}, [ENCODER], "does not take .*Names: width"),
        (
            {"class": ENCODER, "args": {"width": "${SPLADE_UNSET}"}},
            [ENCODER],
            "SPLADE_UNSET, which is not set",
        ),
    ],
)
def test_a_dense_encoder_that_cannot_be_loaded_is_refused_with_the_reason(
    dense: dict[str, Any], allowed: list[str], message: str, tmp_path: Path
) -> None:
    config = RetrieverConfig.from_dict({"location": str(tmp_path), "dense": dense})

    with pytest.raises(ConfigurationError, match=message) as caught:
        config.open(allowed_classes=allowed)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dense": {"clas": "x"}}, "has no dense.class"),
        ({"dense": "x"}, "of type str for dense, expected class"),
        ({"dense": {"class": "x", "argz": {}}}, "'dense.argz'; allowed: class, args. Did you mean 'args'"),
        ({"fusion": {"methd": "rrf"}}, "'fusion.methd'; .*Did you mean 'method'"),
        ({"fusion": {"method": "sum"}}, "under fusion: .*expected 'rrf' or 'dbsf'"),
        ({"fusion": {"rrf_k": "many"}}, "under fusion: rrf_k is .many., expected an int"),
        ({"fusion": 3}, "of type int for fusion"),
        ({"score_threshold": "high"}, "has score_threshold='high', expected a number"),
    ],
)
def test_wrong_values_of_nested_fields_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RetrieverConfig.from_dict({"location": "i", **values})


def test_the_score_threshold_of_a_configuration_holds(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index") as index:
        index.add(["A lander on the Moon.", "Tides follow the Moon."])
        lower, higher = sorted(hit.score for hit in index.search("moon lander"))
    config = RetrieverConfig(location=str(tmp_path / "index"), score_threshold=(lower + higher) / 2)

    chain = config.langchain()
    assert len(chain.invoke("moon lander")) == 1
    chain.close()
    with pytest.raises(ConfigurationError, match="SimilarityPostprocessor"):
        config.llama_index()


# -- schema --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"location": "./index"},
        {"location": "i", "k": 3, "index": {"timeout": 5, "windows": "merge"}, "mode": "sparse"},
        {"location": "i", "model": "m", "encoder": {"precision": "int8"}, "dense": {"class": "a.B"}},
        {"location": "i", "fusion": {"method": "rrf", "weights": [1.0, 0.5]}, "filter": {"a": [1, 2]}},
        yaml.safe_load(SEVERAL),
    ],
)
def test_the_schema_accepts_what_is_read(values: dict[str, Any], tmp_path: Path) -> None:
    RetrieverConfig.read_all(write(tmp_path / "c.json", json.dumps(values)))

    jsonschema.validate(values, json_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"location": "i", "kk": 3},
        {"location": "i", "k": 0},
        {"location": "i", "index": {"windws": "merge"}},
        {"location": "i", "index": {"windows": "all"}},
        {"location": "i", "fusion": {"method": "sum"}},
        {"location": "i", "fusion": {"methd": "rrf"}},
        {"location": "i", "dense": {"args": {}}},
        {"retrievers": {"a": {"kk": 1}}},
    ],
)
def test_the_schema_refuses_what_is_not_read(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        RetrieverConfig.read_all(write(tmp_path / "c.json", json.dumps(values)))

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, json_schema(), cls=jsonschema.Draft202012Validator)


def test_the_template_is_valid_with_and_without_its_comments(tmp_path: Path) -> None:
    text = template("./index")
    options = "\n".join(line.removeprefix("# ") for line in text.splitlines()[1::2])

    assert RetrieverConfig.read(write(tmp_path / "a.yaml", text)).location == str(tmp_path / "index")
    full = RetrieverConfig.read(write(tmp_path / "b.yaml", options))
    assert set(full.to_dict()) == set(yaml.safe_load(options))
    assert RetrieverConfig.from_dict(yaml.safe_load(to_yaml(json.loads(json.dumps(full.to_dict()))))) == full


def test_every_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)

    assert len(examples) == 4
    for example in examples:
        configs = RetrieverConfig.read_all(write(tmp_path / "c.yaml", example))
        jsonschema.validate(yaml.safe_load(example), json_schema(), cls=jsonschema.Draft202012Validator)
        assert all(config.location == str(tmp_path / "notes") for config in configs.values())


def test_the_documentation_lists_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(RetrieverConfig.model_fields)
