"""Query weights from a table."""

from pathlib import Path

import pytest

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
