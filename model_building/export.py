"""Export a trained checkpoint as a model folder, in int8 or fp32.

    python -m model_building.export --run runs/model --to splade_retriever/bundled

The weights are the average that `model_building.train.finished` returns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from model_building.expansions import most_expanding
from model_building.minilm import minilm_folder
from model_building.train import Recipe, finished
from splade_retriever.encoding.onnx.bundled_graph import State
from splade_retriever.training.export import ExportSettings, arrays, write_folder

BUNDLED = "splade-retriever/minilm-l6-v4"


def main() -> None:
    """Parse the arguments and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/model"))
    parser.add_argument("--to", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    parser.add_argument(
        "--end-share",
        type=float,
        default=Recipe.earlier_end,
        help="share of the weights at the end of a later round; the rest is those at its start",
    )
    parser.add_argument("--floor", type=float, default=0.0, help="lighter weights become 0")
    parser.add_argument(
        "--count-share", type=float, default=0.0, help="share of BM25's count that a weight gains"
    )
    parser.add_argument(
        "--query-power", type=float, default=None, help="exponent of a query's weights, if not the recipe's"
    )
    parser.add_argument(
        "--expanding",
        type=int,
        default=None,
        help="maximum number of entries that expand texts, chosen on --data; without it all do",
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="the prepared data")
    arguments = parser.parse_args()
    recipe = json.loads((arguments.run / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    power = arguments.query_power
    state = arrays(finished(arguments.run, arguments.end_share))
    if arguments.expanding is not None:
        state["head.expanding"] = most_expanding(state, arguments.expanding, arguments.data, arguments.floor)
    export_bundled(
        state,
        arguments.to,
        ExportSettings(
            precision=arguments.precision,
            floor=arguments.floor,
            count_share=arguments.count_share,
            query_max_active_dims=recipe["keep_query"],
            query_power=recipe.get("query_power", 1.0) if power is None else power,
        ),
        end_share=arguments.end_share if (arguments.run / "start.pt").exists() else None,
    )


def export_bundled(
    state: State, folder: Path, settings: ExportSettings | None = None, *, end_share: float | None = None
) -> None:
    """Write weights as a folder of the bundled model, see `write_folder`."""
    write_folder(
        state,
        folder,
        settings or ExportSettings(),
        name=BUNDLED,
        origin="Bundled",
        tokenizer=minilm_folder() / "tokenizer.json",
        end_share=end_share,
    )


if __name__ == "__main__":
    main()
