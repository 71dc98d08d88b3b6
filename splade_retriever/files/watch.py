"""Waits until files change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from splade_retriever.errors import MissingExtraError

__all__ = ["wait_for_changes"]


def wait_for_changes(paths: Sequence[Path], *, excluded_folder: Path) -> Iterator[int]:
    """Start to watch files, and return an iterator that waits for changes.

    Changes count from this call on; those within 1.6 s count as one.

    Args:
        paths: Files and folders.
        excluded_folder: A folder whose changes do not count: the index itself.

    Returns:
        Each time files change, the number of changed files. It ends with KeyboardInterrupt.

    Raises:
        MissingExtraError: If watchfiles is not installed.
    """
    try:
        import watchfiles
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            '--watch needs the package watchfiles. Run: pip install "splade-retriever[files]"'
        ) from error
    index = os.path.realpath(excluded_folder)

    def counts(_: object, changed: str) -> bool:
        return not Path(os.path.realpath(changed)).is_relative_to(index)

    batches = watchfiles.watch(
        *paths, watch_filter=counts, yield_on_timeout=True, rust_timeout=_POLL_MILLISECONDS
    )
    next(batches)  # starts watching
    return (len(batch) for batch in batches if batch)


_POLL_MILLISECONDS: Final = 200
