"""Model folders from somebody else: no file outside is read, and each fault is a SpladeError."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.encoding.tokenizer_file import translated_errors
from splade_retriever.errors import ModelFilesError, ModelOutputError, SpladeError
from tests.tiny import tiny_tokenizer, write_json, write_tiny_model

CONFIGS = ["card.json", "config.json", "idf.json", "router_config.json", "tokenizer_config.json"]
CONFIGS += ["sentence_bert_config.json", "1_SpladePooling/config.json"]
KEYS = ["model", "model_file", "license", "max_length", "activation", "query_side", "precision", "vocab_size"]
KEYS += ["additional_files", "query_power", "query_max_active_dims", "zero_special_tokens", "revision"]
KEYS += ["architectures", "max_position_embeddings", "model_type", "types", "structure", "query", "document"]
KEYS += [
    "model_max_length",
    "max_seq_length",
    "pooling_strategy",
    "activation_function",
    "moon",
    "the",
    "path",
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def opened(folder: Path) -> SparseTextEmbedding:
    return SparseTextEmbedding(folder, lazy_load=True)


@given(name=st.sampled_from(CONFIGS), content=values)
@settings(max_examples=3 * settings().max_examples)
def test_json_files_with_any_values_open_or_raise_a_splade_error(
    folder: Path, name: str, content: object
) -> None:
    path = folder / name
    before = path.read_bytes() if path.is_file() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        with contextlib.suppress(SpladeError):
            model = opened(folder)
            list(model.query_embed("the moon"))
            assert model.fingerprint["model"]
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_files_with_any_bytes_raise_a_splade_error(folder: Path, content: bytes) -> None:
    for name in ("card.json", "tokenizer.json"):
        before = (folder / name).read_bytes() if (folder / name).is_file() else None
        (folder / name).write_bytes(content)
        with pytest.raises(SpladeError):
            opened(folder)
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)


def test_a_deeply_nested_json_file_raises_a_splade_error(folder: Path) -> None:
    (folder / "card.json").write_text("[" * 100_000, encoding="utf-8")

    with pytest.raises(ModelFilesError, match=r"card\.json is not valid JSON"):
        opened(folder)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"license": 7}, "license=7, expected a str"),
        ({"model_file": ["a"]}, "model_file=.*expected a path"),
        ({"model_file": ".."}, "model_file='..', expected a path"),
        ({"max_length": True}, "max_length=True, expected an int of 1 or more"),
        ({"vocab_size": "many"}, "vocab_size='many', expected an int of 0 or more"),
        ({"additional_files": "abc"}, "additional_files='abc', expected a list of paths"),
        ({"query_power": "2"}, "query_power='2', expected a finite number above 0"),
    ],
)
def test_a_wrong_type_in_a_card_is_named_with_its_file(
    folder: Path, card: dict[str, Any], message: str
) -> None:
    write_json(folder / "card.json", card)

    with pytest.raises(ModelFilesError, match=rf"card\.json is not valid: .*{message}"):
        opened(folder)


# -- files outside the folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../victim", "a/../../victim", "ABSOLUTE"])
@pytest.mark.parametrize("side", ["document", "query"])
def test_a_router_cannot_name_a_folder_outside(folder: Path, tmp_path: Path, name: str, side: str) -> None:
    victim = write_tiny_model(tmp_path / "victim", name="onnx/model.onnx")
    before = sorted(victim.rglob("*"))
    named = str(victim) if name == "ABSOLUTE" else name
    kind = "SparseStaticEmbedding" if side == "query" else "MLMTransformer"
    router = {"types": {named: f"st.{kind}"}, "structure": {"document": [], "query": [], side: [named]}}
    write_json(folder / "router_config.json", router)

    with pytest.raises(ModelFilesError, match=r"expected a path inside the model folder"):
        SparseTextEmbedding(folder)
    assert sorted(victim.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)

    with pytest.raises(ModelFilesError, match=rf"{name} is a link to .*outside, outside the model folder"):
        SparseTextEmbedding(folder)


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "weights.bin")
    (folder / "model.onnx").symlink_to("weights.bin")

    assert len(next(SparseTextEmbedding(folder).embed("moon")))


def test_a_folder_that_is_a_link_is_opened(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)

    assert len(next(SparseTextEmbedding(tmp_path / "link").embed("moon")))


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json", "card.json", "idf.json"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder", "loop"])
def test_a_file_that_is_not_regular_is_refused_and_not_read(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else kind)

    with pytest.raises(ModelFilesError, match=rf"{name} (is not a regular file|is a link to|cannot be read)"):
        SparseTextEmbedding(folder)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 40)

    with pytest.raises(
        ModelFilesError, match=r"config\.json has 1,099,511,627,776 bytes, and at most 16,777,216"
    ):
        opened(folder)


# -- tokenizers ----------------------------------------------------------------------------------------------


def tokenizer_with(folder: Path, **parts: object) -> Path:
    content = json.loads(tiny_tokenizer().to_str()) | parts
    write_json(folder / "tokenizer.json", content)
    return folder / "tokenizer.json"


REPLACE = {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 60}


@pytest.mark.parametrize(
    "normalizer",
    [
        REPLACE | {"content": "o" * 100_000},
        REPLACE | {"pattern": {"Regex": "(?=o)"}, "content": "o" * 1000},
        {"type": "Sequence", "normalizers": [REPLACE, REPLACE]},
        {"type": "Prepend", "prepend": "x" * 1_000_000},
    ],
)
def test_a_normalizer_that_multiplies_a_text_is_refused(folder: Path, normalizer: dict[str, object]) -> None:
    tokenizer_with(folder, normalizer=normalizer)

    with pytest.raises(ModelFilesError, match=r"tokenizer\.json cannot be loaded: .* times as long"):
        opened(folder)


def test_a_normalizer_of_published_models_is_accepted(folder: Path) -> None:
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    quotes = {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}
    tokenizer_with(
        folder,
        normalizer={
            "type": "Sequence",
            "normalizers": [quotes, {"type": "NFKD"}, {"type": "Lowercase"}, spaces],
        },
    )

    assert len(next(SparseTextEmbedding(folder).embed("the ``moon``")))


def test_a_wordpiece_model_without_a_limit_of_word_length_is_refused(folder: Path) -> None:
    model = json.loads(tiny_tokenizer().to_str())["model"] | {"max_input_chars_per_word": 10**9}
    path = tokenizer_with(folder, model=model)

    with pytest.raises(ModelFilesError, match="max_input_chars_per_word is 1000000000, expected"):
        Tokenizer.from_file(path, max_length=8)


def test_a_panic_of_the_tokenizer_library_is_a_splade_error() -> None:
    # The class of a panic is made by the library's Rust code and has no importable name.
    panic = type("PanicException", (BaseException,), {})

    with (
        pytest.raises(ModelOutputError, match="The tokenizer failed: index out of bounds"),
        translated_errors("The tokenizer failed", ModelOutputError),
    ):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), translated_errors("The tokenizer failed", ModelOutputError):
        raise KeyboardInterrupt
