"""The decoder of an fp32 graph without the columns that cannot weigh: the same weights in less time.

Of 30,522 vocabulary entries a text activates some tens to hundreds, but which ones is known only after all
logits are: a fifth of the work of a BERT. Here every logit is first computed in 8 bits, which takes a third
of the time, and bounded from above; only entries that may be above zero in a text of the batch are computed
in float32.

With x = x' + d for a token (x' is what its codes stand for) and w = w' + e for a column,

    x . w = x' . w' + x' . e + d . w  <=  x' . w' + (|x| + |d|) |e| + |d| |w|

by Cauchy and Schwarz. |x| and |d| are measured in the graph, the largest of a text; |e| and |w| are constants
of a column. So no entry above zero is ever left out, whatever the model and the text. How much is saved
depends on how sparse the vectors are: where every entry is active, the first pass comes on top.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from splade_retriever.graph_builder import (
    FloatArray,
    GraphBuilder,
    column_codes,
    column_scale,
)

__all__ = ["screened_weights"]

SLACK = 1.01
"""What the bound is multiplied by: more than all rounding of float32 sums."""


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
    shift = builder.put("decoder_bias", bias if bias is not None else np.zeros(weight.shape[1], np.float32))
    bound = builder.op("Add", _upper_bound(builder, states, weight), shift)
    ids = _above_zero(builder, bound)
    rows = builder.put("decoder", weight.T)
    columns = builder.op("Transpose", builder.op("Gather", rows, ids, axis=0), perm=[1, 0])
    logits = builder.largest(builder.op("MatMul", states, columns), 1)
    logits = builder.op("Add", logits, builder.op("Gather", shift, ids, axis=0))
    weights = builder.activation(logits, activation)
    nothing = builder.op("Mul", bound, builder.put("nothing", np.float32(0)))
    places = builder.op("Expand", ids, builder.op("Shape", weights))
    return builder.op("ScatterElements", nothing, places, weights, axis=1)


def _upper_bound(builder: GraphBuilder, states: str, weight: FloatArray) -> str:
    """Return what no product of a text's tokens with a column exceeds, (batch, vocab)."""
    about = builder.int8_pooled(states, builder.coded_columns("decoder", weight))
    codes = builder.text_codes(states)
    off = builder.op("Sub", states, builder.decoded(codes))
    length, distance = (_longest(builder, rows) for rows in (states, off))
    measured = builder.op("Concat", builder.op("Add", length, distance), distance, axis=1)
    factors = builder.put("decoder_errors", lambda: _column_errors(weight))
    return builder.op("Add", about, builder.op("MatMul", measured, factors))


def _longest(builder: GraphBuilder, rows: str) -> str:
    """Return the length of the longest row of each text, (batch, 1), from (batch, tokens, hidden)."""
    squares = builder.total(builder.op("Mul", rows, rows), 2)
    return builder.op("Sqrt", builder.largest(squares, 1, keepdims=True))


def _column_errors(weight: FloatArray) -> FloatArray:
    """Return |e| and |w| of each column, (2, vocab)."""
    error, length = np.zeros((2, weight.shape[1]), np.float32)
    for start in range(0, weight.shape[1], 2048):
        columns = weight[:, start : start + 2048]
        coded = column_codes(columns) * column_scale(columns)
        error[start : start + 2048] = np.linalg.norm(columns - coded, axis=0)
        length[start : start + 2048] = np.linalg.norm(columns, axis=0)
    return np.stack([error, length]) * np.float32(SLACK)


def _above_zero(builder: GraphBuilder, bound: str) -> str:
    """Return the ids of entries whose bound is above zero in a text of the batch, (entries,)."""
    possible = builder.op("Greater", builder.largest(bound, 0), builder.put("nothing", np.float32(0)))
    return builder.op("Reshape", builder.op("NonZero", possible), builder.put("flat", np.array([-1])))
