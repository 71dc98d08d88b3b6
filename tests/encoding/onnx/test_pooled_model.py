"""Pooling and quantising MLM graphs, and caching the result."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx import graph_builder
from splade_retriever.encoding.onnx import pooled_model as graph
from splade_retriever.encoding.onnx.pooled_model import pooled_graph
from splade_retriever.encoding.session import Session
from splade_retriever.errors import ModelFilesError, ModelGraphError, SpladeError, StorageError
from tests.mlm_graphs import Shape, max_pooled, mlm_logits, random_weights, save_mlm
from tests.python_process import PythonProcess, run_python

SHAPE = Shape()
WEIGHTS = random_weights(SHAPE, seed=1)
DECODERS = ["tied", "untied", "gemm", "gemm_transposed", "no_bias"]


def batch_of(
    lengths: list[int], *, seed: int = 0, extra: int = 0, shape: Any = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """Return random ids for texts of these lengths, padded with zeros and `extra` more columns."""
    random = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths) + extra), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = random.integers(1, shape.vocab, length)
        mask[row, :length] = 1
    return ids, mask


def expected(ids: Any, mask: Any, weights: Any = WEIGHTS) -> np.ndarray:
    return max_pooled(mlm_logits(weights, SHAPE, ids, mask), mask)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlm(tmp_path_factory.mktemp("model") / "model.onnx", WEIGHTS, SHAPE)


@pytest.fixture(scope="module")
def sessions(model: Path) -> dict[str, Session]:
    return {
        "fp32": Session(pooled_graph(model)),
        "screened": Session(pooled_graph(model, screened=True)),
        "int8": Session(pooled_graph(model, precision="int8")),
    }


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.read_bytes())
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's cache folder of graphs, which is new for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "splade_retriever" / "graphs"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entry(graph: Path | str) -> list[str]:
    name = Path(graph).name
    return [name, f"{name}.data", f"{name}.json"]


# Output


@pytest.mark.parametrize("screened", [False, True])
@pytest.mark.parametrize("opset", [11, 14, 18, 21])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_pooled_graph_returns_the_max_pooled_logits(
    tmp_path: Path, decoder: Any, opset: int, screened: bool
) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, decoder=decoder, opset=opset)
    weights = WEIGHTS | ({"decoder.bias": np.zeros(SHAPE.vocab)} if decoder == "no_bias" else {})
    ids, mask = batch_of([23, 9, 1, 17])
    found = Session(pooled_graph(path, screened=screened)).weights(ids, mask)
    np.testing.assert_allclose(found, expected(ids, mask, weights), atol=1e-5)
    assert 0.2 < (found > 0).mean() < 1


def test_a_vocabulary_of_several_blocks_is_pooled_completely(tmp_path: Path) -> None:
    shape = Shape(vocab=2 * graph_builder.BLOCK + 77, layers=1)
    weights = random_weights(shape)
    pooled = pooled_graph(save_mlm(tmp_path / "model.onnx", weights, shape))
    ids, mask = batch_of([12, 5], shape=shape)
    logits = mlm_logits(weights, shape, ids, mask)
    np.testing.assert_allclose(Session(pooled).weights(ids, mask), max_pooled(logits, mask), atol=1e-5)


def test_the_logits_are_never_computed_at_once(tmp_path: Path) -> None:
    shape = Shape(vocab=2 * graph_builder.BLOCK, layers=1)
    pooled = pooled_graph(save_mlm(tmp_path / "model.onnx", random_weights(shape), shape))
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(pooled)))
    sizes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info]
    assert any(size[-1:] == [graph_builder.BLOCK] and len(size) == 3 for size in sizes)
    assert not any(size[-1:] == [shape.vocab] and len(size) == 3 for size in sizes)


def test_log1p_log1p_applies_log1p_twice(model: Path, sessions: dict[str, Session]) -> None:
    ids, mask = batch_of([8, 3])
    twice = Session(pooled_graph(model, activation="log1p_log1p")).weights(ids, mask)
    np.testing.assert_allclose(twice, np.log1p(sessions["fp32"].weights(ids, mask)), atol=1e-6)


@pytest.mark.parametrize("decoder", ["tied", "gemm_transposed"])
def test_a_float16_file_is_computed_in_float32(tmp_path: Path, decoder: Any) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, decoder=decoder, half=True)
    rounded = {name: value.astype(np.float16).astype(np.float32) for name, value in WEIGHTS.items()}
    ids, mask = batch_of([11, 6])
    pooled = pooled_graph(path)
    # The file also rounds the constants of GELU, not only the weights.
    np.testing.assert_allclose(Session(pooled).weights(ids, mask), expected(ids, mask, rounded), atol=1e-3)
    kinds = {tensor.data_type for tensor in onnx.load(str(pooled)).graph.initializer}
    assert TensorProto.FLOAT16 not in kinds


def test_bfloat16_weights_are_read(copied: Path) -> None:
    cut = {}

    def shorten(graph: Any) -> None:
        for tensor in graph.initializer:
            if tensor.name in WEIGHTS or tensor.name == "decoder.weight":
                bits = numpy_helper.to_array(tensor).view(np.uint32) >> 16
                cut[tensor.name] = (bits << 16).view(np.float32)
                tensor.data_type, tensor.raw_data = TensorProto.BFLOAT16, bits.astype(np.uint16).tobytes()

    pooled = pooled_graph(changed(copied, shorten))
    ids, mask = batch_of([11, 6])
    np.testing.assert_allclose(Session(pooled).weights(ids, mask), expected(ids, mask, cut), atol=1e-5)


def test_32_bit_ids_are_accepted(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, ids_type=TensorProto.INT32)
    ids, mask = batch_of([11, 6])
    np.testing.assert_allclose(Session(pooled_graph(path)).weights(ids, mask), expected(ids, mask), atol=1e-5)


def test_onnx_runtime_still_fuses_what_it_fused_before(tmp_path: Path) -> None:
    shape = Shape(hidden=128, heads=2, inner=256)
    path = save_mlm(tmp_path / "model.onnx", random_weights(shape), shape, opset=11)

    def fused(source: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
        counted = Counter(node.op_type for node in nodes)
        return {
            kind: counted[kind]
            for kind in ("Attention", "BiasGelu", "LayerNormalization", "SkipLayerNormalization")
        }

    before = fused(path)
    assert before["Attention"] == before["BiasGelu"] - 1 == shape.layers
    assert fused(pooled_graph(path)) == before


# Independence of the batch


@pytest.mark.parametrize("precision", ["fp32", "screened", "int8"])
@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    extra=st.integers(0, 20),
    seed=st.integers(0, 1000),
    order=st.randoms(use_true_random=False),
)
def test_batch_order_and_padding_never_change_a_vector(
    sessions: dict[str, Session], precision: Any, *, lengths: list[int], extra: int, seed: int, order: Any
) -> None:
    ids, mask = batch_of(lengths, seed=seed, extra=extra)
    rows = list(range(len(lengths)))
    order.shuffle(rows)
    together = sessions[precision].weights(ids[rows], mask[rows])
    for place, row in enumerate(rows):
        alone = sessions[precision].weights(
            ids[row : row + 1, : lengths[row]], mask[row : row + 1, : lengths[row]]
        )
        np.testing.assert_allclose(together[place], alone[0], atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "screened", "int8"])
def test_the_ids_of_padding_never_change_a_vector(sessions: dict[str, Session], precision: Any) -> None:
    ids, mask = batch_of([20, 7])
    noisy = np.where(mask == 1, ids, 150)
    np.testing.assert_allclose(
        sessions[precision].weights(noisy, mask), sessions[precision].weights(ids, mask), atol=1e-5
    )


# int8


@pytest.mark.parametrize("decoder", DECODERS)
def test_int8_stays_close_to_fp32(tmp_path: Path, decoder: Any) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, decoder=decoder, opset=13)
    ids, mask = batch_of([23, 9, 1, 17])
    exact = Session(pooled_graph(path)).weights(ids, mask)
    coarse = Session(pooled_graph(path, precision="int8")).weights(ids, mask)
    assert np.abs(coarse - exact).sum() < 0.05 * exact.sum()


def test_every_product_with_a_constant_is_quantised_and_rows_only_once(model: Path) -> None:
    nodes = onnx.load(str(pooled_graph(model, precision="int8")), load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    # A layer has six products with four different left factors; the head has one, and the only block of its
    # decoder is pooled before it is scaled.
    assert kinds["MatMulIntegerToFloat"] == 6 * SHAPE.layers + 1
    assert kinds["MatMulInteger"] == 1
    assert kinds["QuantizeLinear"] == 4 * SHAPE.layers + 2
    assert kinds["MatMul"] == 2 * SHAPE.layers  # attention, which has no constant factor


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(("opset", "ir_version", "width"), [(20, 9, None), (20, 9, 64), (21, 10, 64)])
def test_an_int8_product_and_its_bias_have_the_documented_value(
    level: Any, opset: int, ir_version: int, width: int | None
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, 5, 64)).astype(np.float32) * np.array(
        [[[1.0]], [[100.0]]], dtype=np.float32
    )
    weight = random.normal(size=(64, 32)).astype(np.float32)
    bias = random.normal(size=32).astype(np.float32)
    builder = graph_builder.GraphBuilder(opset=opset)
    codes = builder.put("codes", graph_builder.column_codes(weight))
    scale = builder.put("scale", graph_builder.column_scale(weight))
    product = builder.int8_product(builder.row_codes("rows", width=width), codes, scale)
    builder.op("Add", product, builder.put("bias", bias), result="sum")
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            "product",
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["a", "b", 64])],
            [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["a", "b", 32])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in builder.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
    )
    model.ir_version = ir_version
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = Counter(node.op_type for node in builder.nodes)
    assert kinds["QuantizeLinear"] == 1
    assert ("Flatten" in kinds) == (opset < 21 or width is None)
    step = np.abs(rows).max(-1, keepdims=True) / 127
    by_hand = np.rint(rows / step) @ graph_builder.column_codes(weight).astype(np.float64)
    by_hand = by_hand * step * graph_builder.column_scale(weight) + bias
    # A quotient of exactly one half may round up or down, by one code of 127.
    np.testing.assert_allclose(session.run(None, {"rows": rows})[0], by_hand, rtol=1e-2, atol=1e-3)


def test_codes_times_scale_equal_a_column_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    weight[:, 3] = 0
    scale = graph_builder.column_scale(weight)
    off = np.abs(graph_builder.column_codes(weight) * scale - weight)
    assert (off <= scale / 2 * 1.0001).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_infinite_or_nan_weight_is_not_quantised(copied: Path, bad: float) -> None:
    def spoil(graph: Any) -> None:
        (tensor,) = [t for t in graph.initializer if t.name == "0.up.weight"]
        values = numpy_helper.to_array(tensor).copy()
        values[2, 3] = bad
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    with pytest.raises(ModelGraphError, match="A matrix of 32 x 64 cannot be quantised"):
        pooled_graph(changed(copied, spoil), precision="int8")


# Input


def test_a_pooled_graph_is_returned_unchanged(model: Path) -> None:
    pooled = pooled_graph(model)
    assert pooled_graph(pooled) == pooled


def test_a_pooled_graph_can_be_quantised(model: Path, sessions: dict[str, Session], tmp_path: Path) -> None:
    ids, mask = batch_of([23, 9])
    again = Session(pooled_graph(pooled_graph(model), precision="int8", cache=tmp_path))
    exact = sessions["fp32"].weights(ids, mask)
    for coarse in (again.weights(ids, mask), sessions["int8"].weights(ids, mask)):
        assert 0 < np.abs(coarse - exact).sum() < 0.05 * exact.sum()


def test_an_int8_graph_cannot_be_quantised_again(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelGraphError, match="no product with a constant float matrix"):
        pooled_graph(pooled_graph(model, precision="int8"), precision="int8", cache=tmp_path)


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    ids, mask = batch_of([11, 6])
    np.testing.assert_allclose(Session(pooled_graph(path)).weights(ids, mask), expected(ids, mask), atol=1e-5)


def test_a_hub_cache_with_symlinks_is_read(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_mlm(blobs / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    for name, blob in (("model.onnx", "1f"), ("model.bin", "2e")):
        (blobs / name).rename(blobs / blob)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    ids, mask = batch_of([11, 6])
    pooled = pooled_graph(snapshot / "model.onnx")
    assert names_in(snapshot) == ["model.bin", "model.onnx"]
    np.testing.assert_allclose(Session(pooled).weights(ids, mask), expected(ids, mask), atol=1e-5)


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ModelFilesError, match=r"keeps weights in 'model.bin', which is not in"):
        pooled_graph(path)


def test_an_incomplete_weight_file_is_named(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    whole = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFilesError, match=r"cannot be read from .*model\.bin"):
        pooled_graph(path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="There is no model file"):
        pooled_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.999])
def test_an_incomplete_download_is_refused(copied: Path, kept: Any) -> None:
    whole = copied.read_bytes()
    copied.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ModelGraphError, match="not an ONNX model"):
        pooled_graph(copied)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("bytes") / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelGraphError):
        pooled_graph(path)


@settings(max_examples=100)
@given(st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), min_size=1, max_size=3), st.booleans())
def test_a_damaged_file_is_refused_or_still_a_graph(
    model: Path, tmp_path_factory: pytest.TempPathFactory, damage: dict[int, int], int8: bool
) -> None:
    content = bytearray(model.read_bytes())
    for place, byte in damage.items():
        content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(SpladeError):
        pooled_graph(path, precision="int8" if int8 else "fp32")


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_are_never_read_from_outside_the_models_folder(tmp_path: Path, place: str) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelGraphError, match="expected a file beside the model"):
        pooled_graph(path)


def test_logits_are_found_behind_another_output(copied: Path) -> None:
    def pool_the_first_token(graph: Any) -> None:
        graph.node.append(helper.make_node("Gather", ["logits", "zero"], ["rows"], axis=1))
        graph.node.append(helper.make_node("Squeeze", ["rows", "one"], ["pooler"]))
        graph.output.insert(
            0, helper.make_tensor_value_info("pooler", TensorProto.FLOAT, ["batch", SHAPE.vocab])
        )

    ids, mask = batch_of([11, 6])
    pooled = pooled_graph(changed(copied, pool_the_first_token))
    np.testing.assert_allclose(Session(pooled).weights(ids, mask), expected(ids, mask), atol=1e-5)


def changed(path: Path, change: Any) -> Path:
    model = onnx.load(str(path))
    change(model.graph)
    onnx.save(model, str(path))
    return path


def append(kind: str, **attributes: Any) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        graph.node[-1].output[0] = "before"
        graph.node.append(helper.make_node(kind, ["before"], ["logits"], **attributes))

    return change


def fix_the_tokens(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128


def want_positions(graph: Any) -> None:
    graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "tokens"]))
    graph.node.insert(0, helper.make_node("Gather", ["positions", "position_ids"], ["places"]))
    for node in graph.node[1:]:
        if node.op_type == "Slice" and node.input[0] == "positions":
            node.input[:] = ["places", *node.input[1:]]


def lose_the_mask(graph: Any) -> None:
    graph.input[1].name = "mask"
    for node in graph.node:
        node.input[:] = ["mask" if name == "attention_mask" else name for name in node.input]


def stop_at_the_hidden_state(graph: Any) -> None:
    del graph.node[-2:]
    graph.node[-1].output[0] = "logits"
    graph.output[0].type.tensor_type.shape.dim[2].dim_value = SHAPE.hidden


def decode_with_an_input(graph: Any) -> None:
    graph.node[-2].input[1] = "decoder"
    graph.input.append(
        helper.make_tensor_value_info("decoder", TensorProto.FLOAT, [SHAPE.hidden, SHAPE.vocab])
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (append("Sigmoid"), "its output 'logits' ends in Sigmoid"),
        (append("Softmax", axis=-1), "its output 'logits' ends in Softmax"),
        (stop_at_the_hidden_state, "its output 'logits' ends in Mul"),
        (decode_with_an_input, "its output 'logits' ends in MatMul"),
        (fix_the_tokens, r"input_ids has the fixed shape \[0, 128\]"),
        (want_positions, "it also needs the input position_ids"),
        (lose_the_mask, r"no input attention_mask \(found: input_ids, mask, token_type_ids\)"),
    ],
)
def test_a_graph_that_cannot_be_pooled_is_refused_with_the_reason(
    copied: Path, change: Any, found: str
) -> None:
    changed(copied, change)
    with pytest.raises(ModelGraphError, match=found) as caught:
        pooled_graph(copied)
    assert "Expected an MLM export" in str(caught.value)
    assert not list(copied.parent.rglob("*.pooled-*"))


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, opset=10)
    with pytest.raises(ModelGraphError, match="its opset is 10, and the minimum is 11"):
        pooled_graph(path)


# Cache


def test_the_graph_is_written_once(copied: Path, cache: Path) -> None:
    first = pooled_graph(copied)
    written = first.stat().st_mtime_ns, first.stat().st_ino
    assert pooled_graph(copied) == first
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == written
    assert names_in(cache) == entry(first)
    assert names_in(copied.parent) == ["home", "model.onnx"]


def test_a_cached_graph_is_opened_without_importing_onnx(copied: Path) -> None:
    pooled_graph(copied)
    program = (
        "import sys; from pathlib import Path; "
        "from splade_retriever.encoding.onnx.pooled_model import pooled_graph; "
        "pooled_graph(Path(sys.argv[1])); assert 'onnx' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-c", program, str(copied)], check=True)


def test_a_lost_weight_file_is_written_again(copied: Path) -> None:
    first = pooled_graph(copied)
    Path(f"{first}.data").unlink()
    ids, mask = batch_of([5])
    assert Session(pooled_graph(copied)).weights(ids, mask).shape == (1, SHAPE.vocab)


def test_each_combination_of_settings_has_its_own_graph(copied: Path, cache: Path) -> None:
    names = {
        pooled_graph(copied, activation=activation, precision=precision).name
        for activation in ("log1p", "log1p_log1p")
        for precision in ("fp32", "int8")
    }
    assert len(names) == 4
    assert len(names_in(cache)) == 12


def test_a_new_version_or_new_content_replaces_the_old_graph(
    copied: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pooled_graph(copied)
    (cache / "model.pooled.txt").write_text("another file")
    (cache / "other.pooled-1-v2-log1p-fp32.onnx").write_text("of another model")
    monkeypatch.setattr(graph, "VERSION", graph.VERSION + 1)
    second = pooled_graph(copied)
    assert not first.exists()
    save_mlm(copied, random_weights(SHAPE, seed=2), SHAPE)
    third = pooled_graph(copied)
    assert len({first.name, second.name, third.name}) == 3
    others = ["model.pooled.txt", "other.pooled-1-v2-log1p-fp32.onnx"]
    assert names_in(cache) == sorted([*entry(third), *others])


def test_new_content_of_a_weight_file_makes_a_new_graph(tmp_path: Path) -> None:
    path = save_mlm(tmp_path / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    first = pooled_graph(path)
    structure = path.read_bytes()
    (tmp_path / "model.bin").unlink()
    save_mlm(path, random_weights(SHAPE, seed=2), SHAPE, external="model.bin")
    assert path.read_bytes() == structure
    assert pooled_graph(path).name != first.name


def test_two_models_of_the_same_name_can_share_a_cache(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        save_mlm(tmp_path / name / "model.onnx", random_weights(SHAPE, seed=seed), SHAPE)
    folder = tmp_path / "cache"
    paths = {pooled_graph(tmp_path / name / "model.onnx", cache=folder) for name in ("a", "b")}
    assert len(paths) == 2
    assert all(path.is_file() and path.parent == folder for path in paths)
    assert names_in(tmp_path / "a") == ["model.onnx"]


def test_an_error_names_the_folder_that_cannot_be_written(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"file is not a folder\. .*XDG_CACHE_HOME"):
        pooled_graph(copied, cache=tmp_path / "file")
    with pytest.raises(StorageError, match=r"graphs/model.*onnx cannot be written: Not a dir.*\. Free"):
        pooled_graph(copied, cache=tmp_path / "file" / "graphs")


def test_old_partial_files_of_killed_processes_are_removed(copied: Path, cache: Path) -> None:
    prefix = pooled_graph(copied).name.partition("pooled-")[0]
    old, fresh = (cache / f".{prefix}pooled-{n}-v2-log1p-fp32.onnx.7-1.tmp" for n in (1, 2))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    pooled_graph(copied, precision="int8")
    assert not old.exists()
    assert fresh.exists()


ASK = (
    "import sys; from pathlib import Path; "
    "from splade_retriever.encoding.onnx.pooled_model import pooled_graph; "
)
HANG = """
import os, time
def hang(when):
    print(when, flush=True)
    time.sleep(60)
