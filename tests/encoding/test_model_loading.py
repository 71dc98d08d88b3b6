"""A `model` argument becomes an encoder in one way, wherever it is passed."""

from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.errors import InputError, UnknownModelError
from tests.tiny import write_tiny_model
from tests.words import WordEncoder


def test_none_is_the_bundled_model() -> None:
    assert load_encoder().fingerprint == SparseTextEmbedding(lazy_load=True).fingerprint


def test_an_encoder_is_returned_unchanged() -> None:
    encoder = WordEncoder()

    assert load_encoder(encoder) is encoder


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_opened_from_a_str_or_a_path(tmp_path: Path, kind: type) -> None:
    folder = write_tiny_model(tmp_path / "tiny")

    assert load_encoder(kind(folder)).fingerprint["model"] == "tiny"
    with SpladeIndex(":memory:", model=kind(folder)) as index:
        assert index.model_name == "tiny"


def test_settings_reach_a_named_model_and_none_means_not_passed(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")

    encoder = load_encoder(folder, settings={"max_length": 8, "precision": None})

    assert encoder.fingerprint["max_length"] == 8
    assert encoder.fingerprint["precision"] == "fp32"


def test_settings_for_an_open_encoder_are_refused() -> None:
    assert load_encoder(WordEncoder(), settings={"precision": None})
    with pytest.raises(InputError, match=r"max_length=8 cannot be applied to a WordEncoder"):
        load_encoder(WordEncoder(), settings={"max_length": 8})


def test_settings_must_be_a_dict() -> None:
    with pytest.raises(InputError, match="settings is a list, expected a dict of arguments"):
        load_encoder(settings=["threads"])  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [7, b"tiny", ["tiny"], object(), SparseTextEmbedding])
def test_another_type_is_refused_before_anything_is_opened(model: object) -> None:
    with pytest.raises(InputError, match=r"model is .*, expected a model's name, the path of a model folder"):
        load_encoder(model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model is .*, expected a model's name"):
        SpladeIndex(":memory:", model=model)  # type: ignore[arg-type]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownModelError, match="There is no model 'nobody/nothing'"):
        load_encoder("nobody/nothing")
