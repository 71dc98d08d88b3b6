"""Encoding speed and memory at BERT-base shapes, beside FastEmbed on the same file and texts.

    python -m benchmarks.encode                     # about 5 minutes on two idle cores, needs 12 GB
    python -m benchmarks.encode --quick             # one minute, figures for orientation only
    python -m benchmarks.encode --write             # puts the table into docs/benchmarks.md
    python -m benchmarks.encode --device cuda       # on a GPU, needs onnxruntime-gpu

Each contender runs in a separate process, which opens the model, encodes a batch to warm up, and encodes the
sample. If that takes less than 15 seconds, it is a warm-up too, and the sample is encoded repeatedly for 15
seconds, which is measured. FastEmbed's best batch size and this package run three times, in turn, and the
median of each is reported, so that other load on the machine affects all of them. The slow batch sizes,
which take minutes, run once. Peak memory is that of the process.

Arithmetic is counted from the shapes of the model, for tokens without padding, whether it is executed or
saved: this package skips decoder columns that cannot have a weight (`decoder_screening.py`). The processor's
peak is the best matrix product of the same precision that numpy (all threads) or ONNX Runtime (one
single-threaded session per core) reached in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.bert_base import bert_base
from benchmarks.machine import gpu, in_a_process, peak_memory_mb, processor, report, versions
from benchmarks.page import ratio, write
from splade_retriever.encoding.encode_stream import cores
from splade_retriever.encoding.model_cards import Precision
from splade_retriever.encoding.session import checked_providers
from tests.mlm_graphs import BERT_BASE, Shape, real_texts

MODEL = "prithivida/Splade_PP_en_v1"
MIN_SECONDS = 15.0
COMPARED = 24


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    package: str
    batch_size: int | None = None
    precision: Precision = "fp32"
    rounds: Literal[1, 3] = 3
    providers: tuple[str, ...] | None = None


CONTENDERS = [
    Contender("FastEmbed, batch 1", "fastembed", 1),
    Contender("FastEmbed, batch 8", "fastembed", 8, rounds=1),
    Contender("FastEmbed, batch 32", "fastembed", 32, rounds=1),
    Contender("splade-retriever, fp32", "splade_retriever"),
    Contender("splade-retriever, int8", "splade_retriever", precision="int8"),
]

CUDA = ("CUDAExecutionProvider",)
ON_CUDA = [
    Contender("FastEmbed, batch 8", "fastembed", 8, providers=CUDA),
    Contender("FastEmbed, batch 32", "fastembed", 32, providers=CUDA),
    Contender("FastEmbed, batch 128", "fastembed", 128, providers=CUDA),
    Contender("splade-retriever, fp32", "splade_retriever", providers=CUDA),
    Contender("splade-retriever, fp16", "splade_retriever", precision="fp16", providers=CUDA),
]


def main() -> None:
    """Parse the arguments, run every contender, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=96, help="texts of the sample")
    parser.add_argument(
        "--texts-from", type=Path, help="JSONL(.gz) file with a `text` a line, in place of ours"
    )
    parser.add_argument("--model", type=Path, default=Path("runs/benchmarks/bert-base"), help="model folder")
    parser.add_argument("--quick", action="store_true", help="16 texts, once, FastEmbed's batch 32 left out")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the models run")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender == "peak":
        print(json.dumps(product_peaks()))
    elif arguments.contender:
        listed = CONTENDERS if arguments.device == "cpu" else ON_CUDA
        contender = next(c for c in listed if c.name == arguments.contender)
        print(
            json.dumps(
                run(
                    contender,
                    arguments.model,
                    json.loads(arguments.sample.read_text("utf-8")),
                    arguments.quick,
                )
            )
        )
    elif arguments.device == "cuda":
        benchmark_on_cuda(arguments)
    else:
        benchmark(arguments)


