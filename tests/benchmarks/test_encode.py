"""What the encoding benchmark counts and writes; the measuring itself takes minutes and runs by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from benchmarks import encode
from splade_retriever import SparseEmbedding
from splade_retriever.errors import InputError
from tests.mlm_graphs import Shape, random_weights, save_mlm


def test_every_product_of_the_graph_is_counted(tmp_path: Path) -> None:
    shape, tokens = Shape(), 11
    graph = onnx.load(str(save_mlm(tmp_path / "model.onnx", random_weights(shape), shape))).graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    matrices = [
        sizes[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in sizes
    ]
    linear = sum(2 * tokens * rows * columns for rows, columns in matrices)
    attention = 2 * shape.layers * 2 * tokens * tokens * shape.hidden
    assert encode.operations(tokens, shape) == linear + attention


def test_passages_are_the_same_in_every_run_and_of_mixed_length() -> None:
    first, second = encode.passages(40), encode.passages(40)
    lengths = [len(text.split()) for text in first]
    assert first == second
    assert min(lengths) < 40
    assert max(lengths) > 150


def figures(seconds: float, peak_mb: float) -> Any:
    return {
        "seconds": seconds,
        "peak_mb": peak_mb,
        "load_seconds": 1.0,
        "active": 2.0,
        "vectors": [{"1": 0.5}],
    }


def test_ratios_are_to_fastembeds_best_and_to_its_batch_32() -> None:
    found = {
        "FastEmbed, batch 1": figures(20.0, 900),
        "FastEmbed, batch 8": None,
        "FastEmbed, batch 32": figures(100.0, 9000),
        "splade-retriever, fp32": figures(10.0, 600),
    }
    lines = encode.table(found, [100, 100], {"fp32": 10.0, "int8": 40.0})
    rows = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert "| 2.00x | 10.00x | 600 MB | 1/15.0 |" in rows["splade-retriever, fp32"]
    assert "failed" in rows["FastEmbed, batch 8"]


def test_a_machine_without_cuda_is_an_error_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["encode", "--device", "cuda", "--model", str(tmp_path / "model")])
    with pytest.raises(InputError, match="has no CUDAExecutionProvider"):
        encode.main()
    assert not list(tmp_path.iterdir())


def test_the_ratios_of_a_gpu_are_to_fastembeds_best_there() -> None:
    figures = {"peak_mb": 10.0, "load_seconds": 1.0}
    results = {
        "FastEmbed, batch 8": {"seconds": 4.0, **figures},
        "FastEmbed, batch 32": {"seconds": 2.0, **figures},
        "splade-retriever, fp16": {"seconds": 0.5, **figures},
        "splade-retriever, fp32": None,
    }
    lines = list(encode.device_table(results, [100, 100]))
    assert lines[4].startswith("| splade-retriever, fp16 | 4.0 | 400 | 4.00x |")
    assert lines[5] == "| splade-retriever, fp32 | failed | | | | |"


def test_contenders_run_in_turn_and_the_median_is_reported() -> None:
    one, two = encode.Contender("one", "package", rounds=1), encode.Contender("two", "package")
    assert list(encode.in_turn([one, two], quick=False)) == [one, two, two, two]
    assert list(encode.in_turn([one, two], quick=True)) == [one, two]
    runs = [figures(seconds, 900) for seconds in (7.0, 2.0, 3.0)]
    assert encode.median(runs) is runs[2]
    assert encode.median([None, *runs]) is None


def test_a_warm_stream_of_the_complete_sample_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, calls = [0.0], []

    def embed(texts: list[str]) -> Any:
        calls.append(0)
        for _ in texts:
            calls[-1] += 1
            clock[0] += 0.5 if len(calls) < 3 else 0.125  # cold at first
            yield SparseEmbedding.from_dict({1: 0.5})

    monkeypatch.setattr(encode, "opened", lambda contender, model: embed)
    monkeypatch.setattr(encode, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    contender = encode.Contender("theirs", "fastembed", batch_size=2)

    found = encode.run(contender, tmp_path, ["text"] * 6, quick=False)

    assert calls == [2, 6, 120]  # a batch, the sample, the sample again and again for 15 seconds
    assert found["seconds"] == 6 * 0.125
    assert found["vectors"] == [{1: 0.5}] * 6
    calls.clear()
    assert encode.run(contender, tmp_path, ["text"] * 6, quick=True)["seconds"] == 6 * 0.5
    assert calls == [2, 6]


def test_texts_come_from_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(9)), encoding="utf-8")
    assert len(set(encode.from_file(path, 5))) == 5
    path.write_text('{"body": "x"}\n', encoding="utf-8")
    with pytest.raises(SystemExit, match="no line with a `text`"):
        encode.from_file(path, 5)
