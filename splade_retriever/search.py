"""Searches of a collection: encode, ask the engine, read the answer; several at once in as few calls as
one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from splade_retriever.collection import Collection
from splade_retriever.documents import Branch, Hit, to_hit
from splade_retriever.points import pruned
from splade_retriever.queries import Ask, Query, branches_of, query_request, settle
from splade_retriever.seams import DenseEncoder, Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Searcher"]

logger = logging.getLogger(__name__)


class Searcher:
    """Answers searches of one collection."""

    def __init__(
        self,
        store: Collection,
        names: dict[str, str],
        *,
        model: Callable[[], Encoder],
        dense: DenseEncoder | None,
        max_active_dims: int | None,
    ) -> None:
        self._store = store
        self._names = names
        self._model = model
        self._dense = dense
        self._max_active_dims = max_active_dims

    def many(self, asks: Sequence[Ask]) -> list[list[Hit]]:
        """Answer searches together: texts are encoded as one batch, the engine is called once.

        Only a search whose last score is shared beyond its page costs a further call.
        """
        encoded = self._encode(asks)
        queries = {n: query for n, query in enumerate(encoded) if query is not None}
        takes = {n: asks[n].want + 1 for n in queries}
        answers: list[list[Hit]] = [[] for _ in asks]
        branches: dict[int, dict[object, dict[str, Branch]]] = {}
        while takes:
            hybrid = [n for n in takes if n not in branches and _is_hybrid(queries[n])]
            requests = [query_request(queries[n], self._names, asks[n], limit=takes[n]) for n in takes]
            requests += [
                query_request(side, self._names, asks[n], limit=asks[n].fusion.depth, only_branch=True)
                for n in hybrid
                for side in (replace(queries[n], dense=None), replace(queries[n], sparse=None))
            ]
            rankings = iter(self._store.call("query_batch_points", requests=requests))
            ranked = {n: next(rankings).points for n in takes}
            for n in hybrid:
                sparse, dense = next(rankings).points, next(rankings).points
                branches[n] = branches_of({"sparse": sparse, "dense": dense})
            again: dict[int, int] = {}
            for n, take in takes.items():
                settled = settle(ranked[n], take, asks[n].want)
                if isinstance(settled, int):
                    again[n] = settled
                else:
                    answers[n] = [
                        to_hit(
                            point,
                            self._store.layout,
                            self._names["sparse"],
                            branches.get(n, {}).get(point.id),
                        )
                        for point in settled[asks[n].offset :]
                    ]
            takes = again
        return answers

    def each(self, asks: Sequence[Ask]) -> list[list[Hit] | Exception]:
        """Answer searches of different callers together; one that fails spoils no other."""
        try:
            return [*self.many(asks)]
        except Exception as error:
            if len(asks) == 1:
                return [error]
            logger.debug("a batch of %d searches failed, running them one by one", len(asks), exc_info=True)
            return [answer for ask in asks for answer in self.each([ask])]

    def _encode(self, asks: Sequence[Ask]) -> list[Query | None]:
        """Encode queries; None for one that can find nothing."""
        texts = [ask.query for ask in asks if isinstance(ask.query, str) and ask.mode != "dense"]
        vectors = iter(self._model().query_embed(texts)) if texts else iter(())
        queries: list[Query | None] = []
        for ask in asks:
            sparse: SparseEmbedding | None = None
            dense: Sequence[float] | None = None
            if isinstance(ask.query, SparseEmbedding):
                sparse = ask.query
            elif ask.mode != "dense":
                sparse = next(vectors)
            if sparse is not None:
                sparse = pruned(sparse, self._max_active_dims) or None
            if ask.mode != "sparse" and self._dense is not None and str(ask.query).strip():
                dense = self._dense.embed_query(str(ask.query))
            queries.append(None if sparse is None and dense is None else Query(sparse=sparse, dense=dense))
        return queries


def _is_hybrid(query: Query) -> bool:
    return query.sparse is not None and query.dense is not None