def benchmark(arguments: argparse.Namespace) -> None:
    """Run every contender in its own process and report."""
    started = time.perf_counter()
    model, sample, lengths = prepared(arguments)
    rewriting = {
        precision: in_a_process(
            "from pathlib import Path; import sys; "
            "from splade_retriever.encoding.onnx.pooled_model import pooled_graph;"
            "pooled_graph(Path(sys.argv[1]) / 'model.onnx', screened=True,"
            f"precision={precision!r}); print('null')",
            str(model),
        )[1]
        for precision in ("fp32", "int8")
    }
    peaks = []
    runs: dict[str, list[Any]] = {
        contender.name: [] for contender in CONTENDERS if not (arguments.quick and contender.batch_size == 32)
    }
    for contender in in_turn(
        [contender for contender in CONTENDERS if contender.name in runs], arguments.quick
    ):
        peaks.append(in_a_process(*command_for(arguments, model, sample, "peak"))[0])
        report(f"peaks in GOP/s: {peaks[-1] or 'failed'}; now {contender.name} ...")
        runs[contender.name].append(in_a_process(*command_for(arguments, model, sample, contender.name))[0])
    results = {name: median(figures) for name, figures in runs.items()}
    peak = {kind: max(measured[kind] for measured in peaks if measured) for kind in ("fp32", "int8")}
    lines = [
        *conditions(lengths, peak, rewriting, arguments.quick),
        "",
        *table(results, lengths, peak),
        "",
        *agreement(results),
    ]
    print("\n".join(lines))
    report(f"took {time.perf_counter() - started:.0f} s")
    if arguments.write:
        write("encode", "Encoding", "\n".join(lines))


def benchmark_on_cuda(arguments: argparse.Namespace) -> None:
    """Run every contender on a GPU in its own process and report.

    Raises:
        InputError: If ONNX Runtime has no CUDA.
    """
    checked_providers(CUDA)
    model, sample, lengths = prepared(arguments)
    runs: dict[str, list[Any]] = {contender.name: [] for contender in ON_CUDA}
    for contender in in_turn(ON_CUDA, arguments.quick):
        report(f"{contender.name} ...")
        runs[contender.name].append(in_a_process(*command_for(arguments, model, sample, contender.name))[0])
    results = {name: median(figures) for name, figures in runs.items()}
    lines = [
        f"`python -m benchmarks.encode --device cuda`, {gpu()}, {versions('fastembed', 'numpy')}.",
        f"{len(lengths)} English texts of {np.mean(lengths):.0f} tokens on average; BERT-base shapes.",
        "",
        *device_table(results, lengths),
        "",
        *agreement({"FastEmbed, batch 1": results["FastEmbed, batch 8"], **results}),
    ]
    print("\n".join(lines))
    if arguments.write:
        write("encode-cuda", "Encoding on a GPU", "\n".join(lines))


def prepared(arguments: argparse.Namespace) -> tuple[Path, Path, list[int]]:
    """Write the model and the sample; return their paths, and the tokens of each text."""
    count = min(arguments.texts, 16) if arguments.quick else arguments.texts
    arguments.model.parent.mkdir(parents=True, exist_ok=True)
    model = bert_base(arguments.model)
    sample = model.parent / "sample.json"
    texts = from_file(arguments.texts_from, count) if arguments.texts_from else passages(count)
    sample.write_text(json.dumps(texts), encoding="utf-8")
    return model, sample, token_lengths(model, texts)


def in_turn(contenders: Sequence[Contender], quick: bool) -> Iterator[Contender]:
    """Yield each contender once per run, round by round; with `quick` once."""
    for number in range(1 if quick else max(contender.rounds for contender in contenders)):
        yield from (contender for contender in contenders if number < contender.rounds)


