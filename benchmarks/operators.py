"""Where the time of an int8 model goes, operator by operator, on one core.

    python -m benchmarks.operators             # about two minutes
    python -m benchmarks.operators --write     # puts the tables into docs/benchmarks.md

ONNX Runtime's profiler times each node of the graph; a node counts with the fastest of its runs. A product's
rate is its multiplications and additions per second, beside the best rate of such a product that is measured
in the same process before and after.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.bert_base import bert_base
from benchmarks.encode import MODEL, onnx_runtime_peak, passages
from benchmarks.kernels import rates
from benchmarks.machine import processor, report, versions
from benchmarks.page import write
from splade_retriever import SparseTextEmbedding

RUNS: Final = 60
CASES: Final = {"4 texts of 128 tokens": (4, 128), "a query of 12 tokens": (1, 12)}
PRODUCTS: Final = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
SHAPES: Final = ((512, 384, 1536), (512, 1536, 384), (12, 384, 1536), (12, 1536, 384))
"""Rows, and the two sides of a layer's matrix."""
SHOWN: Final = 10
"""Operators of a table; the others are added up."""


def main() -> None:
    """Parse the arguments, profile both models, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/benchmarks/bert-base"), help="model folder")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    arguments.model.parent.mkdir(parents=True, exist_ok=True)
    lines = list(tables(arguments.model))
    print("\n".join(lines))
    if arguments.write:
        write("operators", "Operators", "\n".join(lines))


def tables(folder: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    load = os.getloadavg()[0]
    peaks = [peak()]
    bert_base(folder)
    models = {
        "bundled model": SparseTextEmbedding(lazy_load=True),
        "BERT-base SPLADE": SparseTextEmbedding(
            MODEL, specific_model_path=folder, precision="int8", lazy_load=True
        ),
    }
    found: dict[str, dict[str, list[Operator]]] = {}
    for name, model in models.items():
        report(f"{name} ...")
        graph = graph_of(model)
        found[name] = {case: profiled(graph, shape) for case, shape in CASES.items()}
        peaks.append(peak())
    best = max(peaks)
    yield f"`python -m benchmarks.operators`, one of {processor()}, {versions('onnxruntime', 'numpy')}."
    yield (
        f"Best int8 product in the run, on one core: {best:.0f} GOP/s. Load of the machine before the run: "
        f"{load:.1f}."
    )
    for name, cases in found.items():
        for case, operators in cases.items():
            total = sum(one.milliseconds for one in operators)
            work = sum(one.operations for one in operators)
            yield ""
            yield (
                f"**{name}, {case}**: {total:.2f} ms, {work / 1e9:.2f} GOP in int8 products, "
                f"{work / 1e6 / total / best:.0%} of the peak over all operators."
            )
            yield ""
            yield from table(operators, best)
    yield ""
    yield "**Products in the shapes of the bundled model**, GOP/s on one core, the best of each kernel:"
    yield ""
    yield from kernel_table()


def kernel_table() -> Iterator[str]:
    """Yield a row per kernel of ONNX Runtime, with its rate for each shape of a product."""
    measured = [dict(rates(*shape)) for shape in SHAPES]
    titles = [f"{rows} rows, {inner} x {columns}" for rows, inner, columns in SHAPES]
    yield f"| kernel | {' | '.join(titles)} |"
    yield f"|---|{'---|' * len(SHAPES)}"
    for name in measured[0]:
        yield f"| {name} | {' | '.join(f'{shape[name]:.0f}' for shape in measured)} |"


def peak() -> float:
    """Return the best rate of an int8 product on one core, in 10^9 operations per second."""
    return onnx_runtime_peak("int8", threads=1)


def graph_of(model: SparseTextEmbedding) -> Path:
    """Return the pooled graph that a model runs."""
    from splade_retriever.encoding.onnx.pooled_model import pooled_graph

    files = model._files
    source = files.onnx_file()
    if files.folder.finished:
        return source
    return pooled_graph(source, activation=files.card.activation, precision=model.precision)


@dataclass(slots=True)
class Operator:
    """All nodes of one operator."""

    name: str
    nodes: int = 0
    milliseconds: float = 0.0
    operations: int = 0
    shapes: set[tuple[int, ...]] = field(default_factory=set)


def profiled(graph: Path, shape: tuple[int, int]) -> list[Operator]:
    """Run a graph on a batch of real texts; return its operators, the slowest first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(graph),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers={"BiasGeluFusion"},
        )
        ids = token_ids(shape)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = {node.name for node in session.get_inputs()}
        for _ in range(RUNS):
            session.run(None, {name: value for name, value in feeds.items() if name in wanted})
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return summed(events)


def token_ids(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the token ids of some texts of the example corpus, cut to one length."""
    texts, tokens = shape
    encodings = SparseTextEmbedding().tokenizer.encode_batch(passages(200))
    cut = [
        encoding.ids[: tokens - 1] + encoding.ids[-1:]
        for encoding in encodings
        if len(encoding.ids) >= tokens
    ]
    return np.array(cut[:texts])


def summed(events: list[dict[str, Any]]) -> list[Operator]:
    """Add up the nodes of each operator, each with the fastest of its runs."""
    durations: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["name"]].append(event["dur"] / 1000)
            nodes[event["name"]] = event["args"]
    operators: dict[str, Operator] = {}
    for name, arguments in nodes.items():
        operator = operators.setdefault(arguments["op_name"], Operator(arguments["op_name"]))
        operator.nodes += 1
        operator.milliseconds += min(durations[name])
        if operator.name in PRODUCTS:
            operator.operations += operations(arguments)
    return sorted(operators.values(), key=lambda one: -one.milliseconds)


def operations(arguments: dict[str, Any]) -> int:
    """Return the multiplications and additions of a product, by the shapes that the profiler saw."""
    (left,), (product,) = (arguments[name][0].values() for name in ("input_type_shape", "output_type_shape"))
    return int(2 * math.prod(product) * left[-1])


def table(operators: list[Operator], best: float) -> Iterator[str]:
    """Yield the rows of the slowest operators, and one of all others."""
    total = sum(one.milliseconds for one in operators)
    rest = operators[SHOWN:]
    others = Operator(f"{len(rest)} others", sum(one.nodes for one in rest))
    others.milliseconds = sum(one.milliseconds for one in rest)
    yield "| operator | nodes | ms | share | GOP/s | of the peak |"
    yield "|---|---|---|---|---|---|"
    for one in [*operators[:SHOWN], others]:
        rate = one.operations / 1e6 / one.milliseconds if one.operations else 0.0
        speed = f"{rate:.0f} | {rate / best:.0%}" if rate else " | "
        times = f"{one.milliseconds:.2f} | {one.milliseconds / total:.0%}"
        yield f"| {one.name} | {one.nodes} | {times} | {speed} |"


if __name__ == "__main__":
    main()
