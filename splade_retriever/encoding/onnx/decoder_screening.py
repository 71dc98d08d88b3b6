"""The decoder of an fp32 graph without the columns that cannot weigh: the same weights in less time.

Of 30,522 vocabulary entries a text activates some tens to hundreds, but which ones is known only after all
logits are: a fifth of the work of a BERT. Here every logit is first computed in 8 bits, which takes a third
of the time on processors with products of 8-bit codes (VNNI), and bounded from above; only entries that may
be above zero in a text of the batch are computed in float32.

With x = x' + d for a token (x' is what its codes stand for) and w = w' + e for a column,

    x . w = x' . w' + x' . e + d . w  <=  x' . w' + (|x| + |d|) |e| + |d| |w|

by Cauchy and Schwarz. |x| and |d| are measured in the graph, the largest of a text; |e| and |w| are constants
of a column. So no entry above the rounding of float32 is left out, whatever the model and the text. How much
is saved depends on how sparse the vectors are: where every entry is active, the first pass comes on top.

Ranges of the vocabulary are screened one after the other: what is computed in float32 is never larger than
(tokens, range), even where every entry is active.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from splade_retriever.encoding.onnx.graph_builder import (
    BLOCK,
    FloatArray,
    GraphBuilder,
    column_codes,
    column_scale,
)

__all__ = ["RANGE", "screened_weights"]

RANGE = 12 * BLOCK
"""Entries screened at once: few enough to bound the memory, and enough for products of some columns."""
SLACK = 1.01
"""Times the lengths of columns and of their errors: more than all rounding of float32 sums."""
LOWEST = -1e30
"""In place of a bias of minus infinity, so that nothing times the bound is 0."""


def screened_weights(
    builder: GraphBuilder,
    states: str,
    weight: FloatArray,
    bias: FloatArray | None,
    *,
    activation: Literal["log1p", "log1p_log1p"],
) -> str:
    """Pool into the weights (batch, vocab).

    Args:
        builder: Gets the nodes.
        states: Name of the last hidden states, (batch, tokens, hidden), padding replaced.
        weight: Shape (hidden, vocab).
        bias: Shape (vocab,), or None.
        activation: See `GraphBuilder.activation`.
    """
    vocab = weight.shape[1]
    shift = np.maximum(bias, np.float32(LOWEST)) if bias is not None else np.zeros(vocab, np.float32)
    measured = _measured(builder, states)
    parts = []
    for start in range(0, vocab, RANGE):
        part = slice(start, start + RANGE)
        screen = _Range(builder, f"decoder_{start}", weight[:, part], shift[part])
        parts.append(screen.weights(states, measured, activation))
    return builder.op("Concat", *parts, axis=1)


class _Range:
    """The decoder of some vocabulary entries.

    Args:
        builder: Gets the nodes.
        name: Starts the names of its constants.
        weight: Shape (hidden, entries).
        bias: Shape (entries,).
    """

    def __init__(self, builder: GraphBuilder, name: str, weight: FloatArray, bias: FloatArray) -> None:
        self._builder, self._name, self._weight = builder, name, weight
        self._bias = builder.put(f"{name}.bias", bias)

    def weights(self, states: str, measured: str, activation: Literal["log1p", "log1p_log1p"]) -> str:
        """Return the weights of the entries, (batch, entries)."""
        builder = self._builder
        bound = builder.op("Add", self._upper_bound(states, measured), self._bias)
        zero = builder.put("nothing", np.float32(0))
        possible = builder.op("Greater", builder.largest(bound, 0), zero)
        ids = builder.op("Reshape", builder.op("NonZero", possible), builder.put("flat", np.array([-1])))
        rows = builder.op("Gather", builder.put(self._name, self._weight.T), ids, axis=0)
        columns = builder.op("Transpose", rows, perm=[1, 0])
        logits = builder.largest(builder.op("MatMul", states, columns), 1)
        logits = builder.op("Add", logits, builder.op("Gather", self._bias, ids, axis=0))
        weights = builder.activation(logits, activation)
        # Nothing, unless the bound is no number: what is wrong with a model shall show.
        nothing = builder.op("Mul", bound, zero)
        places = builder.op("Expand", ids, builder.op("Shape", weights))
        return builder.op("ScatterElements", nothing, places, weights, axis=1)

    def _upper_bound(self, states: str, measured: str) -> str:
        """Return what no product of a text's tokens with a column exceeds, (batch, entries)."""
        builder, weight = self._builder, self._weight
        about = builder.int8_pooled(states, builder.coded_columns(self._name, weight))
        errors = builder.put(f"{self._name}.errors", lambda: _errors(weight))
        return builder.op("Add", about, builder.op("MatMul", measured, errors))


def _measured(builder: GraphBuilder, states: str) -> str:
    """Return |x| + |d| and |d|, the largest of each text, (batch, 2)."""
    off = builder.op("Sub", states, builder.decoded(builder.text_codes(states)))
    length, distance = (_longest(builder, rows) for rows in (states, off))
    return builder.op("Concat", builder.op("Add", length, distance), distance, axis=1)


def _longest(builder: GraphBuilder, rows: str) -> str:
    """Return the length of the longest row of each text, (batch, 1), from (batch, tokens, hidden)."""
    squares = builder.total(builder.op("Mul", rows, rows), 2)
    return builder.op("Sqrt", builder.largest(squares, 1, keepdims=True))


def _errors(weight: FloatArray) -> FloatArray:
    """Return |e| and |w| of each column, (2, entries), with some slack."""
    error = weight - column_codes(weight) * column_scale(weight)
    lengths = np.stack([np.linalg.norm(part, axis=0) for part in (error, weight)])
    return (lengths * np.float32(SLACK)).astype(np.float32)
