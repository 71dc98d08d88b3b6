"""Rewrites an MLM graph into one that ends in (batch, vocab) weights, in fp32, fp16 or int8.

1. Find the decoder by its structure: the last MatMul or Gemm, and its bias, that compute the logits.
2. Replace padded rows of the last hidden state by the row of the first token, so that padding cannot win the
   maximum.
3. Multiply with the decoder in blocks of columns, each followed by the maximum over tokens, so that the
   logits, (batch, tokens, vocab), are never in memory at once.
4. Add the bias after the maximum, and apply the activation to (batch, vocab): the maximum commutes with both.

In int8, every product with a constant matrix becomes a product of 8-bit codes (`graph_builder`). In fp32 the
decoder can be screened: most of its columns are skipped, and the weights are the same (`decoder_screening`).
Its blocks are then wider, but still a small part of the vocabulary.

In fp16 everything before the activation is computed in half precision (`half_precision`).

Weights are read from the source one at a time and streamed into the new file.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from splade_retriever.encoding.model_cards import Activation, Precision
from splade_retriever.encoding.onnx.decoder_screening import screened_weights
from splade_retriever.encoding.onnx.graph_builder import (
    BLOCK,
    ONNX_RUNTIME,
    Constant,
    GraphBuilder,
    column_codes,
    column_scale,
)
from splade_retriever.encoding.onnx.half_precision import as_half, narrowed, narrowed_output
from splade_retriever.encoding.onnx.source_graph import (
    Decoder,
    MatrixProduct,
    SourceGraph,
    input_names,
    widen_halves,
)
from splade_retriever.errors import ModelGraphError

__all__ = ["rewrite"]

_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_MAX_INLINE_BYTES: Final = 1024
_PAGE_BYTES: Final = 4096


def rewrite(
    source: Path,
    data: BinaryIO,
    data_name: str,
    *,
    pooled: bool,
    activation: Activation,
    precision: Precision,
    screened: bool = False,
) -> bytes:
    """Rewrite a model into a pooled graph.

    Args:
        source: An MLM export, or a graph that is pooled already.
        data: Receives the weights, one after the other.
        data_name: The name by which the graph finds `data` beside itself.
        pooled: Whether the source is pooled already and is only quantised; it keeps its own activation.
        activation: See `GraphBuilder.activation`.
        precision: "int8" quantises every product with a constant matrix; "fp16" computes in half precision.
        screened: Whether the decoder of an fp32 graph skips columns whose weight is 0, see
            `decoder_screening`.

    Returns:
        The serialised graph.

    Raises:
        ModelFilesError: If a file with weights is missing.
        ModelGraphError: If the graph cannot be pooled or quantised.
    """
    graph = SourceGraph.read(source)
    graph.check_inputs()
    output = graph.model.graph.output[0]
    decoder = None if pooled else graph.find_decoder()
    builder = GraphBuilder(opset=graph.opset)
    quantised = 0
    for node in graph.needed_nodes([decoder.hidden if decoder else output.name]):
        product = graph.matrix_product(node) if precision == "int8" else None
        if product is None:
            builder.nodes.append(widen_halves(node))
        else:
            quantised += 1
            _quantise(builder, graph, product, node.output[0])
    if precision == "int8" and not quantised:
        raise ModelGraphError(
            f"{source} cannot be quantised to int8: it has no product with a constant float matrix. "
            f'Pass the fp32 export of the model, or precision="fp32".'
        )
    if decoder:
        states = _hidden_states(builder, decoder)
        if screened and precision == "fp32":
            weights = screened_weights(builder, states, decoder.weight, decoder.bias, activation=activation)
        else:
            logits = _pooled_logits(builder, decoder, states, precision)
            if precision == "fp16":
                logits = narrowed(builder, logits)
            weights = builder.activation(logits, activation)
        builder.op("Identity", weights, result="weights")
        output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", decoder.vocab_size])
    elif precision == "fp16":
        output = narrowed_output(builder, output)
    model = _assemble(graph, builder, output, WeightWriter(data, data_name), halved=precision == "fp16")
    return bytes(model.SerializeToString())


def _quantise(builder: GraphBuilder, graph: SourceGraph, product: MatrixProduct, result: str) -> None:
    name = f"{product.matrix}{'.T' if product.transposed else ''}"
    codes = builder.put(f"{name}.codes", lambda: column_codes(product.weight(graph)))
    scale = builder.put(f"{name}.scale", lambda: column_scale(product.weight(graph)))
    left = builder.row_codes(product.left)
    if product.bias:
        builder.op("Add", builder.int8_product(left, codes, scale), product.bias, result=result)
    else:
        builder.int8_product(left, codes, scale, result=result)


def _hidden_states(builder: GraphBuilder, decoder: Decoder) -> str:
    """Return the last hidden states, (batch, tokens, hidden), without padding."""
    states = decoder.hidden
    if decoder.flat:
        rest = builder.put("rest", np.array([-1], dtype=np.int64))
        shape = builder.op("Concat", builder.op("Shape", "input_ids"), rest, axis=0)
        states = builder.op("Reshape", states, shape)
    return builder.without_padding(states, "attention_mask")


def _pooled_logits(builder: GraphBuilder, decoder: Decoder, states: str, precision: Precision) -> str:
    """Return the maximum of the logits over tokens, (batch, vocab), before the activation."""
    if precision == "int8":
        logits = builder.int8_pooled(states, builder.coded_columns("decoder", decoder.weight))
    else:
        products = (
            builder.op(
                "MatMul", states, builder.put(f"decoder_{start}", decoder.weight[:, start : start + BLOCK])
            )
            for start in range(0, decoder.vocab_size, BLOCK)
        )
        logits = builder.op("Concat", *(builder.reduce_max(product, 1) for product in products), axis=1)
    if decoder.bias is not None:
        logits = builder.op("Add", logits, builder.put("decoder_bias", decoder.bias))
    return logits


class WeightWriter:
    """Writes constants into the data file, one after the other, each at the start of a page."""

    def __init__(self, data: BinaryIO, name: str) -> None:
        self._data, self._name = data, name

    def write(self, name: str, value: Constant) -> TensorProto:
        """Write one constant; small ones stay in the graph, where shapes are inferred from them."""
        values = np.asarray(value() if callable(value) else value)
        array = np.ascontiguousarray(values).reshape(values.shape)
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, dims=array.shape, data_type=data_type)
        if array.nbytes <= _MAX_INLINE_BYTES:
            tensor.raw_data = array.tobytes()
            return tensor
        self._data.write(b"\0" * (-self._data.tell() % _PAGE_BYTES))
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._name, "offset": self._data.tell(), "length": array.nbytes}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        self._data.write(array.data)
        return tensor


def _assemble(
    source: SourceGraph,
    builder: GraphBuilder,
    output: onnx.ValueInfoProto,
    weights: WeightWriter,
    *,
    halved: bool,
) -> onnx.ModelProto:
    """Assemble the new graph and write its weights."""
    read = {name for node in builder.nodes for name in input_names(node)}
    inputs = [i for i in source.model.graph.input if i.name in read and i.name not in source.initializers]
    unknown = [i.name for i in inputs if i.name not in _INPUTS]
    if unknown:
        raise source.error(f"it also needs the input {', '.join(unknown)}")
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    for part in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        graph.ClearField(part)
    graph.node.extend(builder.nodes)
    graph.input.extend(inputs)
    graph.output.append(output)
    kept: dict[str, Constant] = {name: one.array for name, one in source.initializers.items()}
    if halved:
        kept = {name: as_half(value) for name, value in kept.items()}
    for name, value in {**kept, **builder.constants}.items():
        if name in read:
            graph.initializer.append(weights.write(name, value))
    if all(o.domain != ONNX_RUNTIME for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ONNX_RUNTIME, 1))
    model.ir_version = max(model.ir_version, 7)
    model.producer_name = "splade-retriever"
    return model
