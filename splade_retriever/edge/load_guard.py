"""Open a shard in a child process first, where its files may be damaged.

Some damaged files make the engine end its process (SIGABRT, SIGBUS), or never return. In a child process
that is an error.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from splade_retriever.edge.disk_usage import disk_usage

__all__ = ["load_fault"]

_TIMEOUT_S: Final = 60.0
_BYTES_PER_S: Final = 5 * 2**20
"""Slowest rate at which a shard is opened; most of it is the engine's log, which is applied again."""
_PROGRAM: Final = """
import sys
sys.path[:] = {path!r}
from qdrant_edge import EdgeShard
EdgeShard.load(sys.argv[1]).close()
"""
"""Imports from where this process does. With `-c`, Python would look into the current folder first."""


def load_fault(shard_folder: Path) -> str | None:
    """Return why a shard cannot be opened, or None if it can."""
    timeout_s = _TIMEOUT_S + disk_usage(shard_folder) / _BYTES_PER_S
    try:
        finished = subprocess.run(
            [sys.executable, "-c", _PROGRAM.format(path=sys.path), str(shard_folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"the engine did not open it within {timeout_s:.0f} s"
    if finished.returncode == 0:
        return None
    if finished.returncode < 0:
        return f"the engine broke down on it (signal {-finished.returncode})"
    lines = finished.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"the engine reports: {lines[-1] if lines else f'exit status {finished.returncode}'}"
