"""Skips decoder columns of an fp32 graph whose weight is 0: the same weights in less time.

Of 30,522 vocabulary entries a text activates some tens to hundreds, but which ones is known only after all
logits are computed, which is a fifth of the work of a BERT. Here each logit is first computed in 8 bits and
bounded from above, which takes a third of the time on processors with 8-bit products (VNNI). Only entries
that may be above zero in a text of the batch are then computed in float32.

With x = x' + d for a token (x' is the value of its codes) and w = w' + e for a column,

    x . w = x' . w' + x' . e + d . w  <=  x' . w' + (|x| + |d|) |e| + |d| |w|

by Cauchy and Schwarz. |x| and |d| are measured in the graph, as the maximum per text; |e| and |w| are
constants of a column. So no entry above the rounding of float32 is skipped, for any model and text. The
savings depend on how sparse the vectors are: if every entry is active, the first pass is extra work.

Ranges of the vocabulary are screened one after the other, so the float32 products are never larger than
(tokens, range), even if every entry is active.
"""

from __future__ import annotations

import numpy as np

from splade_retriever.encoding.model_cards import Activation
from splade_retriever.encoding.onnx.graph_builder import (
    BLOCK,
    FloatArray,
    GraphBuilder,
    column_codes,
    column_scale,
)

__all__ = ["RANGE", "screened_weights"]

RANGE = 12 * BLOCK
"""Entries screened at once: few enough to bound memory, enough that the products have several columns."""
_SLACK = 1.01
"""Factor for the lengths of columns and of their errors: more than the rounding of float32 sums."""
_MIN_BIAS = -1e30
"""Replaces a bias of minus infinity, so that 0 times the bound is 0."""


def screened_weights(
    builder: GraphBuilder,
    states: str,
    weight: FloatArray,
    bias: FloatArray | None,
    *,
    activation: Activation,
) -> str:
    """Return the name of the pooled weights, (batch, vocab).

    Args:
        builder: Receives the nodes.
        states: Name of the last hidden states, (batch, tokens, hidden), padding replaced.
        weight: Shape (hidden, vocab).
        bias: Shape (vocab,), or None.
        activation: See `GraphBuilder.activation`.
    """
    vocab = weight.shape[1]
    shift = np.maximum(bias, np.float32(_MIN_BIAS)) if bias is not None else np.zeros(vocab, np.float32)
    lengths = _state_lengths(builder, states)
    parts = []
    for start in range(0, vocab, RANGE):
        part = slice(start, start + RANGE)
        screen = _Range(builder, f"decoder_{start}", weight[:, part], shift[part])
        parts.append(screen.weights(states, lengths, activation))
    return builder.op("Concat", *parts, axis=1)


class _Range:
    """The decoder of some vocabulary entries.

    Args:
        builder: Receives the nodes.
        name: Starts the names of its constants.
        weight: Shape (hidden, entries).
        bias: Shape (entries,).
    """

    def __init__(self, builder: GraphBuilder, name: str, weight: FloatArray, bias: FloatArray) -> None:
        self._builder, self._name, self._weight = builder, name, weight
        self._bias = builder.put(f"{name}.bias", bias)

    def weights(self, states: str, lengths: str, activation: Activation) -> str:
        """Return the name of the weights of the entries, (batch, entries)."""
        builder = self._builder
        bound = builder.op("Add", self._upper_bound(states, lengths), self._bias)
        zero = builder.put("zero_weight", np.float32(0))
        possible = builder.op("Greater", builder.reduce_max(bound, 0), zero)
        ids = builder.op("Reshape", builder.op("NonZero", possible), builder.put("flat", np.array([-1])))
        rows = builder.op("Gather", builder.put(self._name, self._weight.T), ids, axis=0)
        columns = builder.op("Transpose", rows, perm=[1, 0])
        logits = builder.reduce_max(builder.op("MatMul", states, columns), 1)
        logits = builder.op("Add", logits, builder.op("Gather", self._bias, ids, axis=0))
        weights = builder.activation(logits, activation)
        # 0, or NaN where the bound is NaN: a damaged model must not look like an empty vector.
        zeros = builder.op("Mul", bound, zero)
        places = builder.op("Expand", ids, builder.op("Shape", weights))
        return builder.op("ScatterElements", zeros, places, weights, axis=1)

    def _upper_bound(self, states: str, lengths: str) -> str:
        """Return an upper bound of the products of a text's tokens with each column, (batch, entries)."""
        builder, weight = self._builder, self._weight
        approximate = builder.int8_pooled(states, builder.coded_columns(self._name, weight))
        errors = builder.put(f"{self._name}.errors", lambda: _errors(weight))
        return builder.op("Add", approximate, builder.op("MatMul", lengths, errors))


def _state_lengths(builder: GraphBuilder, states: str) -> str:
    """Return the maximum of |x| + |d| and of |d| over the tokens of each text, shape (batch, 2)."""
    rounding = builder.op("Sub", states, builder.dequantized(builder.text_codes(states)))
    length, distance = (_longest(builder, rows) for rows in (states, rounding))
    return builder.op("Concat", builder.op("Add", length, distance), distance, axis=1)


def _longest(builder: GraphBuilder, rows: str) -> str:
    """Return the length of the longest row of each text, (batch, 1), from (batch, tokens, hidden)."""
    squares = builder.reduce_sum(builder.op("Mul", rows, rows), 2)
    return builder.op("Sqrt", builder.reduce_max(squares, 1, keepdims=True))


def _errors(weight: FloatArray) -> FloatArray:
    """Return |e| and |w| of each column, (2, entries), times the slack."""
    error = weight - column_codes(weight) * column_scale(weight)
    lengths = np.stack([np.linalg.norm(part, axis=0) for part in (error, weight)])
    return (lengths * np.float32(_SLACK)).astype(np.float32)
