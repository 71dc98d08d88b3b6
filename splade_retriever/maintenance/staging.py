"""A collection on its way: laid out like another one, and closed to readers until it is whole.

While it is filled its metadata holds a mark where the settings will be. `CollectionSettings.from_metadata`
refuses the mark, so a half-filled collection is never searched. The last step replaces it by the settings.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from splade_retriever.errors import CollectionNotFoundError, NotSupportedError
from splade_retriever.index.collection import Collection, CreateOptions, open_client
from splade_retriever.index.collection_settings import SETTINGS_KEY, STAGING
from splade_retriever.index.connection import call_with_retry

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase
from splade_retriever.validation import is_url

__all__ = [
    "Command",
    "StagingMark",
    "create_like",
    "finish",
    "index_like",
    "missing",
    "opened",
    "remembered",
    "staging_mark_of",
]

Command = Literal["migrate", "reindex"]


@dataclass(frozen=True, slots=True)
class StagingMark:
    """What the mark of a collection that is being filled says."""

    command: str
    """Which command fills it: "migrate" or "reindex"."""
    memory: Mapping[str, Any] | None
    """The memory it will have, as JSON; None for a collection that another program made."""


@contextmanager
def opened(
    place: "str | Path | QdrantBase", name: str, *, create: bool, api_key: str | None
) -> Iterator[Collection]:
    """Open a place, which is closed at the end unless it is a caller's client.

    Raises:
        CollectionNotFoundError: There is no such folder, and it may not be made.
        IndexLockedError: Another process has the folder open.
        StorageError: The folder holds something else.
    """
    if not isinstance(place, str | Path):
        yield Collection(place, name, type(place).__name__, owned=False)
        return
    if not create and not is_url(place) and Path(place).is_dir() and not any(Path(place).iterdir()):
        # Opening would turn an empty folder into an index.
        raise CollectionNotFoundError(
            f"the folder {str(place)!r} is empty, expected an index. Check the path."
        )
    client = open_client(str(place), create=create, api_key=api_key, prefer_grpc=False, timeout_s=60)
    store = Collection(client, name, str(place), owned=True)
    try:
        yield store
    finally:
        store.close()


def missing(store: Collection) -> CollectionNotFoundError:
    """Say that a collection is not there, and which are."""
    found = call_with_retry(store.client.get_collections, doing=f"list the collections at {store.location!r}")
    there = ", ".join(sorted(repr(item.name) for item in found.collections)) or "none"
    return CollectionNotFoundError(
        f"there is no collection {store.name!r} at {store.location!r} (found: {there}). Check both names."
    )


def remembered(store: Collection) -> dict[str, Any] | None:
    """Read the memory of a collection as JSON; a mark is given as it is."""
    found: dict[str, Any] | None = (store.call("get_collection").config.metadata or {}).get(SETTINGS_KEY)
    return found or None


def staging_mark_of(store: Collection) -> StagingMark | None:
    """Read the mark of a collection; None for one that is complete."""
    found = remembered(store)
    if found is None or found.get("format") != STAGING:
        return None
    return StagingMark(str(found.get("command")), found.get("memory"))


def create_like(
    source: Collection,
    target: Collection,
    *,
    command: Command,
    memory: Mapping[str, Any] | None,
    creation: CreateOptions | None = None,
) -> None:
    """Create a collection with the vectors, settings and metadata of another, and mark it.

    Vectors with all their parameters, HNSW and quantisation settings and the metadata are taken over; shards
    and copies are the target's own.

    Raises:
        NotSupportedError: The target cannot keep metadata, or the source has shard keys.
    """
    from qdrant_client import models

    config = source.call("get_collection").config
    params = config.params
    if params.sharding_method == models.ShardingMethod.CUSTOM:
        raise NotSupportedError(
            f"collection {source.name!r} is split by shard keys, which are not carried along, expected "
            "automatic sharding. Copy it with Qdrant's own snapshots."
        )
    mark = {"format": STAGING, "command": command, "memory": None if memory is None else dict(memory)}
    settings: dict[str, Any] = {"on_disk_payload": params.on_disk_payload}
    if creation is not None:
        cluster = {"shard_number": creation.shard_number, "replication_factor": creation.replication_factor}
        settings |= {name: value for name, value in cluster.items() if value is not None}
    if params.vectors:  # these settings are about dense vectors
        known = set(models.HnswConfigDiff.model_fields)
        hnsw = {k: v for k, v in config.hnsw_config.model_dump(exclude_none=True).items() if k in known}
        settings["hnsw_config"] = models.HnswConfigDiff(**hnsw)
        if config.quantization_config is not None:
            settings["quantization_config"] = config.quantization_config
    target.call(
        "create_collection",
        vectors_config=params.vectors or {},
        sparse_vectors_config=params.sparse_vectors,
        metadata={**(config.metadata or {}), SETTINGS_KEY: mark},
        **settings,
    )
    if staging_mark_of(target) is None:
        target.call("delete_collection")
        raise NotSupportedError(
            f"the store at {target.location!r} does not keep a collection's metadata, in which the model is "
            "remembered. Use a Qdrant server of version 1.16 or newer."
        )


def index_like(source: Collection, target: Collection) -> list[str]:
    """Give a collection the payload indexes of another, where it has them not; their paths, sorted."""
    schema: Mapping[str, models.PayloadIndexInfo] = source.call("get_collection").payload_schema or {}
    if target.one_thread:  # local mode has no such indexes, finds the same without them, and warns
        return []
    present = target.call("get_collection").payload_schema or {}
    for path, index in sorted(schema.items()):
        if path not in present:
            target.call("create_payload_index", field_name=path, field_schema=index.params or index.data_type)
    return sorted(schema)


def finish(target: Collection, memory: Mapping[str, Any] | None) -> None:
    """Take the mark from a collection that is whole: from now on it can be opened."""
    target.call("update_collection", metadata={SETTINGS_KEY: None if memory is None else dict(memory)})
