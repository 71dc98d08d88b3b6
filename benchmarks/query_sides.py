"""The bundled models beside each other: encoding a query, and searching one index with each.

    python -m benchmarks.query_sides --texts CORPUS.jsonl.gz            # 100,000 documents
    python -m benchmarks.query_sides --documents 2000 --distinct 200    # figures for orientation only
    python -m benchmarks.query_sides --write                            # into model_building/record

Both models give a document the same vector, so one index serves both. Its documents are `--distinct` texts
with their real vectors, each of them several times; that keeps the lengths of the posting lists. Queries of
ten words are encoded one by one on one core, then searched one by one, from text to hits, and at last by as
many threads as there are cores. The models take turns, so that other work on the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bundled import queries
from benchmarks.encode import from_file, passages
from benchmarks.machine import processor, report, versions
from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.encoding.encode_stream import cores
from splade_retriever.encoding.model_files import bundled_names

RECORD = Path("model_building/record/query_sides.json")
ROUNDS = 3
"""Turns of each model; the median is reported."""
PART = 1000


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=2_000, help="distinct texts that are encoded")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--texts", type=Path, default=None, help="a JSONL file; without it example texts")
    parser.add_argument("--write", action="store_true", help=f"also write {RECORD}")
    arguments = parser.parse_args()
    distinct, file = arguments.distinct, arguments.texts
    texts = from_file(file, distinct) if file else passages(distinct)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), texts, arguments.documents)
        figures = measured(Path(folder), list(islice(queries(), arguments.queries)))
    result = {
        "machine": f"{processor()}, {versions('onnxruntime', 'qdrant-edge-py')}",
        "documents": arguments.documents,
        "distinct": len(texts),
        "models": figures,
    }
    print(json.dumps(result, indent=2))
    if arguments.write:
        RECORD.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def build(folder: Path, texts: Sequence[str], documents: int) -> None:
    """Build an index of texts that are repeated up to a number of documents."""
    report(f"encoding {len(texts):,} texts ...")
    vectors = list(SparseTextEmbedding().passage_embed(texts))
    with SpladeIndex(folder) as index:
        repeated = cycle(range(len(texts)))
        while (missing := documents - index.count()) > 0:
            places = list(islice(repeated, min(PART, missing)))
            index.add([texts[place] for place in places], vectors=[vectors[place] for place in places])
            report(f"{index.count():,} documents")
        index.optimize()


def measured(folder: Path, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the figures of each bundled model on the index, by its name."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in bundled_names()}
    for number in range(ROUNDS + 1):
        for name, rounds in turns.items():
            report(f"{name}, turn {number}")
            figures = one_turn(folder, name, asked)
            if number:  # the first turn warms up
                rounds.append(figures)
    return {
        name: {key: float(np.median([each[key] for each in rounds])) for key in rounds[0]}
        for name, rounds in turns.items()
    }


def one_turn(folder: Path, name: str, asked: Sequence[str]) -> dict[str, float]:
    """Return the figures of one model, in milliseconds and queries per second."""
    model = SparseTextEmbedding(name, threads=1)
    encode = _p50_ms(lambda query: next(model.query_embed(query)), asked)
    with SpladeIndex(folder, model=model) as index:
        search = _p50_ms(lambda query: index.search(query, k=10), asked)
        started = time.perf_counter()
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda query: index.search(query, k=10), asked))
        seconds = time.perf_counter() - started
    return {"query_p50_ms": encode, "search_p50_ms": search, "queries_per_s": len(asked) / seconds}


def _p50_ms(call: Callable[[str], Any], asked: Sequence[str]) -> float:
    taken = []
    for query in asked:
        started = time.perf_counter()
        call(query)
        taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))


if __name__ == "__main__":
    main()
