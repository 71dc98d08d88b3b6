"""The bundled model's network as a pooled ONNX graph: written from trained weights, and read back.

The graph maps `input_ids` and `attention_mask`, (batch, tokens) int64, to `weights`, (batch, vocab) float32.
Quantisation and pooling are those of `encoding.onnx.rewrite`. The input and the decoder share one table of
int8 codes of the centred word embeddings: the rows of the entries that expand come first, and only they are
columns of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.graph_builder import (
    ONNX_RUNTIME,
    GraphBuilder,
    column_codes,
    column_scale,
)
from splade_retriever.errors import InputError

__all__ = [
    "HEADS",
    "HEAD_SCALE",
    "HEAD_SKIP",
    "HIDDEN",
    "INNER",
    "LAYERS",
    "POSITIONS",
    "SATURATION",
    "SPECIAL_BIAS",
    "SPECIAL_IDS",
    "Saturation",
    "State",
    "barred",
    "expanding",
    "read_constants",
    "write_graph",
]

HIDDEN: Final = 384
LAYERS: Final = 6
HEADS: Final = 12
INNER: Final = 1536
POSITIONS: Final = 512
HEAD_SCALE: Final = 0.15
"""Factor of the dense part of a token's state in the head."""
HEAD_SKIP: Final = 7.0
"""Factor of the token's own embedding in its state in the head."""
SPECIAL_BIAS: Final = -20.0
"""Bias of an entry that never weighs anything."""
SPECIAL_IDS: Final = [0, 100, 101, 102, 103]
"""[PAD], [UNK], [CLS], [SEP] and [MASK], which never weigh anything."""
OPSET: Final = 21
IR_VERSION: Final = 10
"""The version of the file format that opset 21 came with."""
DECODER_BLOCK: Final = 768
"""Columns of the decoder multiplied at once. More make a query faster, since it has fewer nodes, and a batch
slower, since its logits no longer fit the processor's cache."""
PADDING: Final = -1e4
"""Added to the attention that padding gets."""

State: TypeAlias = Mapping[str, NDArray[Any]]
"""The weights of `splade_retriever.training.model.Splade` by name."""


@dataclass(frozen=True)
class Saturation:
    """How BM25 counts a token (`splade_retriever.training.model.saturated`).

    Attributes:
        k1: How slowly a count saturates.
        b: How much a long text lessens a count, from 0 to 1.
        tokens: Length of a text of the training data on average, with [CLS] and [SEP].
    """

    k1: float = 1.5
    b: float = 0.4
    tokens: float = 115.0


SATURATION: Final = Saturation()


def write_graph(
    state: State,
    file: Path,
    *,
    precision: Literal["int8", "fp32"],
    floor: float = 0.0,
    count_share: float = 0.0,
) -> None:
    """Write the complete graph.

    Args:
        state: The weights.
        file: The `model.onnx` to write.
        precision: Of the products.
        floor: Lighter weights become 0.
        count_share: Share of BM25's count that a token's weight gains, see `HeadNodes.counted`.

    Raises:
        InputError: If no entry expands.
        ModelGraphError: If a weight is infinite or not a number.
    """
    onnx.save(_build(state, precision=precision, floor=floor, count_share=count_share), str(file))