def median(runs: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the run of median speed; None if one failed."""
    completed = [run for run in runs if run is not None]
    return (
        sorted(completed, key=lambda run: run["seconds"])[len(completed) // 2]
        if len(completed) == len(runs)
        else None
    )


def command_for(arguments: argparse.Namespace, model: Path, sample: Path, contender: str) -> list[str]:
    """Return the program and arguments that run one contender of this module."""
    program = "from benchmarks.encode import main; main()"
    settings = ["--device", arguments.device, *(["--quick"] if arguments.quick else [])]
    return [program, "--contender", contender, "--model", str(model), "--sample", str(sample), *settings]


# The sample


def passages(count: int) -> list[str]:
    """Cut passages of 10 to 380 words from the example corpus, half of them under 75."""
    words = " ".join(real_texts()).split()
    chance = random.Random(0)
    texts = []
    for _ in range(count):
        length = int(min(380, max(10, chance.lognormvariate(4.3, 0.7))))
        start = chance.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def from_file(path: Path, count: int) -> list[str]:
    """Draw texts from a JSONL file, plain or gzipped."""
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        texts = [text for line in file if (text := json.loads(line).get("text", "").strip())]
    if not texts:
        raise SystemExit(f"File {path} has no line with a `text`. Expected one JSON object per line.")
    return random.Random(0).sample(texts, min(count, len(texts)))


def token_lengths(model: Path, texts: list[str]) -> list[int]:
    """Count the tokens of each text that the model reads."""
    from splade_retriever.encoding.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(model / "tokenizer.json", max_length=BERT_BASE.positions)
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


# Measuring


def run(contender: Contender, model: Path, texts: list[str], quick: bool) -> dict[str, Any]:
    """Measure one contender in this process."""
    started = time.perf_counter()
    embed = opened(contender, model)
    loaded = time.perf_counter() - started
    for _ in embed(texts[: contender.batch_size or 8]):
        pass
    started = time.perf_counter()
    vectors = list(embed(texts))
    seconds = time.perf_counter() - started
    if not quick and seconds < MIN_SECONDS:
        started = time.perf_counter()
        encoded = sum(1 for _ in embed(repeated(texts, until=started + MIN_SECONDS)))
        seconds = (time.perf_counter() - started) * len(texts) / encoded
    return {
        "seconds": seconds,
        "load_seconds": loaded,
        "peak_mb": peak_memory_mb(),
        "active": float(np.mean([len(vector.indices) for vector in vectors])),
        "vectors": [
            dict(zip(v.indices.tolist(), v.values.tolist(), strict=True)) for v in vectors[:COMPARED]
        ],
    }


def repeated(texts: list[str], *, until: float) -> Iterator[str]:
    """Yield all texts repeatedly, until the clock has passed a time."""
    while time.perf_counter() < until:
        yield from texts


def opened(contender: Contender, model: Path) -> Any:
    """Open the contender's model and return its `embed` with the settings of the row."""
    if contender.package == "fastembed":
        import fastembed

        fastembed_model: Any = fastembed.SparseTextEmbedding(
            MODEL, specific_model_path=str(model), providers=contender.providers
        )
        return partial(fastembed_model.embed, batch_size=contender.batch_size)
    import splade_retriever

    model_here = splade_retriever.SparseTextEmbedding(
        MODEL, specific_model_path=str(model), precision=contender.precision, providers=contender.providers
    )
    return model_here.embed


def product_peaks() -> dict[str, float]:
    """Return the best rates of a matrix product on all cores, in 10^9 operations per second, by precision."""
    size = 1536
    left, right = (np.random.default_rng(n).standard_normal((size, size), np.float32) for n in (0, 1))
    in_numpy = best_rate(lambda: left @ right, 2 * size**3)
    return {"fp32": max(in_numpy, onnx_runtime_peak("fp32")), "int8": onnx_runtime_peak("int8")}


def onnx_runtime_peak(precision: str, *, threads: int | None = None) -> float:
    """Return the rate of ONNX Runtime's products, one single-threaded call per thread; None for all cores."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    # For one thread, a product that ends before the system lets another program run.
    rows, inner, columns = (768, 768, 3072) if threads is None else (512, 768, 768)
    random = np.random.default_rng(0)
    if precision == "int8":
        operator, left_type, right_type = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        matrix: NDArray[Any] = random.integers(-127, 128, (inner, columns)).astype(np.int8)
        x: NDArray[Any] = random.integers(0, 256, (rows, inner)).astype(np.uint8)
    else:
        operator, left_type, right_type = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        matrix = random.standard_normal((inner, columns), np.float32)
        x = random.standard_normal((rows, inner), np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", left_type, [rows, inner])],
        [helper.make_tensor_value_info("y", right_type, [rows, columns])],
        [numpy_helper.from_array(matrix, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    calls = 24 if threads is None else threads
    with ThreadPoolExecutor(threads or cores()) as pool:
        return best_rate(
            lambda: list(pool.map(lambda _: session.run(None, {"x": x}), range(calls))),
            2 * rows * inner * columns * calls,
        )


def best_rate(call: Any, operations: int) -> float:
    """Return the best rate over about a second, in 10^9 operations per second."""
    call()
    best, end = float("inf"), time.perf_counter() + 1.0
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return operations / best / 1e9


def operations(tokens: int, shape: Shape = BERT_BASE) -> int:
    """Count the multiplications and additions of the products for one text."""
    hidden = shape.hidden
    layer = 2 * tokens * (4 * hidden**2 + 2 * hidden * shape.inner) + 4 * tokens**2 * hidden
    return shape.layers * layer + 2 * tokens * hidden * (hidden + shape.vocab)


# Report


def conditions(
    lengths: list[int], peak: dict[str, float], rewriting: dict[str, float], quick: bool
) -> Iterator[str]:
    """Describe the machine, the versions and the sample."""
    low, middle, high = (int(np.percentile(lengths, part)) for part in (5, 50, 95))
    packages = versions("fastembed", "onnxruntime", "numpy")
    yield f"`python -m benchmarks.encode`, {processor()}, {packages}."
    yield (
        f"{len(lengths)} English texts of {low} / {middle} / {high} tokens (5 % / median / 95 %), "
        f"{np.mean(lengths):.0f} on average; BERT-base shapes, "
        f"{sum(map(operations, lengths)) / 1e9:,.0f} GFLOP."
    )
    if quick:
        yield "One run each, after a batch to warm up: for orientation only."
    else:
        slow = " and ".join(contender.name for contender in CONTENDERS if contender.rounds == 1)
        yield f"Each warm, and the median of three runs in turn; {slow} ran once."
    yield (
        "Arithmetic that is saved counts, too: in fp32, decoder columns that cannot weigh are only bounded, "
        "in 8 bits. "
        f"Best matrix product in the run: {peak['fp32']:.0f} GFLOP/s in float32, {peak['int8']:.0f} GOP/s in "
        f"int8. Rewriting the graph, once: "
        + ", ".join(f"{seconds:.1f} s for {precision}" for precision, seconds in rewriting.items())
        + "."
    )


def table(results: dict[str, Any], lengths: list[int], peak: dict[str, float]) -> Iterator[str]:
    """Format the figures as Markdown, with ratios to FastEmbed's best batch size and to its batch 32."""
    fastembed = {n: results.get(f"FastEmbed, batch {n}") for n in (1, 8, 32)}
    best = min((f["seconds"] for f in fastembed.values() if f), default=float("nan"))
    slow = fastembed[32]["seconds"] if fastembed[32] else float("nan")
    large = fastembed[32]["peak_mb"] if fastembed[32] else float("nan")
    work = sum(map(operations, lengths)) / 1e9
    yield (
        "| | texts/s | tokens/s | G(FL)OP/s | of its product's peak | against FastEmbed's best | "
        "against its batch 32 | peak memory | of batch 32's | opens in |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    precisions = {contender.name: contender.precision for contender in CONTENDERS}
    for name, figures in results.items():
        if figures is None:
            yield f"| {name} | failed | | | | | | | | |"
            continue
        seconds, memory = figures["seconds"], figures["peak_mb"]
        yield (
            f"| {name} | {len(lengths) / seconds:.2f} | {sum(lengths) / seconds:,.0f} "
            f"| {work / seconds:.0f} | {work / seconds / peak[precisions[name]]:.0%} "
            f"| {ratio(best / seconds)} | {ratio(slow / seconds)} "
            f"| {memory:,.0f} MB | {share(memory / large)} | {figures['load_seconds']:.1f} s |"
        )


def device_table(results: dict[str, Any], lengths: list[int]) -> Iterator[str]:
    """Format the figures of a GPU as Markdown, with ratios to FastEmbed's best batch size."""
    seconds = {name: figures["seconds"] for name, figures in results.items() if figures}
    fastembed = [value for name, value in seconds.items() if name.startswith("FastEmbed")]
    best = min(fastembed, default=float("nan"))
    yield "| | texts/s | tokens/s | against FastEmbed's best | peak memory of the process | opens in |"
    yield "|---|---|---|---|---|---|"
    for name, figures in results.items():
        if figures is None:
            yield f"| {name} | failed | | | | |"
            continue
        yield (
            f"| {name} | {len(lengths) / seconds[name]:.1f} | {sum(lengths) / seconds[name]:,.0f} "
            f"| {ratio(best / seconds[name])} | {figures['peak_mb']:,.0f} MB "
            f"| {figures['load_seconds']:.1f} s |"
        )


def agreement(results: dict[str, Any]) -> Iterator[str]:
    """Describe how much the vectors of the contenders differ."""
    reference = results.get("FastEmbed, batch 1")
    for contender in CONTENDERS:
        figures = results.get(contender.name)
        if contender.package == "fastembed" or not figures or not reference:
            continue
        pairs = list(zip(reference["vectors"], figures["vectors"], strict=True))
        furthest = max(abs(a.get(i, 0) - b.get(i, 0)) for a, b in pairs for i in a.keys() | b.keys())
        cosine = np.mean([similarity(a, b) for a, b in pairs])
        yield (
            f"{contender.name}: weights at most {furthest:.2g} from FastEmbed's, cosine {cosine:.6f}, "
            f"{figures['active']:.0f} active dimensions against {reference['active']:.0f}."
        )


def similarity(one: dict[str, float], two: dict[str, float]) -> float:
    """Return the cosine of two sparse vectors."""
    dot = sum(weight * two.get(index, 0.0) for index, weight in one.items())
    return dot / float(np.linalg.norm(list(one.values())) * np.linalg.norm(list(two.values())))


def share(value: float) -> str:
    """Write a fraction as 1/n."""
    return f"1/{1 / value:.1f}" if np.isfinite(value) else "-"


if __name__ == "__main__":
    main()
