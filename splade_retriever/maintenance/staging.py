"""A collection that is being filled: created like another one, and closed to readers until it is complete.

While it is filled, its metadata holds a mark instead of its settings. `CollectionSettings.from_metadata`
refuses the mark, so an incomplete collection is never searched. The last step replaces it by the settings.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from splade_retriever.errors import CollectionNotFoundError, NotSupportedError, StorageError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import (
    SETTINGS_KEY,
    STAGING,
    CollectionSettings,
    modifier_of,
)
from splade_retriever.index.opening import open_store
from splade_retriever.index.options import CreateOptions, ServerKeywords, ServerOptions
from splade_retriever.validation import is_url, resolved_location

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase

__all__ = [
    "MAX_PASSES",
    "Command",
    "StagingMark",
    "changed_all_the_time",
    "create_like",
    "dense_vector_names",
    "finish",
    "index_like",
    "not_found",
    "open_collection",
    "staging_mark",
    "stored_settings",
]

Command = Literal["migrate", "reindex"]

MAX_PASSES: Final = 10
"""Comparisons of two collections, each of which brings the target up to date, before a command gives up."""
_TIMEOUT_S: Final = 60
"""Time limit of a request, which may read or copy many points."""
_CLUSTER_SETTINGS: Final = ("shard_number", "replication_factor", "write_consistency_factor")


@dataclass(frozen=True, slots=True)
class StagingMark:
    """The mark of a collection that is being filled."""

    command: str
    """The command that fills it: "migrate" or "reindex"."""
    settings: Mapping[str, Any] | None
    """The settings it will have, as JSON; None for a collection that another program made."""


@contextmanager
def open_collection(
    place: "str | Path | QdrantBase",
    name: str,
    *,
    create: bool,
    api_key: str | None,
    server: ServerKeywords | None = None,
) -> Iterator[Collection]:
    """Open a collection; its store is closed at the end unless it is the caller's client.

    Args:
        place: A folder, the URL of a server, or a client.
        name: The collection, which need not exist.
        create: Whether a folder may be created.
        api_key: Key of the server.
        server: How to connect to it.

    Raises:
        CollectionNotFoundError: There is no such folder, and `create` is False.
        IndexLockedError: Another process has the folder open.
        StorageError: The folder holds something else.
    """
    if not isinstance(place, str | Path):
        store = Collection(place, name, type(place).__name__, owned=False)
        store.only_loads()
        yield store
        return
    place = resolved_location(place)
    if not create and not is_url(place) and Path(place).is_dir() and not any(Path(place).iterdir()):
        # Opening would turn an empty folder into an index.
        raise CollectionNotFoundError(
            f"The folder {str(place)!r} is empty, expected an index. Check the path."
        )
    options = ServerOptions(api_key=api_key, **(server or {}))
    if options.timeout is None and options.retry_for is None:
        options = replace(options, timeout=_TIMEOUT_S)
    opened = _local_mode(place) or open_store(place, create=create, server=options)
    store = Collection(opened, name, str(place), owned=True, server=options)
    store.only_loads()
    try:
        yield store
    finally:
        store.close()


def _local_mode(place: str) -> "QdrantBase | None":
    """Open a folder of qdrant-client's local mode; None for any other place."""
    folder = Path(place)
    if is_url(place) or not (folder / "meta.json").is_file() or (folder / "edge.json").exists():
        return None
    from qdrant_client import QdrantClient

    try:
        return QdrantClient(path=place)
    except (RuntimeError, ValueError) as error:
        raise StorageError(
            f"The folder {place!r} of qdrant-client's local mode cannot be opened ({error}). Close the "
            "program that has it open."
        ) from error


def not_found(store: Collection) -> CollectionNotFoundError:
    """Return the error for a missing collection, with the names of those that exist."""
    names = ", ".join(sorted(map(repr, store.names_in_store()))) or "none"
    return CollectionNotFoundError(
        f"There is no collection {store.name!r} at {store.location!r} (found: {names}). Check both names."
    )


def changed_all_the_time(source: Collection, target: Collection, command: Command) -> str:
    """Return the message for a source that differed from its target in every comparison."""
    return (
        f"Collection {source.name!r} at {source.location!r} was changed during each of {MAX_PASSES} "
        f"comparisons with {target.name!r}, which is therefore not complete. Nothing was switched. Stop the "
        f"programs that write to it, and run the same `splade {command}` again; it continues."
    )


def stored_settings(store: Collection) -> dict[str, Any] | None:
    """Read the settings of a collection as JSON; a mark is returned as it is."""
    metadata = store.describe().config.metadata or {}
    settings: dict[str, Any] | None = metadata.get(SETTINGS_KEY)
    return settings or None


def staging_mark(store: Collection) -> StagingMark | None:
    """Read the mark of a collection; None for a complete one."""
    settings = stored_settings(store)
    if settings is None or settings.get("format") != STAGING:
        return None
    return StagingMark(str(settings.get("command")), settings.get("memory"))


