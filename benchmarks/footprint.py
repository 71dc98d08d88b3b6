"""Disk and memory of an embedded index of SPLADE-like vectors, by part.

    python -m benchmarks.footprint --documents 20000 --active-dims 120

Vectors are random, with a fixed number of active dimensions and token frequencies that fall as 1/rank. No
model is needed, and the size in bytes does not depend on which tokens they are. Prints JSON for an index
after `add` and after `EdgeClient.optimize`, each opened by a new process that makes 200 queries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from qdrant_client import models

from benchmarks.vectors import splade_like
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.disk_usage import file_usage
from splade_retriever.index.points import to_sparse_vector


def vectors(count: int, active_dims: int, seed: int = 0) -> list[models.SparseVector]:
    return [to_sparse_vector(vector) for vector in splade_like(count, active_dims, seed=seed)]


def build(folder: Path, count: int, active_dims: int, payload_bytes: int, datatype: str) -> float:
    started = time.perf_counter()
    text = "x" * payload_bytes
    with EdgeClient(folder) as client:
        index = models.SparseIndexParams(datatype=models.Datatype(datatype))
        client.create_collection(
            "docs", sparse_vectors_config={"splade": models.SparseVectorParams(index=index)}
        )
        for start in range(0, count, 512):
            here = min(512, count - start)
            points = [
                models.PointStruct(
                    id=start + n, vector={"splade": vector}, payload={"page_content": text} if text else {}
                )
                for n, vector in enumerate(vectors(here, active_dims, seed=start))
            ]
            client.upsert("docs", points)
    return time.perf_counter() - started


def optimise(folder: Path) -> None:
    with EdgeClient(folder) as client:
        client.optimize("docs")


def on_disk(folder: Path) -> dict[str, int]:
    """Return the bytes of the files on disk, by the part of the engine that they belong to."""
    parts: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            inside = path.relative_to(folder).parts
            at = inside.index("segments") + 2 if "segments" in inside else None
            name = inside[at] if at is not None and at < len(inside) else inside[min(3, len(inside) - 1)]
            parts[name] = parts.get(name, 0) + file_usage(path)
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def resident() -> dict[str, int]:
    """Return the memory of this process in bytes: anonymous, and of files, which the system can reclaim."""
    fields = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if ":" in line
    )
    return {
        "anonymous": int(fields["RssAnon"].split()[0]) * 1024,
        "files": int(fields["RssFile"].split()[0]) * 1024,
    }


def ask(folder: Path) -> None:
    """Open, query, and print the figures; runs in a separate process."""
    queries = vectors(200, 20, seed=1_000_003)
    before = resident()
    with EdgeClient(folder) as client:
        started = time.perf_counter()
        client.count("docs")
        opened = time.perf_counter() - started
        times = []
        for query in queries:
            started = time.perf_counter()
            client.query_points("docs", query=query, using="splade", limit=10, with_payload=False)
            times.append(time.perf_counter() - started)
        after = resident()
    print(
        json.dumps(
            {
                "memory": {part: after[part] - before[part] for part in after},
                "open_s": round(opened, 3),
                "query_ms": {
                    "p50": round(float(np.percentile(times, 50)) * 1000, 2),
                    "p95": round(float(np.percentile(times, 95)) * 1000, 2),
                },
            }
        )
    )


def asked(folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.footprint", "--ask", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, object] = json.loads(done.stdout)
    return figures


def measure(count: int, active_dims: int, payload_bytes: int, datatype: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        seconds = build(folder, count, active_dims, payload_bytes, datatype)
        report: dict[str, object] = {
            "documents": count,
            "active_dims": active_dims,
            "postings": count * active_dims,
            "payload_bytes": payload_bytes,
            "datatype": datatype,
            "build_s": round(seconds, 1),
        }
        for state in ("added", "optimised"):
            if state == "optimised":
                optimise(folder)
            parts = on_disk(folder)
            report[state] = {"disk": {"all": sum(parts.values()), **parts}, **asked(folder)}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure disk and memory of an embedded index.")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--active-dims", type=int, default=120)
    parser.add_argument("--payload-bytes", type=int, default=0)
    parser.add_argument("--datatype", choices=["float32", "float16", "uint8"], default="float32")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask is not None:
        ask(arguments.ask)
        return
    figures = measure(arguments.documents, arguments.active_dims, arguments.payload_bytes, arguments.datatype)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
