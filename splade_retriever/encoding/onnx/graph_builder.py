"""Builds the nodes and constants of an ONNX graph, and the 8-bit codes of its products.

In int8, a product of rows with a constant matrix becomes

    s = max|x| / 127;  q = round(x / s) + 128;  y = (q @ W_q) * s_column * s

with one s per row and one s_column per column, so a row never depends on the rest of the batch. The decoder
has one s per text, so that the maximum over its tokens is taken on the integers q @ W_q, before scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from splade_retriever.encoding.model_cards import Activation
from splade_retriever.errors import ModelGraphError

__all__ = [
    "BLOCK",
    "ONNX_RUNTIME",
    "Codes",
    "Constant",
    "FloatArray",
    "GraphBuilder",
    "column_codes",
    "column_scale",
]

BLOCK = 384
"""Columns of the decoder multiplied at once: few enough that their logits stay in the processor's cache, and
enough that the products of a single query are fast."""

ONNX_RUNTIME = "com.microsoft"

_OPSET_OF_BLOCKS = 21
"""The first opset whose QuantizeLinear has scales for blocks of an axis, such as a row."""

FloatArray: TypeAlias = NDArray[np.float32]
Constant: TypeAlias = NDArray[Any] | np.generic | Callable[[], NDArray[Any]]


class GraphBuilder:
    """Collects nodes and constants; every method returns the name of its result.

    Args:
        opset: The version of the standard operators.
        prefix: Starts every name made here, so that none equals a name of another graph.
    """

    def __init__(self, *, opset: int, prefix: str = "splade/") -> None:
        self.opset, self.prefix = opset, prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Constant] = {}
        self._codes: dict[tuple[str, tuple[int, ...]], Codes] = {}
        self._row_middles: str | None = None

    def put(self, name: str, value: Constant) -> str:
        """Store a constant once; a function is called when the constant is written."""
        self.constants.setdefault(self.prefix + name, value)
        return self.prefix + name

    def op(
        self, kind: str, *inputs: str, result: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Append one node with one output."""
        result = result or f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [result], name=result, domain=domain, **attributes)
        )
        return result

    def reduce_max(self, values: str, *axes: int, keepdims: bool = False) -> str:
        """Take the maximum along some axes."""
        if self.opset < 18:
            return self.op("ReduceMax", values, axes=list(axes), keepdims=int(keepdims))
        axes_name = self.put("axes_" + "_".join(map(str, axes)), np.array(axes, dtype=np.int64))
        return self.op("ReduceMax", values, axes_name, keepdims=int(keepdims))

    def reduce_sum(self, values: str, axis: int) -> str:
        """Add up along an axis, which is removed."""
        if self.opset < 13:
            return self.op("ReduceSum", values, axes=[axis], keepdims=0)
        axes_name = self.put(f"axes_{axis}", np.array([axis], dtype=np.int64))
        return self.op("ReduceSum", values, axes_name, keepdims=0)

    def without_padding(self, states: str, attention_mask: str) -> str:
        """Replace padded rows of (batch, tokens, hidden) by the text's first row, which is never padding."""
        zero, one = (self.put(f"index_{n}", np.array([n], dtype=np.int64)) for n in (0, 1))
        first = self.op("Slice", states, zero, one, one)
        column = self.put("column_shape", np.array([0, 0, 1], dtype=np.int64))
        real = self.op("Reshape", self.op("Cast", attention_mask, to=TensorProto.BOOL), column)
        return self.op("Where", real, states, first)

    def activation(self, logits: str, kind: Activation) -> str:
        """Turn pooled logits into weights: log(1 + relu(x)), once or twice."""
        weights = self.op("Relu", logits)
        for _ in range(2 if kind == "log1p_log1p" else 1):
            weights = self.op("Log", self.op("Add", weights, self.put("unit", np.float32(1))))
        return weights

    def row_codes(self, rows: str, *, width: int | None = None) -> Codes:
        """Quantise each row (the last axis) to 8 bits; once for all products of the same rows.

        Args:
            rows: Their name.
            width: Length of a row, where it is known; fewer nodes then do the same from opset 21 on.
        """
        return self._coded(rows, -1, width=width)

    def text_codes(self, states: str) -> Codes:
        """Quantise (batch, tokens, hidden) to 8 bits, with one scale per text."""
        return self._coded(states, 1, 2)

    def _coded(self, values: str, *axes: int, width: int | None = None) -> Codes:
        """Quantise to 8 bits, with one scale along the axes; once for all products."""
        if (values, axes) not in self._codes:
            self._codes[values, axes] = self._quantised(values, *axes, width=width)
        return self._codes[values, axes]

    def _quantised(self, values: str, *axes: int, width: int | None) -> Codes:
        largest = self.reduce_max(self.op("Abs", values), *axes, keepdims=True)
        largest = self.op("Max", largest, self.put("tiny", np.float32(1e-12)))
        scale = self.op("Div", largest, self.put("steps", np.float32(127)))
        if width is not None and self.opset >= _OPSET_OF_BLOCKS:
            # The rows of all products are the tokens of the same texts.
            self._row_middles = self._row_middles or self._middles(scale)
            codes = self.op("QuantizeLinear", values, scale, self._row_middles, axis=-1, block_size=width)
            return Codes(codes, scale)
        # QuantizeLinear applies one scale per row and rounds in one pass; ONNX Runtime's own operator does so
        # for sources before opset 13 too.
        rows = self.op("Flatten", values, axis=axes[0])
        flat = self.op("Reshape", scale, self.put("flat", np.array([-1])))
        codes = self.op("QuantizeLinear", rows, flat, self._middles(flat), axis=0, domain=ONNX_RUNTIME)
        return Codes(self.op("Reshape", codes, self.op("Shape", values)), scale)

    def _middles(self, scale: str) -> str:
        """Return the code of 0 for each scale."""
        return self.op("Expand", self._unit_and_middle()[1], self.op("Shape", scale))

    def dequantized(self, codes: Codes) -> str:
        """Return the float32 values of codes."""
        levels = self.op("DequantizeLinear", codes.codes, *self._unit_and_middle())
        return self.op("Mul", levels, codes.scale)

    def int8_product(self, left: Codes, codes: str, column_scale: str, *, result: str | None = None) -> str:
        """Multiply codes of rows with codes of columns and scale back to float32.

        The row scale stays outside of MatMulIntegerToFloat. With standard operators in its place, or the row
        scale inside, ONNX Runtime (1.32) folds a following bias in and multiplies it by the row scale too.
        """
        unit, middle = self._unit_and_middle()
        product = self.op(
            "MatMulIntegerToFloat", left.codes, codes, unit, column_scale, middle, domain=ONNX_RUNTIME
        )
        return self.op("Mul", product, left.scale, result=result)

    def coded_columns(self, name: str, weight: FloatArray) -> list[tuple[str, str]]:
        """Store the codes of a matrix (in, out) in blocks of columns; return names of codes and scales."""
        blocks = {start: weight[:, start : start + BLOCK] for start in range(0, weight.shape[1], BLOCK)}
        return [
            (
                self.put(f"{name}_{start}.codes", partial(column_codes, columns)),
                self.put(f"{name}_{start}.scale", partial(column_scale, columns)),
            )
            for start, columns in blocks.items()
        ]

    def int8_pooled(self, states: str, blocks: Sequence[tuple[str, str]]) -> str:
        """Multiply every token with columns and keep the largest product per text, (batch, columns).

        Args:
            states: Shape (batch, tokens, hidden), padding replaced.
            blocks: Names of the codes, (hidden, block), and scales, (block,), of each block of columns.
        """
        left, middle = self.text_codes(states), self._unit_and_middle()[1]
        halves = self.op("Reshape", *self._even(left.codes))
        maxima = [self.reduce_max(self.op("MatMulInteger", halves, codes, middle), 1) for codes, _ in blocks]
        scales = self.op("Concat", *(scale for _, scale in blocks), axis=0)
        return self._scaled(maxima, scales, left.scale)

    def int8_pooled_by_text(self, states: str, parts: Sequence[str], scales: str) -> str:
        """Multiply the tokens of each text with the columns of this text and keep the largest products.

        Args:
            states: Shape (batch, tokens, hidden), padding replaced.
            parts: Names of the codes of some of the columns, (batch, hidden, part).
            scales: Scales of all columns, (batch, columns).

        Returns:
            Name of the products, (batch, columns).
        """
        left, middle = self.text_codes(states), self._unit_and_middle()[1]
        even, halves = self._even(left.codes)
        products = (self.op("MatMulInteger", even, codes, middle) for codes in parts)
        maxima = [self.reduce_max(self.op("Reshape", product, halves), 1) for product in products]
        return self._scaled(maxima, scales, left.scale)

    def _scaled(self, maxima: Sequence[str], scales: str, text_scale: str) -> str:
        """Turn sums of codes, each (2 batch, part), one row for each half of a text, into products."""
        sums = self.op("Cast", self.op("Concat", *maxima, axis=1), to=TensorProto.FLOAT)
        sums = self.op("Max", *(self._every_second(sums, start) for start in (0, 1)))
        column = self.put("text_column", np.array([-1, 1], dtype=np.int64))
        return self.op("Mul", self.op("Mul", sums, scales), self.op("Reshape", text_scale, column))

    def _even(self, codes: str) -> tuple[str, str]:
        """Repeat the first of an odd number of tokens, which does not change a maximum.

        Returns:
            Names of the codes, (batch, tokens, hidden), and of a shape for them and their products, which
            splits each text in two: (2 batch, half of the tokens, any). ONNX Runtime (1.32) computes the
            maximum over the first of two axes, as which it reads a batch of one, three times more slowly than
            over the middle of three.
        """
        zero, one, two = (self.put(f"index_{n}", np.array([n], dtype=np.int64)) for n in (0, 1, 2))
        tokens = self.op("Slice", self.op("Shape", codes), one, two, zero)
        odd = self.op("Mod", tokens, two)
        even = self.op("Concat", codes, self.op("Slice", codes, zero, odd, one), axis=1)
        half = self.op("Div", self.op("Add", tokens, odd), two)
        rest = self.put("rest", np.array([-1], dtype=np.int64))
        return even, self.op("Concat", rest, half, zero, axis=0)

    def _every_second(self, rows: str, start: int) -> str:
        """Return every second row of a matrix, from `start` on."""
        zero, two = (self.put(f"index_{n}", np.array([n], dtype=np.int64)) for n in (0, 2))
        first = self.put(f"index_{start}", np.array([start], dtype=np.int64))
        end = self.put("end", np.array([2**62], dtype=np.int64))
        return self.op("Slice", rows, first, end, zero, two)

    def _unit_and_middle(self) -> tuple[str, str]:
        return self.put("unit", np.float32(1)), self.put("middle", np.array(128, dtype=np.uint8))


