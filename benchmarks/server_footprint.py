"""Memory and disk of a Qdrant server per posting.

    python -m benchmarks.server_footprint --url http://localhost:6333 --pid PID --storage FOLDER

Adds documents of one word each to a new collection, in two equal parts. After each part it waits until the
server has optimised, runs 200 queries, and reads the memory of the process and the size of the collection's
folder. The differences between the two parts are printed, per posting: the fixed cost of a server is not
in them. Linux only, with the server on this machine.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from pathlib import Path

import numpy as np
from qdrant_client import models

from benchmarks.machine import processor, report
from benchmarks.server import QUERY_DIMS, made
from splade_retriever import SpladeIndex

QUERIES = 200
IDLE_S, WITHIN_S = 10.0, 300.0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", required=True, help="a Qdrant server without collections")
    parser.add_argument("--pid", type=int, required=True, help="its process id")
    parser.add_argument("--storage", type=Path, required=True, help="its storage folder")
    parser.add_argument("--documents", type=int, default=20_000, help="of each of the two parts")
    parser.add_argument("--active-dims", type=int, default=120)
    arguments = parser.parse_args()
    figures = []
    name = f"footprint-{uuid.uuid4().hex}"
    with SpladeIndex(arguments.url, collection=name, timeout=60) as index:
        postings = 0
        for part in range(2):
            report(f"part {part + 1}")
            postings += fill(index, part, arguments.documents, arguments.active_dims)
            wait_until_optimised(index)
            for query in made(np.random.default_rng(1), QUERIES, QUERY_DIMS):
                index.search(query)
            folder = arguments.storage / "collections" / name
            figures.append({"postings": postings, **memory(arguments.pid), **disk(folder)})
        index.store.drop()
    first, second = figures
    added = second["postings"] - first["postings"]
    per_posting = {key: round((second[key] - first[key]) / added, 1) for key in first if key != "postings"}
    print(json.dumps({"bytes per posting": per_posting, "measured": figures, "machine": processor()}))


def fill(index: SpladeIndex, part: int, count: int, active_dims: int) -> int:
    """Add documents; return the number of their weights."""
    vectors = made(np.random.default_rng(part), count, active_dims)
    index.add(["x"] * count, ids=[f"{part}-{n}" for n in range(count)], vectors=vectors)
    return sum(len(vector) for vector in vectors)


def wait_until_optimised(index: SpladeIndex, *, idle_s: float = IDLE_S) -> None:
    """Wait until the server has been idle for some seconds.

    Raises:
        TimeoutError: It is still busy after five minutes.
    """
    started = idle_since = time.monotonic()
    while time.monotonic() - idle_since < idle_s:
        if index.store.describe().status is not models.CollectionStatus.GREEN:
            idle_since = time.monotonic()
        if time.monotonic() - started > WITHIN_S:
            raise TimeoutError(f"The server is still optimising after {WITHIN_S:.0f} s.")
        time.sleep(0.5)


def memory(pid: int) -> dict[str, int]:
    """Return the memory of a process in bytes: its own, and that of mapped files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {
        name: int(line.split()[1]) * 1024 for line in lines for name in ("RssAnon", "RssFile") if name in line
    }
    return {"memory": sizes["RssAnon"], "mapped files": sizes["RssFile"]}


def disk(folder: Path) -> dict[str, int]:
    """Return the bytes that a collection takes on disk: its log, and everything else."""
    log = rest = 0
    for path in folder.rglob("*"):
        if path.is_file():
            size = path.stat().st_blocks * 512
            log, rest = (log + size, rest) if "wal" in path.parts else (log, rest + size)
    return {"disk": rest, "log": log}


if __name__ == "__main__":
    main()
