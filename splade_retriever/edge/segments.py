"""Reads from the files of a shard which of its segments are not optimised."""

import contextlib
import json
from pathlib import Path
from typing import Final

from splade_retriever.edge.disk_usage import disk_usage

__all__ = ["MIN_OPTIMIZED_BYTES", "unoptimized_bytes"]

MIN_OPTIMIZED_BYTES: Final = 10_000 * 1024
"""Bytes of vectors from which the engine optimises a segment: its default `indexing_threshold`."""
_MUTABLE_INDEX: Final = "MutableRam"
"""The index of a segment that was never optimised; it is built in memory each time the shard is opened."""


def unoptimized_bytes(shard: Path) -> int:
    """Return the bytes of the sparse vectors in segments that were never optimised.

    Of an open shard it counts segments that were optimised until the shard is closed, which removes them. A
    segment whose settings cannot be read is skipped.
    """
    total = 0
    for settings in shard.glob("segments/*/segment.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            vectors = json.loads(settings.read_text(encoding="utf-8"))["config"]["sparse_vector_data"]
            for name, vector in vectors.items():
                if vector["index"]["index_type"] == _MUTABLE_INDEX:
                    total += disk_usage(settings.parent / f"vector_storage-{name}")
    return total
