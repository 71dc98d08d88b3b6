"""A retriever comes out of a file or a dict, for either framework."""

import json
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import RetrieverConfig, SpladeIndex
from splade_retriever.errors import CollectionMismatchError, CollectionNotFoundError, InputError, SpladeError
from tests.tiny import write_tiny_model
from tests.words import LetterEncoder

TEXTS = {
    "rover": ("The rover left the lander on the Moon.", {"year": 2023}),
    "orbit": ("A rocket lifted the lander to a lunar orbit.", {"year": 1969}),
    "tides": ("Tides follow the Moon.", {"year": 1687}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index in `index`."""
    folder = tmp_path_factory.mktemp("project")
    texts, metadatas = zip(*TEXTS.values(), strict=True)
    with SpladeIndex(folder / "index") as index:
        index.add(texts, metadatas=metadatas, ids=list(TEXTS))
    return folder


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
    monkeypatch.chdir(Path(folder.anchor))  # a folder in the file is meant from the file
    config = RetrieverConfig.read(folder / name)

    assert config == RetrieverConfig.from_dict(json.loads(FILES["retriever.json"]), base=folder)
    chain = config.langchain()
    found = chain.invoke("lander on the Moon")
    chain.close()
    assert [document.id for document in found] == ["rover", "orbit"]
    engine = config.llama_index()
    nodes = engine.retrieve("lander on the Moon")
    engine.vector_store.index.close()
    assert [node.text for node in nodes] == [TEXTS["rover"][0], TEXTS["orbit"][0]]
    with config.open() as index:
        assert len(index.search("lander on the Moon", k=9)) == 3  # k and filter are the retriever's


def test_a_configuration_is_a_dict_and_back(folder: Path) -> None:
    config = RetrieverConfig(location=str(folder / "index"), k=7, explain=True)

    assert RetrieverConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_it_tells_why_on_request(folder: Path) -> None:
    config = RetrieverConfig(location=str(folder / "index"), k=1, explain=True)

    chain = config.langchain()
    (document,) = chain.invoke("tides")
    chain.close()
    engine = config.llama_index()
    (node,) = engine.retrieve("tides")
    engine.vector_store.index.close()

    assert document.metadata["_splade"]["explanation"]["contributions"]
    assert node.metadata["_splade"]["explanation"] == document.metadata["_splade"]["explanation"]


def test_a_model_is_named_with_its_own_arguments(folder: Path) -> None:
    write_tiny_model(folder / "models" / "tiny")
    named = {"location": "index", "model": "models/tiny", "encoder": {"precision": "int8", "threads": 1}}

    with pytest.raises(CollectionMismatchError, match="tiny"):  # the collection is of the bundled model
        RetrieverConfig.from_dict(named, base=folder).open()
    own = RetrieverConfig.from_dict({**named, "index": {"create": True}, "location": "of-tiny"}, base=folder)
    with own.open() as index:
        index.add(["the moon"])
        assert index.model.fingerprint["precision"] == "int8"
        assert index.search("moon")


def test_a_dense_encoder_is_handed_over(folder: Path) -> None:
    place = folder / "hybrid"
    with SpladeIndex(place, dense=LetterEncoder()) as index:
        index.add([text for text, _ in TEXTS.values()], ids=list(TEXTS))
    config = RetrieverConfig(location=str(place), k=3)

    chain = config.langchain(dense=LetterEncoder())
    hybrid = chain.invoke("rover")
    chain.close()
    engine = config.llama_index(dense=LetterEncoder())
    nodes = engine.retrieve("rover")
    engine.vector_store.index.close()

    assert len(hybrid) == len(nodes) == 3  # SPLADE alone finds the rover
    with pytest.raises(InputError, match="mode='dense', expected 'sparse' or 'hybrid' for LlamaIndex"):
        RetrieverConfig(location=str(place), mode="dense").llama_index(dense=LetterEncoder())


def test_an_index_that_is_not_there_is_not_made(tmp_path: Path) -> None:
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
    ("values", "message"),
    [
        ({"location": "i", "colection": "x"}, "'colection', expected some of .*Did you mean 'collection'"),
        ({"k": 3}, "has no location"),
        ({"location": ":memory:"}, "nothing to find"),
        ({"location": 3}, "location=3, expected a folder or a URL"),
        ({"location": "i", "k": 0}, "k=0, expected an int of 1 or more"),
        ({"location": "i", "k": True}, "k=True, expected an int"),
        ({"location": "i", "k": "4"}, "k='4', expected an int"),
        ({"location": "i", "filter": "year"}, "filter='year', expected conditions"),
        ({"location": "i", "index": None}, "index=None, expected arguments of SpladeIndex"),
        ({"location": "i", "mode": "hybird"}, "mode='hybird', expected 'sparse', 'dense' or 'hybrid'"),
        ({"location": "i", "explain": "yes"}, "explain='yes', expected true or false"),
        ({"location": "i", "encoder": {"threads": 2}}, "and no model, expected the model"),
    ],
)
def test_what_is_wrong_in_it_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RetrieverConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"index": {"windws": "truncate"}}, "'index.windws', expected some of .*Did you mean 'windows'"),
        ({"index": {"collection": "x"}}, "'index.collection', expected some of"),
        ({"model": "m", "encoder": {"precison": "int8"}}, "'encoder.precison', .*Did you mean 'precision'"),
        ({"model": "m", "encoder": {"model_name": "x"}}, "'encoder.model_name', expected some of"),
    ],
)
def test_what_is_misspelt_in_its_parts_is_told_before_anything_opens(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        RetrieverConfig.from_dict({"location": str(tmp_path / "i"), **values}).open()
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.ini", "", r"ends in '.ini', expected one of .yaml, .yml, .toml, .json"),
        ("c.yaml", "location: [", r"c.yaml' is no YAML file"),
        ("c.toml", "location", r"c.toml' is no TOML file"),
        ("c.json", "{", r"c.json' is no JSON file"),
        ("c.json", "[1]", "holds a list, expected names and values"),
        ("c.yml", "", "holds a NoneType"),
        ("c.yaml", "location: i\nindex: {!!python/object/apply:os.system [true]: 1}", "is no YAML file"),
    ],
)
def test_a_file_that_is_none_is_told_by_its_name(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(InputError, match=message):
        RetrieverConfig.read(tmp_path / name)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.yaml' cannot be read \(No such file"):
        RetrieverConfig.read(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"location: caf\xe9")
    with pytest.raises(InputError, match=r"latin.yaml' is no YAML file"):
        RetrieverConfig.read(tmp_path / "latin.yaml")
