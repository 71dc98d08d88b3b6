"""The search page: an answer per keystroke, and what explanations cost.

    python -m benchmarks.search_page                     # 100,000 documents
    python -m benchmarks.search_page --documents 1000    # figures for orientation only
    python -m benchmarks.search_page --write             # into docs/benchmarks.md

The documents are the paragraphs of examples/data/astronomy, repeated, each time with weights that differ by
up to a fifth, so most documents share a token with the query. `splade serve` runs in a separate process and
opens the folder; each keystroke of a query is a request over HTTP for 5 hits with their explanations and
the query's vector. The cost of explanations is measured in this process: 10 hits of a search with their
vectors, against encoding the query.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
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
    encode_ms: float
    explain_ms: float


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


def keystroke_times(folder: Path) -> list[float]:
    """Serve the index, and return the milliseconds of each keystroke of the queries."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "splade_retriever", "serve", "--index", str(folder), "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}/api/search"
        _wait(address)
        times = []
        for query in QUERIES:
            for end in range(1, len(query) + 1):
                started = time.perf_counter()
                _search(address, query[:end])
                times.append((time.perf_counter() - started) * 1000)
        return times
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            _search(address, "star")  # also loads the model and moves the engine to its process
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _search(address: str, query: str) -> None:
    body = json.dumps({"query": query, "k": HITS}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        json.load(response)


def explanation_times(folder: Path) -> tuple[float, float]:
    """Return the median milliseconds of encoding a query, and of explaining 10 hits with its vector."""
    encode, explain = [], []
    with SpladeIndex(folder, create=False) as index:
        for query in QUERIES * REPEATS:
            started = time.perf_counter()
            vector = index.query_vector(query)
            encoded = time.perf_counter()
            hits = index.search(vector, EXPLAINED, with_vectors=True)
            found = time.perf_counter()
            index.explain_all(query, hits, query_vector=vector)
            explained = time.perf_counter()
            encode.append((encoded - started) * 1000)
            explain.append((explained - found) * 1000)
    return float(np.median(encode)), float(np.median(explain))


def measure(count: int) -> Figures:
    """Build, serve and search an index of so many documents."""
    texts = paragraphs()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "index")
        build(place, texts, count)
        report(f"built {count:,} documents")
        times = keystroke_times(place)
        report(f"measured {len(times)} keystrokes")
        encode, explain = explanation_times(place)
    p50, p95 = np.percentile(times, [50, 95])
    return Figures(count, len(times), float(p50), float(p95), max(times), encode, explain)


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
            f"| encoding a query, median | {figures.encode_ms:.1f} ms |",
            f"| explaining {EXPLAINED} hits, median | {figures.explain_ms:.1f} ms |",
            f"| explaining / encoding | {page.ratio(figures.explain_ms / figures.encode_ms)} |",
            "",
            f"A keystroke is a request of the [page](explain.md#the-page) over HTTP: {HITS} hits with their "
            "explanations and the query's vector.",
        ]
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    content = table(measure(arguments.documents))
    print(content)
    if arguments.write:
        page.write("search-page", "The search page", content)


if __name__ == "__main__":
    main()
