"""Screening the decoder: no entry that weighs is ever left out, and most others are."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.graph_builder import BLOCK, ONNX_RUNTIME, GraphBuilder
from splade_retriever.screening import screened_weights

HIDDEN, VOCAB = 48, BLOCK + 250


@dataclass(frozen=True)
class Screened:
    """What a screened decoder gives.

    Attributes:
        weights: Shape (batch, vocab).
        computed: Ids of the entries that were computed in float32.
    """

    weights: np.ndarray
    computed: np.ndarray


def screened(states: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, *, opset: int = 17) -> Screened:
    """Run a graph that is nothing but the screened decoder."""
    builder = GraphBuilder(opset=opset)
    weights = screened_weights(builder, "states", weight, bias, activation="log1p")
    found = next(node.output[0] for node in builder.nodes if node.op_type == "NonZero")
    graph = helper.make_graph(
        builder.nodes,
        "screened",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "tokens", states.shape[2]])],
        [
            helper.make_tensor_value_info(weights, TensorProto.FLOAT, None),
            helper.make_tensor_value_info(found, TensorProto.INT64, None),
        ],
        [
            numpy_helper.from_array(np.array(value() if callable(value) else value, order="C"), name)
            for name, value in builder.constants.items()
        ],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid(ONNX_RUNTIME, 1)]
    model = helper.make_model(graph, opset_imports=sets)
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return Screened(*session.run(None, {"states": states}))


def by_hand(states: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = states.astype(np.float64) @ weight.astype(np.float64) + bias
    return np.log1p(np.maximum(logits, 0)).max(1)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.floats(-1, 6),
    outlier=st.sampled_from([1.0, 30.0, 1000.0]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 12)),
)
def test_weights_are_those_of_the_whole_decoder(
    seed: int, threshold: float, outlier: float, shape: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    states = random.standard_normal((*shape, HIDDEN), np.float32)
    # One component that is far larger than the others makes the codes of all others coarse.
    states[..., random.integers(HIDDEN)] *= np.float32(outlier)
    weight = random.standard_normal((HIDDEN, VOCAB), np.float32) * np.float32(HIDDEN**-0.5)
    weight[:, ::7] *= np.float32(outlier)
    bias = random.standard_normal(VOCAB, np.float32) * np.float32(0.3) - np.float32(threshold)

    found = screened(states, weight, bias)

    exact = by_hand(states, weight, bias)
    np.testing.assert_allclose(found.weights, exact, rtol=1e-4, atol=1e-4)
    assert set(np.flatnonzero(exact.max(0) > 1e-4)) <= set(found.computed[0])


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_most_entries_of_sparse_vectors_are_never_computed(opset: int) -> None:
    random = np.random.default_rng(1)
    states = random.standard_normal((2, 10, HIDDEN), np.float32)
    weight = random.standard_normal((HIDDEN, VOCAB), np.float32) * np.float32(HIDDEN**-0.5)

    found = screened(states, weight, np.full(VOCAB, -3.0, np.float32), opset=opset)

    active = (found.weights > 0).any(0).sum()
    assert 0 < active <= found.computed.size < 0.2 * VOCAB


def test_texts_without_any_weight_are_empty() -> None:
    states = np.ones((3, 2, HIDDEN), np.float32)

    found = screened(states, -np.ones((HIDDEN, VOCAB), np.float32), None)

    assert found.computed.size == 0
    assert found.weights.shape == (3, VOCAB)
    assert not found.weights.any()
