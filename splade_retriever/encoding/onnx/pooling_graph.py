"""The graph that pools the logits of one text on the device that computed them."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.model_cards import Activation
from splade_retriever.encoding.onnx.graph_builder import GraphBuilder

__all__ = ["pooling_graph"]

_OPSET: Final = 17
_IR_VERSION: Final = 8
_TYPES: Final = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
}


def pooling_graph(logits_type: str, activation: Activation) -> bytes | None:
    """Return a graph that maps `logits` and `attention_mask` to `weights`, as `session.max_pool` does.

    Args:
        logits_type: ONNX Runtime's name of their type, such as "tensor(float16)".
        activation: See `GraphBuilder.activation`.

    Returns:
        The serialised graph, or None for another type than float16, float32 and float64.
    """
    if logits_type not in _TYPES:
        return None
    builder = GraphBuilder(opset=_OPSET)
    column = builder.put("column_shape", np.array([0, 0, 1], dtype=np.int64))
    real = builder.op("Reshape", builder.op("Cast", "attention_mask", to=TensorProto.BOOL), column)
    logits = builder.op("Cast", "logits", to=TensorProto.FLOAT)
    positive = builder.op("Where", real, logits, builder.put("nothing", np.float32(0)))
    weights = builder.activation(builder.reduce_max(positive, 1), activation)
    # ONNX Runtime's maximum skips NaN: a damaged model must not look like a valid one.
    invalid = builder.op("Cast", builder.op("IsNaN", positive), to=TensorProto.UINT8)
    invalid = builder.op("Cast", builder.reduce_max(invalid, 1), to=TensorProto.BOOL)
    builder.op("Where", invalid, builder.put("nan", np.float32(np.nan)), weights, result="weights")
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            "pooling",
            [
                helper.make_tensor_value_info("logits", _TYPES[logits_type], ["batch", "tokens", "vocab"]),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
            ],
            [helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", "vocab"])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in builder.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="splade-retriever",
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
