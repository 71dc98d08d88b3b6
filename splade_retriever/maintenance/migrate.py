"""Copies a collection to another place without encoding it again: between folders and servers."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from splade_retriever.errors import CollectionMismatchError, InputError, StorageError
from splade_retriever.index.collection import Collection
from splade_retriever.index.options import CreateOptions, ServerKeywords
from splade_retriever.maintenance.points import batches, copy_points, count_points, differing, remove_surplus
from splade_retriever.maintenance.staging import (
    MAX_PASSES,
    changed_all_the_time,
    create_like,
    dense_vector_names,
    finish,
    index_like,
    not_found,
    open_collection,
    staging_mark,
    stored_settings,
)
from splade_retriever.maintenance.verification import Sample, verification_fault
from splade_retriever.validation import is_url, resolved_location

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

__all__ = ["MigrationReport", "TargetState", "migrate"]

TargetState = Literal["new", "unfinished", "complete"]
"""State of the target before: missing, left incomplete by an earlier run, or complete."""


@dataclass(slots=True)
class MigrationReport:
    """Result of a migration, or its plan with `dry_run`."""

    source: str
    target: str
    collection: str
    target_collection: str
    state: TargetState
    model: str | None
    """The model that made the vectors; None for a collection that another program made."""
    points: int
    """Points of the source."""
    present: int = 0
    """Points that the target had already."""
    copied: int = 0
    """Points that were written; with `dry_run`, points that would be written."""
    removed: int = 0
    """Points that were deleted from the target, since they are gone from the source."""
    passes: int = 0
    """Comparisons after the copy; more than one if the source was changed meanwhile."""
    vectors: list[str] = field(default_factory=list)
    payload_indexes: list[str] = field(default_factory=list)
    queries: int = 0
    """Queries with equal hits on both sides."""
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
    **server: Unpack[ServerKeywords],
) -> MigrationReport:
    """Copy a collection: its points, vector parameters, payload indexes and settings.

    1. Create the target like the source, marked as incomplete, so that it cannot be opened until the end.
    2. Copy the points in small batches; to a target that an interrupted run left, only those that are missing
       or differ.
    3. Compare both sides until a comparison finds no difference; what was written to the source meanwhile is
       copied, and what was deleted from it is deleted.
    4. Verify that the counts are equal, and that stored vectors used as queries find the same ids on both
       sides, with scores within 1e-4.
    5. Remove the mark.

    The source is only read. A target that is complete already is compared and never written.

    Args:
        source: A folder, the URL of a server, or a client.
        target: The same; a missing folder is created.
        collection: Name of the collection.
        target_collection: Its name in the target; None for the same name.
        source_api_key: Key of the source's server.
        api_key: Key of the target's server.
        shard_number: Shards of a new collection on a server; None for as many as the source has on a server.
        replication_factor: Copies of each shard; None for as many as the source has on a server.
        dry_run: Return the plan, and write nothing.
        on_progress: Called with the points done and the number of points, after each batch of the copy.
        **server: How to connect to servers: `prefer_grpc`, `grpc_port`, `timeout`, `retry_for`, `ca`,
            `verify` as in `SpladeIndex`. `timeout` is 60 and `retry_for` 300 seconds unless set.

    Raises:
        CollectionNotFoundError: The source does not exist.
        CollectionMismatchError: The target holds the vectors of another model, or another content.
        IndexLockedError: Another process has one of the folders open.
        InputError: Source and target are the same, or one of them is not a valid location.
        NotSupportedError: The target cannot keep metadata, or the source has shard keys.
        ServerError: A server cannot be reached; run it again to continue.
        StorageError: A store failed, the sides differ after copying, or the source was changed all the time.
    """
    started = time.perf_counter()
    name = target_collection or collection
    source, target = _resolved(source), _resolved(target)
    same_place = _is_same_place(source, target)
    if same_place and name == collection:
        raise InputError(
            f"Source and target are both collection {collection!r} at {str(source)!r}, expected two places. "
            "Pass another target, or another name for the target collection."
        )
    with ExitStack() as stack:
        origin = stack.enter_context(
            open_collection(source, collection, create=False, api_key=source_api_key, server=server)
        )
        report = _plan(origin, name, target if isinstance(target, str) else "")
        report.dry_run = dry_run
        if dry_run and not same_place and _is_missing_folder(target):
            report.copied = report.points
            return report
        if same_place:
            goal = origin.beside(name)
        else:
            goal = stack.enter_context(
                open_collection(target, name, create=True, api_key=api_key, server=server)
            )
        report.target = goal.location
        report.state = _target_state(origin, goal)
        if report.state == "complete":
            _compare(origin, goal, report, on_progress)
        elif dry_run:
            report.present = count_points(goal) if report.state == "unfinished" else 0
            report.copied = max(0, report.points - report.present)
        else:
            options = CreateOptions(shard_number=shard_number, replication_factor=replication_factor)
            _fill(origin, goal, report, options, on_progress)
    report.seconds = time.perf_counter() - started
    return report


def _plan(source: Collection, target_name: str, target: str) -> MigrationReport:
    """Check that the source exists and is complete, and describe it."""
    if not source.exists():
        raise not_found(source)
    if staging_mark(source) is not None:
        raise CollectionMismatchError(
            f"Collection {source.name!r} at {source.location!r} is not complete, expected a complete one. "
            "Run the command that was filling it again."
        )
    info = source.describe()
    params = info.config.params
    return MigrationReport(
        source=source.location,
        target=target,
        collection=source.name,
        target_collection=target_name,
        state="new",
        model=_model_in(stored_settings(source)),
        points=count_points(source),
        vectors=sorted([*dense_vector_names(params), *(params.sparse_vectors or {})]),
        payload_indexes=sorted(info.payload_schema or {}),
    )


def _target_state(source: Collection, target: Collection) -> TargetState:
    """Find out how far the target is.

    Raises:
        CollectionMismatchError: It has, or will have, another model or other settings.
    """
    if not target.exists():
        return "new"
    mark = staging_mark(target)
    if mark is not None and mark.command != "migrate":
        raise CollectionMismatchError(
            f"Collection {target.name!r} at {target.location!r} is being filled by `splade {mark.command}`, "
            "expected no collection, or one that `splade migrate` left. Choose another name."
        )
    expected = stored_settings(source)
    actual = stored_settings(target) if mark is None else mark.settings
    if actual != expected:
        before, now = actual or {}, expected or {}
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise CollectionMismatchError(
            f"Collection {target.name!r} at {target.location!r} has model {_model_in(actual)!r}, but the "
            f"source has {_model_in(expected)!r} (what differs: {', '.join(keys)}). Nothing was written. "
            "Choose another name for the target, or delete that collection first."
        )
    return "complete" if mark is None else "unfinished"


def _fill(
    source: Collection,
    target: Collection,
    report: MigrationReport,
    options: CreateOptions,
    on_progress: Callable[[int, int], object] | None,
) -> None:
    """Create the target or continue with it, copy, compare, verify, and open it to readers."""
    settings = stored_settings(source)
    is_new = report.state == "new"
    if is_new:
        create_like(source, target, command="migrate", settings=settings, options=options)
    index_like(source, target)
    done = 0
    for batch in batches(source, with_vectors=True):
        wanted = batch if is_new else differing(batch, target, with_vectors=True)
        copy_points(wanted, target)
        report.copied += len(wanted)
        report.present += len(batch) - len(wanted)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, report.points)
    _follow(source, target, report, with_vectors=settings is None)
    finish(source, target, settings)


def _follow(source: Collection, target: Collection, report: MigrationReport, *, with_vectors: bool) -> None:
    """Bring the target up to date until a comparison finds no difference, and verify it.

    Vectors are compared for collections of other programs only: in those of this package, the content hash
    in a payload covers everything that decides the vector.

    Raises:
        StorageError: The source was changed during each pass, or the sides differ in their searches.
    """
    fault = None
    while report.passes < MAX_PASSES:
        report.passes += 1
        sample = Sample()
        changes = done = 0
        for batch in batches(source, with_vectors=with_vectors):
            changes += _copy_differing(batch, source, target, with_vectors=with_vectors)
            sample.offer(batch)
            done += len(batch)
        report.copied += changes
        if count_points(target) != done:
            removed = remove_surplus(source, target)
            report.removed += removed
            changes += removed
        if changes:
            continue
        fault_before = fault
        fault, report.queries = verification_fault(source, target, sample)
        report.points = done
        if fault is None:
            return
        if fault_before is not None:  # twice without a change of the points between
            raise StorageError(
                f"Collection {target.name!r} was not verified: {fault}. It stays closed to readers. "
                "Delete it and copy it again."
            )
    raise StorageError(changed_all_the_time(source, target, "migrate"))


def _copy_differing(batch: Any, source: Collection, target: Collection, *, with_vectors: bool) -> int:
    """Copy the points of a batch that differ, and return their number."""
    changed = differing(batch, target, with_vectors=with_vectors)
    if changed and not with_vectors:
        ids = [record.id for record in changed]
        changed = source.retrieve(ids, vectors=True)
    copy_points(changed, target)
    return len(changed)


def _compare(
    source: Collection,
    target: Collection,
    report: MigrationReport,
    on_progress: Callable[[int, int], object] | None,
) -> None:
    """Compare with a complete target, which may be in use and is therefore never written.

    Raises:
        CollectionMismatchError: The two differ.
    """
    sample = Sample()
    differences = done = 0
    for batch in batches(source, with_vectors=True):
        differences += len(differing(batch, target, with_vectors=True))
        sample.offer(batch)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, report.points)
    present = count_points(target)
    if differences or present != done:
        raise CollectionMismatchError(
            f"Collection {target.name!r} exists at {target.location!r} and differs: it has {present} points, "
            f"the source {done}, of which {differences} are missing or different in the target. Nothing was "
            "written. Choose another name for the target, or delete that collection first."
        )
    fault, report.queries = verification_fault(source, target, sample)
    if fault is not None:
        raise StorageError(
            f"Collection {target.name!r} was not verified: {fault}. Delete it and copy it again."
        )
    report.present = report.points = done


# -- places --------------------------------------------------------------------------------------------------


def _resolved(place: "str | Path | QdrantBase") -> "str | QdrantBase":
    return resolved_location(place) if isinstance(place, str | Path) else place


def _is_same_place(source: "str | QdrantBase", target: "str | QdrantBase") -> bool:
    if not isinstance(source, str) or not isinstance(target, str):
        return source is target
    if is_url(source) or is_url(target):
        return source.rstrip("/") == target.rstrip("/")
    return Path(source).resolve() == Path(target).resolve()


def _is_missing_folder(target: "str | QdrantBase") -> bool:
    """Return whether a target is a missing or empty folder, which opening would turn into an index."""
    if not isinstance(target, str) or is_url(target):
        return False
    path = Path(target)
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _model_in(settings: Mapping[str, Any] | None) -> str | None:
    encoder = (settings or {}).get("encoder") or {}
    return None if encoder.get("model") is None else str(encoder["model"])
