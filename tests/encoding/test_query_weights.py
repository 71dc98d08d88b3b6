"""Query weights from a table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splade_retriever.encoding.query_weights import QueryWeights
from splade_retriever.errors import ModelFilesError

VOCABULARY = {"[PAD]": 0, "moon": 1, "the": 2, "of": 3}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "idf.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_unique_token_has_its_weight_and_tokens_without_a_weight_are_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, '{"moon": 2.5, "the": 0, "of": -1, "[PAD]": 4, "mars": 7}')
    weights = QueryWeights.from_idf(path, VOCABULARY, without=[0])

    assert weights.embed([1, 1, 2, 3, 0, 99]).as_dict() == {1: 2.5}
    assert len(weights.embed([])) == 0


def test_ones_gives_every_token_but_the_special_ones_the_weight_1() -> None:
    assert QueryWeights.ones(4, without=[0, 9]).embed([3, 1, 0, 3]).as_dict() == {1: 1.0, 3: 1.0}


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"moon": "heavy"}', '{"moon": null}'])
def test_a_file_that_is_not_a_table_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelFilesError, match=r"idf\.json cannot be read as"):
        QueryWeights.from_idf(table(tmp_path, text), VOCABULARY, without=[])


def test_a_table_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="none of them in the model's vocabulary of 4"):
        QueryWeights.from_idf(table(tmp_path, '{"mars": 1.0}'), VOCABULARY, without=[])


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 40, (5).to_bytes(8, "little") + b"{}   ", b"\x02" + b"\x00" * 7 + b"{}"],
)
def test_a_damaged_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(ModelFilesError, match=r"model\.safetensors cannot be read"):
        QueryWeights.from_safetensors(path, without=[])


def tensors(path: Path, **arrays: NDArray[Any]) -> Path:
    """Write flat tensors as a safetensors file; `_` in a name becomes a dot."""
    header, body = {}, b""
    for name, values in arrays.items():
        data = values.tobytes()
        header[name.replace("_", ".")] = {
            "dtype": {"f4": "F32", "f2": "F16", "i4": "I32", "u2": "U16"}[values.dtype.str[1:]],
            "shape": [len(values)],
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


WEIGHT = np.array([9.0, 2.0, 0.5, 0.0], dtype=np.float32)
EXPANSION: dict[str, NDArray[Any]] = {
    "expansion_ends": np.array([0, 2, 3, 3], dtype=np.int32),
    "expansion_ids": np.array([2, 3, 3], dtype=np.uint16),
    "expansion_weights": np.array([0.25, 1.0, 0.5], dtype=np.float16),
}


def test_a_query_is_the_sum_of_what_its_unique_tokens_expand_to(tmp_path: Path) -> None:
    path = tensors(tmp_path / "queries.safetensors", weight=WEIGHT, **EXPANSION)
    weights = QueryWeights.from_safetensors(path, without=[0])

    assert weights.embed([1, 1]).as_dict() == {1: 2.0, 2: 0.25, 3: 1.0}
    assert weights.embed([2, 1, 2]).as_dict() == {1: 2.0, 2: 0.75, 3: 1.5}
    assert weights.embed([3, 0, 99]).as_dict() == {}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"expansion_ends": np.array([0, 2, 1, 3], dtype=np.int32)}, "do not end at 3 entries"),
        ({"expansion_ends": np.array([0, 2, 3, 4], dtype=np.int32)}, "do not end at 3 entries"),
        ({"expansion_ids": np.array([2, 3, 4], dtype=np.uint16)}, "outside the vocabulary of 4"),
        ({"expansion_weights": np.array([1, 0, 1], dtype=np.float16)}, "not above 0"),
        ({"expansion_weights": np.array([1, np.inf, 1], dtype=np.float16)}, "not above 0"),
        ({"expansion_other": np.zeros(1, dtype=np.int32)}, None),
    ],
)
def test_expansions_that_are_not_valid_are_named(
    tmp_path: Path, changed: dict[str, NDArray[Any]], fault: str | None
) -> None:
    path = tensors(tmp_path / "queries.safetensors", weight=WEIGHT, **(EXPANSION | changed))

    if fault is None:
        assert len(QueryWeights.from_safetensors(path, without=[]).embed([1])) == 3
    else:
        with pytest.raises(ModelFilesError, match=fault):
            QueryWeights.from_safetensors(path, without=[])


def test_expansions_of_another_vocabulary_than_the_weights_are_refused(tmp_path: Path) -> None:
    path = tensors(tmp_path / "queries.safetensors", weight=WEIGHT[:3], **EXPANSION)

    with pytest.raises(ModelFilesError, match="weights of 3 tokens and expansions of 4"):
        QueryWeights.from_safetensors(path, without=[])
