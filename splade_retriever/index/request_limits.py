"""What a server takes in one request, and requests cut to it: points by number and bytes, queries by limit.

The limits come from the collection's strict mode, and from what the server refused so far.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from qdrant_client import models

__all__ = [
    "MAX_REQUEST_BYTES",
    "NO_LIMITS",
    "StrictLimits",
    "cut_groups",
    "cut_queries",
    "joined_responses",
    "payload_bytes",
    "point_bytes",
]

MAX_REQUEST_BYTES: Final = 32 * 2**20
"""Largest request that a Qdrant server takes over REST, unless its `service.max_request_size_mb` differs. It
has no such limit for gRPC."""
_BYTES_PER_WEIGHT: Final = 32
"""Of a sparse vector in JSON: up to 10 digits of the index, 20 characters of the weight, two commas."""
_BYTES_PER_COMPONENT: Final = 24
_BYTES_PER_POINT: Final = 128
"""Of id and keys."""


@dataclass(frozen=True, slots=True)
class StrictLimits:
    """The limits of a collection's strict mode; None for none."""

    max_query_limit: int | None = None
    """Largest `limit` of a query or a page."""
    search_max_batchsize: int | None = None
    """Queries in one request."""
    upsert_max_batchsize: int | None = None
    """Points in one write."""
    max_timeout: int | None = None
    """Largest `timeout` of a request, in seconds."""
    allows_exact: bool = True
    """Whether exact counts and searches are allowed."""

    @classmethod
    def of(cls, config: models.CollectionConfig) -> Self:
        """Read the limits of a collection's configuration."""
        strict = config.strict_mode_config
        if strict is None or not strict.enabled:
            return cls()
        return cls(
            max_query_limit=strict.max_query_limit,
            search_max_batchsize=strict.search_max_batchsize,
            upsert_max_batchsize=strict.upsert_max_batchsize,
            max_timeout=strict.max_timeout,
            allows_exact=strict.search_allow_exact is not False,
        )

    def page(self, size: int) -> int:
        """Return the size of a page of at most `size` points."""
        return size if self.max_query_limit is None else min(size, self.max_query_limit)


NO_LIMITS: Final = StrictLimits()


def payload_bytes(*parts: object) -> int:
    """Return the bytes that JSON values take in a request over REST."""
    return sum(len(json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass")) for part in parts)


def point_bytes(point: models.PointStruct) -> int:
    """Return about how many bytes a point takes in a request over REST; not less than it does."""
    vectors: Any = point.vector
    named = vectors.values() if isinstance(vectors, dict) else [vectors]
    return (
        _BYTES_PER_POINT + payload_bytes(point.payload or {}) + sum(_vector_bytes(vector) for vector in named)
    )


def _vector_bytes(vector: Any) -> int:
    if isinstance(vector, models.SparseVector):
        return _BYTES_PER_WEIGHT * len(vector.indices)
    if isinstance(vector, list) and vector and isinstance(vector[0], list):
        return sum(_vector_bytes(row) for row in vector)
    return _BYTES_PER_COMPONENT * len(vector or ())


def cut_groups(
    groups: Sequence[Sequence[models.PointStruct]], *, max_points: int, max_bytes: int | None
) -> list[list[int]]:
    """Sort groups of points, such as the windows of a document, into requests; a group stays in one.

    Args:
        groups: The groups.
        max_points: Points in a request; a larger group is a request alone.
        max_bytes: Bytes of a request; None to count points only.

    Returns:
        For each request the positions of its groups, in order; empty groups are left out.
    """
    requests: list[list[int]] = []
    points = size = 0
    for position, group in enumerate(groups):
        if not group:
            continue
        group_size = 0 if max_bytes is None else sum(point_bytes(point) for point in group)
        is_full = points + len(group) > max_points or (
            max_bytes is not None and size + group_size > max_bytes
        )
        if not requests or is_full:
            requests.append([])
            points = size = 0
        requests[-1].append(position)
        points += len(group)
        size += group_size
    return requests


def cut_queries(
    queries: Sequence[models.QueryRequest], limits: StrictLimits
) -> Iterator[tuple[int, models.QueryRequest]]:
    """Cut queries for more points than a request returns into pages.

    The branches of a hybrid search cannot be cut: they are read to the limit.

    Returns:
        Position of the query and one of its pages, in order.
    """
    page = limits.max_query_limit
    for position, query in enumerate(queries):
        if page is None:
            yield position, query
            continue
        changes: dict[str, Any] = {}
        if isinstance(query.prefetch, list):
            changes["prefetch"] = [
                part.model_copy(update={"limit": min(part.limit or page, page)}) for part in query.prefetch
            ]
        first, last = query.offset or 0, (query.offset or 0) + (query.limit or 10)
        for offset in range(first, last, page):
            changes |= {"limit": min(page, last - offset), "offset": offset or None}
            yield position, query.model_copy(update=changes)


def joined_responses(
    positions: Sequence[int], responses: Sequence[models.QueryResponse]
) -> list[models.QueryResponse]:
    """Join the pages of each query into its first one; the inverse of `cut_queries`."""
    joined: dict[int, models.QueryResponse] = {}
    for position, response in zip(positions, responses, strict=True):
        if position in joined:
            joined[position].points.extend(response.points)
        else:
            joined[position] = response
    return list(joined.values())
