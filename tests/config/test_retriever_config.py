"""RetrieverConfig: a file or a dict makes a retriever of either framework."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import RetrieverConfig, SpladeIndex
from splade_retriever.errors import CollectionMismatchError, CollectionNotFoundError, InputError, SpladeError
from tests.config.conftest import TEXTS
from tests.tiny import write_tiny_model
from tests.words import LetterEncoder

FILES = {
    "retriever.yaml": (
        "location: ./index\nk: 2\nfilter:\n  year: {$gte: 1900}\nindex: {query_max_active_dims: 9}\n"
    ),
    "retriever.toml": (
        'location = "./index"\nk = 2\nfilter = {year = {"$gte" = 1900}}\n[index]\nquery_max_active_dims = 9\n'
    ),
    "retriever.json": json.dumps(
        {
            "location": "./index",
            "k": 2,
            "filter": {"year": {"$gte": 1900}},
            "index": {"query_max_active_dims": 9},
        }
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_format_makes_a_retriever_of_either_framework(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).write_text(FILES[name])
    monkeypatch.chdir(Path(folder.anchor))  # a relative folder in the file starts from the file
    config = RetrieverConfig.read(folder / name)

    assert config == RetrieverConfig.from_dict(json.loads(FILES["retriever.json"]), base=folder)
    chain = config.langchain()
    found = chain.invoke("lander on the Moon")
    chain.close()
    assert [document.id for document in found] == ["rover", "orbit"]
    engine = config.llama_index()
    nodes = engine.retrieve("lander on the Moon")
    engine.vector_store.close()
    assert [node.text for node in nodes] == [TEXTS["rover"][0], TEXTS["orbit"][0]]
    with config.open() as index:
        assert len(index.search("lander on the Moon", k=9)) == 3  # k and filter are the retriever's


def test_a_configuration_comes_back_equal_from_its_dict(folder: Path) -> None:
    config = RetrieverConfig(location=str(folder / "index"), k=7, explain=True)

    assert RetrieverConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_explain_puts_explanations_into_the_metadata_of_both_frameworks(folder: Path) -> None:
    config = RetrieverConfig(location=str(folder / "index"), k=1, explain=True)

    chain = config.langchain()
    (document,) = chain.invoke("tides")
    chain.close()
    engine = config.llama_index()
    (node,) = engine.retrieve("tides")
    engine.vector_store.close()

    assert document.metadata["_splade"]["explanation"]["contributions"]
    assert node.metadata["_splade"]["explanation"] == document.metadata["_splade"]["explanation"]


def test_controls_of_a_file_apply_to_every_query_of_both_frameworks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "controlled.yaml").write_text(
        "location: ./index\norigins: true\n"
        "controls: {exclude: ['${UNWANTED}'], boost: {rocket: 3}, synonyms: {vehicle: [rover]}}\n"
    )
    monkeypatch.setenv("UNWANTED", "tides")
    config = RetrieverConfig.read(folder / "controlled.yaml")

    chain = config.langchain()
    documents = chain.invoke("vehicle on the moon")
    chain.close()
    engine = config.llama_index()
    nodes = engine.retrieve("vehicle on the moon")
    engine.vector_store.close()

    assert RetrieverConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert [document.id for document in documents] == ["orbit", "rover"]
    assert [node.node_id for node in nodes] == ["orbit", "rover"]
    explanation = documents[0].metadata["_splade"]["explanation"]
    assert explanation == nodes[0].metadata["_splade"]["explanation"]
    assert explanation["controls"] == ["boost rocket x3", "exclude tides", "synonyms of vehicle: rover"]
    assert any(part["text_origin"] for part in explanation["contributions"])


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"excludes": ["a"]}, r"unknown name 'controls.excludes'.*Did you mean 'exclude'"),
        ({"exclude": "india"}, "wrong value under controls: exclude is 'india', expected a list of words"),
        ("-india", "a value of type str for controls, expected boost, require, exclude, expand and synonyms"),
    ],
)
def test_wrong_controls_are_named_with_what_is_expected(controls: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RetrieverConfig(location="i", controls=controls)


def test_a_model_is_opened_with_the_arguments_under_encoder(folder: Path) -> None:
    write_tiny_model(folder / "models" / "tiny")
    named = {"location": "index", "model": "models/tiny", "encoder": {"precision": "int8", "threads": 1}}

    with pytest.raises(CollectionMismatchError, match="tiny"):  # the collection is of the bundled model
        RetrieverConfig.from_dict(named, base=folder).open()
    created = RetrieverConfig.from_dict(
        {**named, "index": {"create": True}, "location": "of-tiny"}, base=folder
    )
    with created.open() as index:
        index.add(["the moon"])
        assert index.model.fingerprint["precision"] == "int8"
        assert index.search("moon")


def test_a_dense_encoder_makes_hybrid_retrievers_of_both_frameworks(folder: Path) -> None:
    place = folder / "hybrid"
    with SpladeIndex(place, dense=LetterEncoder()) as index:
        index.add([text for text, _ in TEXTS.values()], ids=list(TEXTS))
    config = RetrieverConfig(location=str(place), k=3)

    chain = config.langchain(dense=LetterEncoder())
    hybrid = chain.invoke("rover")
    chain.close()
    engine = config.llama_index(dense=LetterEncoder())
    nodes = engine.retrieve("rover")
    engine.vector_store.close()

    assert len(hybrid) == len(nodes) == 3  # SPLADE alone finds the rover
    with pytest.raises(InputError, match="mode='dense', expected 'sparse' or 'hybrid' for LlamaIndex"):
        RetrieverConfig(location=str(place), mode="dense").llama_index(dense=LetterEncoder())


def test_a_missing_index_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError):
        RetrieverConfig(location=str(tmp_path / "nowhere")).langchain()

    assert not (tmp_path / "nowhere").exists()


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RetrieverConfig(location="https://localhost:1", api_key_variable="SPLADE_TEST_KEY")
    monkeypatch.delenv("SPLADE_TEST_KEY", raising=False)

    with pytest.raises(InputError, match="environment variable SPLADE_TEST_KEY is not set"):
        config.open()
    monkeypatch.setenv("SPLADE_TEST_KEY", "secret-of-the-test")
    with pytest.raises(SpladeError) as caught:  # no server is there
        config.open()
    assert "secret-of-the-test" not in str(caught.value) + str(config) + json.dumps(config.to_dict())


@pytest.mark.parametrize(
    "values",
    [
        {"location": "i", "api_key": "s3cret"},
        {"location": "i", "encoder": {"token": "s3cret"}},
        {"location": "i", "k": {"token": "s3cret"}},
        {"location": "i", "index": "s3cret"},
        {"location": "i", "api_key_variable": ["s3cret"]},
        {"location": "http://user:s3cret@localhost:6333"},
        {"location": "i", "model": "m", "encoder": {"tokne": "s3cret"}},
        {"location": "i", "index": {"headers": "s3cret"}},
    ],
)
def test_no_error_and_no_repr_shows_a_secret(values: dict[str, Any]) -> None:
    def open_it() -> None:
        config = RetrieverConfig.from_dict(values)
        assert "s3cret" not in repr(config)
        config.open()

    with pytest.raises(InputError) as caught:
        open_it()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_broken_file_is_reported_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("location: i\napi_key: s3cret: [\n")

    with pytest.raises(InputError, match="line 2") as caught:
        RetrieverConfig.read(tmp_path / "c.yaml")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"location": "i", "colection": "x"}, "unknown name 'colection'; .*Did you mean 'collection'"),
        ({"k": 3}, "has no location"),
        ({"location": ":memory:"}, "always empty"),
        ({"location": 3}, "a value of type int for location, expected a folder or a URL"),
        ({"location": "i", "k": 0}, "k=0, expected an int of 1 or more"),
        ({"location": "i", "k": True}, "k=True, expected an int"),
        ({"location": "i", "k": "4"}, "k='4', expected an int"),
        ({"location": "i", "k": 4.0}, "k=4.0, expected an int"),
        ({"location": "i", "filter": "year"}, "of type str for filter, expected conditions"),
        ({"location": "i", "filter": {1: 2}}, "a key of type int in filter.1, expected a string"),
        ({"location": "i", "index": None}, "of type NoneType for index, expected arguments of SpladeIndex"),
        (
            {"location": "i", "mode": "hybird"},
            "mode='hybird', expected 'sparse', 'second', 'dense' or 'hybrid'",
        ),
        ({"location": "i", "explain": "yes"}, "of type str for explain, expected true or false"),
        ({"location": "i", "encoder": {"threads": 2}}, r"encoder arguments \(threads\) and no model"),
        ({"location": "i", "k": 0, "mode": "x"}, "k=0, .* mode='x', expected"),
    ],
)
def test_a_wrong_name_or_value_is_named_with_what_was_expected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RetrieverConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"index": {"windws": "truncate"}}, "'index.windws'; allowed: .*Did you mean 'windows'"),
        ({"index": {"collection": "x"}}, "'index.collection'; allowed: "),
        ({"model": "m", "encoder": {"precison": "int8"}}, "'encoder.precison'; .*Did you mean 'precision'"),
        ({"model": "m", "encoder": {"model_name": "x"}}, "'encoder.model_name'; allowed: "),
    ],
)
def test_a_misspelt_argument_of_index_or_encoder_is_named_before_anything_opens(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        RetrieverConfig.from_dict({"location": str(tmp_path / "i"), **values}).open()
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.ini", "", r"ends in '.ini', expected one of .yaml, .yml, .toml, .json"),
        ("c.yaml", "location: [", r"c.yaml' is not a valid YAML file \(.* at line 1\)"),
        ("c.yaml", "a: &a [x]\nb: [*a, *a]", r"aliases \(\*name\) are not supported"),
        ("c.json", "[" * 100_000, "nested too deeply"),
        ("c.yaml", "[" * 100_000, "nested too deeply"),
        ("c.yaml", "{a: " * 1_000, "nested too deeply"),
        ("c.toml", "location = " + "[" * 100_000, "nested too deeply"),
        ("c.toml", ".".join(["a"] * 20_000) + " = 1", "nested too deeply"),
        ("c.json", " " * 2_000_000, "has more than 1,048,576 bytes"),
        ("c.toml", "location", r"c.toml' is not a valid TOML file"),
        ("c.json", "{", r"c.json' is not a valid JSON file"),
        ("c.json", "[1]", "holds a list, expected names and values"),
        ("c.yml", "", "holds a NoneType"),
        (
            "c.yaml",
            "location: i\nindex: {!!python/object/apply:os.system [true]: 1}",
            "is not a valid YAML file",
        ),
    ],
)
def test_an_invalid_file_is_named_with_the_reason(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(InputError, match=message):
        RetrieverConfig.read(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.yaml' cannot be read \(No such file"):
        RetrieverConfig.read(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"location: caf\xe9")
    with pytest.raises(InputError, match=r"latin.yaml' is not a valid YAML file"):
        RetrieverConfig.read(tmp_path / "latin.yaml")
