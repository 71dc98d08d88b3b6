"""Export a trained checkpoint as a pooled ONNX graph, int8 or fp32.

    python -m examples.training.export --run runs/model --to splade_retriever/bundled

What is exported is the average that `examples.training.train.finished` makes of a run.

The graph maps `input_ids` and `attention_mask`, (batch, tokens) int64, to `weights`, (batch, vocab) float32.
Quantisation and pooling are those of `splade_retriever.surgery`. The int8 codes of the word embeddings, less
their mean, serve the input and the decoder at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from examples.training.model import (
    HEADS,
    HIDDEN,
    LAYERS,
    SPECIAL_BIAS,
    TOKENS,
    LexicalHead,
    minilm_folder,
)
from examples.training.train import Recipe, finished
from splade_retriever.graph_builder import BLOCK, ONNX_RUNTIME, GraphBuilder, column_codes, column_scale

OPSET = 20
BUNDLED = "splade-retriever/minilm-l6-v3"
SPECIAL_IDS = [0, 100, 101, 102, 103]
"""[PAD], [UNK], [CLS], [SEP] and [MASK], which never weigh anything."""

State = Mapping[str, NDArray[Any]]


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
    arguments = parser.parse_args()
    recipe = json.loads((arguments.run / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    power = arguments.query_power
    write_folder(
        arrays(finished(arguments.run, arguments.end_share)),
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
        state: The weights of `examples.training.model.Splade`.
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
    if end_share is not None:
        card["end_share"] = end_share
    (to / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(to / "__pycache__", ignore_errors=True)


def build(state: State, *, precision: str, floor: float = 0.0, count_share: float = 0.0) -> onnx.ModelProto:
    """Build the whole graph from the weights of `examples.training.model.Splade`.

    Args:
        state: The weights by name.
        precision: "int8" or "fp32".
        floor: As in the model's head.
        count_share: As in the model's head.
    """
    net = Net(state, int8=precision == "int8")
    builder = net.builder
    words = WordTable(net, state["encoder.words.weight"], silent=_silent(state))
    zero, tokens = builder.put("zero", np.array([0])), builder.op("Shape", "input_ids", start=1, end=2)
    places = builder.op("Slice", net.stored("encoder.positions.weight"), zero, tokens, zero)
    hidden = net.norm(builder.op("Add", words.embedded, places), "encoder.norm")
    allowed = net.attention_bias()
    for layer in range(LAYERS):
        hidden = _layer(net, f"encoder.layers.{layer}", hidden, allowed)
    weights = _head(net, words, hidden)
    if floor:
        zero, least = (
            builder.put(name, np.float32(value)) for name, value in (("none", 0.0), ("floor", floor))
        )
        weights = builder.op("Where", builder.op("Less", weights, least), zero, weights)
    before = builder.put("silent_before", np.array([0, words.silent, 0, 0]))
    weights = builder.op("Pad", weights, before)
    if count_share:
        weights = _counted(net, weights, words.silent, count_share)
    builder.op("Identity", weights, result="weights")
    return net.finished(vocab=len(state["head.bias"]))


def _silent(state: State) -> int:
    """Return how many entries at the start of the vocabulary never weigh anything: special or unused ones."""
    barred = state["head.barred"] > 0
    barred[SPECIAL_IDS] = True
    return int(np.argmin(barred))


def _layer(net: Net, name: str, hidden: str, allowed: str) -> str:
    """One post-norm transformer layer; q, k and v share one product."""
    builder = net.builder
    joined = [
        np.concatenate([net.state[f"{name}.{role}.{part}"] for role in ("query", "key", "value")])
        for part in ("weight", "bias")
    ]
    mixed = net.linear(hidden, f"{name}.qkv", *joined)
    parts = builder.put("parts", np.array([HIDDEN] * 3))
    split = [f"{name}.{role}" for role in ("query", "key", "value")]
    builder.nodes.append(helper.make_node("Split", [mixed, parts], split, axis=-1))
    query = net.heads(split[0], (0, 2, 1, 3))
    key = net.heads(split[1], (0, 2, 3, 1))
    value = net.heads(split[2], (0, 2, 1, 3))
    scale = builder.put("attention_scale", np.float32((HIDDEN // HEADS) ** -0.5))
    scores = builder.op("Mul", builder.op("MatMul", query, key), scale)
    shares = builder.op("Softmax", builder.op("Add", scores, allowed), axis=-1)
    context = builder.op("Transpose", builder.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    context = builder.op("Reshape", context, builder.put("merged_shape", np.array([0, 0, HIDDEN])))
    context = net.layer(context, f"{name}.output")
    hidden = net.norm(builder.op("Add", hidden, context), f"{name}.attention_norm")
    inner = builder.op("Gelu", net.layer(hidden, f"{name}.up"))
    return net.norm(builder.op("Add", hidden, net.layer(inner, f"{name}.down")), f"{name}.norm")


def _head(net: Net, words: WordTable, hidden: str) -> str:
    """The lexical head and max pooling, in column blocks so that the logits never exist as a whole.

    Returns the weights of all entries but the silent ones, (batch, vocab - silent).
    """
    builder, state, heard = net.builder, net.state, slice(words.silent, None)
    length = np.linalg.norm(words.centred, axis=1)
    last = builder.put("last", np.array([-1]))
    own_length = builder.op("Gather", builder.put("word_length", length), "input_ids")
    own = builder.op("Div", words.own, builder.op("Unsqueeze", own_length, last))
    dense = net.norm(builder.op("Gelu", net.layer(hidden, "head.dense")), "head.norm")
    states = builder.op(
        "Add",
        builder.op("Mul", dense, builder.put("head_scale", np.float32(LexicalHead.scale))),
        builder.op("Mul", own, builder.put("head_skip", np.float32(LexicalHead.skip))),
    )
    states = builder.without_padding(states, "attention_mask")
    factor = builder.put("factor", (np.exp(state["head.log_scale"]) / length)[heard])
    bias = np.where(state["head.barred"] > 0, SPECIAL_BIAS, state["head.bias"])[heard]
    logits = builder.op("Mul", words.pooled(states), factor)
    logits = builder.op("Add", logits, builder.put("entry_bias", bias))
    return builder.op("Mul", builder.activation(logits, "log1p"), net.gain(words.silent))


def _counted(net: Net, weights: str, silent: int, share: float) -> str:
    """Add a share of BM25's count of each token, times its gain, as `LexicalHead.counted` does.

    Only the text's own tokens change: their weights, (batch, vocab), are taken out, raised and put back. The
    head leaves out `silent` entries, which weigh nothing and stay so.
    """
    builder = net.builder

    def number(name: str, value: float) -> str:
        return builder.put(name, np.float32(value))

    def unsqueezed(values: str, axis: int) -> str:
        return builder.op("Unsqueeze", values, builder.put(f"new_axis_{axis}", np.array([axis])))

    k1, b = LexicalHead.k1, LexicalHead.b
    nothing, column = number("none", 0.0), builder.put("token_axis", np.array([1]))
    real = builder.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    same = builder.op("Equal", unsqueezed("input_ids", 2), unsqueezed("input_ids", 1))
    counts = builder.op("MatMul", builder.op("Cast", same, to=TensorProto.FLOAT), unsqueezed(real, 2))
    counts = builder.op("Squeeze", counts, builder.put("new_axis_2", np.array([2])))
    slowness = builder.op("ReduceSum", real, column)
    slowness = builder.op("Mul", slowness, number("per_token", k1 * b / TOKENS))
    slowness = builder.op("Add", slowness, number("least_slowness", k1 * (1 - b)))
    count = builder.op("Div", counts, builder.op("Add", counts, slowness))
    heard = builder.op("Sub", "input_ids", builder.put("silent", np.array(silent)))
    heard = builder.op("Max", heard, builder.put("first_heard", np.array(0)))
    gain = builder.op("Mul", builder.op("Gather", net.gain(silent), heard), number("count_share", share))
    added = builder.op("Mul", count, builder.op("Mul", gain, number("count_range", k1 + 1)))
    own = builder.op("GatherElements", weights, "input_ids", axis=1)
    more = builder.op("Where", builder.op("Greater", own, nothing), builder.op("Add", own, added), own)
    return builder.op("ScatterElements", weights, "input_ids", more, axis=1)


class Net:
    """The graph in the making: a `GraphBuilder`, the trained weights and the precision."""

    def __init__(self, state: State, *, int8: bool) -> None:
        self.builder = GraphBuilder(opset=OPSET, prefix="")
        self.state, self.int8 = state, int8

    def stored(self, name: str) -> str:
        """Store a trained weight as it is."""
        return self.builder.put(name, self.state[name])

    def norm(self, hidden: str, name: str) -> str:
        """Normalise the last axis with the trained weight and bias."""
        parts = (self.stored(f"{name}.{part}") for part in ("weight", "bias"))
        return self.builder.op("LayerNormalization", hidden, *parts, axis=-1, epsilon=1e-12)

    def layer(self, hidden: str, name: str) -> str:
        """Apply a trained linear layer."""
        return self.linear(hidden, name, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def linear(self, hidden: str, name: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """Multiply with weight (out, in) and add the bias."""
        if self.int8:
            codes = self.builder.put(f"{name}.codes", column_codes(weight.T))
            scale = self.builder.put(f"{name}.scale", column_scale(weight.T))
            product = self.builder.int8_product(self.builder.row_codes(hidden), codes, scale)
        else:
            product = self.builder.op("MatMul", hidden, self.builder.put(f"{name}.weight", weight.T))
        return self.builder.op("Add", product, self.builder.put(f"{name}.bias", bias))

    def gain(self, silent: int) -> str:
        """Return the gain of every entry but the silent ones at the start, (vocab - silent,)."""
        return self.builder.put("entry_gain", np.exp(self.state["head.log_gain"])[silent:])

    def heads(self, hidden: str, order: tuple[int, ...]) -> str:
        """Cut (batch, tokens, hidden) into heads, in the given axis order."""
        shape = self.builder.put("heads_shape", np.array([0, 0, HEADS, HIDDEN // HEADS]))
        return self.builder.op("Transpose", self.builder.op("Reshape", hidden, shape), perm=list(order))

    def attention_bias(self) -> str:
        """Return 0 where a token may be attended to and -1e4 at padding, (batch, 1, 1, tokens)."""
        mask = self.builder.op("Cast", "attention_mask", to=TensorProto.BOOL)
        levels = (self.builder.put(n, np.float32(v)) for n, v in (("allowed", 0.0), ("barred", -1e4)))
        axes = self.builder.put("middle_axes", np.array([1, 2]))
        return self.builder.op("Unsqueeze", self.builder.op("Where", mask, *levels), axes)

    def finished(self, *, vocab: int) -> onnx.ModelProto:
        """Close the graph and check it."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", vocab])
        read = {name for node in self.builder.nodes for name in node.input}
        stored = [_tensor(name, value) for name, value in self.builder.constants.items() if name in read]
        model = helper.make_model(
            helper.make_graph(self.builder.nodes, "splade", inputs, [output], stored),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ONNX_RUNTIME, 1)],
            producer_name="splade-retriever",
        )
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


