"""The index against qdrant-client's local mode and bm25s: building, opening, searching, memory, disk.

    python -m benchmarks.index                     # 20,000, 100,000 and 300,000 documents
    python -m benchmarks.index --documents 2000    # figures for orientation only
    python -m benchmarks.index --write             # into docs/benchmarks.md, with a plot
    python -m benchmarks.index --vectors FOLDER    # real vectors, kept by benchmarks.pruning

Each step of each store (build, optimise, open and search) runs in a separate process; its peak memory is
reported, mapped files included. Times start from vectors, or for bm25s from token ids: encoding and
tokenising are not measured. 1,000 searches for the best 10 documents with their texts run one after another,
or as many as half a minute allows. Files are in the system's cache, as directly after writing. The benchmark
takes about 10 minutes on two idle cores, and the time that local mode takes to commit 20,000 points one by
one (some minutes, depending on the disk).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import page
from benchmarks.machine import in_a_process, peak_memory_mb, processor, report, versions
from benchmarks.stores import COLLECTION, STORES, Document, edge, overhead
from benchmarks.vectors import VectorFile, expected_products, splade_like
from splade_retriever.edge.disk_usage import disk_usage

DOCUMENT_DIMS, QUERY_DIMS, SPREAD = 120, 25, 0.25
QUERIES = 1000
WARM_UP = 3
MIN_QUERIES = 20
SEARCHING_S = 30.0
LOCAL_MODE_LIMIT = 20_000
"""Above this number of documents local mode warns."""
PART = 1000
CURVE = Path("img/index_cost.svg")
"""File of the plot, relative to the page."""
EDGE, OPTIMISED, LOCAL, BM25 = "EdgeClient, as added", "EdgeClient, optimised", "local mode", "bm25s"


@dataclass(frozen=True)
class Row:
    """Figures of one store for one number of documents."""

    documents: int
    store: str
    build_s: float
    open_s: float
    p50_ms: float
    p95_ms: float
    queries: int
    """Number of queries in the available time."""
    build_mb: float
    search_mb: float
    disk_mb: float


class StepDiedError(Exception):
    """The process of a step ended without a result; its error is on standard error."""


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, measure, print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, nargs="+", help="default: 20000 100000 300000")
    parser.add_argument("--vectors", type=Path, help="folder that benchmarks.pruning keeps")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks"), help="where indexes are built"
    )
    parser.add_argument("--without", nargs="+", choices=["local", "bm25s"], default=[], help="stores to skip")
    parser.add_argument("--write", action="store_true", help="put the report into docs/benchmarks.md")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.step:
        name, store, folder, vectors = arguments.step
        (count,) = arguments.documents
        print(json.dumps(step(name, store, Path(folder), Path(vectors), count)))
    else:
        benchmark(arguments)


def benchmark(arguments: argparse.Namespace) -> None:
    """Measure every store at every size, and report."""
    if arguments.write and find_spec("matplotlib") is None:
        raise SystemExit("--write draws the cost curve by matplotlib, which is not installed. Install it.")
    started, load = time.perf_counter(), os.getloadavg()[0]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="index-", dir=arguments.folder) as place:
        vectors, sizes = prepared(arguments, Path(place))
        rows: list[Row] = []
        died: list[str] = []
        for count in sizes:
            for store in STORES:
                if store in arguments.without or (store == "local" and count > LOCAL_MODE_LIMIT):
                    continue
                try:
                    rows += measured(store, count, vectors, Path(place) / f"{store}-{count}")
                except StepDiedError as error:
                    died.append(f"- {error}")
        folder = Path(place) / f"edge-{sizes[0]}"
        overheads, _ = in_a_process(*command_for("overhead", "edge", folder, vectors, sizes[0]))
        lines = [*conditions(arguments, vectors, load), "", *table(rows), "", *died, *goals(rows)]
        lines += layers(overheads, sizes[0]) if overheads else ["- the step overhead of edge died"]
    if arguments.write:
        draw(rows, page.PAGE.parent / CURVE)
        alt = "Search, building, memory and disk against the number of documents"
        lines += ["", f"![{alt}]({CURVE.as_posix()})"]
        page.write("index", "The index", "\n".join(lines))
    print("\n".join(lines))
    report(f"took {time.perf_counter() - started:.0f} s")


def prepared(arguments: argparse.Namespace, place: Path) -> tuple[Path, list[int]]:
    """Read or make the vectors; return their folder and the numbers of documents."""
    if arguments.vectors is None:
        sizes = sorted(arguments.documents or [20_000, 100_000, 300_000])
        report(f"drawing {sizes[-1]:,} documents ...")
        drawn = {"documents": (sizes[-1], DOCUMENT_DIMS), "queries": (QUERIES + WARM_UP, QUERY_DIMS)}
        for seed, (name, (count, dims)) in enumerate(drawn.items()):
            VectorFile.write(place / "vectors" / name, splade_like(count, dims, seed=seed, spread=SPREAD))
        return place / "vectors", sizes
    available = len(VectorFile(arguments.vectors / "documents"))
    sizes = sorted(arguments.documents or [available])
    if sizes[-1] > available:
        raise SystemExit(
            f"Folder {arguments.vectors} has {available:,} documents, expected {sizes[-1]:,}. "
            "Pass fewer --documents."
        )
    return arguments.vectors, sizes


def measured(store: str, count: int, vectors: Path, folder: Path) -> list[Row]:
    """Measure a store at one size.

    Raises:
        StepDiedError: A step's process died.
    """
    built = run_step("build", store, folder, vectors, count)
    names = {"edge": EDGE, "local": LOCAL, "bm25s": BM25}
    rows = [row(count, names[store], built, run_step("search", store, folder, vectors, count), folder)]
    if store == "edge":
        optimised = run_step("optimise", store, folder, vectors, count)
        if optimised["worked"]:  # the engine does not optimise a small index
            both = {
                "seconds": built["seconds"] + optimised["seconds"],
                "peak_mb": max(built["peak_mb"], optimised["peak_mb"]),
            }
            rows.append(
                row(count, OPTIMISED, both, run_step("search", store, folder, vectors, count), folder)
            )
    return rows


def row(count: int, store: str, built: dict[str, Any], searched: dict[str, Any], folder: Path) -> Row:
    """Combine the figures of two processes."""
    return Row(
        documents=count,
        store=store,
        build_s=built["seconds"],
        open_s=searched["open_s"],
        p50_ms=searched["p50_ms"],
        p95_ms=searched["p95_ms"],
        queries=searched["queries"],
        build_mb=built["peak_mb"],
        search_mb=searched["peak_mb"],
        disk_mb=disk_usage(folder) / 1e6,
    )


def run_step(name: str, store: str, folder: Path, vectors: Path, count: int) -> dict[str, Any]:
    """Run a step in a separate process, and report its figures on standard error.

    Raises:
        StepDiedError: The process died.
    """
    figures, seconds = in_a_process(*command_for(name, store, folder, vectors, count))
    if figures is None:
        raise StepDiedError(f"the step {name} of {store} with {count:,} documents died")
    report(f"{count:,} {store} {name}: {seconds:.0f} s, {json.dumps(figures)}")
    return dict(figures)


def command_for(name: str, store: str, folder: Path, vectors: Path, count: int) -> list[str]:
    """Return the program and arguments that run one step of this module."""
    program = "from benchmarks.index import main; main()"
    return [program, "--documents", str(count), "--step", name, store, str(folder), str(vectors)]


# Steps, each in a separate process


def step(name: str, store: str, folder: Path, vectors: Path, count: int) -> Any:
    """Run one step in this process."""
    queries = VectorFile(vectors / "queries").read()[: QUERIES + WARM_UP]
    if name == "overhead":
        return overhead(folder, queries)
    if name == "search":
        return searched(store, folder, queries)
    if name == "optimise":
        client = edge(folder)
        client.count(COLLECTION)  # opens the collection
        started = time.perf_counter()
        worked = client.optimize(COLLECTION)
        client.close()
        return {
            "worked": worked,
            "seconds": time.perf_counter() - started,
            "peak_mb": peak_memory_mb(),
        }
    documents = VectorFile(vectors / "documents").parts(PART, limit=count)
    seconds = STORES[store].build(
        folder,
        (
            [Document.of(PART * n + place, vector) for place, vector in enumerate(piece)]
            for n, piece in enumerate(documents)
        ),
    )
    return {"seconds": seconds, "peak_mb": peak_memory_mb()}


def searched(store: str, folder: Path, vectors: list[Any]) -> dict[str, Any]:
    """Open a store and search it."""
    queries = [STORES[store].query(vector) for vector in vectors]
    started = time.perf_counter()
    opened = STORES[store].open(folder)
    open_s = time.perf_counter() - started
    for query in queries[:WARM_UP]:
        opened.search(query)
    seconds: list[float] = []
    begun = time.perf_counter()
    for query in queries[WARM_UP:]:
        started = time.perf_counter()
        opened.search(query)
        seconds.append(time.perf_counter() - started)
        if time.perf_counter() - begun > SEARCHING_S and len(seconds) >= MIN_QUERIES:
            break
    return {
        "open_s": open_s,
        "p50_ms": float(np.percentile(seconds, 50)) * 1e3,
        "p95_ms": float(np.percentile(seconds, 95)) * 1e3,
        "queries": len(seconds),
        "peak_mb": peak_memory_mb(),
    }


# Report


def conditions(arguments: argparse.Namespace, vectors: Path, load: float) -> Iterator[str]:
    """Describe the command, the machine and the data."""
    command = "python -m benchmarks.index"
    if arguments.documents:
        command += f" --documents {' '.join(map(str, arguments.documents))}"
    if arguments.without:
        command += f" --without {' '.join(arguments.without)}"
    if arguments.vectors:
        command += f" --vectors {arguments.vectors.name}"
    packages = versions("qdrant-edge-py", "qdrant-client", "bm25s", "numpy")
    yield f"`{command}`, {processor()}, {packages}; load before the run {load:.1f}."
    sample = VectorFile(vectors / "documents").read(0, 2000), VectorFile(vectors / "queries").read()
    dims = [np.mean([len(vector) for vector in side]) for side in sample]
    kind = "SPLADE-like vectors, drawn with a Zipf distribution"
    if arguments.vectors:
        about = json.loads((vectors / "about.json").read_text("utf-8"))
        kind = f"Vectors of {about['encoder']['model']} on {', '.join(about['collections'])}"
    yield ""
    yield (
        f"{kind}: {dims[0]:.0f} active dimensions a document, {dims[1]:.0f} a query, "
        f"{expected_products(*sample):.1f} shared ones to expect ([FLOPS](evaluate.md#measures)). "
        "Each document's text, stored in all, is its tokens as words, each once; bm25s searches these words."
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Format the figures as Markdown lines, with ratios to local mode and bm25s at the same size."""
    yield (
        "| documents | store | build | documents/s | open | search p50 | p95 | p50 against local mode | "
        "against bm25s | peak memory, building | searching | disk |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for each in rows:
        peers = (LOCAL, BM25) if each.store in (EDGE, OPTIMISED) else ()
        others = [at(rows, each.documents, name) for name in peers]
        times = [page.ratio(other.p50_ms / each.p50_ms) if other else "" for other in others] or ["", ""]
        yield (
            f"| {each.documents:,} | {each.store} | {each.build_s:.1f} s "
            f"| {each.documents / each.build_s:,.0f} | {each.open_s:.2f} s | {each.p50_ms:.2f} ms "
            f"| {each.p95_ms:.2f} ms | {times[0]} | {times[1]} | {each.build_mb:,.0f} MB "
            f"| {each.search_mb:,.0f} MB | {each.disk_mb:,.0f} MB |"
        )
    fewer = [f"{r.store} with {r.documents:,}: {r.queries}" for r in rows if r.queries < QUERIES]
    if fewer:
        yield ""
        yield f"Queries asked, where there were not {QUERIES:,} or no time for all: {', '.join(fewer)}."


def at(rows: list[Row], documents: int, store: str) -> Row | None:
    """Return the row of a store and size, or None."""
    return next((r for r in rows if (r.documents, r.store) == (documents, store)), None)


def goals(rows: list[Row]) -> Iterator[str]:
    """Compare the figures with the goals; sizes that were not measured are left out."""
    small, local = at(rows, 20_000, OPTIMISED), at(rows, 20_000, LOCAL)
    if small and local:
        times = local.p50_ms / small.p50_ms
        yield goal(
            f"a search at 20,000 documents {times:,.0f}x as fast as local mode's", "500x", times >= 500
        )
    large, added = at(rows, 300_000, OPTIMISED), at(rows, 300_000, EDGE)
    if large and added:
        yield goal(f"p95 of a search at 300,000 is {large.p95_ms:.2f} ms", "under 5 ms", large.p95_ms < 5)
        yield goal(
            f"300,000 open in {large.open_s:.2f} s after `EdgeClient.optimize`, with which a large import "
            f"should end; as it leaves them, in {added.open_s:.1f} s",
            "under 2 s",
            large.open_s < 2,
        )


def layers(times: dict[str, dict[str, float]], documents: int) -> Iterator[str]:
    """Describe the time that our Python adds to the engine's call."""
    bare, *ours = times
    for name in ours:
        over = times[name]["over_ms"]
        yield goal(
            f"`{name}` takes {over:.2f} ms more than the bare `qdrant_edge.{bare}` "
            f"({times[bare]['p50_ms']:.2f} ms, {documents:,} documents, median of the differences)",
            "under 0.3 ms",
            over < 0.3,
        )


def goal(figure: str, wanted: str, reached: bool) -> str:
    """Format a figure with its goal."""
    return f"- {figure} (goal: {wanted}: {'reached' if reached else 'missed'})"


def draw(rows: list[Row], path: Path) -> None:
    """Plot the figures of each store against the number of documents."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "index", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    panels: list[tuple[str, str, Callable[[Row], float]]] = [
        ("search, p95, ms", "log", lambda r: r.p95_ms),
        ("open, s", "log", lambda r: r.open_s),
        ("peak memory while searching, MB", "linear", lambda r: r.search_mb),
        ("disk, MB", "linear", lambda r: r.disk_mb),
    ]
    sizes = sorted({r.documents for r in rows})
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3), layout="constrained")
    styles = {EDGE: ("C0", "--o"), OPTIMISED: ("C0", "-s"), LOCAL: ("C3", "-^"), BM25: ("C2", "-v")}
    for axis, (title, scale, of) in zip(axes, panels, strict=True):
        for store, (colour, line) in styles.items():
            points = [r for r in rows if r.store == store]
            axis.plot([r.documents for r in points], [of(r) for r in points], line, color=colour, label=store)
        axis.set(title=title, yscale=scale, xlabel="documents")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        if scale == "linear":
            axis.set_ylim(bottom=0)
        else:
            axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