@dataclass(frozen=True)
class Codes:
    """Quantised rows or texts: names of the codes, uint8 around 128, and of their scales, (..., 1)."""

    codes: str
    scale: str


def column_scale(weight: FloatArray) -> FloatArray:
    """Return the scale of each column of (in, out) for 8-bit codes whose sums cannot saturate.

    Processors without VNNI multiply bytes in pairs of neighbouring rows and add the two products in 16 bits,
    with saturation. A code of a row is at most 255, so two codes of a column may add up to 128 on either side
    of zero: 255 * 128 < 2**15. A column then uses -127..127 only where its largest weights have small
    neighbours. The rounding error is a third larger than with all 8 bits; with 7 bits it would double.

    Returns:
        Shape (out,), float32, > 0.

    Raises:
        ModelGraphError: If a weight is infinite or not a number.
    """
    if not np.isfinite(weight).all():
        raise ModelGraphError(
            f"A matrix of {weight.shape[0]} x {weight.shape[1]} cannot be quantised: a weight is infinite or "
            f"not a number. The file is damaged, or training diverged. Export the model again."
        )
    paired = np.zeros((-(-len(weight) // 2) * 2, weight.shape[1]), dtype=np.float32)
    paired[: len(weight)] = weight
    pairs = paired.reshape(-1, 2, weight.shape[1])
    heaviest = np.maximum(pairs.clip(min=0).sum(1).max(0), -pairs.clip(max=0).sum(1).min(0))
    largest = np.maximum(np.abs(weight).max(0) / np.float32(127), heaviest / np.float32(127.5))
    scale: FloatArray = np.maximum(largest, np.float32(1e-8)).astype(np.float32)
    return scale


def column_codes(weight: FloatArray) -> NDArray[np.int8]:
    """Return the symmetric 8-bit codes of the columns of (in, out); codes * column_scale is about weight."""
    codes: NDArray[np.int8] = np.rint(weight / column_scale(weight)).astype(np.int8)
    return codes
