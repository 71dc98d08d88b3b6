"""The bundled model's network as a pooled ONNX graph: written from trained weights, and read back.

The graph maps `input_ids` and `attention_mask`, (batch, tokens) int64, to `weights`, (batch, vocab) float32.
Quantisation is that of `encoding.onnx.rewrite`. The input and the decoder share one table of int8 codes of
the centred word embeddings. The columns of the decoder are chosen for each text: the entries related to its
tokens (`encoding.onnx.related_entries`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from splade_retriever.encoding.onnx.related_entries import PADDING_ID, related_entries, text_entries
from splade_retriever.errors import InputError

__all__ = [
    "HEADS",
    "HEAD_SCALE",
    "HEAD_SKIP",
    "HIDDEN",
    "INNER",
    "LAYERS",
    "POOLED_IDS",
    "POOLED_STATES",
    "POOLED_WEIGHTS",
    "POSITIONS",
    "SATURATION",
    "SPECIAL_BIAS",
    "SPECIAL_IDS",
    "Saturation",
    "State",
    "barred",
    "expanding",
    "read_constants",
    "related_of_state",
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
DECODER_PARTS: Final = 2
"""Parts of a text's columns that are multiplied one after the other, so that the products fit the processor's
cache."""
EXPANDING: Final = "expanding"
"""Name of the marks of `expanding`, (vocab,). The graph does not read them: they are for further training."""
POOLED_IDS: Final = "pooled_ids"
"""Name of the token ids whose related entries are computed, (batch, tokens)."""
POOLED_STATES: Final = "pooled_states"
"""Name of the tokens' states before pooling, (batch, tokens, hidden)."""
POOLED_WEIGHTS: Final = "pooled_weights"
"""Name of the weights before the counts of tokens are added, (batch, vocab)."""
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
    if not expanding(state).any():
        raise InputError(
            "The model has no entry that expands texts. Let at least one entry expand (`head.expanding`)."
        )
    net = Net(state, int8=precision == "int8")
    builder = net.builder
    mask = builder.op("Cast", "attention_mask", to=TensorProto.BOOL)
    ids = builder.op("Where", mask, "input_ids", builder.put("padding_id", np.array(PADDING_ID)))
    words = WordTable(net, ids)
    zero, tokens = builder.put("index_0", np.array([0])), builder.op("Shape", ids, start=1, end=2)
    places = builder.op("Slice", net.stored("encoder.positions.weight"), zero, tokens, zero)
    hidden = net.norm(builder.op("Add", words.embedded, places), "encoder.norm")
    real = builder.op("Cast", "attention_mask", to=TensorProto.INT32)
    for layer in range(LAYERS):
        hidden = _layer(net, f"encoder.layers.{layer}", hidden, real)
    head = HeadNodes(net, words, floor)
    weights = builder.op("Identity", head.weights(head.states(hidden)), result=POOLED_WEIGHTS)
    if count_share:
        weights = head.counted(weights, count_share)
    builder.op("Identity", weights, result="weights")
    builder.put(EXPANDING, expanding(state))
    return net.finished(vocab=len(state["head.bias"]))


def barred(state: State) -> NDArray[np.bool_]:
    """Mark the entries that never weigh anything, (vocab,): special or unused ones."""
    marked: NDArray[np.bool_] = state["head.barred"] > 0
    marked[SPECIAL_IDS] = True
    return marked


def expanding(state: State) -> NDArray[np.bool_]:
    """Mark the entries that may have a weight in texts that do not hold them, (vocab,)."""
    return (state["head.expanding"] > 0) & ~barred(state)


