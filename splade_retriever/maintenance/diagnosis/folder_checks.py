"""Checks of an index folder. They read a copy of it, so the folder stays as it is."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.edge.segments import MIN_OPTIMIZED_BYTES
from splade_retriever.errors import CollectionNotFoundError, SpladeError
from splade_retriever.index.collection import Collection
from splade_retriever.index.opening import load_settings
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
from splade_retriever.maintenance.diagnosis.headroom import check_disk, check_memory
from splade_retriever.maintenance.salvage import DamagedDocument, Salvage

__all__ = ["check_folder"]

_MAX_SHOWN: Final = 5
"""Damaged documents that a text names."""
_MAX_EMBEDDED: Final = 1_000_000
"""Documents up to which docs/scale.md recommends the embedded engine."""


def check_folder(folder: str, name: str | None, expected: Expectations) -> Iterator[Finding]:
    """Check the collections of a folder, or the one that is named.

    Raises:
        CollectionNotFoundError: There is no index in the folder, or no such collection.
        IndexLockedError: A process has the folder open to write.
    """
    with Salvage(folder) as salvage:
        names = salvage.collections
        if name is not None and name not in names:
            raise CollectionNotFoundError(
                f"There is no collection {name!r} at {folder!r} (found: "
                f"{', '.join(map(repr, names)) or 'none'}). Check both names."
            )
        if not names:
            yield Finding(
                check="collections",
                level="warning",
                found="the folder has no collection",
                advice="Index files: `splade index FILES --to FOLDER`.",
            )
        for item in names if name is None else [name]:
            yield from _check_collection(salvage, folder, item, expected)
    size = disk_usage(Path(folder))
    yield check_disk(Path(folder), size)
    memory = check_memory(size)
    if memory is not None:
        yield memory


def _check_collection(salvage: Salvage, folder: str, name: str, expected: Expectations) -> Iterator[Finding]:
    yield _files_finding(salvage, folder, name)
    collection = Collection(salvage.client, name, folder, owned=False, read_only=True)
    try:
        load_settings(collection, requested={}, vector_names={"sparse": expected.vector_name, "dense": None})
        model, encoder = check_model(collection, expected)
        yield model
        if (second := check_second_model(collection, expected)) is not None:
            yield second
        sample = DocumentSample(encoder, expected_paths(collection, expected))
    except SpladeError as error:
        yield Finding(check="settings", level="fault", found=str(error), collection=name)
        collection.settings = None
        sample = DocumentSample(None, ())
    yield _read_documents(salvage, folder, collection, sample)
    try:
        info = salvage.client.get_collection(name)
        unoptimized = salvage.client.unoptimized_bytes(name)
    except SpladeError:  # the finding about the documents says so
        return
    truncation = check_truncation(collection, sample, of=sample.documents)
    if truncation is not None:
        yield truncation
    yield from check_fields(collection, sample, info.payload_schema, of=sample.documents, strict=False)
    yield _size_finding(name, sample.documents)
    yield _segments_finding(folder, name, unoptimized)


def _files_finding(salvage: Salvage, folder: str, name: str) -> Finding:
    damaged = salvage.damaged_files(name)
    result = partial(Finding, check="files", collection=name)
    if damaged is None:
        return result(found="not compared: the index was not closed, because its process was killed")
    if not damaged:
        return result(found="undamaged")
    return result(level="fault", found=f"damaged: {', '.join(damaged)}", advice=_repair(folder, name))


def _read_documents(salvage: Salvage, folder: str, collection: Collection, sample: DocumentSample) -> Finding:
    """Read all documents, count them in the sample, and report those that are damaged."""
    name = collection.name
    unverified = 0
    damaged: list[DamagedDocument] = []
    fault = ""
    try:
        for item in salvage.documents(name):
            if isinstance(item, DamagedDocument):
                damaged.append(item)
            else:
                sample.add(item.document.encoded_text or item.document.text, item.payload)
                unverified += not item.verified
    except SpladeError as error:
        fault = f"; {error}"
    is_sound = not damaged and not fault
    return Finding(
        check="documents",
        level="ok" if is_sound else "fault",
        found=f"{sample.documents:,} can be read; {_verified(sample.documents, unverified, damaged)}{fault}",
        advice="" if is_sound else _repair(folder, name),
        collection=name,
        documents=tuple(item.id for item in damaged),
    )


def _verified(count: int, unverified: int, damaged: Sequence[DamagedDocument]) -> str:
    if damaged:
        shown = ", ".join(f"{item.id!r} ({item.reason})" for item in damaged[:_MAX_SHOWN])
        more = f" and {len(damaged) - _MAX_SHOWN} more" if len(damaged) > _MAX_SHOWN else ""
        return f"{len(damaged):,} damaged: {shown}{more}"
    if unverified == count and count:
        return "none has a checksum of its text, so the texts are not verified"
    return f"texts verified, but for {unverified:,} without a checksum" if unverified else "texts verified"


def _repair(folder: str, name: str) -> str:
    return (
        "Restore the folder from a backup, index its sources again, or save what can be read: "
        f"`splade reindex --index {folder} --collection {name} --repair NEW_FOLDER`."
    )


def _size_finding(name: str, documents: int) -> Finding:
    result = partial(Finding, check="size", collection=name)
    if documents <= _MAX_EMBEDDED:
        return result(found=f"{documents:,} documents, which an index folder serves well")
    return result(
        level="warning",
        found=f"{documents:,} documents: above {_MAX_EMBEDDED:,} a server is recommended",
        advice="Copy it to a server: `splade migrate FOLDER http://HOST:6333`.",
    )


def _segments_finding(folder: str, name: str, unoptimized: int) -> Finding:
    result = partial(Finding, check="segments", collection=name)
    if unoptimized < MIN_OPTIMIZED_BYTES:
        return result(found="optimised, or too small to need it")
    return result(
        level="warning",
        found=f"{unoptimized / 1e6:,.1f} MB of vectors are not optimised: opening takes long and much memory",
        advice=f"Run `splade optimize --index {folder} --collection {name}`.",
    )
