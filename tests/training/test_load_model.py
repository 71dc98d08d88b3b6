"""A written model folder, loaded back into PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

import torch

from splade_retriever import SparseTextEmbedding
from splade_retriever.errors import ModelFilesError, ModelGraphError
from splade_retriever.training import load_model
from splade_retriever.training.export import arrays
from tests.training.folders import write_model

pytestmark = pytest.mark.usefixtures("one_thread")


SENTENCES = [
    "The rings of Saturn are made of ice and rock. They are wide, thin and bright, and a small telescope "
    "shows them from a garden on any clear night.",
    "A comet has two tails. One of them is gas, the other is dust, and both point away from the Sun "
    "wherever the comet stands on its long way.",
]


def dense_rows(model: Path) -> np.ndarray:
    encoder = SparseTextEmbedding(str(model))
    rows = np.zeros((len(SENTENCES), encoder.vocab_size), dtype=np.float32)
    for row, embedding in zip(rows, encoder.embed(SENTENCES), strict=True):
        row[embedding.indices] = embedding.values
    return rows


def torch_rows(model: Path) -> np.ndarray:
    loaded, tokenizer = load_model(model), SparseTextEmbedding(str(model), lazy_load=True).tokenizer
    with torch.no_grad():
        return np.concatenate(
            [
                loaded(torch.tensor([encoding.ids]), torch.ones(1, len(encoding.ids))).numpy()
                for encoding in tokenizer.encode_batch(SENTENCES)
            ]
        )


def test_an_fp32_folder_comes_back_as_the_weights_it_was_made_of(
    state: dict[str, Any], tmp_path: Path
) -> None:
    write_model(state, tmp_path, precision="fp32")

    found = load_model(tmp_path).state_dict()

    assert found.keys() == state.keys()
    # The graph holds little of the entries that are barred, and no training reaches them.
    barred = state["head.barred"]
    for name, value in state.items():
        free = ~barred if name in ("head.bias", "head.log_scale", "head.log_gain") else ...
        np.testing.assert_allclose(found[name].numpy()[free], value[free], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(torch_rows(tmp_path), dense_rows(tmp_path), atol=2e-4)


def test_an_int8_folder_comes_back_up_to_the_rounding_of_activations(folder: Path) -> None:
    for loaded, exported in zip(torch_rows(folder), dense_rows(folder), strict=True):
        assert loaded @ exported / np.linalg.norm(loaded) / np.linalg.norm(exported) > 0.999


def test_exporting_again_changes_next_to_nothing(folder: Path, tmp_path: Path) -> None:
    again = arrays(load_model(folder).state_dict())

    write_model(again, tmp_path, name="mine")

    for first, second in zip(dense_rows(folder), dense_rows(tmp_path), strict=True):
        assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.999
    assert SparseTextEmbedding(str(tmp_path), lazy_load=True).model_name == "mine"


def test_a_graph_without_a_weight_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    (gain,) = (tensor for tensor in model.graph.initializer if tensor.name == "entry_gain")
    model.graph.initializer.remove(gain)
    onnx.save(model, str(tmp_path / "model.onnx"))

    with pytest.raises(ModelGraphError, match=r"has no constant 'entry_gain'.*Start from the bundled model"):
        load_model(tmp_path)
    with pytest.raises(ModelFilesError, match="does not exist"):
        load_model(tmp_path / "nowhere")


def test_a_head_with_other_constants_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splade_retriever.training.model.LexicalHead.skip", 6.0)

    with pytest.raises(ModelGraphError, match=r"head_skip is 7, this version expects 6"):
        load_model(folder)
