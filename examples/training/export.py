"""Write a trained checkpoint as a pooled ONNX graph, int8 or fp32.

    python -m examples.training.export --run runs/model --to splade_retriever/bundled

The graph maps `input_ids` and `attention_mask`, (batch, tokens) int64, to `weights`, (batch, vocab) float32.
In int8, every matrix product quantises its left side per row, with standard operators:

    s = max|x| / 127;  q = round(x / s) + 128;  y = (q @ W_q) * s * s_column

so a row never depends on what else is in the batch. The word embeddings' int8 codes serve the input and the
decoder at once: e(v) = a_v * (E(v) - mean), so u . e(v) = a_v * (u . E(v) - u . mean).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from examples.training.model import HEADS, HIDDEN, LAYERS, SPECIAL_BIAS, LexicalHead, minilm_folder

BLOCK = 2048
OPSET = 20


def main() -> None:
    """Read the command line and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/model"))
    parser.add_argument("--to", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "checkpoint.pt", map_location="cpu")["model"]
    write_folder(
        {name: value.float().numpy() for name, value in state.items()}, arguments.to, arguments.precision
    )


def write_folder(state: dict[str, NDArray[Any]], to: Path, precision: str) -> None:
    """Write `model.onnx`, `tokenizer.json` and `card.json` into the folder `to`."""
    to.mkdir(parents=True, exist_ok=True)
    onnx.save(build(state, precision=precision), str(to / "model.onnx"))
    tokenizer = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = tokenizer["padding"] = None
    (to / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    card = {
        "model": "splade-retriever/minilm-l6-v1",
        "license": "apache-2.0",
        "description": "Bundled: 6 layers x 384, English, 512 tokens, int8; works offline.",
        "activation": "log1p",
        "pooling": "max",
        "query_side": "symmetric",
        "precision": precision,
        "max_length": 512,
        "vocab_size": int(state["encoder.words.weight"].shape[0]),
        "special_ids": [0, 100, 101, 102, 103],
    }
    (to / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(to / "__pycache__", ignore_errors=True)


def build(state: dict[str, NDArray[Any]], *, precision: str) -> onnx.ModelProto:
    """Build the whole graph from the weights of `examples.training.model.Splade`."""
    graph = Graph(precision)
    table = WordTable(graph, state["encoder.words.weight"])
    hidden = table.look_up("input_ids")
    places = graph.op("Slice", "positions", "zero", graph.tokens(), "zero")
    graph.put("positions", state["encoder.positions.weight"])
    hidden = graph.norm(graph.op("Add", hidden, places), state, "encoder.norm")
    allowed = graph.attention_bias()
    for layer in range(LAYERS):
        hidden = _layer(graph, state, f"encoder.layers.{layer}", hidden, allowed)
    weights = _head(graph, state, table, hidden)
    return graph.finish(weights, vocab=len(state["head.bias"]))


def _layer(graph: Graph, state: dict[str, NDArray[Any]], name: str, hidden: str, allowed: str) -> str:
    """One post-norm transformer layer; q, k and v share one product."""
    joined = {
        part: np.concatenate([state[f"{name}.{role}.{part}"] for role in ("query", "key", "value")])
        for part in ("weight", "bias")
    }
    mixed = graph.linear(hidden, joined["weight"], joined["bias"], f"{name}.qkv")
    query, key, value = graph.split(mixed, 3)
    query = graph.heads(query, (0, 2, 1, 3))
    key = graph.heads(key, (0, 2, 3, 1))
    value = graph.heads(value, (0, 2, 1, 3))
    scores = graph.op("Mul", graph.op("MatMul", query, key), "attention_scale")
    shares = graph.op("Softmax", graph.op("Add", scores, allowed), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    context = graph.op("Reshape", context, "merged_shape")
    context = graph.linear(
        context, state[f"{name}.output.weight"], state[f"{name}.output.bias"], f"{name}.output"
    )
    hidden = graph.norm(graph.op("Add", hidden, context), state, f"{name}.attention_norm")
    inner = graph.linear(hidden, state[f"{name}.up.weight"], state[f"{name}.up.bias"], f"{name}.up")
    inner = graph.op("Gelu", inner)
    inner = graph.linear(inner, state[f"{name}.down.weight"], state[f"{name}.down.bias"], f"{name}.down")
    return graph.norm(graph.op("Add", hidden, inner), state, f"{name}.norm")


def _head(graph: Graph, state: dict[str, NDArray[Any]], table: WordTable, hidden: str) -> str:
    """The lexical head and max pooling, in column blocks so that the logits never exist as a whole."""
    words = state["encoder.words.weight"]
    mean = words.mean(0)
    length = np.linalg.norm(words - mean, axis=1)
    own = graph.op(
        "Div", graph.op("Sub", table.look_up("input_ids"), graph.put("mean", mean)), graph.own(length)
    )
    dense = graph.linear(hidden, state["head.dense.weight"], state["head.dense.bias"], "head.dense")
    dense = graph.norm(graph.op("Gelu", dense), state, "head.norm")
    scaled = graph.op("Mul", dense, graph.put("head_scale", np.float32(LexicalHead.scale)))
    states = graph.op(
        "Add", scaled, graph.op("Mul", own, graph.put("head_skip", np.float32(LexicalHead.skip)))
    )
    # A padded row repeats the first token's, so padding cannot win the max.
    first = graph.op("Slice", states, "zero", "one", "one")
    states = graph.op("Where", graph.op("Unsqueeze", graph.mask(), "minus_one"), states, first)
    offset = graph.op("MatMul", states, graph.put("mean_column", mean[:, None]))
    factor = np.exp(state["head.log_scale"]) / length
    bias = np.where(state["head.barred"] > 0, SPECIAL_BIAS, state["head.bias"])
    left = graph.quantise(states)
    blocks = []
    for start in range(0, len(words), BLOCK):
        product = graph.op("Sub", table.product(left, start), offset)
        pooled = graph.op("ReduceMax", product, "one", keepdims=0)
        blocks.append(graph.op("Mul", pooled, graph.put(f"factor_{start}", factor[start : start + BLOCK])))
    logits = graph.op("Add", graph.op("Concat", *blocks, axis=1), graph.put("entry_bias", bias))
    return graph.op("Log", graph.op("Add", graph.op("Relu", logits), graph.put("one_float", np.float32(1))))


class WordTable:
    """The word embeddings, stored once: row codes for the input, column blocks for the decoder."""

    def __init__(self, graph: Graph, words: NDArray[Any]) -> None:
        self.graph = graph
        self._embedded: str | None = None
        self.int8 = graph.precision == "int8"
        blocks = [words[start : start + BLOCK] for start in range(0, len(words), BLOCK)]
        if self.int8:
            scale = np.maximum(np.abs(words).max(1), 1e-8) / 127
            blocks = [
                np.round(b / s[:, None]).astype(np.int8) for b, s in zip(blocks, _cut(scale), strict=True)
            ]
            graph.put("word_scale", scale)
            for place, part in enumerate(_cut(scale)):
                graph.put(f"word_scale_{place * BLOCK}", part)
        names = [graph.put(f"words_{place * BLOCK}", block) for place, block in enumerate(blocks)]
        self.rows = graph.op("Concat", *names, axis=0)

    def look_up(self, ids: str) -> str:
        """Return the word embeddings of `ids`, (batch, tokens, hidden)."""
        if self._embedded is None:
            found = self.graph.op("Gather", self.rows, ids)
            if self.int8:
                scale = self.graph.op("Unsqueeze", self.graph.op("Gather", "word_scale", ids), "minus_one")
                found = self.graph.op("Mul", self.graph.op("Cast", found, to=TensorProto.FLOAT), scale)
            self._embedded = found
        return self._embedded

    def product(self, left: tuple[str, str], start: int) -> str:
        """Multiply with the block of entries from `start`, (batch, tokens, block)."""
        columns = self.graph.op("Transpose", f"words_{start}", perm=[1, 0])
        if not self.int8:
            return self.graph.op("MatMul", left[0], columns)
        return self.graph.int_product(left, columns, f"word_scale_{start}")


def _cut(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]


class Graph:
    """Collects nodes and initialisers; every method returns the name of its result."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self._once: dict[str, str] = {}
        for name, value in {"zero": 0, "one": 1, "minus_one": -1}.items():
            self.put(name, np.array([value], dtype=np.int64))
        self.put("merged_shape", np.array([0, 0, HIDDEN], dtype=np.int64))
        self.put("heads_shape", np.array([0, 0, HEADS, HIDDEN // HEADS], dtype=np.int64))
        self.put("attention_scale", np.float32((HIDDEN // HEADS) ** -0.5))
        self.put("barred_bias", np.float32(-1e4))
        self.put("unit", np.float32(1))
        self.put("steps", np.float32(127))
        self.put("tiny", np.float32(1e-12))
        self.put("middle", np.array(128, dtype=np.uint8))

    def put(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Store a constant once; floats as float32."""
        if name not in self.stored:
            array = np.asarray(value)
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            self.stored[name] = numpy_helper.from_array(
                np.ascontiguousarray(array).reshape(array.shape), name
            )
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output."""
        result = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=result, **attributes))
        return result

    def split(self, joined: str, parts: int) -> Sequence[str]:
        """Cut the last axis into equal parts."""
        results = [f"split_{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [joined], results, axis=-1, num_outputs=parts))
        return results

    def norm(self, hidden: str, state: dict[str, NDArray[Any]], name: str) -> str:
        """Normalise the last axis with the stored weight and bias."""
        weight, bias = (self.put(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=1e-12)

    def linear(self, hidden: str, weight: NDArray[Any], bias: NDArray[Any], name: str) -> str:
        """Multiply with weight (out, in) and add the bias."""
        if self.precision == "int8":
            scale = np.maximum(np.abs(weight).max(1), 1e-8) / 127
            codes = self.put(f"{name}.codes", np.round(weight / scale[:, None]).astype(np.int8).T)
            product = self.int_product(self.quantise(hidden), codes, self.put(f"{name}.scale", scale))
        else:
            product = self.op("MatMul", hidden, self.put(f"{name}.weight", weight.T))
        return self.op("Add", product, self.put(f"{name}.bias", bias))

    def quantise(self, hidden: str) -> tuple[str, str]:
        """Return (codes uint8 around 128, scale) of every row; in fp32 the rows themselves."""
        if self.precision != "int8":
            return hidden, ""
        largest = self.op("ReduceMax", self.op("Abs", hidden), "minus_one", keepdims=1)
        scale = self.op("Div", self.op("Max", largest, "tiny"), "steps")
        codes = self.op("QuantizeLinear", self.op("Div", hidden, scale), "unit", "middle")
        return codes, scale

    def int_product(self, left: tuple[str, str], codes: str, column_scale: str) -> str:
        """Multiply codes with codes and scale back to float."""
        whole = self.op("MatMulInteger", left[0], codes, "middle")
        scale = self.op("Mul", left[1], column_scale)
        return self.op("Mul", self.op("Cast", whole, to=TensorProto.FLOAT), scale)

    def heads(self, hidden: str, order: tuple[int, ...]) -> str:
        """Cut (batch, tokens, hidden) into heads, in the given axis order."""
        return self.op("Transpose", self.op("Reshape", hidden, "heads_shape"), perm=list(order))

    def tokens(self) -> str:
        """Return the number of tokens of the batch, as a one-element tensor."""
        return self._first("tokens", lambda: self.op("Shape", "input_ids", start=1, end=2))

    def mask(self) -> str:
        """Return the attention mask as booleans, (batch, tokens)."""
        return self._first("mask", lambda: self.op("Cast", "attention_mask", to=TensorProto.BOOL))

    def own(self, length: NDArray[Any]) -> str:
        """Return the length of each token's centred embedding, (batch, tokens, 1)."""
        found = self.op("Gather", self.put("word_length", length), "input_ids")
        return self.op("Unsqueeze", found, "minus_one")

    def attention_bias(self) -> str:
        """Return 0 where a token may be attended to and -1e4 at padding, (batch, 1, 1, tokens)."""
        axes = self.put("middle_axes", np.array([1, 2], dtype=np.int64))
        return self.op(
            "Unsqueeze", self.op("Where", self.mask(), self.put("none", np.float32(0)), "barred_bias"), axes
        )

    def _first(self, name: str, make: Any) -> str:
        if name not in self._once:
            self._once[name] = make()
        return self._once[name]

    def finish(self, result: str, *, vocab: int) -> onnx.ModelProto:
        """Close the graph and check it."""
        self.nodes.append(helper.make_node("Identity", [result], ["weights"]))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", vocab])
        graph = helper.make_graph(self.nodes, "splade", inputs, [output], list(self.stored.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="splade-retriever"
        )
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


if __name__ == "__main__":
    main()
