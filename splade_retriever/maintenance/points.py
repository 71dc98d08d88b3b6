"""Points of two collections: read in batches, compared, and copied."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import StorageError
from splade_retriever.index.collection import Collection
from splade_retriever.index.payload import package_fields
from splade_retriever.index.points import Point

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "batches",
    "copy_points",
    "count_points",
    "differing",
    "is_queryable",
    "remove_surplus",
    "to_point",
    "vectors_by_name",
]

_BATCH: Final = 64
_IDS_PER_PAGE: Final = 256


def batches(store: Collection, *, with_vectors: bool) -> "Iterator[list[models.Record]]":
    """Read all points of a collection in small batches."""
    records = store.scroll(batch_size=_BATCH, vectors=with_vectors)
    while batch := list(islice(records, _BATCH)):
        yield batch


def count_points(store: Collection) -> int:
    """Return the exact number of points."""
    return store.count()


def differing(
    batch: "list[models.Record]", target: Collection, *, with_vectors: bool
) -> "list[models.Record]":
    """Return the points of a batch that the target lacks or has with another content."""
    ids = [record.id for record in batch]
    records = target.retrieve(ids, vectors=with_vectors)
    present = {record.id: record for record in records}
    return [
        record for record in batch if record.id not in present or not _is_equal(record, present[record.id])
    ]


def to_point(record: "models.Record") -> Point:
    """Return a point as it is written."""
    return Point(record.id, record.payload or {}, record.vector if record.vector is not None else {})


def copy_points(records: "list[models.Record]", target: Collection) -> None:
    """Write points to the target.

    Raises:
        StorageError: A point is too large for a server.
    """
    refused = target.upsert(target.prepared([[to_point(record)] for record in records]))
    if refused:
        record = records[refused[0]]
        limit = target.max_request_bytes
        accepted = "" if limit is None else f", which takes {limit / 2**20:.4g} MiB in a request"
        raise StorageError(
            f"Document {package_fields(record).get('id', record.id)!r} is too large for the server at "
            f"{target.location!r}{accepted}. Copy over gRPC (prefer_grpc=True, --grpc), which has no such "
            "limit, or raise service.max_request_size_mb of the server, and run the same command again; it "
            "continues."
        )


def remove_surplus(source: Collection, target: Collection) -> int:
    """Delete the points of the target that the source lacks, and return their number."""
    surplus: list[Any] = []
    ids: list[Any] = []
    for record in target.scroll(batch_size=_IDS_PER_PAGE, payload=False):
        ids.append(record.id)
        if len(ids) == _IDS_PER_PAGE:
            surplus += _missing_ids(ids, source)
            ids = []
    surplus += _missing_ids(ids, source)
    for start in range(0, len(surplus), _IDS_PER_PAGE):
        target.delete_points(surplus[start : start + _IDS_PER_PAGE])
    return len(surplus)


def _missing_ids(ids: list[Any], store: Collection) -> list[Any]:
    present = {record.id for record in store.retrieve(ids, payload=False)}
    return [id for id in ids if id not in present]


def vectors_by_name(record: "models.Record") -> dict[str, Any]:
    """Return the vectors of a point by name; "" for an unnamed one."""
    vector: Any = record.vector
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, Mapping) else {"": vector}


def is_queryable(vector: Any) -> bool:
    """Return whether a vector has an entry, so that it can be searched for."""
    return len(vector.indices if hasattr(vector, "indices") else vector) > 0


def _is_equal(one: "models.Record", other: "models.Record") -> bool:
    payloads = _is_close(dict(one.payload or {}), dict(other.payload or {}))
    return payloads and _is_close(_plain_vectors(one), _plain_vectors(other), rel_tol=1e-5)


def _plain_vectors(record: "models.Record") -> dict[str, Any]:
    """Return the vectors as lists, sparse ones in order of their indices."""
    plain: dict[str, Any] = {}
    for name, vector in vectors_by_name(record).items():
        if hasattr(vector, "indices"):
            pairs = sorted(zip(vector.indices, vector.values, strict=True))
            plain[name] = [[index for index, _ in pairs], [value for _, value in pairs]]
        else:
            plain[name] = vector
    return plain


def _is_close(one: Any, other: Any, *, rel_tol: float = 1e-12) -> bool:
    """Compare JSON values; floats may differ in their last digits, which not every engine keeps."""
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=rel_tol, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            _is_close(one[key], other[key], rel_tol=rel_tol) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _is_close(left, right, rel_tol=rel_tol) for left, right in zip(one, other, strict=True)
        )
    return bool(one == other)
