"""Export a trained checkpoint as a pooled ONNX graph, int8 or fp32.

    python -m model_building.export --run runs/model --to splade_retriever/bundled

What is exported is the average that `model_building.train.finished` makes of a run, as the graph of
`model_building.onnx_graph`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from model_building.expansions import count_expansions, most_frequent, sample
from model_building.model import minilm_folder
from model_building.onnx_graph import SPECIAL_IDS, State, barred, build, expanding
from model_building.train import Recipe, finished
from splade_retriever.errors import InputError

BUNDLED = "splade-retriever/minilm-l6-v3"


def main() -> None:
    """Read the command line and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/model"))
    parser.add_argument("--to", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    parser.add_argument(
        "--end-share",
        type=float,
        default=Recipe.earlier_end,
        help="of the weights at the end of a later round; the rest is those at its start",
    )
    parser.add_argument("--floor", type=float, default=0.0, help="weights below this are left out")
    parser.add_argument(
        "--count-share", type=float, default=0.0, help="what counts add to weights, see LexicalHead"
    )
    parser.add_argument(
        "--query-power", type=float, default=None, help="exponent of a query's weights, if not the recipe's"
    )
    parser.add_argument(
        "--expanding",
        type=int,
        default=None,
        help="how many entries expand texts, at most, chosen on --data; without it all do",
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what `prepare` wrote")
    arguments = parser.parse_args()
    recipe = json.loads((arguments.run / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    power = arguments.query_power
    state = arrays(finished(arguments.run, arguments.end_share))
    if arguments.expanding is not None:
        state["head.expanding"] = most_expanding(state, arguments.expanding, arguments.data, arguments.floor)
    write_folder(
        state,
        arguments.to,
        arguments.precision,
        floor=arguments.floor,
        count_share=arguments.count_share,
        query_max_active_dims=recipe["keep_query"],
        query_power=recipe.get("query_power", 1.0) if power is None else power,
        end_share=arguments.end_share if (arguments.run / "start.pt").exists() else None,
    )


def arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return weights as float32 arrays."""
    return {name: value.float().numpy() for name, value in weights.items()}


def most_expanding(state: State, entries: int, data: Path, floor: float) -> NDArray[np.bool_]:
    """Mark the entries that expand the training texts and queries most often, (vocab,).

    Args:
        state: The weights.
        entries: How many at most; those that expand no text are not among them.
        data: The folder of prepared data.
        floor: Of the export; lighter weights expand nothing.

    Raises:
        InputError: If it is not one entry at least, or there is no prepared data.
    """
    if entries < 1:
        raise InputError(f"{entries} entries cannot expand texts, at least 1 must. Leave it out for all.")
    return most_frequent(expansions_in(state, sample(data), floor), entries)


def expansions_in(state: State, texts: Mapping[str, Sequence[list[int]]], floor: float) -> NDArray[np.int64]:
    """Count the texts that each entry would expand if every entry had a column, (vocab,).

    Args:
        state: The weights.
        texts: Token ids by source, special ones included.
        floor: Of the export; lighter weights expand nothing.
    """
    every = {**state, "head.expanding": ~barred(state)}
    with tempfile.TemporaryDirectory(prefix="splade-expansions-") as place:
        file = Path(place) / "model.onnx"
        onnx.save(build(every, precision="int8", floor=floor), str(file))
        counts = count_expansions(file, texts)
    return np.sum(list(counts.values()), axis=0)


def write_folder(
    state: State,
    to: Path,
    precision: str,
    *,
    floor: float = 0.0,
    count_share: float = 0.0,
    query_max_active_dims: int | None = None,
    query_power: float = 1.0,
    end_share: float | None = None,
    adapted: str | None = None,
) -> None:
    """Write `model.onnx`, `tokenizer.json` and `card.json` into the folder `to`.

    Args:
        state: The weights of `model_building.model.Splade`.
        to: The folder; it is made where it is missing.
        precision: "int8" or "fp32".
        floor: Weights below this are left out, of texts and of queries.
        count_share: What counts add to weights, see `LexicalHead`.
        query_max_active_dims: What a query keeps, as in training; None is everything.
        query_power: Exponent of a query's weights in use.
        end_share: Told in the card where the weights are the average of a later round.
        adapted: The name of a model that was adapted from the bundled one; None for the bundled one itself.
    """
    to.mkdir(parents=True, exist_ok=True)
    graph = build(state, precision=precision, floor=floor, count_share=count_share)
    onnx.save(graph, str(to / "model.onnx"))
    tokenizer = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = tokenizer["padding"] = None
    (to / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    origin = f"Adapted from {BUNDLED}" if adapted else "Bundled"
    card = {
        "model": adapted or BUNDLED,
        "license": "apache-2.0",
        "description": f"{origin}: 6 layers x 384, English, 512 tokens, {precision}; works offline.",
        "activation": "log1p",
        "pooling": "max",
        "query_side": "symmetric",
        "query_max_active_dims": query_max_active_dims,
        "query_power": query_power,
        "floor": floor,
        "count_share": count_share,
        "precision": precision,
        "max_length": 512,
        "vocab_size": int(state["encoder.words.weight"].shape[0]),
        "special_ids": SPECIAL_IDS,
    }
    if not (expanding(state) | barred(state)).all():
        card["expanding"] = int(expanding(state).sum())
    if end_share is not None:
        card["end_share"] = end_share
    (to / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(to / "__pycache__", ignore_errors=True)


if __name__ == "__main__":
    main()
