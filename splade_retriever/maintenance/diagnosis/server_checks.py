"""Checks of the collections of a Qdrant server. Only reading requests are sent."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any, Final

from qdrant_client import models
from qdrant_client.common.version_check import is_compatible
from qdrant_client.http.exceptions import ApiException

from splade_retriever.errors import ServerError, SpladeError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import SETTINGS_KEY
from splade_retriever.index.field_indexes import refuses_unindexed_filters
from splade_retriever.index.opening import load_settings, open_store
from splade_retriever.index.options import ServerOptions
from splade_retriever.index.payload import to_hit
from splade_retriever.index.server_version import release_of
from splade_retriever.maintenance.diagnosis.collection_checks import (
    DocumentSample,
    Expectations,
    check_fields,
    check_model,
    check_second_model,
    check_truncation,
    expected_paths,
)
from splade_retriever.maintenance.diagnosis.findings import Finding

__all__ = ["check_server"]

_MAX_READ: Final = 2_000
"""Points whose texts are read; the ids of points are hashes, so that the first ones are a fair sample."""
_OLDEST: Final = (1, 16)
"""The first version that keeps the metadata of collections, in which the model is recorded."""
_FULL: Final = 0.8
"""Share of the machine's memory that a server may use."""


def check_server(
    url: str, name: str | None, expected: Expectations, options: ServerOptions
) -> Iterator[Finding]:
    """Check a server and its collections: the one that is named, or all that this package made."""
    try:
        store = open_store(url, create=False, server=options)
    except ServerError as error:
        yield Finding(check="server", level="fault", found=str(error))
        return
    with closing(
        Collection(store, name or "splade", url, owned=True, read_only=True, server=options)
    ) as any_of:
        try:
            yield _version_finding(any_of.server_version())
            yield _memory_finding(any_of)
            if name is None:
                yield from _check_all(any_of, expected)
            else:
                yield from _check_collection(any_of, expected)
        except SpladeError as error:
            yield Finding(check="server", level="fault", found=str(error))


def _version_finding(server: str) -> Finding:
    client = version("qdrant-client")
    result = partial(Finding, check="versions")
    found = f"server {server}, qdrant-client {client}"
    if release_of(server) < _OLDEST:
        return result(
            level="fault",
            found=f"{found}: the server does not keep the metadata of collections",
            advice="Update the server to version 1.16 or newer.",
        )
    if not is_compatible(client, server):
        return result(
            level="warning",
            found=f"{found}: they are tested with each other if they differ by one minor version at most",
            advice=_update(client, server),
        )
    return result(found=found)


def _update(client: str, server: str) -> str:
    if release_of(server) > release_of(client):
        return f"Update the client: `pip install --upgrade 'qdrant-client>={server}'`."
    return f"Update the server to version {'.'.join(map(str, release_of(client)))}."


def _memory_finding(collection: Collection) -> Finding:
    result = partial(Finding, check="memory")
    unknown = "a server does not report its free disk space: check it on its machine"
    http = collection.client.http.service_api.api_client  # type: ignore[attr-defined]
    try:
        # As JSON: the client's model of this answer changes with each version.
        answer = http.request(type_=Any, method="GET", url="/telemetry", params={"details_level": "1"})
        used = int(answer["result"]["memory"]["resident_bytes"])
        total = int(answer["result"]["app"]["system"]["ram_size"]) * 1024
    except (ApiException, ValueError, TypeError, KeyError):
        return result(found=f"the server does not report its memory to this key, and {unknown}")
    found = f"the server uses {used / 1e9:,.1f} of {total / 1e9:,.1f} GB; {unknown}"
    if used > _FULL * total:
        return result(
            level="warning",
            found=found,
            advice="Move collections to another server or more nodes, or store fewer weights: docs/scale.md.",
        )
    return result(found=found)


def _check_all(any_of: Collection, expected: Expectations) -> Iterator[Finding]:
    collections = [any_of.beside(name) for name in sorted(any_of.names_in_store())]
    made_here = [item for item in collections if SETTINGS_KEY in (item.describe().config.metadata or {})]
    others = len(collections) - len(made_here)
    if not made_here:
        yield Finding(
            check="collections",
            level="warning",
            found=f"splade-retriever made none of the server's {others} collections",
            advice="Index files (`splade index FILES --to URL`), or name a collection: --collection.",
        )
    elif others:
        yield Finding(
            check="collections",
            found=f"{len(made_here)} checked; {others} of other programs are checked if they are named",
        )
    for collection in made_here:
        yield from _check_collection(collection, expected)


def _check_collection(collection: Collection, expected: Expectations) -> Iterator[Finding]:
    name = collection.name
    if not collection.exists():
        listed = ", ".join(map(repr, sorted(collection.names_in_store()))) or "none"
        yield Finding(
            check="collection",
            level="fault",
            found=f"there is no collection {name!r} (found: {listed})",
            advice="Check the name and the URL.",
            collection=name,
        )
        return
    collection.resolve_alias()
    info = collection.describe()
    points = collection.count()
    yield _segments_finding(name, info, points)
    try:
        load_settings(collection, requested={}, vector_names={"sparse": expected.vector_name, "dense": None})
        model, encoder = check_model(collection, expected)
        paths = expected_paths(collection, expected)
    except SpladeError as error:
        yield Finding(check="settings", level="fault", found=str(error), collection=name)
        return
    yield model
    if (second := check_second_model(collection, expected)) is not None:
        yield second
    sample = DocumentSample(encoder, paths)
    for record in islice(collection.scroll(), _MAX_READ):
        sample.add(to_hit(record, collection.layout, "").text, record.payload or {})
    truncation = check_truncation(collection, sample, of=points)
    if truncation is not None:
        yield truncation
    strict = refuses_unindexed_filters(info.config.strict_mode_config)
    yield from check_fields(collection, sample, info.payload_schema, of=points, strict=strict)


def _segments_finding(name: str, info: models.CollectionInfo, points: int) -> Finding:
    result = partial(Finding, check="segments", collection=name)
    found = f"{points:,} points in {info.segments_count} segments"
    problem: Any = getattr(info.optimizer_status, "error", None)
    if problem is not None or info.status is models.CollectionStatus.RED:
        return result(
            level="fault",
            found=f"{found}; the server could not optimise them: {problem or info.status.value}",
            advice="Read the server's log. Often the disk is full: free space and restart the server.",
        )
    if info.status is models.CollectionStatus.GREY:
        return result(
            level="warning",
            found=f"{found}; optimisations wait for the next write since the server was started",
            advice="Any write starts them, such as adding a document again.",
        )
    if info.status is models.CollectionStatus.YELLOW:
        return result(
            level="warning", found=f"{found}, which are being optimised", advice="Wait, and check again."
        )
    if info.config.optimizer_config.indexing_threshold == 0:
        return result(
            level="warning",
            found=f"{found}; optimising is turned off (indexing_threshold=0)",
            advice=(
                f"Turn it on: client.update_collection({name!r}, "
                "optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10000))."
            ),
        )
    return result(found=f"{found}, optimised")
