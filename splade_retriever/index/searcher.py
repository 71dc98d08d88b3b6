"""Searches of a collection: encode the queries, query the engine, read the answer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from splade_retriever.index.branches import SparseBranch
from splade_retriever.index.collection import Collection
from splade_retriever.index.dense_queries import DenseQueries
from splade_retriever.index.document_filters import document_filter
from splade_retriever.index.documents import Branch, Hit, Hits
from splade_retriever.index.engine_weights import token_factors
from splade_retriever.index.payload import to_hit
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.search_request import (
    EncodedQuery,
    SearchRequest,
    branches_of,
    engine_query,
    rank_documents,
)
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Searcher"]

logger = logging.getLogger(__name__)


class Searcher:
    """Answers searches of one collection."""

    def __init__(
        self,
        collection: Collection,
        branches: Sequence[SparseBranch],
        dense: DenseQueries | None,
        names: Mapping[str, str],
    ) -> None:
        """Keep the parts; nothing is opened.

        Args:
            collection: The collection.
            branches: Its sparse rankings.
            dense: Encodes queries for its dense ranking; None where there is none.
            names: Each ranking, in the order of the weights of a fusion -> the vector's name.
        """
        self._collection = collection
        self._branches = branches
        self._dense = dense
        self._names = names

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
        encoded: dict[str, Sequence[Any]] = {"dense": self._dense_vectors(requests)}
        for branch in self._branches:
            encoded[branch.name] = self._encoded(branch, requests)
        queries: list[EncodedQuery | None] = []
        for n in range(len(requests)):
            vectors = {name: found[n] for name, found in encoded.items()}
            is_empty = all(vector is None for vector in vectors.values())
            queries.append(None if is_empty else EncodedQuery(**vectors))
        return queries

    def _encoded(
        self, branch: SparseBranch, requests: Sequence[SearchRequest]
    ) -> list[SparseEmbedding | None]:
        """Encode queries for a sparse ranking; None where it is not searched or can find nothing."""
        searched = [request.searches(branch.name) for request in requests]
        texts = [r.text for r, is_searched in zip(requests, searched, strict=True) if is_searched and r.text]
        found = iter(branch.embed(texts))
        vectors: list[SparseEmbedding | None] = []
        for request, is_searched in zip(requests, searched, strict=True):
            if not is_searched:
                vectors.append(None)
            elif isinstance(request.query, SparseEmbedding):
                vectors.append(prune(request.query, branch.max_active_dims) or None)
            else:
                vector = next(found) if request.text else SparseEmbedding.from_dict({})
                vectors.append(branch.prepared(request.query, vector).vector or None)
        return vectors

    def _dense_vectors(self, requests: Sequence[SearchRequest]) -> list[Any]:
        if self._dense is None:
            return [None for _ in requests]
        texts = [request.text or "" for request in requests if request.needs_dense]
        found = iter(self._dense.embed(texts) if texts else [])
        return [next(found) if request.needs_dense else request.dense_vector for request in requests]

    def reference_score(self, query: str, name: str) -> float:
        """Score a document with the query's text, encoded and pruned as the collection's documents are.

        Args:
            query: The query.
            name: The sparse ranking: "sparse" or "second".
        """
        branch = next(branch for branch in self._branches if branch.name == name)
        settings = self._collection.settings
        (document_vector,) = branch.encoder.passage_embed([query])
        if settings is not None and branch.name == "sparse":
            document_vector = prune(document_vector, settings.max_active_dims, settings.min_weight)
        (vector,) = branch.embed([query])
        vector = prune(vector, branch.max_active_dims)
        if branch.has_engine_weights:
            factors = token_factors(self._collection, branch.vector_name, vector.indices.tolist())
            vector = SparseEmbedding.from_dict(
                {id: weight * factors[id] for id, weight in vector.as_dict().items() if id in factors}
            )
        return vector.dot(document_vector)

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
