"""The graph that pools logits computes what `max_pool` does."""

import warnings
from typing import Any

import numpy as np
import onnxruntime
import pytest

from splade_retriever.encoding.onnx.pooling_graph import pooling_graph
from splade_retriever.encoding.session import max_pool

LOGITS = np.random.default_rng(0).normal(size=(3, 9, 40)).astype(np.float32)
MASK = (np.arange(9) < np.array([[9], [4], [1]])).astype(np.int64)


def pooled(logits: np.ndarray[Any, Any], kind: str, activation: Any = "log1p") -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(
        pooling_graph(kind, activation), providers=["CPUExecutionProvider"]
    )
    weights: np.ndarray[Any, Any] = session.run(None, {"logits": logits, "attention_mask": MASK})[0]
    return weights


@pytest.mark.parametrize("activation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("tensor(float)", np.float32), ("tensor(float16)", np.float16), ("tensor(double)", np.float64)],
)
def test_pooling_in_a_graph_equals_pooling_in_numpy(kind: str, dtype: Any, activation: Any) -> None:
    logits = LOGITS.astype(dtype)
    expected = max_pool(logits.astype(np.float32), MASK, activation=activation)
    found = pooled(logits, kind, activation)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("token", [0, 3, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_infinite_and_nan_logits_stay_visible_unless_they_are_at_padding(bad: float, token: int) -> None:
    logits = LOGITS.copy()
    logits[:, token, [5, 37]] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = max_pool(logits, MASK)
    np.testing.assert_allclose(pooled(logits, "tensor(float)"), expected, rtol=1e-6, atol=1e-6)


def test_logits_of_another_type_have_no_graph() -> None:
    assert pooling_graph("tensor(bfloat16)", "log1p") is None
