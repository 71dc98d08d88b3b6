# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Reading points without ranking them: by id, in pages, counted."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from qdrant_client import models

from splade_retriever.edge import convert_points as convert
from splade_retriever.edge import convert_query as ask
from splade_retriever.edge.base import IDS_PER_CALL, EdgeBase, check_limit, check_options, chunks

__all__ = ["ReadCalls"]


class ReadCalls(EdgeBase):
    """The part of qdrant-client's interface that reads points as they are stored."""

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: Any = False,
        **kwargs: Any,
    ) -> list[models.Record]:
        """Read points by id, in the order asked for, each once; ids that are not there are passed over."""
        check_options("retrieve", kwargs)
        collection = self._folder.get(collection_name)
        payload, vectors = convert.to_with_payload(with_payload), convert.to_with_vectors(with_vectors)
        records: list[models.Record] = []
        for chunk in chunks(dict.fromkeys(convert.to_ids(ids)), IDS_PER_CALL):
            read = partial(_retrieve, ids=chunk, with_payload=payload, with_vectors=vectors)
            found = self._folder.read(collection, "read from", read)
            records.extend(map(convert.from_record, found))
        return records

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **kwargs: Any,
    ) -> tuple[list[models.Record], Any]:
        """Read a page of points, by id or ordered by an indexed field.

        Returns:
            The page, and the id to pass as offset for the next one; None at the end, and with order_by.
        """
        check_options("scroll", kwargs)
        check_limit(limit)
        collection = self._folder.get(collection_name)
        asked = partial(
            ask.to_scroll,
            filter=scroll_filter,
            limit=limit,
            order_by=order_by,
            offset=offset,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        records, following = self._folder.read(collection, "read from", lambda shard: shard.scroll(asked()))
        return [convert.from_record(record) for record in records], (
            None if following is None else convert.point_id(following)
        )

    def count(
        self,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        **kwargs: Any,
    ) -> models.CountResult:
        """Count the points that a filter finds."""
        check_options("count", kwargs)
        asked = partial(ask.to_count, count_filter, exact=exact)
        counted = self._folder.read(self._folder.get(collection_name), "count in", lambda s: s.count(asked()))
        return models.CountResult(count=counted)

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """Count the points of each value of a field, the most frequent first; the field needs an index."""
        check_options("facet", kwargs)
        check_limit(limit)
        asked = partial(ask.to_facet, key, facet_filter, limit=limit, exact=exact)
        found = self._folder.read(self._folder.get(collection_name), "count in", lambda s: s.facet(asked()))
        return models.FacetResponse(
            hits=[models.FacetValueHit(value=hit.value, count=hit.count) for hit in found.hits]
        )


def _retrieve(shard: convert.Shard, *, ids: list[Any], with_payload: Any, with_vectors: Any) -> list[Any]:
    return shard.retrieve(ids, with_payload, with_vectors)