"""
KILLED_WHILE = {
    "half of the weights are written": """
from splade_retriever.encoding.onnx.rewrite import WeightWriter
count = 0
write = WeightWriter.write
def half(self, name, value):
    global count
    count += 1
    return hang("half") if count == 10 else write(self, name, value)
WeightWriter.write = half
""",
    "the weights are written but not renamed": "os.fsync = lambda descriptor: hang('flush')",
    "the weights are renamed but not the graph": """
replace = Path.replace
Path.replace = lambda self, to: replace(self, to) if str(to).endswith(".data") else hang("between")
""",
    "the graph is renamed but not its digests": """
replace = Path.replace
Path.replace = lambda self, to: hang("between") if str(to).endswith(".json") else replace(self, to)
""",
}


def test_processes_that_start_at_once_share_one_valid_graph(copied: Path, cache: Path) -> None:
    program = f"{ASK}print(pooled_graph(Path(sys.argv[1]), precision='int8'))"
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(PythonProcess(program, str(copied))) for _ in range(4)]
        finished = [process.finish() for process in started]
    assert [done.returncode for done in finished] == [0] * 4
    (answer,) = {done.stdout.strip() for done in finished}
    ids, mask = batch_of([5])
    exact = expected(ids, mask)
    assert np.abs(Session(Path(answer)).weights(ids, mask) - exact).sum() < 0.05 * exact.sum()
    assert names_in(cache) == entry(answer)


@pytest.mark.faults
@pytest.mark.parametrize("moment", KILLED_WHILE)
def test_a_process_killed_while_writing_leaves_no_graph(copied: Path, cache: Path, moment: str) -> None:
    program = f"{ASK}{HANG}{KILLED_WHILE[moment]}\npooled_graph(Path(sys.argv[1]))"
    with PythonProcess(program, str(copied)) as process:
        assert process.stdout.readline()
        process.kill()
        assert process.status == -9
    assert not [name for name in names_in(cache) if name.endswith(".json")]
    ids, mask = batch_of([5])
    np.testing.assert_allclose(
        Session(pooled_graph(copied)).weights(ids, mask), expected(ids, mask), atol=1e-5
    )


def test_a_truncated_graph_or_weight_file_is_written_again(copied: Path) -> None:
    ids, mask = batch_of([5])
    for part in ("", ".data", ".json"):
        first = pooled_graph(copied)
        damaged = Path(f"{first}{part}")
        damaged.write_bytes(damaged.read_bytes()[:-1])
        weights = Session(pooled_graph(copied)).weights(ids, mask)
        np.testing.assert_allclose(weights, expected(ids, mask), atol=1e-5)


@pytest.mark.parametrize("part", ["", ".data"])
def test_a_changed_byte_is_found_even_if_size_and_time_are_kept(copied: Path, part: str) -> None:
    graph = pooled_graph(copied)
    path = Path(f"{graph}{part}")
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.05)  # file systems note the time of a change in steps of some milliseconds
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    pooled_graph(copied)

    content[len(content) // 2] ^= 1
    assert path.read_bytes() == bytes(content)


def test_a_copied_cache_is_verified_by_content_and_used(copied: Path, cache: Path) -> None:
    graph = pooled_graph(copied)
    moved = cache.with_name("moved")
    cache.rename(moved)
    shutil.copytree(moved, cache)
    copies = {path.name: path.stat().st_ino for path in cache.iterdir()}

    assert pooled_graph(copied) == graph
    assert {path.name: path.stat().st_ino for path in cache.iterdir()} == copies


def test_a_link_in_the_cache_is_not_used(copied: Path, tmp_path: Path) -> None:
    graph = pooled_graph(copied)
    planted = tmp_path / "planted.onnx"
    graph.rename(planted)
    graph.symlink_to(planted)

    assert not pooled_graph(copied).is_symlink()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_the_cache_is_private_for_any_umask(copied: Path, cache: Path, mask: int) -> None:
    program = f"import os; os.umask({mask}); {ASK}pooled_graph(Path(sys.argv[1]))"
    assert run_python(program, str(copied)).returncode == 0

    for folder in (cache, cache.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    cache.chmod(0o777)
    pooled_graph(copied)
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
def test_files_of_another_user_are_not_used(copied: Path, cache: Path) -> None:
    graph = pooled_graph(copied)
    os.chown(graph, 12345, 12345)
    pooled_graph(copied)
    assert graph.stat().st_uid == 0

    os.chown(cache, 12345, 12345)
    with pytest.raises(StorageError, match=r"belongs to another user \(uid 12345, this process has uid 0"):
        pooled_graph(copied)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "link outside", "folder"])
def test_a_weight_file_that_is_not_a_regular_file_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_mlm(folder / "model.onnx", WEIGHTS, SHAPE, external="model.bin")
    weights = folder / "model.bin"
    weights.rename(tmp_path / "outside.bin")
    if kind == "fifo":
        os.mkfifo(weights)
    elif kind == "folder":
        weights.mkdir()
    else:
        weights.symlink_to("/dev/zero" if kind == "/dev/zero" else tmp_path / "outside.bin")

    with pytest.raises(ModelFilesError, match=r"model\.bin (is not a regular file|is a link to .*outside)"):
        pooled_graph(path)
