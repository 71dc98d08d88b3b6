# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Read points without ranking them: by id, in pages, counted."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from qdrant_client import models

from splade_retriever.edge.arguments import check_options, checked_limit
from splade_retriever.edge.convert_config import Shard
from splade_retriever.edge.convert_points import (
    from_record,
    point_id,
    to_ids,
    to_with_payload,
    to_with_vectors,
)
from splade_retriever.edge.convert_query import to_count, to_facet, to_scroll
from splade_retriever.edge.storage import IDS_PER_CALL, EdgeFolder, batched

__all__ = ["PointReader"]


class PointReader:
    """The methods of an EdgeClient that read points as they are stored."""

    def __init__(self, folder: EdgeFolder) -> None:
        """Read from the collections of an open folder."""
        self._folder = folder

    def retrieve(
        self,
        /,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: Any = False,
        consistency: Any = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[models.Record]:
        """Read points by id, in the order of the ids, each once. Ids that do not exist are skipped."""
        check_options("retrieve", kwargs, shard_key_selector=shard_key_selector)
        collection = self._folder.get(collection_name)
        payload, vectors = to_with_payload(with_payload), to_with_vectors(with_vectors)
        records: list[models.Record] = []
        for some in batched(dict.fromkeys(to_ids(ids)), IDS_PER_CALL):
            read = partial(_retrieve, ids=some, with_payload=payload, with_vectors=vectors)
            records.extend(map(from_record, self._folder.read(collection, "read from", read)))
        return records

    def scroll(
        self,
        /,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        consistency: Any = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> tuple[list[models.Record], Any]:
        """Read a page of points, ordered by id or by an indexed field.

        Returns:
            The page, and the id to pass as offset for the next page; None at the end, and with order_by.
        """
        check_options("scroll", kwargs, shard_key_selector=shard_key_selector)
        limit = checked_limit(limit)
        collection = self._folder.get(collection_name)
        request = partial(
            to_scroll,
            filter=scroll_filter,
            limit=limit,
            order_by=order_by,
            offset=offset,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        records, following = self._folder.read(collection, "read from", lambda shard: shard.scroll(request()))
        return [from_record(record) for record in records], (
            None if following is None else point_id(following)
        )

    def count(
        self,
        /,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.CountResult:
        """Count the points that a filter matches."""
        check_options("count", kwargs, shard_key_selector=shard_key_selector)
        request = partial(to_count, count_filter, exact=exact)
        collection = self._folder.get(collection_name)
        return models.CountResult(
            count=self._folder.read(collection, "count in", lambda shard: shard.count(request()))
        )

    def facet(
        self,
        /,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        consistency: Any = None,
        timeout: int | None = None,
        shard_key_selector: Any = None,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """Count the points per value of an indexed field, the most frequent value first."""
        check_options("facet", kwargs, shard_key_selector=shard_key_selector)
        limit = checked_limit(limit)
        request = partial(to_facet, key, facet_filter, limit=limit, exact=exact)
        collection = self._folder.get(collection_name)
        facet = self._folder.read(collection, "count in", lambda shard: shard.facet(request()))
        return models.FacetResponse(
            hits=[models.FacetValueHit(value=hit.value, count=hit.count) for hit in facet.hits]
        )


def _retrieve(shard: Shard, *, ids: list[Any], with_payload: Any, with_vectors: Any) -> list[Any]:
    return shard.retrieve(ids, with_payload, with_vectors)
