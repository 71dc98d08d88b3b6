"""Speed and memory of the bundled model beside a SPLADE of BERT-base shapes, both in int8.

    python -m benchmarks.bundled             # about two minutes on two idle cores
    python -m benchmarks.bundled --write     # puts the table into docs/benchmarks.md

Each model runs in a separate process, on the texts of `benchmarks.encode`: documents on all cores, then
queries of about ten words one by one on one core. The models take turns, and the best of a model's runs
counts, since other programs slow some of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bert_base import bert_base
from benchmarks.encode import MODEL, onnx_runtime_peak, passages, token_lengths
from benchmarks.machine import in_a_process, peak_memory_mb, processor, report, versions
from benchmarks.page import ratio, write
from tests.mlm_graphs import real_texts

TEXTS, QUERIES, QUERY_WORDS = 96, 300, 10
MIN_SECONDS = 8.0
ROUNDS = 3
NAMES = {"bert-base": "BERT-base SPLADE", "bundled": "bundled model"}


def main() -> None:
    """Parse the arguments, measure both models, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/benchmarks/bert-base"), help="model folder")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--measure", choices=[*NAMES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, arguments.model)))
        return
    arguments.model.parent.mkdir(parents=True, exist_ok=True)
    bert_base(arguments.model)
    program = "from benchmarks.bundled import main; main()"
    peaks = [one_core_peaks()]
    runs: dict[str, list[dict[str, Any] | None]] = {name: [] for name in NAMES}
    for turn in range(ROUNDS):
        report(f"round {turn + 1} of {ROUNDS} ...")
        for name, measurements in runs.items():
            command = (program, "--measure", name, "--model", str(arguments.model))
            measurements.append(in_a_process(*command)[0])
    results = {name: best_of(measurements) for name, measurements in runs.items()}
    peaks.append(one_core_peaks())
    best = {precision: max(measured[precision] for measured in peaks) for precision in peaks[0]}
    lines = list(table(results, token_lengths(arguments.model, passages(TEXTS)), best))
    print("\n".join(lines))
    if arguments.write:
        write("bundled", "The bundled model beside BERT-base", "\n".join(lines))


def best_of(runs: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the best rate and times of a model's runs; None if a run failed.

    The memory is that of the last run: the first may write the int8 graph.
    """
    rows = [row for row in runs if row is not None]
    if len(rows) < len(runs):
        return None
    fastest = min(rows, key=lambda row: float(row["p50"]))
    return fastest | {
        "rate": max(row["rate"] for row in rows),
        "opened": min(row["opened"] for row in rows),
        "memory": rows[-1]["memory"],
    }


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Measure one model in this process; `NAMES` has the names."""
    from splade_retriever import SparseTextEmbedding

    options: dict[str, Any] = {"precision": "int8"}
    if name == "bert-base":
        options |= {"model_name": MODEL, "specific_model_path": folder}
    started = time.perf_counter()
    model = SparseTextEmbedding(**options)
    opened = time.perf_counter() - started
    texts = passages(TEXTS)
    for _ in model.embed(texts[:8]):
        pass
    seconds, encoded = 0.0, 0
    while seconds < MIN_SECONDS:
        started = time.perf_counter()
        encoded += sum(1 for _ in model.embed(texts))
        seconds += time.perf_counter() - started
    memory = peak_memory_mb()
    alone = SparseTextEmbedding(threads=1, **options)
    taken = []
    for query in queries():
        started = time.perf_counter()
        next(alone.query_embed(query))
        taken.append(time.perf_counter() - started)
    return {
        "rate": encoded / seconds,
        "opened": opened,
        "memory": memory,
        "p50": 1e3 * float(np.percentile(taken[20:], 50)),
        "p95": 1e3 * float(np.percentile(taken[20:], 95)),
    }


def one_core_peaks() -> dict[str, float]:
    """Return the best rates of ONNX Runtime's products on one core, in 10^9 operations per second."""
    return {precision: onnx_runtime_peak(precision, threads=1) for precision in ("fp32", "int8")}


def queries() -> Iterator[str]:
    """Cut runs of ten words out of the example corpus."""
    words = iter(" ".join(text for text in real_texts() if not text.startswith("#")).split())
    for _ in range(QUERIES):
        yield " ".join(islice(words, QUERY_WORDS))


def table(results: dict[str, Any], lengths: list[int], peaks: dict[str, float]) -> Iterator[str]:
    """Format the figures as Markdown lines; `peaks` are those of `one_core_peaks`."""
    yield f"`python -m benchmarks.bundled`, {processor()}, {versions('onnxruntime', 'numpy')}."
    yield (
        f"{len(lengths)} English texts of {np.mean(lengths):.0f} tokens on average, on all cores; queries of "
        f"{QUERY_WORDS} words, one by one, on one core; int8. Best products in the run, on one core: "
        f"{peaks['fp32']:.0f} GFLOP/s in float32, {peaks['int8']:.0f} GOP/s in int8. The best of "
        f"{ROUNDS} runs of each model, which took turns."
    )
    yield ""
    yield "| | texts/s | against BERT-base | query p50 | query p95 | peak memory | opens in |"
    yield "|---|---|---|---|---|---|---|"
    base = (results.get("bert-base") or {}).get("rate", float("nan"))
    for name, row in results.items():
        if row is None:
            yield f"| {NAMES[name]} | failed | | | | | |"
            continue
        yield (
            f"| {NAMES[name]} | {row['rate']:.1f} | {ratio(row['rate'] / base)} | {row['p50']:.1f} ms "
            f"| {row['p95']:.1f} ms | {row['memory']:,.0f} MB | {row['opened']:.1f} s |"
        )


if __name__ == "__main__":
    main()
