# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Rank points: queries of every kind, alone, several at once, and in groups."""

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

# `qdrant_client.models` has FastEmbed's class of this name.
from qdrant_client.http.models import QueryResponse

from splade_retriever.edge.arguments import check_options, checked_limit
from splade_retriever.edge.convert_points import from_scored, point_id
from splade_retriever.edge.convert_query import to_batch, to_request
from splade_retriever.edge.groups import Groups
from splade_retriever.edge.read import PointReader
from splade_retriever.edge.storage import EdgeFolder
from splade_retriever.errors import InputError, NotSupportedError
from splade_retriever.validation import plain

__all__ = ["PointSearcher"]


class PointSearcher:
    """The methods of an EdgeClient that search."""

    def __init__(self, folder: EdgeFolder, reader: PointReader) -> None:
        """Search in the collections of an open folder."""
        self._folder = folder
        self._reader = reader

    def query_points(
        self,
        /,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: Any = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
        consistency: Any = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> QueryResponse:
        """Search, recommend, discover, fuse, order or sample, as a server's query endpoint does.

        Raises:
            InputError: If the query is not valid.
            NotSupportedError: If Qdrant Edge does not have the query.
        """
        check_options("query_points", kwargs, shard_key_selector=shard_key_selector)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=plain(limit),
            offset=plain(offset),
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=plain(score_threshold),
            lookup_from=lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self,
        /,
        collection_name: str,
        requests: Sequence[models.QueryRequest],
        consistency: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[QueryResponse]:
        """Answer several queries in one call of the engine, in their order; see `query_points`."""
        check_options("query_batch_points", kwargs)
        collection = self._folder.get(collection_name)
        if not requests:
            return []

        def vector_of(id: Any, name: str, lookup: models.LookupLocation | None) -> tuple[Any, bool]:
            return self._vector_of(collection_name, id, name, lookup)

        answers = self._folder.read(
            collection,
            "search",
            lambda shard: shard.query_batch(
                to_batch([to_request(request, vector_of) for request in requests])
            ),
        )
        return [
            QueryResponse.model_construct(
                points=[from_scored(point, with_vectors=bool(request.with_vector)) for point in points]
            )
            for request, points in zip(requests, answers, strict=True)
        ]

    def _vector_of(
        self, collection_name: str, id: Any, name: str, lookup: models.LookupLocation | None
    ) -> tuple[Any, bool]:
        """Read the vector of a point that a query names by its id.

        Returns:
            The vector, and whether the point is in this collection.
        """
        place = collection_name if lookup is None else lookup.collection
        name = lookup.vector if lookup is not None and lookup.vector is not None else name
        records = self._reader.retrieve(place, [id], with_payload=False, with_vectors=[name])
        vector = records[0].vector if records else None
        found = vector.get(name) if isinstance(vector, dict) else vector
        if not found:
            raise InputError(
                f"A query names point {id!r}, but collection {place!r} has no such point with a vector "
                f"{name!r}. Name an existing point, or pass a vector."
            )
        return found, place == collection_name

    def query_points_groups(
        self,
        /,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: Any = None,
        limit: int = 10,
        group_size: int = 3,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        with_lookup: Any = None,
        lookup_from: models.LookupLocation | None = None,
        consistency: Any = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.GroupsResult:
        """Search, and keep the best `group_size` points for each of the best `limit` values of a field.

        Reads deeper into the ranking, twice as far each time, until the groups are full or no more points
        come.

        Raises:
            NotSupportedError: There is a prefetch: a server runs it again without the points of full groups.
        """
        check_options("query_points_groups", kwargs, shard_key_selector=shard_key_selector)
        limit = checked_limit(limit)
        group_size = checked_limit(group_size, "group_size")
        if prefetch:
            raise NotSupportedError(
                "query_points_groups has a prefetch, and Qdrant Edge cannot group such a ranking as a server "
                "does. Group a query without prefetch, or use a Qdrant server."
            )
        arguments: dict[str, Any] = {
            "query": query,
            "using": using,
            "query_filter": query_filter,
            "search_params": search_params,
            "score_threshold": score_threshold,
            "lookup_from": lookup_from,
            "with_payload": [group_by],
        }
        depth = limit * group_size
        while True:
            ranked = self.query_points(collection_name, limit=depth, **arguments).points
            groups = Groups(group_by, limit, group_size)
            groups.add(ranked)
            if groups.full or len(ranked) < depth:
                break
            depth *= 2
        wanted = groups.point_ids()
        records = self._reader.retrieve(collection_name, wanted, with_payload, with_vectors) if wanted else []
        lookups: dict[Any, models.Record] = {}
        if with_lookup is not None:
            lookups = self._lookups(with_lookup, groups.values())
        return groups.result({record.id: record for record in records}, lookups)

    def _lookups(self, with_lookup: Any, values: Sequence[Any]) -> dict[Any, models.Record]:
        """Read the points of another collection whose ids are the groups' values."""
        lookup = models.WithLookup(collection=with_lookup) if isinstance(with_lookup, str) else with_lookup
        ids: dict[Any, Any] = {}
        for value in values:
            try:
                ids[point_id(value)] = value
            except InputError:  # a value that is not an id names no point
                continue
        if not ids:
            return {}
        payload = True if lookup.with_payload is None else lookup.with_payload
        records = self._reader.retrieve(lookup.collection, list(ids), payload, lookup.with_vectors or False)
        return {ids[record.id]: record for record in records}
