"""Screening the decoder: no entry with a weight is skipped, and most others are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.decoder_screening import RANGE, screened_weights
from splade_retriever.encoding.onnx.graph_builder import (
    ONNX_RUNTIME,
    GraphBuilder,
    column_codes,
    column_scale,
)

Worst = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]

HIDDEN, VOCAB = 48, RANGE + 250


@dataclass(frozen=True)
class Screened:
    """The result of a screened decoder.

    Attributes:
        weights: Shape (batch, vocab).
        computed: Number of entries that were computed in float32.
    """

    weights: np.ndarray
    computed: int


def screened(
    states: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    opset: int = 17,
    activation: Literal["log1p", "log1p_log1p"] = "log1p",
) -> Screened:
    """Run a graph that consists of the screened decoder only."""
    builder = GraphBuilder(opset=opset)
    weights = screened_weights(builder, "states", weight, bias, activation=activation)
    found = [node.output[0] for node in builder.nodes if node.op_type == "NonZero"]
    graph = helper.make_graph(
        builder.nodes,
        "screened",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "tokens", states.shape[2]])],
        [
            helper.make_tensor_value_info(weights, TensorProto.FLOAT, None),
            *(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in found),
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
    pooled, *ids = session.run(None, {"states": states})
    return Screened(pooled, sum(part.size for part in ids))


def by_hand(states: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = states.astype(np.float64) @ weight.astype(np.float64) + bias
    return np.log1p(np.maximum(logits, 0)).max(1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.floats(-1, 6),
    outlier=st.sampled_from([1.0, 30.0, 1000.0]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 12)),
)
def test_weights_equal_those_of_the_complete_decoder(
    seed: int, threshold: float, outlier: float, shape: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    states = random.standard_normal((*shape, HIDDEN), np.float32)
    # One component far larger than the others makes the codes of all others inaccurate.
    states[..., random.integers(HIDDEN)] *= np.float32(outlier)
    weight = random.standard_normal((HIDDEN, VOCAB), np.float32) * np.float32(HIDDEN**-0.5)
    weight[:, ::7] *= np.float32(outlier)
    bias = random.standard_normal(VOCAB, np.float32) * np.float32(0.3) - np.float32(threshold)

    found = screened(states, weight, bias)

    exact = by_hand(states, weight, bias)
    np.testing.assert_allclose(found.weights, exact, rtol=1e-4, atol=1e-4)


def off_along_the_column(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a column parallel to the rounding error of a text's longest row, and exact itself."""
    random = np.random.default_rng(seed)
    states = random.standard_normal((1, 2, HIDDEN), np.float32)
    states[0, 0] *= np.float32(0.1)
    row = states[0, 1]
    step = np.abs(states).max() / 127
    off = row - np.rint(row / step) * step
    weight = np.zeros((HIDDEN, 1), np.float32)
    weight[::2, 0] = np.rint(off[::2] / np.abs(off[::2]).max() * 127)
    return states, weight, np.array([-(row @ weight[:, 0]) + 0.1 * (off @ weight[:, 0])], np.float32)


def off_along_the_row(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a row parallel to the rounding error of a column, and exact itself."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((HIDDEN, 1), np.float32)
    off = (weight - column_codes(weight) * column_scale(weight))[:, 0]
    row = np.rint(off / np.abs(off).max() * 127).astype(np.float32)
    return (
        np.stack([row / 127, row])[None],
        weight,
        np.array([-(row @ weight[:, 0]) + 0.1 * (row @ off)], np.float32),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("made", [off_along_the_column, off_along_the_row])
def test_an_entry_whose_codes_underestimate_its_weight_is_computed(made: Worst, seed: int) -> None:
    states, weight, bias = made(seed)
    exact = by_hand(states, weight, bias)

    found = screened(states, weight, bias)

    assert (exact > 0).all()
    np.testing.assert_allclose(found.weights, exact, rtol=1e-2)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(("threshold", "max_share"), [(3.0, 0.2), (100.0, 0.0), (-100.0, 1.0)])
def test_few_entries_of_sparse_vectors_are_computed(opset: int, threshold: float, max_share: float) -> None:
    random = np.random.default_rng(1)
    states = random.standard_normal((2, 10, HIDDEN), np.float32)
    weight = random.standard_normal((HIDDEN, VOCAB), np.float32) * np.float32(HIDDEN**-0.5)
    bias = np.full(VOCAB, -threshold, np.float32)

    found = screened(states, weight, bias, opset=opset)

    np.testing.assert_allclose(found.weights, by_hand(states, weight, bias), atol=1e-5)
    active = (found.weights > 0).any(0).sum()
    assert active <= found.computed <= max_share * VOCAB
    assert (active > 0) == (max_share > 0)


def test_the_second_logarithm_is_applied_to_screened_weights() -> None:
    random = np.random.default_rng(2)
    states = random.standard_normal((2, 3, HIDDEN), np.float32)
    weight = random.standard_normal((HIDDEN, 70), np.float32)

    found = screened(states, weight, None, activation="log1p_log1p")

    exact = np.log1p(by_hand(states, weight, np.zeros(70)))
    np.testing.assert_allclose(found.weights, exact, atol=1e-5)


def test_a_bias_of_minus_infinity_excludes_only_its_entry() -> None:
    random = np.random.default_rng(3)
    states = random.standard_normal((2, 3, HIDDEN), np.float32)
    weight = random.standard_normal((HIDDEN, 70), np.float32)
    bias = np.zeros(70, np.float32)
    bias[:5] = -np.inf

    found = screened(states, weight, bias)

    assert not found.weights[:, :5].any()
    np.testing.assert_allclose(found.weights, by_hand(states, weight, bias), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["states", "bias"])
def test_infinite_and_nan_inputs_are_visible_in_the_result(part: str, bad: float) -> None:
    given = {"states": np.ones((2, 3, HIDDEN), np.float32), "bias": np.zeros(70, np.float32)}
    given[part][0] = bad

    weight = np.random.default_rng(4).standard_normal((HIDDEN, 70), np.float32)

    found = screened(given["states"], weight, given["bias"])

    assert not np.isfinite(found.weights).all()
