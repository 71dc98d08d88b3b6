"""Which token of a text each weight of its vector comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.token_graph import token_graph
from splade_retriever.encoding.session import Session
from splade_retriever.errors import InputError, ModelGraphError
from tests.tiny import tiny_logits, write_tiny_model

TEXT = "A supernova is the explosion of a massive star, near the lunar south pole."
BUNDLED = Path("splade_retriever/bundled/model.onnx")


def test_the_maximum_over_tokens_is_the_vector_of_the_bundled_model() -> None:
    model = SparseTextEmbedding()
    (encoding,) = model.tokenizer.encode_batch([TEXT])
    (vector,) = model.embed(TEXT)
    session = Session(BUNDLED, content=token_graph(BUNDLED))

    by_token = session.token_weights(encoding.ids)

    assert by_token.shape == (len(encoding.ids), model.vocab_size)
    expansion = {id: weight for id, weight in vector.as_dict().items() if id not in encoding.ids}
    pooled = by_token.max(axis=0)
    assert len(expansion) > 10
    # A row has its own scale of 8-bit codes, so it rounds otherwise than the complete text.
    np.testing.assert_allclose(pooled[list(expansion)], list(expansion.values()), atol=0.04)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_origins_of_an_export_of_logits_are_the_positions_of_the_largest_logits(
    tmp_path: Path, precision: str
) -> None:
    model = SparseTextEmbedding(write_tiny_model(tmp_path / "tiny"), precision=precision)  # type: ignore[arg-type]
    text = "the moon rover lands near water ice"
    (encoding,) = model.tokenizer.encode_batch([text])
    logits = tiny_logits(encoding.ids)
    expected = {
        id: (encoding.offsets[place], np.log1p(logits[place, id]))
        for id, place in enumerate(logits.argmax(axis=0).tolist())
        if logits[place, id] > 0 and encoding.offsets[place] != (0, 0)
    }

    origins = model.token_origins(text, range(model.vocab_size))

    assert expected
    assert {id: (o.start, o.end) for id, o in origins.items()} == {id: e[0] for id, e in expected.items()}
    assert [o.weight for o in origins.values()] == pytest.approx([e[1] for e in expected.values()], abs=1e-5)


def test_entries_without_a_weight_have_no_origin() -> None:
    model = SparseTextEmbedding()

    assert model.token_origins(TEXT, []) == {}
    assert model.token_origins("", [2000]) == {}


def test_the_origin_of_something_else_than_a_text_is_an_error() -> None:
    with pytest.raises(InputError, match="is an int, expected str"):
        SparseTextEmbedding().token_origins(5, [2000])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([10**6], "No token has the id 1000000; the vocabulary has 30522 entries"),
        ([2**70], "the vocabulary has 30522 entries"),
        ([-1], "No token has the id -1"),
        (["moon"], "The token id 'moon' is a str, expected an int"),
        ([1.0], "is a float, expected an int"),
        ([True], "is a bool, expected an int"),
        (2000, "The token ids are an int, expected a list of ints"),
    ],
)
def test_an_id_that_the_vocabulary_does_not_have_is_an_error(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseTextEmbedding().token_origins(TEXT, ids)


def test_ids_may_be_of_numpy(tmp_path: Path) -> None:
    model = SparseTextEmbedding(write_tiny_model(tmp_path / "tiny"))
    ids = np.arange(model.vocab_size)

    assert model.token_origins("moon", ids) == model.token_origins("moon", ids.tolist()) != {}  # type: ignore[arg-type]


@pytest.mark.parametrize("arena", [True, False])
def test_origins_keep_freed_memory_only_where_the_encoder_does(tmp_path: Path, arena: bool) -> None:
    model = SparseTextEmbedding(write_tiny_model(tmp_path / "tiny"), enable_cpu_mem_arena=arena)

    options = model._opened_origins()._session._backend.get_session_options()

    assert options.enable_cpu_mem_arena is arena


def test_a_graph_that_pools_in_another_way_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")

    with pytest.raises(ModelGraphError, match=r"tiny/model.onnx pools its tokens in another way"):
        token_graph(folder / "model.onnx")
