"""Disk space and memory that are left for an index in a folder."""

import shutil
from pathlib import Path
from typing import Final

from splade_retriever.edge.storage import MIN_FREE_BYTES
from splade_retriever.maintenance.diagnosis.findings import Finding

__all__ = ["available_memory", "check_disk", "check_memory"]

_CGROUP: Final = Path("/sys/fs/cgroup")


def check_disk(folder: Path, size: int) -> Finding:
    """Compare the free space of a folder's disk with the size of the index in it, in bytes."""
    free = shutil.disk_usage(folder).free
    found = f"{_megabytes(free)} free, the index has {_megabytes(size)}"
    if free < MIN_FREE_BYTES:
        return Finding(
            check="disk",
            level="fault",
            found=f"{found}; writing stops below {_megabytes(MIN_FREE_BYTES)}",
            advice="Free disk space.",
        )
    if free < MIN_FREE_BYTES + size:
        return Finding(
            check="disk",
            level="warning",
            found=f"{found}; `splade optimize` and `splade reindex` need room for a second copy",
            advice="Free disk space before you run them, or move the index to a larger disk.",
        )
    return Finding(check="disk", found=found)


def check_memory(size: int) -> Finding | None:
    """Compare the available memory with the size of an index, in bytes; None where it is not known."""
    available = available_memory()
    if available is None:
        return None
    found = f"{_megabytes(available)} available, the index has {_megabytes(size)}"
    if available < size:
        return Finding(
            check="memory",
            level="warning",
            found=f"{found}, so that searches read from the disk",
            advice=(
                "Store fewer or smaller weights (`splade tune` measures what that costs), or move the index "
                "to a server with more memory: `splade migrate`."
            ),
        )
    return Finding(check="memory", found=found)


def available_memory(*, root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still use, by the system and by the limit of its container.

    Returns:
        None on systems without /proc.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    group = root / _CGROUP.relative_to("/")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii")) - _cached(group)
    except (OSError, ValueError):  # no container, or no limit ("max")
        return available
    return min(available, max(0, limit - used))


def _cached(group: Path) -> int:
    """Return the bytes of files that the system would drop for a process; they count as used."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(" ", 1) for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
