"""BERT-like MLM models with random weights: as ONNX files of several layouts, and as plain numpy.

The graphs are written operator by operator as in published exports (LayerNorm and GELU in parts, the mask as
(1 - m) * -10000), so that PyTorch is not needed and ONNX Runtime's own fusions apply.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import splade_retriever

FloatArray = NDArray[np.float32]
Decoder = Literal["tied", "untied", "gemm", "gemm_transposed", "no_bias"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    vocab: int = 300
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    inner: int = 64
    positions: int = 64


BERT_BASE = Shape(vocab=30522, hidden=768, layers=12, heads=12, inner=3072, positions=512)


def random_weights(shape: Shape, *, seed: int = 0, decoder_bias: float = -1.0) -> dict[str, FloatArray]:
    """Return random weights; rows have unit size, and a lower `decoder_bias` has fewer active dimensions."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> FloatArray:
        return random.standard_normal((rows, columns), np.float32) * np.float32(rows**-0.5)

    def vector(size: int, middle: float = 0.0) -> FloatArray:
        return random.standard_normal(size, np.float32) * np.float32(0.1) + np.float32(middle)

    hidden = shape.hidden
    weights = {
        "words": random.standard_normal((shape.vocab, hidden), np.float32) * np.float32(hidden**-0.5),
        "positions": random.standard_normal((shape.positions, hidden), np.float32) * np.float32(0.02),
        "types": random.standard_normal((2, hidden), np.float32) * np.float32(0.02),
        "decoder.bias": vector(shape.vocab, decoder_bias),
    }
    matrices = {"dense": (hidden, hidden)}
    norms = ["norm", "dense.norm"]
    for layer in range(shape.layers):
        matrices |= {f"{layer}.{name}": (hidden, hidden) for name in ("query", "key", "value", "output")}
        matrices |= {f"{layer}.up": (hidden, shape.inner), f"{layer}.down": (shape.inner, hidden)}
        norms += [f"{layer}.output.norm", f"{layer}.down.norm"]
    for name, size in matrices.items():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = matrix(*size), vector(size[1])
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = vector(hidden, 1.0), vector(hidden)
    return weights


