"""Turns the nodes and constants of a graph to half precision (fp16), for GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.graph_builder import Constant, GraphBuilder

__all__ = ["as_half", "narrowed", "narrowed_output"]

_LARGEST = float(np.finfo(np.float16).max)


def narrowed(builder: GraphBuilder, result: str) -> str:
    """Turn all nodes and constants so far to half precision; return `result` as float32.

    Nodes that are added later stay in float32. So do their constants, which must have other names.
    """
    builder.nodes[:] = [_narrow(node) for node in builder.nodes]
    builder.constants.update({name: as_half(value) for name, value in builder.constants.items()})
    return builder.op("Cast", result, to=TensorProto.FLOAT)


def narrowed_output(builder: GraphBuilder, output: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Turn a complete graph to half precision, with an output in float32."""
    half = f"{output.name}_half"
    for node in builder.nodes:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = half
        for place, name in enumerate(node.input):
            if name == output.name:
                node.input[place] = half
    builder.op("Identity", narrowed(builder, half), result=output.name)
    return output


def as_half(value: Constant) -> Constant:
    """Return a float32 constant in half precision, large numbers as the largest one; others unchanged."""
    if callable(value):
        return lambda: np.asarray(as_half(value()))
    array = np.asarray(value)
    if array.dtype != np.float32:
        return array
    return _half(array)


def _half(array: NDArray[Any]) -> NDArray[np.float16]:
    # Masks add the lowest float32, which would be minus infinity: a row of it has no softmax.
    clipped: NDArray[np.float16] = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
    return clipped


def _narrow(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that makes half precision where it made float32."""
    narrow = onnx.NodeProto()
    narrow.CopyFrom(node)
    for attribute in narrow.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(attribute.t))))
        elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    if node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
        values = np.asarray(helper.get_attribute_value(node.attribute[0]), np.float32)
        del narrow.attribute[:]
        narrow.attribute.append(helper.make_attribute("value", numpy_helper.from_array(_half(values))))
    if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros in float32
        narrow.attribute.append(
            helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16)))
        )
    return narrow
