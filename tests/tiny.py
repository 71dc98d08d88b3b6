"""A tiny masked language model as an ONNX export of logits, for tests of fp32 and of unpooled graphs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, normalizers, pre_tokenizers, processors

WIDTH = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "moon", "mission", "lunar", "rover", "lands", "near", "south", "pole", "water"]
WORDS += ["ice", "orbit", "india", "space", "rocket", "in", "of", "a"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = [*SPECIAL, *WORDS, *[letter for letter in LETTERS if letter not in WORDS]]
VOCABULARY += [f"##{letter}" for letter in LETTERS]


def write_tiny_model(
    folder: Path, *, max_length: int = 32, name: str = "model.onnx", seed: int = 0, **config: Any
) -> Path:
    """Write `tokenizer.json`, `config.json` and the graph; `name` may contain a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(
        folder / "config.json",
        {
            "architectures": ["BertForMaskedLM"],
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": max_length,
            **config,
        },
    )
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    onnx.save(_graph(seed), str(path))
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def tiny_tokenizer() -> tokenizers.Tokenizer:
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def tiny_weights(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "words": draw.normal(size=(len(VOCABULARY), WIDTH)).astype(np.float32),
        "mixer": draw.normal(scale=WIDTH**-0.5, size=(WIDTH, WIDTH)).astype(np.float32),
        "decoder": draw.normal(size=(WIDTH, len(VOCABULARY))).astype(np.float32),
        "bias": draw.normal(size=len(VOCABULARY)).astype(np.float32) - 2,
    }


def tiny_logits(ids: list[int], seed: int = 0) -> np.ndarray:
    """Compute what the graph computes for one text, in numpy: words + their mean, two products, a bias."""
    weights = tiny_weights(seed)
    words = weights["words"][ids]
    hidden = (words + words.mean(axis=0)) @ weights["mixer"]
    logits: np.ndarray = hidden @ weights["decoder"] + weights["bias"]
    return logits


def _graph(seed: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "tokens"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["mask3", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Add", ["embedded", "mean"], ["context"]),
        helper.make_node("MatMul", ["context", "mixer"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "decoder"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in tiny_weights(seed).items()]
    axes = [
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", len(VOCABULARY)])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [*weights, *axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