def related_of_state(state: State, floor: float) -> NDArray[Any]:
    """Return the entries related to each token, (vocab, entries); see `related_entries`.

    Args:
        state: The weights.
        floor: Lighter weights are 0.
    """
    words = state["encoder.words.weight"]
    centred = words - words.mean(0)
    return related_entries(
        centred / np.linalg.norm(centred, axis=1, keepdims=True),
        skip=HEAD_SKIP,
        scale=np.exp(state["head.log_scale"]),
        needed=np.expm1(floor / np.exp(state["head.log_gain"])) - state["head.bias"],
        expanding=expanding(state),
        barred=barred(state),
    )


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
    """The lexical head and max pooling.

    Args:
        net: The graph under construction.
        words: The word embeddings.
        floor: Lighter weights become 0.
    """

    def __init__(self, net: Net, words: WordTable, floor: float) -> None:
        self._net, self._builder, self._words, self._floor = net, net.builder, words, floor
        state = net.state
        bias = np.where(barred(state), SPECIAL_BIAS, state["head.bias"])
        self._vocab = len(bias)
        self._length = net.builder.put("word_length", words.lengths)
        self._factor = net.builder.put("factor", np.exp(state["head.log_scale"]) / words.lengths)
        self._bias = net.builder.put("entry_bias", bias)
        self._gain = net.builder.put("entry_gain", np.exp(state["head.log_gain"]))
        self._related = net.builder.put("related", related_of_state(state, floor))

    def states(self, hidden: str) -> str:
        """Add the states u of the tokens, shape (batch, tokens, hidden).

        A special token, and padding, has the state 0. Its logits are then the biases of the entries, far
        below zero, so it adds no weights, and a text without any other token has none.
        """
        net, builder, words = self._net, self._builder, self._words
        last = builder.put("last", np.array([-1]))
        own = builder.op("Div", words.own, builder.op("Unsqueeze", words.of_tokens(self._length), last))
        dense = net.norm(builder.op("Gelu", net.layer(hidden, "head.dense")), "head.norm")
        states = builder.op(
            "Add",
            builder.op("Mul", dense, builder.put("head_scale", np.float32(HEAD_SCALE))),
            builder.op("Mul", own, builder.put("head_skip", np.float32(HEAD_SKIP))),
        )
        special = builder.put("special_bias", np.float32(SPECIAL_BIAS))
        speaking = builder.op("Greater", words.of_tokens(self._bias), special)
        nothing = builder.put("none", np.float32(0))
        return builder.op("Where", builder.op("Unsqueeze", speaking, last), states, nothing)

    def weights(self, states: str) -> str:
        """Return the weights of all entries, (batch, vocab); they are 0 at entries related to no token."""
        builder = self._builder
        states = builder.op("Identity", states, result=POOLED_STATES)
        ids = builder.op("Identity", self._words.ids, result=POOLED_IDS)
        entries, nothing = text_entries(builder, self._related, ids, vocab=self._vocab)
        factor, bias, gain = (
            self._words.of_entries(values, entries) for values in (self._factor, self._bias, self._gain)
        )
        logits = builder.op("Add", builder.op("Mul", self._words.pooled(states, entries), factor), bias)
        weights = builder.op("Mul", builder.activation(logits, "log1p"), gain)
        if self._floor:
            none, floor = builder.put("none", np.float32(0)), builder.put("floor", np.float32(self._floor))
            weights = builder.op("Where", builder.op("Less", weights, floor), none, weights)
        return builder.op("ScatterElements", nothing, entries, weights, axis=1)

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
        same = builder.op("Equal", unsqueezed(self._words.ids, 2), unsqueezed(self._words.ids, 1))
        counts = builder.op("MatMul", builder.op("Cast", same, to=TensorProto.FLOAT), unsqueezed(real, 2))
        counts = builder.op("Squeeze", counts, builder.put("new_axis_2", np.array([2])))
        slowness = builder.op("ReduceSum", real, column)
        slowness = builder.op("Mul", slowness, number("per_token", k1 * b / tokens))
        slowness = builder.op("Add", slowness, number("least_slowness", k1 * (1 - b)))
        count = builder.op("Div", counts, builder.op("Add", counts, slowness))
        gain = builder.op("Mul", self._words.of_tokens(self._gain), number("count_share", share))
        added = builder.op("Mul", count, builder.op("Mul", gain, number("count_range", k1 + 1)))
        own = builder.op("GatherElements", weights, self._words.ids, axis=1)
        more = builder.op("Where", builder.op("Greater", own, nothing), builder.op("Add", own, added), own)
        return builder.op("ScatterElements", weights, self._words.ids, more, axis=1)


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
        read.add(EXPANDING)
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
    """The centred word embeddings, stored once: rows for the input, columns for the decoder.

    Args:
        net: The graph under construction.
        ids: Name of the token ids, (batch, tokens), `PADDING_ID` for padding.

    Attributes:
        ids: As given.
        centred: Shape (vocab, hidden).
        lengths: Shape (vocab,): the lengths of the centred embeddings.
        own: Name of the centred embeddings of the tokens, (batch, tokens, hidden).
        embedded: Name of the same embeddings with their mean.
    """

    def __init__(self, net: Net, ids: str) -> None:
        self.ids = ids
        self._builder, self._int8 = net.builder, net.int8
        words = net.state["encoder.words.weight"]
        mean = words.mean(0)
        self.centred = words - mean
        self.lengths = np.linalg.norm(self.centred, axis=1)
        table = column_codes(self.centred.T).T if self._int8 else self.centred
        self._table = self._builder.put("words", table)
        own = self._builder.op("Gather", self._table, ids)
        if self._int8:
            self._steps = self._builder.put("word_steps", column_scale(self.centred.T))
            last = self._builder.put("last", np.array([-1]))
            step = self._builder.op("Unsqueeze", self.of_tokens(self._steps), last)
            own = self._builder.op("Mul", self._builder.op("Cast", own, to=TensorProto.FLOAT), step)
        self.own = own
        self.embedded = self._builder.op("Add", own, self._builder.put("word_mean", mean))

    def of_tokens(self, values: str) -> str:
        """Return the values of the tokens, (batch, tokens), from those of all entries, (vocab,)."""
        return self._builder.op("Gather", values, self.ids)

    def of_entries(self, values: str, entries: str) -> str:
        """Return the values of some entries, (batch, entries), from those of all entries, (vocab,)."""
        builder = self._builder
        # ONNX Runtime (1.32) copies single elements ten times faster with GatherElements than with Gather.
        flat = builder.op("Reshape", entries, builder.put("flat", np.array([-1])))
        chosen = builder.op("GatherElements", values, flat, axis=0)
        return builder.op("Reshape", chosen, builder.op("Shape", entries))

    def pooled(self, states: str, entries: str) -> str:
        """Return any token's largest product with the embedding of each entry of its text, (batch, entries).

        Args:
            states: Shape (batch, tokens, hidden).
            entries: Shape (batch, entries), an even number of them.
        """
        builder = self._builder
        parts = [f"entries_{part}" for part in range(DECODER_PARTS)]
        builder.nodes.append(helper.make_node("Split", [entries], parts, axis=1, num_outputs=DECODER_PARTS))
        columns = [
            builder.op("Transpose", builder.op("Gather", self._table, part), perm=[0, 2, 1]) for part in parts
        ]
        if self._int8:
            return builder.int8_pooled_by_text(states, columns, self.of_entries(self._steps, entries))
        maxima = (builder.reduce_max(builder.op("MatMul", states, part), 1) for part in columns)
        return builder.op("Concat", *maxima, axis=1)


def _tensor(name: str, value: Any) -> TensorProto:
    array = np.asarray(value() if callable(value) else value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
