"""Read an exported model folder back into PyTorch, to train on from there: the inverse of `export`.

int8 weights come back as code x step, so the model gives the vectors of the folder up to the rounding of the
activations, which PyTorch does not round.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from model_building.model import LAYERS, SPECIAL_BIAS, Encoder, LexicalHead, Splade
from splade_retriever.errors import ModelFilesError, ModelGraphError


def bundled_folder() -> Path:
    """Return the folder of the model that ships in the wheel."""
    return Path(str(files("splade_retriever"))) / "bundled"


def load_model(folder: Path, *, frozen: int = 3) -> Splade:
    """Load the model of a folder that `model_building.export` wrote, int8 or fp32.

    Args:
        folder: The folder; it holds `model.onnx`.
        frozen: How many of the lower layers keep their weights in training.

    Raises:
        ModelFilesError: If there is no `model.onnx`.
        ModelGraphError: If the graph is not one that `export` writes today.
    """
    stored = Stored.read(folder / "model.onnx")
    words = stored.words()
    encoder = Encoder(len(words))
    encoder.load_state_dict(_encoder_state(stored, words))
    # A barred entry is known by its bias, which no training reaches.
    barred = stored.of_entries("entry_bias") == SPECIAL_BIAS
    model = Splade((~barred).float(), frozen, encoder=encoder)
    model.head.load_state_dict(model.head.state_dict() | _head_state(stored, words))
    for part in ("floor", "count_share"):
        setattr(model.head, part, float(stored[part]) if part in stored else 0.0)
    return model


def _encoder_state(stored: Stored, words: Tensor) -> dict[str, Tensor]:
    state = {"words.weight": words, "positions.weight": stored["encoder.positions.weight"]}
    state |= stored.norm("encoder.norm", "norm")
    for layer in range(LAYERS):
        theirs, ours = f"encoder.layers.{layer}", f"layers.{layer}"
        for part, joined in stored.linear(f"{theirs}.qkv", "").items():
            for role, own in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                state[f"{ours}.{role}{part}"] = own
        for name in ("output", "up", "down"):
            state |= stored.linear(f"{theirs}.{name}", f"{ours}.{name}")
        for name in ("attention_norm", "norm"):
            state |= stored.norm(f"{theirs}.{name}", f"{ours}.{name}")
    return state


def _head_state(stored: Stored, words: Tensor) -> dict[str, Tensor]:
    """Return the trained parts of the head; what it makes of the words itself is not among them."""
    length = (words - words.mean(0)).norm(dim=1)
    expanding = stored["row_of"] < stored["columns"]
    return {
        **stored.linear("head.dense", "dense"),
        **stored.norm("head.norm", "norm"),
        "log_scale": (stored.of_entries("factor") * length).log(),
        "bias": stored.of_entries("entry_bias"),
        "log_gain": stored.of_entries("entry_gain").log(),
        "expanding": expanding,
    }


class Stored:
    """The constants of an exported graph, by the names that `export` gives them."""

    def __init__(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        self._path, self._arrays = path, arrays
        head = {"head_scale": LexicalHead.scale, "head_skip": LexicalHead.skip}
        for name, expected in head.items():
            if not np.isclose(found := float(self[name]), expected):
                raise ModelGraphError(
                    f"{path} cannot be trained on: its {name} is {found:g}, the head in "
                    f"model_building/model.py has {expected:g}. Export the checkpoint again, or use the "
                    "pipeline of the version that wrote the folder."
                )

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read a `model.onnx`."""
        if not path.is_file():
            raise ModelFilesError(
                f"There is no {path} to train on. Pass a folder that model_building.export wrote."
            )
        graph = onnx.load(str(path)).graph
        return cls(path, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer})

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise ModelGraphError(
                f"{self._path} cannot be trained on: it holds no {name!r}, which a graph of "
                "model_building.export has today. Pass a folder that it wrote; an older one must be "
                "exported from its checkpoint again."
            )
        return torch.from_numpy(self._arrays[name].astype(np.float32))

    def _rows(self, name: str) -> Tensor:
        """Return what is cut into blocks of rows, in the order of the vocabulary."""
        rest = (key.removeprefix(f"{name}_") for key in self._arrays if key.startswith(f"{name}_"))
        starts = sorted(int(start) for start in rest if start.isdigit())
        return self._in_order(torch.cat([self[f"{name}_{start}"] for start in starts or [0]]))

    def of_entries(self, name: str) -> Tensor:
        """Return what the head holds for each entry, (vocab,)."""
        return self._in_order(self[name])

    def _in_order(self, rows: Tensor) -> Tensor:
        return rows[self["row_of"].long()]

    def words(self) -> Tensor:
        """Return the word embeddings, (vocab, hidden)."""
        table = self._rows("words")
        if "word_steps_0" in self:
            table = table * self._rows("word_steps")[:, None]
        return table + self["word_mean"]

    def linear(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Return a linear layer's weight, (out, in), and bias, under our name."""
        if f"{theirs}.codes" in self:
            weight = self[f"{theirs}.codes"] * self[f"{theirs}.scale"]
        else:
            weight = self[f"{theirs}.weight"]
        return {f"{ours}.weight": weight.T.contiguous(), f"{ours}.bias": self[f"{theirs}.bias"]}

    def norm(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Return a LayerNorm's weight and bias, under our name."""
        return {f"{ours}.{part}": self[f"{theirs}.{part}"] for part in ("weight", "bias")}
