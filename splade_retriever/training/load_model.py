"""Read a model folder back into PyTorch, to continue training: the inverse of `export.write_folder`.

int8 weights become code x step. The loaded model computes the vectors of the folder up to the rounding of
activations, which PyTorch does not round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splade_retriever.encoding import model_files
from splade_retriever.encoding.onnx.bundled_graph import LAYERS, SPECIAL_BIAS, read_constants
from splade_retriever.errors import ModelFilesError, ModelGraphError
from splade_retriever.training.model import Encoder, LexicalHead, Splade

__all__ = ["bundled_folder", "load_model"]


def bundled_folder() -> Path:
    """Return the folder of the model that ships in the wheel."""
    return model_files.bundled_folder().tokenizer.parent


def load_model(folder: Path, *, frozen: int = 3) -> Splade:
    """Load the bundled model, or one that was trained from it, in int8 or fp32.

    Args:
        folder: The model folder.
        frozen: Number of lower layers that keep their weights in training.

    Raises:
        ModelFilesError: If the folder has no `model.onnx`.
        ModelGraphError: If the graph is not one that `export.write_folder` of this version writes.
    """
    stored = Stored.read(folder / "model.onnx")
    words = stored.words()
    encoder = Encoder(len(words))
    encoder.load_state_dict(_encoder_state(stored, words))
    # A barred entry is recognised by its bias, which no training changes.
    barred = stored["entry_bias"] == SPECIAL_BIAS
    model = Splade(encoder, (~barred).float(), frozen)
    model.head.load_state_dict(model.head.state_dict() | _head_state(stored, words))
    model.head.floor = float(stored["floor"]) if "floor" in stored else 0.0
    model.head.count_share = float(stored["count_share"]) if "count_share" in stored else 0.0
    model.head.related = stored["related"].long()
    return model


def _encoder_state(stored: Stored, words: Tensor) -> dict[str, Tensor]:
    state = {"words.weight": words, "positions.weight": stored["encoder.positions.weight"]}
    state |= stored.norm("encoder.norm", "norm")
    for layer in range(LAYERS):
        graph_name, name = f"encoder.layers.{layer}", f"layers.{layer}"
        for part, joined in stored.linear(f"{graph_name}.qkv", "").items():
            for role, third in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                state[f"{name}.{role}{part}"] = third
        for part in ("output", "up", "down"):
            state |= stored.linear(f"{graph_name}.{part}", f"{name}.{part}")
        for part in ("attention_norm", "norm"):
            state |= stored.norm(f"{graph_name}.{part}", f"{name}.{part}")
    return state


def _head_state(stored: Stored, words: Tensor) -> dict[str, Tensor]:
    """Return the trained parts of the head; it derives `entries` from the words."""
    length = (words - words.mean(0)).norm(dim=1)
    return {
        **stored.linear("head.dense", "dense"),
        **stored.norm("head.norm", "norm"),
        "log_scale": (stored["factor"] * length).log(),
        "bias": stored["entry_bias"],
        "log_gain": stored["entry_gain"].log(),
        "expanding": stored["expanding"],
    }


class Stored:
    """The constants of an exported graph, by the names of `encoding.onnx.bundled_graph`."""

    def __init__(self, path: Path, constants: dict[str, NDArray[Any]]) -> None:
        self._path, self._constants = path, constants
        for name, expected in {"head_scale": LexicalHead.scale, "head_skip": LexicalHead.skip}.items():
            value = float(self[name])
            if not np.isclose(value, expected):
                raise ModelGraphError(
                    f"Model {path} cannot be trained further: its constant {name} is {value:g}, this version "
                    f"expects {expected:g}. Start from the bundled model, or use the version that wrote it."
                )

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read a `model.onnx`."""
        if not path.is_file():
            raise ModelFilesError(
                f"Model file {path} does not exist. Pass the folder of the bundled or an adapted model."
            )
        return cls(path, read_constants(path))

    def __contains__(self, name: str) -> bool:
        return name in self._constants

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._constants:
            raise ModelGraphError(
                f"Model {self._path} cannot be trained further: it has no constant {name!r}, which the "
                "bundled model has. Start from the bundled model, or from one that this version adapted."
            )
        return torch.from_numpy(self._constants[name].astype(np.float32))

    def words(self) -> Tensor:
        """Return the word embeddings, (vocab, hidden)."""
        table = self["words"]
        if "word_steps" in self:
            table = table * self["word_steps"][:, None]
        return table + self["word_mean"]

    def linear(self, graph_name: str, name: str) -> dict[str, Tensor]:
        """Return weight, (out, in), and bias of a linear layer, under the name in `Splade`."""
        if f"{graph_name}.codes" in self:
            weight = self[f"{graph_name}.codes"] * self[f"{graph_name}.scale"]
        else:
            weight = self[f"{graph_name}.weight"]
        return {f"{name}.weight": weight.T.contiguous(), f"{name}.bias": self[f"{graph_name}.bias"]}

    def norm(self, graph_name: str, name: str) -> dict[str, Tensor]:
        """Return weight and bias of a LayerNorm, under the name in `Splade`."""
        return {f"{name}.{part}": self[f"{graph_name}.{part}"] for part in ("weight", "bias")}
