"""Writes points to a server in requests that it takes: cut by number and bytes, smaller where it is slow."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from splade_retriever.errors import SpladeError
from splade_retriever.index.connection import (
    Connection,
    RequestTimedOutError,
    RequestTooLargeError,
)
from splade_retriever.index.request_limits import MAX_REQUEST_BYTES, StrictLimits, cut_groups

__all__ = ["Upload"]

_POINTS_PER_REQUEST: Final = 256
_BYTES_PER_REQUEST: Final = 8 * 2**20
"""A request that is larger takes a server longer without being faster per point."""
_SPARE_BYTES: Final = 64 * 2**10
"""For what surrounds the points."""
_MAX_TIMEOUT_S: Final = 120
Points = Sequence[bytes]
Write = Callable[[list[bytes], int], None]


class Upload:
    """The writes to one collection of a server. Records what the server refused or took long for."""

    def __init__(self, connection: Connection, write: Write, *, timeout_s: int, uses_grpc: bool) -> None:
        """Keep how to write; nothing is sent.

        Args:
            connection: Says how long a request is repeated.
            write: Sends points, with a time limit in seconds. It raises `RequestTooLargeError` and
                `RequestTimedOutError` at once.
            timeout_s: Time limit of a request, until one is not answered in it.
            uses_grpc: Whether requests go over gRPC.
        """
        self._connection = connection
        self._write = write
        self._timeout_s = timeout_s
        self._max_points = _POINTS_PER_REQUEST
        self._lock = threading.Lock()
        self.max_bytes: int | None = None if uses_grpc else MAX_REQUEST_BYTES
        """Largest request that the server takes; None where no limit is known."""

    def write(self, groups: Sequence[Points], limits: StrictLimits) -> list[int]:
        """Write groups of encoded points, such as the windows of a document; several requests at once.

        The first point of a group is written last, so that a group is complete where that point is there.

        Returns:
            The positions of the groups with a point that is too large for the server; all others are written.

        Raises:
            ServerError: The server does not answer.
            StorageError: It refused.
        """
        requests = cut_groups(
            groups,
            max_points=min(self._max_points, limits.upsert_max_batchsize or self._max_points),
            max_bytes=min(_BYTES_PER_REQUEST, (self.max_bytes or MAX_REQUEST_BYTES) - _SPARE_BYTES),
        )
        retry_for_s = self._connection.retry_for_s  # of this thread
        jobs = [_Job(groups, request, limits, retry_for_s) for request in requests]
        if jobs:
            writes = [partial(self._write_groups, job, job.positions) for job in jobs]
            self._connection.run_concurrently(writes)
        return sorted(position for job in jobs for position in job.refused)

    def _write_groups(self, job: "_Job", positions: Sequence[int]) -> None:
        """Write the groups at some positions in one request, or in halves where that is too much."""
        points = [point for position in positions for point in reversed(job.groups[position])]
        if len(positions) == 1:
            if not self._write_one_group(job, points):
                job.refused.append(positions[0])
            return
        try:
            self._write_points(job, points)
        except (RequestTooLargeError, RequestTimedOutError) as error:
            job.check_time(error)
            middle = len(positions) // 2
            self._write_groups(job, positions[:middle])
            self._write_groups(job, positions[middle:])

    def _write_one_group(self, job: "_Job", points: Points) -> bool:
        """Write the points of one group in order, in as few requests as the server takes.

        Returns:
            False where one point is too large.
        """
        size = min(len(points), job.limits.upsert_max_batchsize or len(points))
        done = 0
        while done < len(points):
            try:
                self._write_points(job, points[done : done + size])
            except RequestTooLargeError:
                if size == 1:
                    return False
                size = (size + 1) // 2
            except RequestTimedOutError as error:
                job.check_time(error)
                size = (size + 1) // 2
            else:
                done += size
        return True

    def _write_points(self, job: "_Job", points: Points) -> None:
        timeout_s = min(self._timeout_s, max(1, math.ceil(job.remaining_s)))
        try:
            self._write(list(points), timeout_s)
        except RequestTooLargeError as error:
            if error.max_bytes is not None:
                self.max_bytes = error.max_bytes
            raise
        except RequestTimedOutError:
            with self._lock:
                self._timeout_s = min(2 * timeout_s, max(_MAX_TIMEOUT_S, timeout_s))
                self._max_points = max(1, min(self._max_points, len(points)) // 2)
            raise
        job.since = time.monotonic()
        with self._lock:
            self._max_points = min(_POINTS_PER_REQUEST, max(self._max_points, 2 * len(points)))


@dataclass(slots=True)
class _Job:
    """One request, and what becomes of it."""

    groups: Sequence[Points]
    positions: Sequence[int]
    """The groups of the request."""
    limits: StrictLimits
    retry_for_s: float
    since: float = field(default_factory=time.monotonic)
    """When the server took points for the last time."""
    refused: list[int] = field(default_factory=list)
    """Positions of groups with a point that is too large."""

    @property
    def remaining_s(self) -> float:
        """Seconds that the server has left to take points."""
        return self.since + self.retry_for_s - time.monotonic()

    def check_time(self, error: SpladeError) -> None:
        """Raise an error of a server that was slow for too long."""
        if isinstance(error, RequestTimedOutError) and self.remaining_s <= 0.0:
            raise error
