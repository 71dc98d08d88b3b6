"""Graphs in half precision: near the numbers of float32, of any opset, pooled here or before."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.half_precision import as_half
from splade_retriever.encoding.onnx.pooled_model import pooled_graph
from splade_retriever.encoding.session import Session
from tests.mlm_graphs import Shape, max_pooled, mlm_logits, random_weights, save_mlm

SHAPE = Shape(vocab=900)
WEIGHTS = random_weights(SHAPE, seed=5)
IDS = np.random.default_rng(0).integers(1, SHAPE.vocab, (4, 12))
MASK = (np.arange(12) < np.array([[12], [7], [1], [10]])).astype(np.int64)
TOLERANCE = 0.01


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("decoder", ["tied", "gemm", "no_bias"])
def test_the_weights_are_those_of_float32_within_a_hundredth(
    tmp_path: Path, opset: int, decoder: Any
) -> None:
    model = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, opset=opset, decoder=decoder)
    graph = pooled_graph(model, precision="fp16", cache=tmp_path / "cache")
    exact = Session(pooled_graph(model, cache=tmp_path / "cache")).weights(IDS, MASK)
    weights = Session(graph).weights(IDS, MASK)
    assert weights.dtype == np.float32
    assert 0 < np.abs(weights - exact).max() <= TOLERANCE


def test_a_graph_in_half_precision_takes_half_of_the_disk_and_multiplies_halves(tmp_path: Path) -> None:
    wide = Shape(vocab=900, hidden=128, inner=512)  # the data file pads each matrix to a page
    model = save_mlm(tmp_path / "model.onnx", random_weights(wide), wide)
    half, single = (pooled_graph(model, precision=kind, cache=tmp_path) for kind in ("fp16", "fp32"))
    sizes = [path.with_name(f"{path.name}.data").stat().st_size for path in (half, single)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.1)
    kinds = {tensor.data_type for tensor in onnx.load(str(half), load_external_data=False).graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    singles = [
        tensor.name
        for tensor in onnx.load(str(half)).graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    ]
    assert len(singles) <= 1, "only the activation is computed in float32"


def test_the_lowest_float32_of_a_mask_stays_finite() -> None:
    lowest = np.array([np.finfo(np.float32).min, 1.5, np.inf], np.float32)
    halves = as_half(lowest)
    assert isinstance(halves, np.ndarray)
    assert halves.dtype == np.float16
    assert halves.tolist() == [-65504.0, 1.5, 65504.0]
    assert as_half(np.array([3])).dtype == np.int64  # type: ignore[union-attr]


def test_a_graph_that_is_pooled_already_is_computed_in_half_precision_and_returns_float32(
    tmp_path: Path,
) -> None:
    weights = np.random.default_rng(0).standard_normal((SHAPE.vocab, SHAPE.vocab)).astype(np.float32) / 30
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMax", ["rows"], ["best"], axes=[1], keepdims=0),
        helper.make_node("Relu", ["best"], ["weights"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["b", SHAPE.vocab])
    graph = helper.make_graph(nodes, "pooled", inputs, [output], [numpy_helper.from_array(weights, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "model.onnx"))
    session = Session(pooled_graph(tmp_path / "model.onnx", precision="fp16", cache=tmp_path / "cache"))
    exact = Session(tmp_path / "model.onnx").weights(IDS, MASK)
    assert np.abs(session.weights(IDS, MASK) - exact).max() <= TOLERANCE


def test_the_float32_reference_of_these_tests_is_the_plain_computation(tmp_path: Path) -> None:
    model = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE)
    expected = max_pooled(mlm_logits(WEIGHTS, SHAPE, IDS, MASK), MASK)
    exact = Session(pooled_graph(model, cache=tmp_path / "cache")).weights(IDS, MASK)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
