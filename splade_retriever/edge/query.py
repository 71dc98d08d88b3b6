# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Ranking points: queries of every kind, alone, several at once, in groups, and each point against others."""

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

# `qdrant_client.models` has fastembed's class of this name in its place.
from qdrant_client.http.models import QueryResponse

from splade_retriever.edge import convert_points as convert
from splade_retriever.edge import convert_query as ask
from splade_retriever.edge import mmr
from splade_retriever.edge.base import EdgeBase, check_limit, check_options
from splade_retriever.edge.groups import Groups, deepened
from splade_retriever.errors import InputError

__all__ = ["SearchCalls"]


class SearchCalls(EdgeBase):
    """The part of qdrant-client's interface that searches."""

    def query_points(
        self,
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
        **kwargs: Any,
    ) -> QueryResponse:
        """Search, recommend, discover, fuse, order, sample: what a server's query endpoint does.

        Raises:
            InputError: A query that makes no sense here.
        """
        check_options("query_points", kwargs)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **kwargs: Any
    ) -> list[QueryResponse]:
        """Answer several queries in one call of the engine, in their order; see `query_points`."""
        check_options("query_batch_points", kwargs)
        collection = self._folder.get(collection_name)
        if not requests:
            return []

        def vector_of(id: Any, name: str, lookup: models.LookupLocation | None) -> tuple[Any, bool]:
            return self._vector_of(collection_name, id, name, lookup)

        engine_requests = [
            mmr.widened(request) if mmr.is_sparse_mmr(request) else request for request in requests
        ]
        answers = self._folder.read(
            collection,
            "search",
            lambda shard: shard.query_batch(
                ask.to_batch([ask.to_request(request, vector_of) for request in engine_requests])
            ),
        )
        responses = []
        for request, asked, found in zip(requests, engine_requests, answers, strict=True):
            points = [convert.from_scored(point, with_vectors=bool(asked.with_vector)) for point in found]
            if asked is not request:
                points = mmr.diversified(request, points)
            responses.append(QueryResponse.model_construct(points=points))
        return responses

    def _vector_of(
        self, collection_name: str, id: Any, name: str, lookup: models.LookupLocation | None
    ) -> tuple[Any, bool]:
        """Read the vector of a point that a query names by its id."""
        place = collection_name if lookup is None else lookup.collection
        name = lookup.vector if lookup is not None and lookup.vector is not None else name
        records = self.retrieve(place, [id], with_payload=False, with_vectors=[name])
        vector = records[0].vector if records else None
        found = vector.get(name) if isinstance(vector, dict) else vector
        if not found:
            raise InputError(
                f"a query names point {id!r}, which collection {place!r} does not hold with a vector "
                f"{name!r}. Pass a point that is there, or a vector."
            )
        return found, place == collection_name

    def query_points_groups(
        self,
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
        **kwargs: Any,
    ) -> models.GroupsResult:
        """Search and keep the best `group_size` points of each of the best `limit` values of a field.

        Reads deeper into the ranking, twice as far each time, until the groups are full or the ranking ends.
        """
        check_options("query_points_groups", kwargs)
        check_limit(limit)
        check_limit(group_size, "group_size")
        asked: dict[str, Any] = {
            "query": query,
            "using": using,
            "prefetch": deepened(prefetch, group_size),
            "query_filter": query_filter,
            "search_params": search_params,
            "score_threshold": score_threshold,
            "lookup_from": lookup_from,
        }
        take = limit * group_size
        while True:
            ranked = self.query_points(collection_name, limit=take, with_payload=[group_by], **asked).points
            groups = Groups(group_by, limit, group_size)
            groups.add(ranked)
            if len(ranked) < take or groups.full:
                break
            take *= 2
        wanted = groups.point_ids()
        records = self.retrieve(collection_name, wanted, with_payload, with_vectors) if wanted else []
        lookups: dict[Any, models.Record] = {}
        if with_lookup is not None:
            lookups = self._lookups(with_lookup, groups.values())
        return groups.result({record.id: record for record in records}, lookups)

    def _lookups(self, with_lookup: Any, values: Sequence[Any]) -> dict[Any, models.Record]:
        """Read the points, of another collection, whose ids the groups' values are."""
        lookup = models.WithLookup(collection=with_lookup) if isinstance(with_lookup, str) else with_lookup
        ids: dict[Any, Any] = {}
        for value in values:
            try:
                ids[convert.point_id(value)] = value
            except InputError:  # a value that is no id has nothing to look up
                continue
        if not ids:
            return {}
        payload = True if lookup.with_payload is None else lookup.with_payload
        records = self.retrieve(lookup.collection, list(ids), payload, lookup.with_vectors or False)
        return {ids[record.id]: record for record in records}

    def search_matrix_pairs(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixPairsResponse:
        """Draw a sample of points and find, for each, its nearest in the sample."""
        check_options("search_matrix_pairs", kwargs)
        ids, nearest = self._matrix(collection_name, query_filter, limit, sample, using)
        pairs = [
            models.SearchMatrixPair(a=id, b=point.id, score=point.score)
            for id, points in zip(ids, nearest, strict=True)
            for point in points
        ]
        return models.SearchMatrixPairsResponse(pairs=pairs)

    def search_matrix_offsets(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixOffsetsResponse:
        """Do what `search_matrix_pairs` does; the answer is a sparse matrix over the ids."""
        check_options("search_matrix_offsets", kwargs)
        ids, nearest = self._matrix(collection_name, query_filter, limit, sample, using)
        place = {id: n for n, id in enumerate(ids)}
        cells = [(row, place[p.id], p.score) for row, points in enumerate(nearest) for p in points]
        return models.SearchMatrixOffsetsResponse(
            offsets_row=[row for row, _, _ in cells],
            offsets_col=[column for _, column, _ in cells],
            scores=[score for _, _, score in cells],
            ids=ids,
        )

    def _matrix(
        self, name: str, filter: models.Filter | None, limit: int, sample: int, using: str | None
    ) -> tuple[list[Any], list[list[models.ScoredPoint]]]:
        """Draw a sample of points; give their ids, sorted, and for each its nearest in the sample."""
        check_limit(limit)
        check_limit(sample, "sample", least=2)
        with_vector = models.HasVectorCondition(has_vector=using or "")
        drawn = self.query_points(
            name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=models.Filter(must=[with_vector, *([] if filter is None else [filter])]),
            limit=sample,
            with_payload=False,
        ).points
        ids = sorted((point.id for point in drawn), key=lambda id: (isinstance(id, str), id))
        requests = [
            models.QueryRequest(
                query=id,
                using=using,
                limit=limit,
                filter=models.Filter(must=[models.HasIdCondition(has_id=ids)]),
                with_payload=False,
            )
            for id in ids
        ]
        return ids, [answer.points for answer in self.query_batch_points(name, requests)]
