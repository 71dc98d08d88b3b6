"""Requests cut to what a server takes, without a server."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.errors import ServerError
from splade_retriever.index.connection import Connection, RequestTimedOutError, RequestTooLargeError
from splade_retriever.index.points import Point
from splade_retriever.index.request_limits import (
    NO_LIMITS,
    PagedQuery,
    StrictLimits,
    cut_groups,
)
from splade_retriever.index.server_points import encode_for_rest
from splade_retriever.index.upload import Upload


def point(id: int, text: str = "") -> bytes:
    return encode_for_rest(Point(id, {"text": text}, {"dense": [-0.1234567890123456] * 3}))


def test_groups_are_cut_by_points_and_by_bytes_and_stay_together() -> None:
    groups = [[point(n)] for n in range(5)] + [[point(n) for n in range(10, 14)], [], [point(20, "x" * 5000)]]

    assert cut_groups(groups, max_points=3, max_bytes=None) == [[0, 1, 2], [3, 4], [5], [7]]
    assert cut_groups(groups, max_points=100, max_bytes=None) == [[0, 1, 2, 3, 4, 5, 7]]
    sizes = [sum(len(item) + 8 for item in group) for group in groups]
    assert cut_groups(groups, max_points=100, max_bytes=sum(sizes) - 1) == [[0, 1, 2, 3, 4, 5], [7]]
    assert cut_groups(groups, max_points=100, max_bytes=sum(sizes)) == [[0, 1, 2, 3, 4, 5, 7]]
    assert cut_groups(groups, max_points=100, max_bytes=1) == [[0], [1], [2], [3], [4], [5], [7]]
    assert cut_groups([], max_points=3, max_bytes=None) == []


# -- a server that takes less, or is slow --------------------------------------------------------------------


class Server:
    """Stores points; refuses too many, too large ones, and is too slow for many in a short time."""

    def __init__(self, *, max_text: int = 10**9, per_second: float = 10**9, says_limit: bool = True) -> None:
        self.max_text, self.per_second, self.says_limit = max_text, per_second, says_limit
        self.stored: list[int] = []
        self.calls: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def write(self, encoded: list[bytes], seconds: int) -> None:
        points = [json.loads(item) for item in encoded]
        with self._lock:
            self.calls.append((len(points), seconds))
            size = sum(len(item["payload"]["text"]) for item in points)
            if size > self.max_text:
                raise RequestTooLargeError("too large", self.max_text if self.says_limit else None)
            if len(points) / self.per_second > seconds:
                raise RequestTimedOutError("too slow")
            self.stored += [item["id"] for item in points]

    def upload(self, **options: Any) -> Upload:
        connection = Connection("here", retry_for=options.pop("retry_for", None))
        return Upload(connection, self.write, **{"timeout_s": 1, "uses_grpc": False, **options})


@pytest.mark.parametrize("says_limit", [True, False])
def test_a_point_that_is_too_large_is_the_only_one_that_is_not_written(says_limit: bool) -> None:
    server = Server(max_text=1000, says_limit=says_limit)
    upload = server.upload()
    groups = [[point(n, "x" * (2000 if n in (3, 40) else 100))] for n in range(70)]

    assert upload.write(groups, NO_LIMITS) == [3, 40]
    assert sorted(server.stored) == [n for n in range(70) if n not in (3, 40)]
    assert upload.max_bytes == (1000 if says_limit else 32 * 2**20)


def test_a_slow_server_gets_smaller_requests_with_more_time() -> None:
    server = Server(per_second=10)
    upload = server.upload()

    assert upload.write([[point(n)] for n in range(64)], NO_LIMITS) == []
    assert sorted(server.stored) == list(range(64))
    assert server.calls[:3] == [(64, 1), (32, 2), (16, 4)]
    before = len(server.calls)
    upload.write([[point(n)] for n in range(16)], NO_LIMITS)
    assert len(server.calls) == before + 1, "the size that the server takes is recorded"


def test_a_server_that_takes_nothing_is_an_error_when_the_time_is_over() -> None:
    server = Server(per_second=0.0001)
    started = time.perf_counter()

    with pytest.raises(ServerError, match="too slow"):
        server.upload(retry_for=0.0).write([[point(n)] for n in range(4)], NO_LIMITS)
    assert len(server.calls) == 1
    assert time.perf_counter() - started < 8.0


def test_the_first_point_of_a_group_is_written_last_where_the_group_is_cut() -> None:
    server = Server()
    group = [point(n) for n in range(10)]

    server.upload().write([group], StrictLimits(upsert_max_batchsize=4))

    assert server.stored == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert [count for count, _ in server.calls] == [4, 4, 2]


# -- queries -------------------------------------------------------------------------------------------------


def answered(query: models.QueryRequest, limits: StrictLimits, count: int) -> tuple[list[int], list[Any]]:
    """Read all pages of a query from an engine with `count` points; return their ids and the requests."""
    paged, requests = PagedQuery(query, limits), []
    while (page := paged.next_page()) is not None:
        requests.append(page)
        excluded: Sequence[Any] = []
        if page.filter is not None and isinstance(page.filter.must, list):
            conditions: Any = page.filter.must[-1].must_not  # type: ignore[union-attr]
            assert all(len(one.has_id) <= (limits.condition_max_size or count) for one in conditions)
            excluded = [id for one in conditions for id in one.has_id]
        ids = [n for n in range(count) if n not in excluded][page.offset or 0 :][: page.limit]
        points = [models.ScoredPoint(id=n, version=0, score=1.0) for n in ids]
        paged.take(response_of(points))
    return [int(point.id) for point in paged.answer().points], requests


def response_of(points: list[models.ScoredPoint]) -> Any:
    from qdrant_client.http.models import QueryResponse

    return QueryResponse(points=points)


@pytest.mark.parametrize("count", [0, 5, 10, 23, 40])
@pytest.mark.parametrize("offset", [None, 7])
def test_pages_are_joined_to_what_one_request_would_return(count: int, offset: int | None) -> None:
    query = models.QueryRequest(limit=23, offset=offset)
    expected = list(range(count))[offset or 0 :][:23]

    assert answered(query, NO_LIMITS, count)[0] == expected
    for limits in (StrictLimits(max_query_limit=10), StrictLimits(max_query_limit=10, condition_max_size=5)):
        ids, requests = answered(query, limits, count)
        assert ids == expected
        assert all(request.limit <= 10 for request in requests)


def test_one_request_is_enough_where_fewer_points_exist_than_a_page_holds() -> None:
    _, requests = answered(models.QueryRequest(limit=11), StrictLimits(max_query_limit=10), 9)

    assert len(requests) == 1


def test_fused_rankings_are_read_to_the_limit_and_paged_by_offset() -> None:
    query = models.QueryRequest(prefetch=[models.Prefetch(limit=200)], limit=15)

    ids, requests = answered(query, StrictLimits(max_query_limit=10), 40)

    assert ids == list(range(15))
    assert [(r.offset, r.limit, r.prefetch[0].limit) for r in requests] == [(None, 10, 10), (10, 5, 10)]


def test_limits_of_a_strict_mode_that_is_off_do_not_count() -> None:
    strict = models.StrictModeConfigOutput(enabled=False, max_query_limit=5, search_allow_exact=False)

    assert StrictLimits.of(None) == StrictLimits.of(strict) == NO_LIMITS
    limits = StrictLimits.of(strict.model_copy(update={"enabled": True}))
    assert limits == StrictLimits(max_query_limit=5, allows_exact=False)
    assert (limits.page(256), NO_LIMITS.page(256)) == (5, 256)
