"""What the calls of an EdgeClient have in common: the folder, one way to write, and checks of arguments."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.convert_points import names_in
from splade_retriever.edge.layout import StoredCollection
from splade_retriever.edge.storage import EdgeFolder
from splade_retriever.errors import InputError, NotSupportedError

__all__ = ["IDS_PER_CALL", "EdgeBase", "check_limit", "check_options", "check_vector_names", "chunks", "done"]

T = TypeVar("T")

IDS_PER_CALL: Final = 256
"""Points that one call of the engine reads, or changes, by their ids; it holds the GIL for as long."""

_IGNORED: Final = frozenset(
    {
        "wait",
        "ordering",
        "timeout",
        "consistency",
        "batch_size",
        "parallel",
        "method",
        "max_retries",
        "strict_mode_config",
        "wal_config",
    }
)
"""Options that mean nothing with one copy in one process: every write is done, and kept, when its call
returns."""
_OF_CLUSTERS: Final = frozenset(
    {
        "collection_params",
        "shard_key_selector",
        "shard_number",
        "sharding_method",
        "replication_factor",
        "write_consistency_factor",
    }
)


class EdgeBase(QdrantBase):
    """qdrant-client's interface over an open folder; the groups of calls derive from it, each with a part.

    Groups call each other through the interface alone.
    """

    def __init__(self, folder: EdgeFolder) -> None:
        """Serve the collections of a folder."""
        super().__init__()
        self._folder = folder

    def _update(self, collection: StoredCollection, doing: str, operation: Callable[[], Any]) -> None:
        """Make a write; `operation` builds it, so that what the engine cannot build is told like the rest."""
        self._folder.write(collection, doing, lambda shard: shard.update(operation()))


def done() -> models.UpdateResult:
    """Say that a write is made, as a server does."""
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Pass over options that mean nothing here, refuse those that need a cluster and those that nobody
    knows.

    Raises:
        NotSupportedError: An option asks for more than one copy in one shard.
        InputError: An option is unknown.
    """
    for name, value in options.items():
        if name in _OF_CLUSTERS:
            if value is None or (value == 1 and not isinstance(value, bool)):
                continue
            raise NotSupportedError(
                f"{method} got {name}={value!r}, but Qdrant Edge keeps one copy in one shard. Leave {name} "
                "out, or use a Qdrant server: QdrantClient(url=...)."
            )
        if name not in _IGNORED:
            raise InputError(f"{method} got the unknown argument {name}={value!r}. Leave it out.")


def check_limit(value: int, name: str = "limit", *, least: int = 1) -> None:
    """Raise InputError for a number of results that is too small."""
    if value < least:
        raise InputError(f"{name} is {value}, expected {least} or more.")


def check_vector_names(collection: StoredCollection, names: Sequence[str]) -> None:
    """Raise InputError for a vector that a collection has not."""
    there = names_in(collection.config)
    for name in names:
        if name not in there:
            told = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"collection {collection.name!r} has no vector {name!r} (it has: {told}). Name one of these."
            )


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give items in lists of `size`, the last may be shorter; reads no further than it gives."""
    walk = iter(items)
    while chunk := list(itertools.islice(walk, size)):
        yield chunk