def read_constants(file: Path) -> dict[str, NDArray[Any]]:
    """Read the constants of a graph by name."""
    graph = onnx.load(str(file)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _build(
    state: State, *, precision: Literal["int8", "fp32"], floor: float, count_share: float
) -> onnx.ModelProto:
    net = Net(state, int8=precision == "int8")
    builder = net.builder
    words = WordTable(net, state["encoder.words.weight"], expanding=expanding(state))
    zero, tokens = builder.put("zero", np.array([0])), builder.op("Shape", "input_ids", start=1, end=2)
    places = builder.op("Slice", net.stored("encoder.positions.weight"), zero, tokens, zero)
    hidden = net.norm(builder.op("Add", words.embedded, places), "encoder.norm")
    real = builder.op("Cast", "attention_mask", to=TensorProto.INT32)
    for layer in range(LAYERS):
        hidden = _layer(net, f"encoder.layers.{layer}", hidden, real)
    head = HeadNodes(net, words)
    weights = head.weights(head.states(hidden))
    if floor:
        none, lowest = (
            builder.put(name, np.float32(value)) for name, value in (("none", 0.0), ("floor", floor))
        )
        weights = builder.op("Where", builder.op("Less", weights, lowest), none, weights)
    if count_share:
        weights = head.counted(weights, count_share)
    builder.op("Identity", weights, result="weights")
    return net.finished(vocab=len(state["head.bias"]))


def barred(state: State) -> NDArray[np.bool_]:
    """Mark the entries that never weigh anything, (vocab,): special or unused ones."""
    marked: NDArray[np.bool_] = state["head.barred"] > 0
    marked[SPECIAL_IDS] = True
    return marked


def expanding(state: State) -> NDArray[np.bool_]:
    """Mark the entries that weigh at any token, (vocab,)."""
    return (state["head.expanding"] > 0) & ~barred(state)


def _layer(net: Net, name: str, hidden: str, real: str) -> str:
    """One post-norm transformer layer; q, k and v share one product, whose bias attention adds."""
    builder = net.builder
    weight, bias = (
        np.concatenate([net.state[f"{name}.{role}.{part}"] for role in ("query", "key", "value")])
        for part in ("weight", "bias")
    )
    parts = builder.put("parts", np.array([HIDDEN] * 3))
    split = [f"{name}.{role}" for role in ("query", "key", "value")]
    builder.nodes.append(
        helper.make_node("Split", [net.product(hidden, f"{name}.qkv", weight), parts], split, axis=-1)
    )
    context = builder.op(
        "MultiHeadAttention",
        *split,
        builder.put(f"{name}.qkv.bias", bias),
        real,
        domain=ONNX_RUNTIME,
        num_heads=HEADS,
        mask_filter_value=PADDING,
    )
    context = net.layer(context, f"{name}.output")
    hidden = net.norm(builder.op("Add", hidden, context), f"{name}.attention_norm")
    inner = builder.op("Gelu", net.layer(hidden, f"{name}.up"))
    return net.norm(builder.op("Add", hidden, net.layer(inner, f"{name}.down")), f"{name}.norm")


class HeadNodes:
    """The lexical head and max pooling."""

    def __init__(self, net: Net, words: WordTable) -> None:
        self._net, self._builder, self._words = net, net.builder, words
        length = np.linalg.norm(words.centred, axis=1)
        state = net.state
        bias = np.where(barred(state), SPECIAL_BIAS, state["head.bias"])
        self._length = words.of_entries("word_length", length)
        self._factor = words.of_entries("factor", np.exp(state["head.log_scale"]) / length)
        self._bias = words.of_entries("entry_bias", bias)
        self._gain = words.of_entries("entry_gain", np.exp(state["head.log_gain"]))

    def states(self, hidden: str) -> str:
        """Add the states u of the tokens, shape (batch, tokens, hidden), with padding replaced.

        A special token has the state 0. Its logits are then the biases of the entries, far below zero, so it
        adds no weights, and a text without any other token has none.
        """
        net, builder = self._net, self._builder
        last = builder.put("last", np.array([-1]))
        own_length = builder.op("Unsqueeze", self._length.of_inputs(), last)
        own = builder.op("Div", self._words.own, own_length)
        dense = net.norm(builder.op("Gelu", net.layer(hidden, "head.dense")), "head.norm")
        states = builder.op(
            "Add",
            builder.op("Mul", dense, builder.put("head_scale", np.float32(HEAD_SCALE))),
            builder.op("Mul", own, builder.put("head_skip", np.float32(HEAD_SKIP))),
        )
        special = builder.put("special_bias", np.float32(SPECIAL_BIAS))
        speaking = builder.op("Greater", self._bias.of_inputs(), special)
        nothing = builder.put("none", np.float32(0))
        states = builder.op("Where", builder.op("Unsqueeze", speaking, last), states, nothing)
        return builder.without_padding(states, "attention_mask")

    def weights(self, states: str) -> str:
        """Return the weights of all entries, (batch, vocab)."""
        builder, words = self._builder, self._words
        expanded = self._weighed(words.pooled(states), [each.of_columns() for each in self._of_entries()])
        weights = words.of_vocabulary(expanded)
        if words.all_expand:
            return weights
        own = self._weighed(words.own_products(states), [each.of_inputs() for each in self._of_entries()])
        own = builder.op("Mul", own, builder.op("Cast", "attention_mask", to=TensorProto.FLOAT))
        return builder.op("ScatterElements", weights, "input_ids", own, axis=1, reduction="max")

    def _of_entries(self) -> tuple[EntryValues, ...]:
        return self._factor, self._bias, self._gain

    def _weighed(self, products: str, entries: Sequence[str]) -> str:
        """Turn products with embeddings into weights; factor, bias and gain have their shape."""
        factor, bias, gain = entries
        builder = self._builder
        logits = builder.op("Add", builder.op("Mul", products, factor), bias)
        return builder.op("Mul", builder.activation(logits, "log1p"), gain)

    def counted(self, weights: str, share: float) -> str:
        """Add a share of BM25's count of each token, times its gain, as `LexicalHead.counted` does.

        Only the weights of the text's tokens change: they are gathered, raised and scattered back.
        """
        builder = self._builder

        def number(name: str, value: float) -> str:
            return builder.put(name, np.float32(value))

        def unsqueezed(values: str, axis: int) -> str:
            return builder.op("Unsqueeze", values, builder.put(f"new_axis_{axis}", np.array([axis])))

        k1, b, tokens = SATURATION.k1, SATURATION.b, SATURATION.tokens
        nothing, column = number("none", 0.0), builder.put("token_axis", np.array([1]))
        real = builder.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        same = builder.op("Equal", unsqueezed("input_ids", 2), unsqueezed("input_ids", 1))
        counts = builder.op("MatMul", builder.op("Cast", same, to=TensorProto.FLOAT), unsqueezed(real, 2))
        counts = builder.op("Squeeze", counts, builder.put("new_axis_2", np.array([2])))
        slowness = builder.op("ReduceSum", real, column)
        slowness = builder.op("Mul", slowness, number("per_token", k1 * b / tokens))
        slowness = builder.op("Add", slowness, number("least_slowness", k1 * (1 - b)))
        count = builder.op("Div", counts, builder.op("Add", counts, slowness))
        gain = builder.op("Mul", self._gain.of_inputs(), number("count_share", share))
        added = builder.op("Mul", count, builder.op("Mul", gain, number("count_range", k1 + 1)))
        own = builder.op("GatherElements", weights, "input_ids", axis=1)
        more = builder.op("Where", builder.op("Greater", own, nothing), builder.op("Add", own, added), own)
        return builder.op("ScatterElements", weights, "input_ids", more, axis=1)


class Net:
    """The graph under construction: a `GraphBuilder`, the trained weights and the precision."""

    def __init__(self, state: State, *, int8: bool) -> None:
        self.builder = GraphBuilder(opset=OPSET, prefix="")
        self.state, self.int8 = state, int8

    def stored(self, name: str) -> str:
        """Store a trained weight unchanged."""
        return self.builder.put(name, self.state[name])

    def norm(self, hidden: str, name: str) -> str:
        """Normalise the last axis with the trained weight and bias."""
        parts = (self.stored(f"{name}.{part}") for part in ("weight", "bias"))
        return self.builder.op("LayerNormalization", hidden, *parts, axis=-1, epsilon=1e-12)

    def layer(self, hidden: str, name: str) -> str:
        """Apply a trained linear layer."""
        product = self.product(hidden, name, self.state[f"{name}.weight"])
        return self.builder.op("Add", product, self.stored(f"{name}.bias"))

    def product(self, hidden: str, name: str, weight: NDArray[Any]) -> str:
        """Multiply with weight (out, in)."""
        if not self.int8:
            return self.builder.op("MatMul", hidden, self.builder.put(f"{name}.weight", weight.T))
        codes = self.builder.put(f"{name}.codes", column_codes(weight.T))
        scale = self.builder.put(f"{name}.scale", column_scale(weight.T))
        rows = self.builder.row_codes(hidden, width=weight.shape[1])
        return self.builder.int8_product(rows, codes, scale)

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
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model


class WordTable:
    """The centred word embeddings, stored once: rows for the input, blocks of columns for the decoder.

    The rows of the entries that expand come first: they are the decoder's columns. All values of entries are
    stored in the order of the rows.

    Attributes:
        centred: Shape (vocab, hidden), in the order of the vocabulary.
        all_expand: Every entry that may weigh anything has a column.
        own: Name of the centred embeddings of `input_ids`, (batch, tokens, hidden).
        embedded: Name of the same embeddings with their mean.
    """

    def __init__(self, net: Net, words: NDArray[Any], *, expanding: NDArray[np.bool_]) -> None:
        self.builder, self.int8 = net.builder, net.int8
        self.all_expand = bool((expanding | barred(net.state)).all())
        if not expanding.any():
            raise InputError(
                "The model has no entry that expands, so its decoder would have no column. Let at least one "
                "entry expand (`head.expanding`)."
            )
        self._entry_of = np.argsort(~expanding, kind="stable")
        row_of = np.argsort(self._entry_of).astype(np.int32)
        self._row_of = self.builder.put("row_of", row_of)
        self._inputs = self.builder.op("Gather", self._row_of, "input_ids")
        self._columns = int(expanding.sum())
        mean = words.mean(0)
        self.centred = words - mean
        steps = column_scale(self.centred.T)[self._entry_of]
        table = (column_codes(self.centred.T).T if self.int8 else self.centred)[self._entry_of]
        starts = [*range(0, self._columns, DECODER_BLOCK), self._columns, len(words)]
        self._blocks = [
            (
                self.builder.put(f"words_{start}", table[start:end]),
                self.builder.put(f"word_steps_{start}", steps[start:end]),
            )
            for start, end in pairwise(starts)
            if start < end
        ]
        own = self._of_inputs(*(rows for rows, _ in self._blocks))
        if self.int8:
            step = self._of_inputs(*(steps for _, steps in self._blocks))
            step = self.builder.op("Unsqueeze", step, self.builder.put("last", np.array([-1])))
            own = self.builder.op("Mul", self.builder.op("Cast", own, to=TensorProto.FLOAT), step)
        self.own = own
        self.embedded = self.builder.op("Add", own, self.builder.put("word_mean", mean))

    def of_entries(self, name: str, values: NDArray[Any]) -> EntryValues:
        """Store a number for each entry, (vocab,)."""
        stored = self.builder.put(name, values[self._entry_of])
        return EntryValues(self.builder, stored, inputs=self._inputs, columns=self._columns)

    def pooled(self, states: str) -> str:
        """Return any token's largest product with each embedding that expands, (batch, columns)."""
        blocks = self._blocks[: -(-self._columns // DECODER_BLOCK)]
        columns_of = [(self.builder.op("Transpose", rows, perm=[1, 0]), steps) for rows, steps in blocks]
        if self.int8:
            return self.builder.int8_pooled(states, columns_of)
        products = (self.builder.op("MatMul", states, columns) for columns, _ in columns_of)
        return self.builder.op("Concat", *(self.builder.reduce_max(p, 1) for p in products), axis=1)

    def own_products(self, states: str) -> str:
        """Return each token's product with its own embedding, (batch, tokens)."""
        if self.int8:  # the columns are multiplied with rounded states, too
            states = self.builder.dequantized(self.builder.text_codes(states))
        return self.builder.reduce_sum(self.builder.op("Mul", states, self.own), 2)

    def of_vocabulary(self, expanded: str) -> str:
        """Put (batch, columns) into the order of the vocabulary, (batch, vocab); other entries are 0."""
        builder = self.builder
        widened = builder.op("Pad", expanded, builder.put("one_more", np.array([0, 0, 0, 1])))
        columns = builder.put("columns", np.array(self._columns, dtype=np.int32))
        # ONNX Runtime (1.32) copies single elements ten times faster with GatherElements than with Gather.
        zero, one = (builder.put(f"index_{n}", np.array([n])) for n in (0, 1))
        places = builder.op("Unsqueeze", builder.op("Min", self._row_of, columns), zero)
        texts = builder.op("Concat", builder.op("Shape", widened, start=0, end=1), one, axis=0)
        return builder.op("GatherElements", widened, builder.op("Expand", places, texts), axis=1)

    def _of_inputs(self, *blocks: str) -> str:
        return self.builder.op("Gather", self.builder.op("Concat", *blocks, axis=0), self._inputs)


@dataclass(frozen=True)
class EntryValues:
    """A number for each entry, stored in the order of the word table's rows."""

    builder: GraphBuilder
    stored: str
    inputs: str
    columns: int

    def of_columns(self) -> str:
        """Return the numbers of the entries that expand, (columns,)."""
        start, end = (self.builder.put(f"row_{row}", np.array([row])) for row in (0, self.columns))
        return self.builder.op("Slice", self.stored, start, end, start)

    def of_inputs(self) -> str:
        """Return the numbers of `input_ids`, (batch, tokens)."""
        return self.builder.op("Gather", self.stored, self.inputs)


def _tensor(name: str, value: Any) -> TensorProto:
    array = np.asarray(value() if callable(value) else value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
