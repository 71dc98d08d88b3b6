"""The search page: an answer per keystroke, and what explanations cost.

    python -m benchmarks.search_page                     # 100,000 documents
    python -m benchmarks.search_page --documents 1000    # figures for orientation only
    python -m benchmarks.search_page --write             # into docs/benchmarks.md

The documents are the paragraphs of examples/data/astronomy, repeated, each time with weights that differ by
up to a fifth, so most documents share a token with the query. `splade serve` runs in a separate process and
opens the folder; each keystroke of a query is a request over HTTP for 5 hits with their explanations and
the query's vector, on one connection, as a browser sends them. The cost of explanations is measured in this
process: 10 hits of a search in the paragraphs, with their vectors, against encoding the query.

Other programs on the machine make the times longer. So the processor time is measured too: of the server with
its engine per keystroke, and of this process for encoding and explaining.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import page
from benchmarks.machine import processor, report, versions
from splade_retriever import SparseEmbedding, SpladeIndex

QUERIES = ("why do stars explode", "rings of saturn made of ice", "water on the surface of mars")
HITS = 5
EXPLAINED = 10
REPEATS = 30
MIN_CHARACTERS = 200


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    documents: int
    keystrokes: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    server_cpu_ms: float
    encode_ms: float
    explain_ms: float
    encode_cpu_ms: float
    explain_cpu_ms: float
    load: float
    """Load average of the last minute when the keystrokes began."""


def paragraphs() -> list[str]:
    """Return the paragraphs of the sample texts that have at least 200 characters."""
    files = sorted(Path("examples/data/astronomy").glob("*.md"))
    parts = [part.strip() for file in files for part in file.read_text("utf-8").split("\n\n")]
    return [part for part in parts if len(part) >= MIN_CHARACTERS]


def passages(texts: list[str], vectors: list[SparseEmbedding], count: int) -> Iterator[SparseEmbedding]:
    """Repeat vectors, each time with other weights."""
    draw = np.random.default_rng(0)
    for n in range(count):
        vector = vectors[n % len(texts)]
        factors = draw.uniform(0.8, 1.2, len(vector)).astype(np.float32)
        yield SparseEmbedding(values=vector.values * factors, indices=vector.indices)


def build(folder: Path, texts: list[str], count: int) -> None:
    """Write the index."""
    with SpladeIndex(folder) as index:
        vectors = list(index.model.passage_embed(texts))
        repeated = [texts[n % len(texts)] for n in range(count)]
        ids = [f"{n:06d}" for n in range(count)]
        index.add(repeated, ids=ids, vectors=passages(texts, vectors, count), batch_size=1000)
        index.optimize()


def keystroke_times(folder: Path) -> tuple[list[float], float]:
    """Serve the index; return the milliseconds of each keystroke, and the server's processor time of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "splade_retriever", "serve", "--index", str(folder), "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        _wait(connection)
        times = []
        before = cpu_seconds(server.pid)
        for query in QUERIES:
            for end in range(1, len(query) + 1):
                started = time.perf_counter()
                _search(connection, query[:end])
                times.append((time.perf_counter() - started) * 1000)
        return times, (cpu_seconds(server.pid) - before) * 1000 / len(times)
    finally:
        server.terminate()
        server.wait(30)


def cpu_seconds(process: int) -> float:
    """Return the processor time of a process and of its children that run, which Linux counts."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        if process in (int(stat.parent.name), int(fields[1])):
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _wait(connection: http.client.HTTPConnection) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            _search(connection, "star")  # also loads the model and moves the engine to its process
            return
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _search(connection: http.client.HTTPConnection, query: str) -> None:
    body = json.dumps({"query": query, "k": HITS})
    connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
    json.load(connection.getresponse())


def explanation_times(texts: list[str]) -> tuple[float, float, float, float]:
    """Return the median milliseconds of encoding a query, and of explaining 10 hits with its vector.

    The hits are of an index of the paragraphs, each once, so that no two have the same text. The third and
    the fourth value are the processor time of each, its mean.
    """
    encode, explain, encode_cpu, explain_cpu = [], [], [], []
    with SpladeIndex() as index:
        index.add(texts)
        index.explain_all("star", index.search("star", EXPLAINED))  # loads the model
        for query in QUERIES * REPEATS:
            times = [_clocks()]
            vector = index.query_vector(query)
            times.append(_clocks())
            hits = index.search(vector, EXPLAINED, with_vectors=True)
            times.append(_clocks())
            index.explain_all(query, hits, query_vector=vector)
            times.append(_clocks())
            encode.append(times[1][0] - times[0][0])
            explain.append(times[3][0] - times[2][0])
            encode_cpu.append(times[1][1] - times[0][1])
            explain_cpu.append(times[3][1] - times[2][1])
    return (
        float(np.median(encode)),
        float(np.median(explain)),
        float(np.mean(encode_cpu)),
        float(np.mean(explain_cpu)),
    )


def _clocks() -> tuple[float, float]:
    """Return the time and the processor time of this process, in milliseconds."""
    return time.perf_counter() * 1000, time.process_time() * 1000


def measure(count: int, folder: Path | None = None) -> Figures:
    """Build, serve and search an index of so many documents.

    Args:
        count: Number of documents.
        folder: Where the index is kept, and where one is used that exists; None for a temporary folder.
    """
    texts = paragraphs()
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary, "index")
        if not place.exists():
            build(place, texts, count)
            report(f"built {count:,} documents")
        load = os.getloadavg()[0]
        times, server_cpu = keystroke_times(place)
        report(f"measured {len(times)} keystrokes")
    explaining = explanation_times(texts)
    p50, p95 = np.percentile(times, [50, 95])
    return Figures(count, len(times), float(p50), float(p95), max(times), server_cpu, *explaining, load)


def table(figures: Figures) -> str:
    """Write the report."""
    return "\n".join(
        [
            "`python -m benchmarks.search_page --write`, on "
            f"{processor()}, {versions('splade-retriever', 'onnxruntime', 'qdrant-edge-py')}:",
            "",
            "| | |",
            "|---|---:|",
            f"| documents | {figures.documents:,} |",
            f"| a keystroke, median of {figures.keystrokes} | {figures.p50_ms:.0f} ms |",
            f"| a keystroke, 95th percentile | {figures.p95_ms:.0f} ms |",
            "| processor time of the server and its engine for a keystroke | "
            f"{figures.server_cpu_ms:.0f} ms |",
            f"| encoding a query, median | {figures.encode_ms:.1f} ms |",
            f"| explaining {EXPLAINED} hits, median | {figures.explain_ms:.1f} ms |",
            f"| explaining / encoding | {page.ratio(figures.explain_ms / figures.encode_ms)} |",
            f"| the same in processor time | {page.ratio(figures.explain_cpu_ms / figures.encode_cpu_ms)} |",
            f"| load average when the keystrokes began, on {os.cpu_count()} cores | {figures.load:.1f} |",
            "",
            f"A keystroke is a request of the [page](explain.md#the-page) over HTTP: {HITS} hits with their "
            "explanations and the query's vector.",
        ]
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="keep the index here, or use the one that is here")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    content = table(measure(arguments.documents, arguments.index))
    print(content)
    if arguments.write:
        page.write("search-page", "The search page", content)


if __name__ == "__main__":
    main()
