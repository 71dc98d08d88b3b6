"""What a server takes in one request, and requests cut to it: points by number and bytes, queries by limit.

The limits come from the collection's strict mode, and from what the server refused so far.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from qdrant_client import models

__all__ = [
    "MAX_REQUEST_BYTES",
    "NO_LIMITS",
    "PagedQuery",
    "StrictLimits",
    "cut_groups",
    "payload_bytes",
]

MAX_REQUEST_BYTES: Final = 32 * 2**20
"""Largest request that a Qdrant server takes over REST, unless its `service.max_request_size_mb` differs. It
has no such limit for gRPC."""
_BETWEEN_POINTS: Final = 8
"""Bytes around a point in a request."""


@dataclass(frozen=True, slots=True)
class StrictLimits:
    """The limits of a collection's strict mode; None for none."""

    max_query_limit: int | None = None
    """Largest `limit` of a query or a page."""
    search_max_batchsize: int | None = None
    """Queries in one request."""
    upsert_max_batchsize: int | None = None
    """Points in one write."""
    condition_max_size: int | None = None
    """Values in a condition of a filter."""
    max_timeout: int | None = None
    """Largest `timeout` of a request, in seconds."""
    allows_exact: bool = True
    """Whether exact counts and searches are allowed."""

    @classmethod
    def of(cls, strict: models.StrictModeConfigOutput | None) -> Self:
        """Read the limits of a collection's strict mode; None and a mode that is off have none."""
        if strict is None or not strict.enabled:
            return cls()
        return cls(
            max_query_limit=strict.max_query_limit,
            search_max_batchsize=strict.search_max_batchsize,
            upsert_max_batchsize=strict.upsert_max_batchsize,
            condition_max_size=strict.condition_max_size,
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


def cut_groups(groups: Sequence[Sequence[Any]], *, max_points: int, max_bytes: int | None) -> list[list[int]]:
    """Sort groups of points, such as the windows of a document, into requests; a group stays in one.

    Args:
        groups: The groups; where bytes count, of encoded points.
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
        group_size = 0 if max_bytes is None else sum(len(point) + _BETWEEN_POINTS for point in group)
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


class PagedQuery:
    """A query whose points are read in as many pages as the limits need, best first.

    A page after the first leaves out the points that were read: by their ids, since engines order equal
    scores as they like, so that pages by offset may repeat and miss points. Rankings that are fused are paged
    by offset, since a filter would change them, and each of them is read to the limit of one page.
    """

    def __init__(self, query: models.QueryRequest, limits: StrictLimits) -> None:
        self._query = query
        self._limits = limits
        self._response: models.QueryResponse | None = None
        self._points: list[models.ScoredPoint] = []
        self._missing = self._skipped + (10 if query.limit is None else query.limit)
        if limits.max_query_limit is None:
            self._skip_in_engine, self._page = True, self._missing - self._skipped
        else:
            self._skip_in_engine, self._page = False, limits.max_query_limit

    @property
    def _skipped(self) -> int:
        return self._query.offset or 0

    def next_page(self) -> models.QueryRequest | None:
        """Return the request for the next page; None where all is read."""
        if self._missing <= 0:
            return None
        if self._skip_in_engine:
            return self._query
        changes: dict[str, Any] = {"limit": min(self._page, self._missing), "offset": None}
        if isinstance(self._query.prefetch, list):
            changes["prefetch"] = [
                part.model_copy(update={"limit": min(part.limit or self._page, self._page)})
                for part in self._query.prefetch
            ]
        read = [point.id for point in self._points]
        if read and self._query.prefetch:
            changes["offset"] = len(read)
        elif read:
            size = self._limits.condition_max_size or len(read)
            parts = [read[start : start + size] for start in range(0, len(read), size)]
            without = models.Filter(must_not=[models.HasIdCondition(has_id=part) for part in parts])
            both = [] if self._query.filter is None else [self._query.filter]
            changes["filter"] = models.Filter(must=[*both, without])
        return self._query.model_copy(update=changes)

    def take(self, response: models.QueryResponse) -> None:
        """Add the answer to the page that was requested."""
        self._response = response
        self._points += response.points
        is_last = self._skip_in_engine or len(response.points) < min(self._page, self._missing)
        self._missing = 0 if is_last else self._missing - len(response.points)

    def answer(self) -> models.QueryResponse:
        """Return the points of all pages."""
        assert self._response is not None, "no page was read"
        self._response.points = self._points if self._skip_in_engine else self._points[self._skipped :]
        return self._response
