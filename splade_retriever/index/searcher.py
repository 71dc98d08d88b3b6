"""Searches of a collection: encode the queries, query the engine, read the answer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from splade_retriever.errors import ModelOutputError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.dense_queries import DenseQueries
from splade_retriever.index.document_filters import document_filter
from splade_retriever.index.documents import Branch, Hit, Hits
from splade_retriever.index.options import IndexOptions
from splade_retriever.index.payload import to_hit
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.query_controls import controlled
from splade_retriever.index.search_request import (
    EncodedQuery,
    SearchRequest,
    branches_of,
    engine_query,
    rank_documents,
)
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Searcher"]

logger = logging.getLogger(__name__)


class Searcher:
    """Answers searches of one collection."""

    def __init__(
        self,
        collection: Collection,
        model: CollectionModel,
        dense: DenseQueries | None,
        options: IndexOptions,
    ) -> None:
        self._collection = collection
        self._model = model
        self._dense = dense
        self._names = options.names
        self._max_active_dims = options.query_max_active_dims

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        """Answer searches together: texts are encoded as one batch, the engine is called once.

        A search whose last score is shared beyond its page costs a further call.
        """
        self._collection.check_before_read()
        requests = [self._of_documents(request) for request in requests]
        encoded = self.encode(requests)
        queries = {n: query for n, query in enumerate(encoded) if query is not None}
        limits = {n: requests[n].depth + 1 for n in queries}
        of_branches = self._branch_queries(requests, queries)
        rankings: dict[int, dict[str, list[models.ScoredPoint]]] = {n: {} for n in queries}
        answers: list[list[Hit]] = [Hits() for _ in requests]
        while limits:
            of_documents = [
                engine_query(queries[n], self._names, requests[n], limit=limit) for n, limit in limits.items()
            ]
            responses = iter(
                self._collection.query_batch([*of_documents, *(query for _, _, query in of_branches)])
            )
            ranked = {
                n: rank_documents(
                    next(responses).points,
                    limits[n],
                    requests[n].depth,
                    self._collection.layout,
                    offset=requests[n].options.offset,
                )
                for n in limits
            }
            for n, branch, _ in of_branches:
                rankings[n][branch] = next(responses).points
            of_branches = []
            for n, points in ranked.items():
                if not isinstance(points, int):
                    answers[n] = self._hits(points, requests[n], branches_of(rankings[n]))
            limits = {n: limit for n, limit in ranked.items() if isinstance(limit, int)}
        return answers

    def _of_documents(self, request: SearchRequest) -> SearchRequest:
        filter = document_filter(self._collection, request.filter)
        return request if filter is request.filter else replace(request, filter=filter)

    def search_each(self, requests: Sequence[SearchRequest]) -> list[list[Hit] | BaseException]:
        """Answer searches of different callers together; one that fails does not fail the others."""
        try:
            return [*self.search(requests)]
        except BaseException as error:
            # Also CancelledError, or the panic of a Rust library: it belongs to one of the searches.
            if len(requests) == 1:
                return [error]
            logger.debug(
                "A batch of %d searches failed. They are run one by one.", len(requests), exc_info=True
            )
            return [answer for request in requests for answer in self.search_each([request])]

    def encode(self, requests: Sequence[SearchRequest]) -> list[EncodedQuery | None]:
        """Encode queries, texts as one batch; None for one that can find nothing."""
        dense = iter(self._dense_vectors([request.text or "" for request in requests if request.needs_dense]))
        sparse = iter(
            self._sparse_vectors(
                [request.text for request in requests if request.text and request.mode != "dense"]
            )
        )
        queries: list[EncodedQuery | None] = []
        for request in requests:
            vector = request.query if isinstance(request.query, SparseEmbedding) else None
            if request.text and request.mode != "dense":
                vector = next(sparse)
            if vector is not None:
                vector = prune(vector, self._max_active_dims)
            if isinstance(request.query, SpladeQuery) and request.mode != "dense":
                empty = SparseEmbedding.from_dict({})
                vector = controlled(request.query, vector or empty, self._model.encoder).vector
            vector = vector or None
            dense_vector = next(dense) if request.needs_dense else request.dense_vector
            is_empty = vector is None and dense_vector is None
            queries.append(None if is_empty else EncodedQuery(sparse=vector, dense=dense_vector))
        return queries

    def reference_score(self, query: str) -> float:
        """Score a document with the query's text, encoded and pruned as the collection's documents are."""
        encoder, settings = self._model.encoder, self._collection.settings
        (query_vector,) = encoder.query_embed([query])
        (document_vector,) = encoder.passage_embed([query])
        if settings is not None:
            document_vector = prune(document_vector, settings.max_active_dims, settings.min_weight)
        return prune(query_vector, self._max_active_dims).dot(document_vector)

    def _branch_queries(
        self, requests: Sequence[SearchRequest], queries: Mapping[int, EncodedQuery]
    ) -> list[tuple[int, str, models.QueryRequest]]:
        """Build, for each hybrid search, the queries for the ranking of each branch."""
        return [
            (
                n,
                name,
                engine_query(
                    branch,
                    self._names,
                    requests[n],
                    limit=requests[n].options.fusion.depth,
                    only_branch=True,
                ),
            )
            for n, query in queries.items()
            if requests[n].mode == "hybrid"
            for name, branch in query.branches.items()
        ]

    def _hits(
        self,
        points: Sequence[models.ScoredPoint],
        request: SearchRequest,
        branches: Mapping[Any, Mapping[str, Branch]],
    ) -> Hits:
        layout, name = self._collection.layout, self._names["sparse"]
        return Hits(
            to_hit(point, layout, name, branches.get(point.id))
            for point in points[request.options.offset :]
            if request.accepts(point)
        )

    def _sparse_vectors(self, texts: list[str]) -> list[SparseEmbedding]:
        vectors = list(self._model.encoder.query_embed(texts)) if texts else []
        if len(vectors) != len(texts):
            raise ModelOutputError(
                f"The model returned {len(vectors)} vectors for {len(texts)} queries, expected one per "
                "query. Fix the encoder."
            )
        return vectors

    def _dense_vectors(self, texts: list[str]) -> list[Sequence[float]]:
        return self._dense.embed(texts) if texts and self._dense is not None else []