def create_like(
    source: Collection,
    target: Collection,
    *,
    command: Command,
    settings: Mapping[str, Any] | None,
    options: CreateOptions | None = None,
) -> None:
    """Create a collection with the vectors, parameters and metadata of another one, and mark it.

    Between servers, the number of shards and copies, the write consistency and the optimiser settings are
    taken over too, unless `options` has others.

    Args:
        source: The collection to imitate.
        target: The collection to create.
        command: What the mark says.
        settings: What the mark says.
        options: Shards and copies that the target gets instead of the source's.

    Raises:
        NotSupportedError: The target cannot keep metadata, or the source has shard keys.
    """
    from qdrant_client import models

    config = source.describe().config
    params = config.params
    if params.sharding_method == models.ShardingMethod.CUSTOM:
        raise NotSupportedError(
            f"Collection {source.name!r} has shard keys, which cannot be copied; expected automatic "
            "sharding. Copy it with Qdrant's snapshots."
        )
    mark = {"format": STAGING, "command": command, "memory": None if settings is None else dict(settings)}
    engine: dict[str, Any] = {"on_disk_payload": params.on_disk_payload}
    engine |= _server_settings(source, target, config, options or CreateOptions())
    if params.vectors:  # these settings are about dense vectors
        known = set(models.HnswConfigDiff.model_fields)
        hnsw = {k: v for k, v in config.hnsw_config.model_dump(exclude_none=True).items() if k in known}
        engine["hnsw_config"] = models.HnswConfigDiff(**hnsw)
        if config.quantization_config is not None:
            engine["quantization_config"] = config.quantization_config
    target.create(
        vectors_config=params.vectors or {},
        sparse_vectors_config=_sparse_vectors(source, settings if command == "reindex" else None),
        metadata={**(config.metadata or {}), SETTINGS_KEY: mark},
        **engine,
    )
    if staging_mark(target) is None:
        target.drop()
        raise NotSupportedError(
            f"The store at {target.location!r} does not keep the metadata of a collection, which records its "
            "model. Use a Qdrant server of version 1.16 or newer."
        )


def _sparse_vectors(
    source: Collection, settings: Mapping[str, Any] | None
) -> "dict[str, models.SparseVectorParams]":
    """Return the sparse vectors of the target.

    With new settings each has the modifier that its model needs. The vectors of a second model are stored as
    those of the first one, or left out where the settings have none.
    """
    vectors = dict(source.describe().config.params.sparse_vectors or {})
    new = None if settings is None else CollectionSettings.from_metadata({SETTINGS_KEY: dict(settings)}, "")
    if new is None or new.vector_name not in vectors:
        return vectors
    removed = (stored_settings(source) or {}).get("second_name")
    others = {name: params for name, params in vectors.items() if name != removed}
    first = vectors[new.vector_name]
    return others | {
        name: vectors.get(name, first).model_copy(update={"modifier": modifier_of(encoder)})
        for name, encoder in new.sparse_encoders.items()
    }


def _server_settings(
    source: Collection, target: Collection, config: "models.CollectionConfig", options: CreateOptions
) -> dict[str, Any]:
    """Return the settings that only servers have."""
    from qdrant_client import models

    settings: dict[str, Any] = {}
    if _is_server(source) and _is_server(target):
        settings = {name: getattr(config.params, name, None) for name in _CLUSTER_SETTINGS}
        optimiser = config.optimizer_config.model_dump(exclude_none=True)
        known = set(models.OptimizersConfigDiff.model_fields)
        settings["optimizers_config"] = models.OptimizersConfigDiff(
            **{name: value for name, value in optimiser.items() if name in known}
        )
    wanted = {"shard_number": options.shard_number, "replication_factor": options.replication_factor}
    settings |= {name: value for name, value in wanted.items() if value is not None}
    return {name: value for name, value in settings.items() if value is not None}


def index_like(source: Collection, target: Collection) -> None:
    """Create the payload indexes of another collection that the target lacks."""
    if target.single_thread:  # local mode has no such indexes, finds the same without them, and warns
        return
    schema: Mapping[str, models.PayloadIndexInfo] = source.describe().payload_schema or {}
    present = target.describe().payload_schema or {}
    for path, index in sorted(schema.items()):
        if path not in present:
            target.create_payload_index(path, index.params or index.data_type)


def finish(source: Collection, target: Collection, settings: Mapping[str, Any] | None) -> None:
    """Replace the mark of a complete collection by its settings; from now on it can be opened.

    The strict mode of a server is taken over here, since its limits could stop the command.
    """
    from qdrant_client import models

    changes: dict[str, Any] = {"metadata": {SETTINGS_KEY: None if settings is None else dict(settings)}}
    if _is_server(source) and _is_server(target):
        strict = source.describe().config.strict_mode_config
        if strict is not None:
            changes["strict_mode_config"] = models.StrictModeConfig(**strict.model_dump(exclude_none=True))
    target.update(**changes)


def dense_vector_names(params: "models.CollectionParams") -> list[str]:
    """Return the names of a collection's dense vectors; "" for an unnamed one."""
    if isinstance(params.vectors, dict):
        return sorted(params.vectors)
    return [""] if params.vectors else []


def _is_server(store: Collection) -> bool:
    from qdrant_client.qdrant_remote import QdrantRemote

    return isinstance(getattr(store.client, "_client", None), QdrantRemote)