class WordTable:
    """The word embeddings less their mean, stored once: rows for the input, column blocks for the decoder.

    Attributes:
        centred: Shape (vocab, hidden).
        silent: How many entries at the start the decoder leaves out.
        own: Name of the centred embeddings of `input_ids`, (batch, tokens, hidden).
        embedded: The same, not centred.
    """

    def __init__(self, net: Net, words: NDArray[Any], *, silent: int) -> None:
        self.builder, self.int8, self.silent = net.builder, net.int8, silent
        mean = words.mean(0)
        self.centred = words - mean
        steps = column_scale(self.centred.T)
        table = column_codes(self.centred.T).T if self.int8 else self.centred
        starts = [*([0] if silent else []), *range(silent, len(words), BLOCK)]
        self._blocks = [
            (
                self.builder.put(f"words_{start}", table[start:end]),
                self.builder.put(f"word_steps_{start}", steps[start:end]),
            )
            for start, end in pairwise([*starts, len(words)])
        ]
        own = self._of_inputs(*(rows for rows, _ in self._blocks))
        if self.int8:
            step = self._of_inputs(*(steps for _, steps in self._blocks))
            step = self.builder.op("Unsqueeze", step, self.builder.put("last", np.array([-1])))
            own = self.builder.op("Mul", self.builder.op("Cast", own, to=TensorProto.FLOAT), step)
        self.own = own
        self.embedded = self.builder.op("Add", own, self.builder.put("word_mean", mean))

    def pooled(self, states: str) -> str:
        """Return any token's largest product with each embedding that is heard, (batch, vocab - silent)."""
        heard = self._blocks[1:] if self.silent else self._blocks
        turned = [(self.builder.op("Transpose", rows, perm=[1, 0]), steps) for rows, steps in heard]
        if self.int8:
            return self.builder.int8_pooled(states, turned)
        products = (self.builder.op("MatMul", states, columns) for columns, _ in turned)
        return self.builder.op("Concat", *(self.builder.largest(p, 1) for p in products), axis=1)

    def _of_inputs(self, *blocks: str) -> str:
        return self.builder.op("Gather", self.builder.op("Concat", *blocks, axis=0), "input_ids")


def _tensor(name: str, value: Any) -> TensorProto:
    array = np.asarray(value() if callable(value) else value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


if __name__ == "__main__":
    main()