def mlm_logits(
    weights: dict[str, FloatArray], shape: Shape, input_ids: NDArray[Any], attention_mask: NDArray[Any]
) -> FloatArray:
    """Compute the MLM logits, (batch, tokens, vocab), in plain numpy and float64."""

    def linear(rows: Any, name: str) -> Any:
        return rows @ weights[f"{name}.weight"].astype(np.float64) + weights[f"{name}.bias"]

    def norm(rows: Any, name: str) -> Any:
        middle = rows - rows.mean(-1, keepdims=True)
        scaled = middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(rows: Any) -> Any:
        return rows.reshape(*rows.shape[:2], shape.heads, -1).transpose(0, 2, 1, 3)

    tokens = input_ids.shape[1]
    state = norm(weights["words"][input_ids] + weights["types"][0] + weights["positions"][:tokens], "norm")
    barred = (1.0 - attention_mask[:, None, None, :]) * -10000.0
    for layer in range(shape.layers):
        query, key, value = (heads(linear(state, f"{layer}.{name}")) for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(shape.hidden // shape.heads) + barred
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        context = (shares / shares.sum(-1, keepdims=True)) @ value
        context = context.transpose(0, 2, 1, 3).reshape(state.shape)
        state = norm(state + linear(context, f"{layer}.output"), f"{layer}.output.norm")
        state = norm(
            state + linear(_gelu(linear(state, f"{layer}.up")), f"{layer}.down"), f"{layer}.down.norm"
        )
    state = norm(_gelu(linear(state, "dense")), "dense.norm")
    return (state @ weights["words"].T + weights["decoder.bias"]).astype(np.float32)


def _gelu(rows: Any) -> Any:
    return rows * 0.5 * (1.0 + np.vectorize(math.erf)(rows / math.sqrt(2.0)))


def max_pooled(logits: FloatArray, attention_mask: NDArray[Any]) -> FloatArray:
    """Pool by the formula of the SPLADE paper: max over real tokens of log(1 + relu(logit))."""
    return np.max(np.log1p(np.maximum(logits, 0)) * attention_mask[:, :, None], axis=1)


def save_mlm(
    path: Path,
    weights: dict[str, FloatArray],
    shape: Shape,
    *,
    decoder: Decoder = "untied",
    opset: int = 14,
    half: bool = False,
    external: str | None = None,
    ids_type: int = TensorProto.INT64,
) -> Path:
    """Write the model as ONNX, `input_ids, attention_mask, token_type_ids -> logits`.

    Args:
        path: The file.
        weights: From `random_weights`.
        shape: The sizes of `weights`.
        decoder: The form of the last product: "tied" transposes the word embeddings in the graph, "gemm"
            merges texts and tokens into rows, "gemm_transposed" also keeps the matrix as (vocab, hidden).
        opset: Version of the operators.
        half: Store and compute in float16, with logits cast to float32.
        external: Name of a file beside it for the weights.
        ids_type: Type of the inputs.
    """
    writer = _Writer(opset, np.float16 if half else np.float32)
    for name, value in weights.items():
        if decoder != "no_bias" or name != "decoder.bias":
            writer.put(name, value)
    state = _encoder(writer, shape)
    logits = _decoder(writer, weights, state, decoder)
    if half:
        logits = writer.op("Cast", logits, to=TensorProto.FLOAT)
    writer.nodes[-1].output[0] = "logits"
    inputs = [
        helper.make_tensor_value_info(name, ids_type, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", shape.vocab])
    graph = helper.make_graph(writer.nodes, "mlm", inputs, [output], list(writer.stored.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    if external is None:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=external, size_threshold=128)
    return path


class _Writer:
    def __init__(self, opset: int, kind: type[np.floating[Any]]) -> None:
        self.opset, self.kind = opset, kind
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}

    def put(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(self.kind)
        self.stored.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=result, **attributes))
        return result

    def number(self, value: float) -> str:
        return self.put(f"number_{value}", np.array(value, dtype=np.float32))

    def unsqueeze(self, values: str, axis: int) -> str:
        if self.opset < 13:
            return self.op("Unsqueeze", values, axes=[axis])
        return self.op("Unsqueeze", values, self.put(f"axis_{axis}", np.array([axis])))

    def mean(self, values: str) -> str:
        if self.opset < 18:
            return self.op("ReduceMean", values, axes=[-1])
        return self.op("ReduceMean", values, self.put("axis_-1", np.array([-1])))

    def linear(self, rows: str, name: str) -> str:
        return self.op("Add", self.op("MatMul", rows, f"{name}.weight"), f"{name}.bias")

    def norm(self, rows: str, name: str) -> str:
        middle = self.op("Sub", rows, self.mean(rows))
        spread = self.op("Add", self.mean(self.op("Pow", middle, self.number(2.0))), self.number(1e-12))
        scaled = self.op("Div", middle, self.op("Sqrt", spread))
        return self.op("Add", self.op("Mul", scaled, f"{name}.weight"), f"{name}.bias")

    def gelu(self, rows: str) -> str:
        error = self.op("Erf", self.op("Div", rows, self.number(math.sqrt(2.0))))
        return self.op("Mul", self.op("Mul", rows, self.op("Add", error, self.number(1.0))), self.number(0.5))


def _encoder(writer: _Writer, shape: Shape) -> str:
    size = shape.hidden // shape.heads
    cut = writer.put("cut", np.array([0, 0, shape.heads, size]))
    merged = writer.put("merged", np.array([0, 0, shape.hidden]))
    mask = writer.unsqueeze(writer.unsqueeze("attention_mask", 1), 2)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(writer.kind))
    mask = writer.op("Sub", writer.number(1.0), writer.op("Cast", mask, to=kind))
    mask = writer.op("Mul", mask, writer.number(-10000.0))
    zero, one = writer.put("zero", np.array([0])), writer.put("one", np.array([1]))
    tokens = writer.op("Slice", writer.op("Shape", "input_ids"), one, writer.put("two", np.array([2])))
    places = writer.op("Slice", "positions", zero, tokens)
    state = writer.op(
        "Add", writer.op("Gather", "words", "input_ids"), writer.op("Gather", "types", "token_type_ids")
    )
    state = writer.norm(writer.op("Add", state, places), "norm")
    for layer in range(shape.layers):
        parts = {}
        for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            rows = writer.op("Reshape", writer.linear(state, f"{layer}.{name}"), cut)
            parts[name] = writer.op("Transpose", rows, perm=order)
        scores = writer.op("MatMul", parts["query"], parts["key"])
        scores = writer.op("Add", writer.op("Div", scores, writer.number(math.sqrt(size))), mask)
        context = writer.op("MatMul", writer.op("Softmax", scores, axis=3), parts["value"])
        context = writer.op("Reshape", writer.op("Transpose", context, perm=[0, 2, 1, 3]), merged)
        context = writer.linear(context, f"{layer}.output")
        state = writer.norm(writer.op("Add", context, state), f"{layer}.output.norm")
        inner = writer.linear(writer.gelu(writer.linear(state, f"{layer}.up")), f"{layer}.down")
        state = writer.norm(writer.op("Add", inner, state), f"{layer}.down.norm")
    return writer.norm(writer.gelu(writer.linear(state, "dense")), "dense.norm")


def _decoder(writer: _Writer, weights: dict[str, FloatArray], state: str, decoder: Decoder) -> str:
    if decoder == "tied":
        product = writer.op("MatMul", state, writer.op("Transpose", "words", perm=[1, 0]))
        return writer.op("Add", product, "decoder.bias")
    if decoder in ("untied", "no_bias"):
        product = writer.op("MatMul", state, writer.put("decoder.weight", weights["words"].T))
        return writer.op("Add", product, "decoder.bias") if decoder == "untied" else product
    vocab, hidden = weights["words"].shape
    rows = writer.op("Reshape", state, writer.put("rows", np.array([-1, hidden])))
    if decoder == "gemm":
        rows = writer.op("Gemm", rows, writer.put("decoder.weight", weights["words"].T), "decoder.bias")
    else:
        rows = writer.op("Gemm", rows, "words", "decoder.bias", transB=1)
    sizes = writer.op(
        "Concat", writer.op("Shape", "input_ids"), writer.put("vocab", np.array([vocab])), axis=0
    )
    return writer.op("Reshape", rows, sizes)


def save_folder(folder: Path, shape: Shape, *, seed: int = 0, opset: int = 14) -> Path:
    """Write a model folder that FastEmbed opens too, with the bundled model's tokenizer (BERT's, uncased)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(shape, seed=seed, decoder_bias=-3.0)
    save_mlm(folder / "model.onnx", weights, shape, opset=opset)
    shutil.copyfile(
        Path(splade_retriever.__file__).parent / "bundled" / "tokenizer.json", folder / "tokenizer.json"
    )
    tokens = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{name}_token": token for name, token in tokens.items()}
    for name, content in {
        "config.json": {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "vocab_size": shape.vocab,
            "max_position_embeddings": shape.positions,
            "pad_token_id": 0,
        },
        "tokenizer_config.json": {"model_max_length": shape.positions, "do_lower_case": True, **special},
        "special_tokens_map.json": special,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


def real_texts() -> list[str]:
    """Return the paragraphs of the example corpus: English, from a few words to some hundred."""
    folder = Path(__file__).parent.parent / "examples" / "data" / "astronomy"
    paragraphs = [p for path in sorted(folder.glob("*.md")) for p in path.read_text("utf-8").split("\n\n")]
    return [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()]
