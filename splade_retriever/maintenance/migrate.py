"""Copies a collection as it is to another place: a folder to a server, back, or a folder to a folder."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from splade_retriever.errors import (
    CollectionMismatchError,
    InputError,
    StorageError,
)
from splade_retriever.index.collection import Collection, CreateOptions
from splade_retriever.maintenance.staging import (
    create_like,
    finish,
    index_like,
    missing,
    opened,
    remembered,
    staging_mark_of,
)
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase

__all__ = ["MigrationReport", "State", "migrate"]

State = Literal["new", "unfinished", "complete"]
"""How the target was found: not there, half copied by an earlier run, or there and whole."""

_BATCH: Final = 64
_IDS_A_PAGE: Final = 256
_QUERIES: Final = 20
"""Points whose stored vectors are asked as queries on both sides."""
_HITS: Final = 10
_TOLERANCE: Final = 1e-4
"""By how much the scores of the two sides may differ."""


@dataclass(slots=True)
class MigrationReport:
    """What a migration did, or with `dry_run` what it would do."""

    source: str
    target: str
    collection: str
    target_collection: str
    state: State
    model: str | None
    """The model that made the vectors; None for a collection that another program made."""
    points: int
    """Points of the source."""
    present: int = 0
    """Points that the target had already."""
    copied: int = 0
    """Points that were written; in a dry run, those that would be."""
    removed: int = 0
    """Points of an earlier, interrupted run that the source has no longer."""
    vectors: list[str] = field(default_factory=list)
    payload_indexes: list[str] = field(default_factory=list)
    queries: int = 0
    """Queries that gave equal hits on both sides."""
    dry_run: bool = False
    seconds: float = 0.0


def migrate(
    source: "str | Path | QdrantBase",
    target: "str | Path | QdrantBase",
    *,
    collection: str = "splade",
    target_collection: str | None = None,
    source_api_key: str | None = None,
    api_key: str | None = None,
    shard_number: int | None = None,
    replication_factor: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> MigrationReport:
    """Copy a collection: points as they are, vector parameters, payload indexes, and what it remembers.

    1. lay the target out like the source, marked as not complete: until the end nothing can open it;
    2. copy the points in small batches; of a target that an interrupted run has left, only what is missing
       or differs;
    3. count both sides, and ask stored vectors as queries on both: the same ids, scores within 1e-4;
    4. take the mark away.

    The source is only read. A target that is there and complete is compared and never written.

    Args:
        source: A folder, the URL of a server, or a ready client.
        target: The same; a folder is made where there is none.
        collection: Name of the collection.
        target_collection: Its name in the target; None for the same.
        source_api_key: Of the source's server.
        api_key: Of the target's server.
        shard_number: Shards of a new collection on a cluster.
        replication_factor: Copies of each shard on a cluster.
        dry_run: Say what would be done, and write nothing.
        on_progress: Called with points done and points in all, after each batch.

    Raises:
        CollectionNotFoundError: The source is not there.
        CollectionMismatchError: The target holds another model's vectors, or other content.
        IndexLockedError: Another process has one of the folders open.
        InputError: Source and target are the same.
        NotSupportedError: The target cannot keep metadata, or the source has shard keys.
        ServerError: A server went away; run it again to go on.
        StorageError: A store failed, or the two sides differ after copying; the mark stays.
    """
    started = time.perf_counter()
    name = target_collection or collection
    same_place = _same_place(source, target)
    if same_place and name == collection:
        raise InputError(
            f"source and target are both collection {collection!r} at {str(source)!r}, expected two places. "
            "Name another target, or another collection there."
        )
    with ExitStack() as stack:
        origin = stack.enter_context(opened(source, collection, create=False, api_key=source_api_key))
        report = _described(origin, name, str(target) if isinstance(target, str | Path) else "")
        report.dry_run = dry_run
        if dry_run and not same_place and _would_be_new(target):
            report.copied = report.points
            return report
        if same_place:
            goal = Collection(origin.client, name, origin.location, owned=False)
        else:
            goal = stack.enter_context(opened(target, name, create=True, api_key=api_key))
        report.target = goal.location
        report.state = _state(origin, goal)
        if report.state == "complete":
            _check_equal(origin, goal, report, on_progress)
        elif dry_run:
            report.present = _count(goal) if report.state == "unfinished" else 0
            report.copied = max(0, report.points - report.present)
        else:
            creation = CreateOptions(shard_number=shard_number, replication_factor=replication_factor)
            _fill(origin, goal, report, creation, on_progress)
    report.seconds = time.perf_counter() - started
    return report


def _described(source: Collection, name: str, target: str) -> MigrationReport:
    """See that the source is there and whole, and describe it."""
    if not source.exists():
        raise missing(source)
    if staging_mark_of(source) is not None:
        raise CollectionMismatchError(
            f"collection {source.name!r} at {source.location!r} is not complete itself, expected a finished "
            "one. Run the command that was filling it again."
        )
    info = source.call("get_collection")
    params = info.config.params
    dense = params.vectors if isinstance(params.vectors, dict) else ({"": None} if params.vectors else {})
    memory = remembered(source)
    return MigrationReport(
        source=source.location,
        target=target,
        collection=source.name,
        target_collection=name,
        state="new",
        model=_model_of(memory),
        points=_count(source),
        vectors=sorted([*dense, *(params.sparse_vectors or {})]),
        payload_indexes=sorted(info.payload_schema or {}),
    )


def _state(source: Collection, target: Collection) -> State:
    """Find out how far the target is.

    Raises:
        CollectionMismatchError: It is, or was to become, a collection of another model or of other settings.
    """
    if not target.exists():
        return "new"
    arrival = staging_mark_of(target)
    theirs = remembered(target) if arrival is None else arrival.memory
    if arrival is not None and arrival.command != "migrate":
        raise CollectionMismatchError(
            f"collection {target.name!r} at {target.location!r} is being filled by `splade "
            f"{arrival.command}`, expected none, or one that `splade migrate` left. Choose another name."
        )
    ours = remembered(source)
    if theirs != ours:
        before, now = theirs or {}, ours or {}
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise CollectionMismatchError(
            f"collection {target.name!r} at {target.location!r} is of model {_model_of(theirs)!r}, but the "
            f"source is of {_model_of(ours)!r} (what differs: {', '.join(keys)}). Nothing was written. "
            "Choose another name for the target, or delete that collection first."
        )
    return "complete" if arrival is None else "unfinished"


def _fill(
    source: Collection,
    target: Collection,
    report: MigrationReport,
    creation: CreateOptions,
    on_progress: Callable[[int, int], object] | None,
) -> None:
    """Create or go on, copy, verify, and open the target to readers."""
    memory = remembered(source)
    if report.state == "new":
        create_like(source, target, command="migrate", memory=memory, creation=creation)
    index_like(source, target)
    sample = _Sample()
    done = 0
    for batch in _batches(source.scroll(None, batch_size=_BATCH, with_vectors=True)):
        wanted = batch if report.state == "new" else _missing(batch, target)
        target.upsert([[_to_point(record)] for record in wanted])
        sample.offer(batch)
        report.copied += len(wanted)
        report.present += len(batch) - len(wanted)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, report.points)
    if _count(target) > done:
        report.removed = _remove_surplus(source, target)
    _verify(source, target, sample.records, done)
    report.points, report.queries = done, len(sample.records)
    finish(target, memory)


def _check_equal(
    source: Collection,
    target: Collection,
    report: MigrationReport,
    on_progress: Callable[[int, int], object] | None,
) -> None:
    """Compare with a target that is complete: it may be in use, and so is never written.

    Raises:
        CollectionMismatchError: The two differ.
    """
    sample = _Sample()
    differing = done = 0
    for batch in _batches(source.scroll(None, batch_size=_BATCH, with_vectors=True)):
        differing += len(_missing(batch, target))
        sample.offer(batch)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, report.points)
    found = _count(target)
    if differing or found != done:
        raise CollectionMismatchError(
            f"collection {target.name!r} is there already at {target.location!r} and differs: {found} points "
            f"against {done} of the source, {differing} of which are missing or different there. Nothing was "
            "written. Choose another name for the target, or delete that collection first."
        )
    _verify(source, target, sample.records, done)
    report.present, report.queries = done, len(sample.records)


# -- points --------------------------------------------------------------------------------------------------


def _missing(batch: "list[models.Record]", target: Collection) -> "list[models.Record]":
    """Choose the points that the target has not, or has otherwise."""
    records = target.call(
        "retrieve", ids=[record.id for record in batch], with_payload=True, with_vectors=True
    )
    there = {record.id: record for record in records}
    return [record for record in batch if record.id not in there or not _same(record, there[record.id])]


def _same(one: "models.Record", other: "models.Record") -> bool:
    return _close(_plain(one.payload), _plain(other.payload)) and _close(
        _vectors_of(one), _vectors_of(other), rel=1e-5
    )


def _vectors_of(record: "models.Record") -> dict[str, Any]:
    """Read vectors as plain lists, by name; sparse ones sorted by index."""
    found: dict[str, Any] = {}
    for name, vector in _named(record).items():
        if hasattr(vector, "indices"):
            pairs = sorted(zip(vector.indices, vector.values, strict=True))
            found[name] = [[index for index, _ in pairs], [value for _, value in pairs]]
        else:
            found[name] = vector
    return found


def _named(record: "models.Record") -> dict[str, Any]:
    vector: Any = record.vector
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, Mapping) else {"": vector}


def _plain(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(payload or {})


def _close(one: Any, other: Any, *, rel: float = 1e-12) -> bool:
    """Compare JSON; floats may differ in their last digits, which not every engine keeps."""
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=rel, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_close(one[key], other[key], rel=rel) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_close(a, b, rel=rel) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _to_point(record: "models.Record") -> "models.PointStruct":
    from qdrant_client import models

    vector: Any = record.vector if record.vector is not None else {}
    return models.PointStruct(id=record.id, vector=vector, payload=record.payload)


def _remove_surplus(source: Collection, target: Collection) -> int:
    """Delete what an earlier run copied and the source has no longer."""
    surplus: list[Any] = []
    for ids in _pages_of_ids(target):
        kept = source.call("retrieve", ids=ids, with_payload=False, with_vectors=False)
        surplus.extend({*ids} - {record.id for record in kept})
    for start in range(0, len(surplus), _IDS_A_PAGE):
        target.delete_points(surplus[start : start + _IDS_A_PAGE])
    return len(surplus)


def _pages_of_ids(store: Collection) -> Iterator[list[Any]]:
    offset: Any = None
    while True:
        records, offset = store.call(
            "scroll", limit=_IDS_A_PAGE, offset=offset, with_payload=False, with_vectors=False
        )
        if records:
            yield [record.id for record in records]
        if offset is None:
            return


def _batches(records: "Iterator[models.Record]") -> "Iterator[list[models.Record]]":
    while batch := list(islice(records, _BATCH)):
        yield batch


def _count(store: Collection) -> int:
    return int(store.call("count", exact=True).count)


# -- verification --------------------------------------------------------------------------------------------


class _Sample:
    """A random sample of a stream of unknown length, the same for the same stream."""

    def __init__(self) -> None:
        self.records: list[models.Record] = []
        self._seen = 0
        self._random = random.Random(0)

    def offer(self, batch: "list[models.Record]") -> None:
        for record in batch:
            if not any(_is_query(vector) for vector in _named(record).values()):
                continue
            self._seen += 1
            if len(self.records) < _QUERIES:
                self.records.append(record)
            elif (place := self._random.randrange(self._seen)) < _QUERIES:
                self.records[place] = record


def _is_query(vector: Any) -> bool:
    return len(vector.indices if hasattr(vector, "indices") else vector) > 0


def _verify(source: Collection, target: Collection, sample: "list[models.Record]", read: int) -> None:
    """Compare counts, and the hits of stored vectors asked as queries.

    Raises:
        StorageError: Naming what differs.
    """
    here, there = _count(source), _count(target)
    if not here == there == read:
        raise StorageError(
            f"collection {target.name!r} was not verified: {read} points were read, now the source holds "
            f"{here} and the target {there}, expected as many. The source may have changed meanwhile: "
            "run the same command again."
        )
    for record in sample:
        for name, vector in _named(record).items():
            if not _is_query(vector):
                continue
            answers = [_hits(store, name, vector) for store in (source, target)]
            if not _equal_hits(*answers):
                raise StorageError(
                    f"collection {target.name!r} was not verified: the vector {name!r} of point {record.id} "
                    f"finds {answers[1]} in the target, expected {answers[0]} as in the source. The target "
                    "stays closed to readers; delete it and copy it anew."
                )


def _hits(store: Collection, name: str, vector: Any) -> list[tuple[Any, float]]:
    from qdrant_client import models

    settings: dict[str, Any] = {}
    if not store.one_thread and not hasattr(vector, "indices"):
        # A dense vector's graph is built otherwise on each side; the exact ranking is the same.
        settings["search_params"] = models.SearchParams(exact=True)
    answer = store.call(
        "query_points", query=vector, using=name or None, limit=_HITS, with_payload=False, **settings
    )
    return [(point.id, float(point.score)) for point in answer.points]


def _equal_hits(one: list[tuple[Any, float]], other: list[tuple[Any, float]]) -> bool:
    """Compare two rankings; points of equal score may change places, also over the end of the list."""
    if len(one) != len(other):
        return False
    if not all(_near(a, b) for (_, a), (_, b) in zip(one, other, strict=True)):
        return False
    last = one[-1][1] if len(one) == _HITS else -math.inf
    theirs = dict(other)
    return all(_near(score, last) or (id in theirs and _near(score, theirs[id])) for id, score in one)


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=_TOLERANCE)


# -- places --------------------------------------------------------------------------------------------------


def _same_place(source: "str | Path | QdrantBase", target: "str | Path | QdrantBase") -> bool:
    if not isinstance(source, str | Path) or not isinstance(target, str | Path):
        return source is target
    if is_url(source) or is_url(target):
        return str(source).rstrip("/") == str(target).rstrip("/")
    return Path(source).resolve() == Path(target).resolve()


def _would_be_new(target: "str | Path | QdrantBase") -> bool:
    """Say whether a target is a folder that is not there or empty, which opening would make an index."""
    if not isinstance(target, str | Path) or is_url(target):
        return False
    path = Path(target)
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _model_of(memory: Mapping[str, Any] | None) -> str | None:
    encoder = (memory or {}).get("encoder") or {}
    return None if encoder.get("model") is None else str(encoder["model"])
