"""The session: pooled and unpooled graphs, threads, and errors."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.pooled_model import pooled_graph
from splade_retriever.encoding.session import (
    DeviceSessions,
    Provider,
    Session,
    checked_providers,
    max_pool,
    on_devices,
)
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError, ModelOutputError
from tests.mlm_graphs import Shape, max_pooled, mlm_logits, random_weights, save_mlm

CPU = "CPUExecutionProvider"
SHAPE = Shape()
WEIGHTS = random_weights(SHAPE, seed=3)
IDS = np.random.default_rng(0).integers(1, SHAPE.vocab, (4, 12))
MASK = (np.arange(12) < np.array([[12], [7], [1], [10]])).astype(np.int64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlm(tmp_path_factory.mktemp("model") / "model.onnx", WEIGHTS, SHAPE)


@pytest.fixture(scope="module")
def unpooled(model: Path) -> Session:
    return Session(model)


def save_constant(
    path: Path, *, inputs: tuple[str, ...] = ("input_ids", "attention_mask"), shape: Any = (2, 3)
) -> Path:
    """Save a graph that returns zeros of a fixed shape for any input."""
    path.parent.mkdir(exist_ok=True)
    zeros = numpy_helper.from_array(np.zeros(shape, dtype=np.float32))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Constant", [], ["weights"], value=zeros)],
            "constant",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in inputs],
            [helper.make_tensor_value_info("weights", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


# Weights


def test_logits_of_an_unpooled_graph_are_pooled_outside(unpooled: Session) -> None:
    expected = max_pooled(mlm_logits(WEIGHTS, SHAPE, IDS, MASK), MASK)
    assert not unpooled.is_pooled
    np.testing.assert_allclose(unpooled.weights(IDS, MASK), expected, atol=1e-5)


def test_pooling_inside_and_outside_the_graph_agree(model: Path, unpooled: Session) -> None:
    inside = Session(pooled_graph(model))
    assert inside.is_pooled
    np.testing.assert_allclose(inside.weights(IDS, MASK), unpooled.weights(IDS, MASK), atol=1e-5)


class WithoutOutputs:
    """A session whose outputs cannot be read: they stay on its device."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        assert name != "run", "the logits were read"
        return getattr(self._session, name)


def test_only_the_weights_of_an_unpooled_graph_leave_the_device(model: Path) -> None:
    session = Session(model, providers=[Provider(CPU)])
    session._backend = WithoutOutputs(session._backend)
    expected = max_pooled(mlm_logits(WEIGHTS, SHAPE, IDS, MASK), MASK)
    np.testing.assert_allclose(session.weights(IDS, MASK), expected, atol=1e-5)


def test_the_activation_is_applied_outside_too(model: Path, unpooled: Session) -> None:
    twice = Session(model, activation="log1p_log1p").weights(IDS, MASK)
    np.testing.assert_allclose(twice, np.log1p(unpooled.weights(IDS, MASK)), atol=1e-6)


@settings(max_examples=40)
@given(extra=st.integers(0, 9), order=st.permutations(range(4)))
def test_order_and_padding_never_change_a_vector_pooled_outside(
    unpooled: Session, extra: int, order: Any
) -> None:
    ids, mask = (np.pad(array[order], ((0, 0), (0, extra))) for array in (IDS, MASK))
    np.testing.assert_allclose(unpooled.weights(ids, mask), unpooled.weights(IDS, MASK)[order], atol=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
def test_several_threads_get_the_same_vectors_as_one(model: Path, pooled: Session) -> None:
    session = Session(pooled_graph(model) if pooled else model)
    once = session.weights(IDS, MASK)
    with ThreadPoolExecutor(8) as pool:
        for weights in pool.map(lambda _: session.weights(IDS, MASK), range(64)):
            np.testing.assert_array_equal(weights, once)


# max_pool


@given(
    arrays.arrays(np.float32, (2, 5, 7), elements=st.floats(-100, 100, width=32)),
    arrays.arrays(np.int64, (2, 5), elements=st.integers(0, 1)),
)
def test_max_pool_computes_the_formula_of_the_paper(logits: Any, mask: Any) -> None:
    paper = np.max(np.log1p(np.maximum(logits, 0)) * mask[:, :, None], axis=1)
    np.testing.assert_allclose(max_pool(logits, mask), paper, rtol=1e-6)
    np.testing.assert_allclose(max_pool(logits, mask, activation="log1p_log1p"), np.log1p(paper), rtol=1e-6)


def test_padding_cannot_win_the_max() -> None:
    logits = np.array([[[1.0], [50.0]]], dtype=np.float32)
    assert max_pool(logits, np.array([[1, 0]])) == pytest.approx(np.log1p(1.0))


@pytest.mark.parametrize("shape", [(2, 5), (1, 5, 7), (2, 4, 7)])
def test_logits_of_another_shape_are_refused(shape: Any) -> None:
    with pytest.raises(ModelOutputError, match=r"returned shape .*, expected \(2, 5, 'vocabulary'\)"):
        max_pool(np.zeros(shape, dtype=np.float32), np.ones((2, 5), dtype=np.int64))


# Errors


@pytest.mark.parametrize(
    "providers",
    [[], (), CPU, [(CPU,)], [(CPU, {}, {})], [(CPU, "device_id")], [({}, CPU)], [3]],
)
def test_providers_must_be_a_list_of_names_or_of_names_with_options(providers: Any) -> None:
    with pytest.raises(InputError, match=r"expected a list of names.*such as \['CPUExecutionProvider'\]"):
        checked_providers(providers)


def test_a_provider_that_is_not_available_is_named() -> None:
    for providers in (["CudaExecutor"], [("CudaExecutor", {"device_id": 1})]):
        with pytest.raises(InputError, match=r"no CudaExecutor \(found: .*CPUExecutionProvider"):
            checked_providers(providers)


def test_options_of_a_provider_reach_onnx_runtime(model: Path, unpooled: Session) -> None:
    arena = checked_providers([(CPU, {"arena_extend_strategy": "kSameAsRequested"})])

    assert arena == [Provider(CPU, (("arena_extend_strategy", "kSameAsRequested"),))]
    session = Session(model, providers=arena)
    np.testing.assert_array_equal(session.weights(IDS, MASK), unpooled.weights(IDS, MASK))


def test_a_provider_that_onnx_runtime_replaces_by_the_processor_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime itself opens this session on the processor alone, as it does where CUDA has no driver.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, "CUDAExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=r"could not start CUDAExecutionProvider and would use CPU"):
            Session(model, providers=checked_providers(["CUDAExecutionProvider"]))


def test_a_session_never_continues_on_the_processor_where_a_device_fails_later(unpooled: Session) -> None:
    # ONNX Runtime's own switch: without it, a call that fails on the device is repeated on the processor.
    assert not unpooled._backend._enable_fallback


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_int8_is_refused_on_devices_where_the_processor_would_compute_it(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, provider])
    with pytest.raises(InputError, match=f"{provider} has no products of 8-bit codes.*precision='fp16'"):
        SparseTextEmbedding(providers=[provider])  # the bundled model exists only as int8


