"""Checks of a folder of qdrant-client's local mode, which is a SQLite file per collection."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.errors import InputError
from splade_retriever.maintenance.diagnosis.findings import Finding

__all__ = ["check_local_mode", "is_local_mode"]

_MAX_POINTS: Final = 20_000
"""From here on qdrant-client itself advises against its local mode."""


def is_local_mode(folder: Path) -> bool:
    """Return whether `QdrantClient(path=...)` made a folder."""
    return (folder / "meta.json").is_file() and not (folder / "edge.json").exists()


def check_local_mode(folder: Path, collection: str | None) -> Iterator[Finding]:
    """Count the points of each collection; its files are opened to read only.

    Raises:
        InputError: There is no such collection.
    """
    try:
        names = sorted(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["collections"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Finding(
            check="local mode",
            level="fault",
            found=f"meta.json of the folder cannot be read ({type(error).__name__}: {error})",
            advice="Restore the folder from a backup, or index its sources again.",
        )
        return
    if collection is not None and collection not in names:
        raise InputError(
            f"There is no collection {collection!r} in the folder {str(folder)!r} of qdrant-client's local "
            f"mode (found: {', '.join(map(repr, names)) or 'none'}). Check both names."
        )
    for name in names if collection is None else [collection]:
        yield _check(folder, name)


def _check(folder: Path, name: str) -> Finding:
    stored = folder / "collection" / name
    advice = f"Copy it to an index folder: `splade migrate {folder} NEW_FOLDER --collection {name}`."
    try:
        points = _count(stored / "storage.sqlite")
    except sqlite3.Error as error:
        return Finding(
            check="local mode",
            level="fault",
            found=f"storage.sqlite of the collection cannot be read ({error})",
            advice="Close the program that has it open, or restore the folder from a backup.",
            collection=name,
        )
    is_large = points > _MAX_POINTS
    return Finding(
        check="local mode",
        level="warning" if is_large else "ok",
        found=(
            f"{points:,} points, {disk_usage(stored) / 1e6:.1f} MB: qdrant-client's local mode keeps all in "
            "memory and compares each query with every point"
            + (f"; it is meant for up to {_MAX_POINTS:,}" if is_large else "")
        ),
        advice=advice if is_large else "",
        collection=name,
    )


def _count(file: Path) -> int:
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM points")
    return int(count)
