"""Write trained weights as a model folder: `model.onnx`, `tokenizer.json`, `card.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splade_retriever.encoding.onnx.bundled_graph import (
    POSITIONS,
    SPECIAL_IDS,
    State,
    barred,
    expanding,
    write_graph,
)

__all__ = ["ExportSettings", "arrays", "write_folder"]

_ARCHITECTURE: Final = "6 layers x 384, English, 512 tokens"


@dataclass(frozen=True)
class ExportSettings:
    """What is done to weights on export, and to queries in use.

    Attributes:
        precision: "int8" or "fp32".
        floor: Lighter weights of texts and queries become 0.
        count_share: Share of BM25's count that a weight gains, see `LexicalHead`.
        query_max_active_dims: Number of weights that a query keeps, the heaviest; None is all.
        query_power: Exponent of a query's weights.
    """

    precision: Literal["int8", "fp32"] = "int8"
    floor: float = 0.0
    count_share: float = 0.0
    query_max_active_dims: int | None = None
    query_power: float = 1.0


def arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return weights as float32 arrays."""
    return {name: value.float().numpy() for name, value in weights.items()}


def write_folder(
    state: State,
    folder: Path,
    settings: ExportSettings,
    *,
    name: str,
    origin: str,
    tokenizer: Path,
    end_share: float | None = None,
) -> None:
    """Write a model folder; it is made where it is missing.

    Args:
        state: The weights of `Splade`.
        folder: The folder.
        settings: How to export.
        name: The model's name.
        origin: Begins the description in the card, such as "Bundled".
        tokenizer: The `tokenizer.json` to copy.
        end_share: Share of the weights at the end of training in an average; the card names it.
    """
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    content["truncation"] = content["padding"] = None
    content["normalizer"] = _with_compatibility_forms(content["normalizer"])
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(
        state,
        folder / "model.onnx",
        precision=settings.precision,
        floor=settings.floor,
        count_share=settings.count_share,
    )
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    card = {
        "model": name,
        "license": "apache-2.0",
        "description": f"{origin}: {_ARCHITECTURE}, {settings.precision}; works offline.",
        "activation": "log1p",
        "pooling": "max",
        "query_side": "symmetric",
        "query_max_active_dims": settings.query_max_active_dims,
        "query_power": settings.query_power,
        "floor": settings.floor,
        "count_share": settings.count_share,
        "precision": settings.precision,
        "max_length": POSITIONS,
        "vocab_size": int(state["encoder.words.weight"].shape[0]),
        "special_ids": SPECIAL_IDS,
    }
    columns = expanding(state)
    if not np.all(columns | barred(state)):
        card["expanding"] = int(columns.sum())
    if end_share is not None:
        card["end_share"] = end_share
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _with_compatibility_forms(normalizer: dict[str, Any]) -> dict[str, Any]:
    """Return a normaliser that first replaces compatibility forms (NFKC), such as ligatures and wide letters.

    The signs for trademark and service mark become spaces instead of letters, which would join the word.
    """
    if normalizer["type"] == "Sequence":
        return normalizer
    marks = {"type": "Replace", "pattern": {"Regex": "[\u2120\u2122]"}, "content": " "}
    return {"type": "Sequence", "normalizers": [marks, {"type": "NFKC"}, normalizer]}