def test_device_ids_are_an_option_of_the_first_provider() -> None:
    cuda = Provider.of("CUDAExecutionProvider", {"device_id": 7, "gpu_mem_limit": 10})

    sessions = on_devices([cuda, Provider(CPU)], [0, 3])

    options = [dict(first.options) for first, _ in sessions]
    assert options == [{"device_id": device, "gpu_mem_limit": "10"} for device in ("0", "3")]
    assert all(rest == [Provider(CPU)] for _, *rest in sessions)
    with pytest.raises(InputError, match="CPUExecutionProvider has no devices"):
        on_devices([Provider(CPU)], [0])
    for wrong in ([0, 0], [-1], [True], ["0"]):
        with pytest.raises(InputError, match="expected different ints"):
            on_devices([cuda], wrong)  # type: ignore[arg-type]


def test_batches_run_on_all_devices_at_once_and_return_the_same_weights(model: Path) -> None:
    class Counted(Session):
        """A session that waits until the other one computes too."""

        batches = 0

        def weights(self, input_ids: Any, attention_mask: Any) -> Any:
            self.batches += 1
            both.wait(timeout=20)
            return super().weights(input_ids, attention_mask)

    both = threading.Barrier(2)
    sessions = [Counted(model), Counted(model)]
    devices = DeviceSessions(sessions)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda row: devices.weights(IDS[[row]], MASK[[row]]), range(4)))

    assert [session.batches for session in sessions] == [2, 2]
    np.testing.assert_array_equal(np.concatenate(rows), Session(model).weights(IDS, MASK))


def test_a_device_whose_batch_failed_is_free_again(model: Path) -> None:
    devices = DeviceSessions([Session(model), Session(model)])
    for _ in range(3):
        with pytest.raises(ModelOutputError):
            devices.weights(IDS + 10_000, MASK)

    assert devices._running == [0, 0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"no model file .*model\.onnx"):
        Session(tmp_path / "model.onnx")


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"<html>404</html>")
    with pytest.raises(ModelGraphError, match=r"ONNX Runtime cannot open .*model\.onnx"):
        Session(tmp_path / "model.onnx")


def test_inputs_other_than_a_text_encoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelGraphError, match="has the inputs pixels, input_ids; expected input_ids"):
        Session(save_constant(tmp_path / "model.onnx", inputs=("pixels", "input_ids")))


def test_an_output_of_another_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelGraphError, match=r"returns weights \[4\]; expected weights \(batch, vocab\)"):
        Session(save_constant(tmp_path / "model.onnx", shape=(4,)))


def test_a_graph_that_ignores_the_batch_is_refused(tmp_path: Path) -> None:
    session = Session(save_constant(tmp_path / "model.onnx", shape=(2, 3)))
    with pytest.raises(ModelOutputError, match=r"returned shape \(2, 3\), expected \(4, vocabulary\)"):
        session.weights(IDS, MASK)


def test_an_id_outside_the_vocabulary_raises_a_clear_error(model: Path) -> None:
    ids = IDS.copy()
    ids[1, 2] = SHAPE.vocab
    with pytest.raises(ModelOutputError, match=r"shape \(4, 12\) with ids up to 300: .*the tokenizer"):
        Session(pooled_graph(model)).weights(ids, MASK)
