"""Searches of a collection: encode, ask the engine, read the answer; several at once in as few calls as
one; and why a hit was found."""

import logging
from collections.abc import Callable, Iterator, Sequence

from splade_retriever.encoding.windows import spans_of
from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation, LiteralTokenizer, explain
from splade_retriever.index.collection import Collection
from splade_retriever.index.documents import Branch, Hit, point_id, to_hit
from splade_retriever.index.point_encoding import pruned
from splade_retriever.index.search_request import (
    Query,
    SearchRequest,
    branches_of,
    query_request,
    rank_documents,
)
from splade_retriever.protocols import DenseEncoder, Encoder
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

    def many(self, asks: Sequence[SearchRequest]) -> list[list[Hit]]:
        """Answer searches together: texts are encoded as one batch, the engine is called once.

        Only a search whose last score is shared beyond its page costs a further call.
        """
        encoded = self._encode(asks)
        queries = {n: query for n, query in enumerate(encoded) if query is not None}
        takes = {n: asks[n].want + 1 for n in queries}
        answers: list[list[Hit]] = [[] for _ in asks]
        branches: dict[int, dict[object, dict[str, Branch]]] = {}
        while takes:
            hybrid = [n for n in takes if n not in branches and asks[n].mode == "hybrid"]
            requests = [query_request(queries[n], self._names, asks[n], limit=takes[n]) for n in takes]
            requests += [
                query_request(side, self._names, asks[n], limit=asks[n].fusion.depth, only_branch=True)
                for n in hybrid
                for side in queries[n].sides.values()
            ]
            rankings = iter(self._store.call("query_batch_points", requests=requests))
            ranked = {n: next(rankings).points for n in takes}
            for n in hybrid:
                branches[n] = branches_of({name: next(rankings).points for name in queries[n].sides})
            again: dict[int, int] = {}
            for n, take in takes.items():
                settled = rank_documents(ranked[n], take, asks[n].want)
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
                        if asks[n].keeps(point)
                    ]
            takes = again
        return answers

    def each(self, asks: Sequence[SearchRequest]) -> list[list[Hit] | Exception]:
        """Answer searches of different callers together; one that fails spoils no other."""
        try:
            return [*self.many(asks)]
        except Exception as error:
            if len(asks) == 1:
                return [error]
            logger.debug("a batch of %d searches failed, running them one by one", len(asks), exc_info=True)
            return [answer for ask in asks for answer in self.each([ask])]

    def explain(self, query: str, hits: Sequence[Hit]) -> list[Explanation]:
        """Split the sparse score of each hit into what each token gave; the query is encoded once.

        Raises:
            InputError: If the query is no text, the encoder has no tokenizer to read tokens with, or a hit
                is stored no more.
        """
        if isinstance(hits, Hit) or not isinstance(hits, Sequence):
            raise InputError(
                f"explain_all got one {type(hits).__name__}, expected several hits. Pass [hit], or "
                "use explain."
            )
        for hit in hits:
            if not isinstance(query, str) or not isinstance(hit, Hit):
                raise InputError(
                    f"explain got a {type(query).__name__} and a {type(hit).__name__}, expected the text of "
                    "the query and a Hit. After a search by vector there is nothing to name."
                )
        if not hits:
            return []
        encoder = self._model()
        tokenizer = getattr(encoder, "tokenizer", None)
        if not isinstance(tokenizer, LiteralTokenizer):
            raise InputError(
                f"the encoder {type(encoder).__name__} has no tokenizer that reads ids back as tokens, which "
                "explain needs. Use SparseTextEmbedding."
            )
        (encoded,) = encoder.query_embed([query])
        query_vector = pruned(encoded, self._max_active_dims)
        return [self._explained(query, query_vector, hit, encoder, tokenizer) for hit in hits]

    def _explained(
        self,
        query: str,
        query_vector: SparseEmbedding,
        hit: Hit,
        encoder: Encoder,
        tokenizer: LiteralTokenizer,
    ) -> Explanation:
        scored = hit if hit.vector is not None else self._scored(hit, query_vector)
        windows = None if scored.window == hit.window or scored.window is None else [scored.window]
        memory = self._store.settings
        if memory is not None and memory.windows == "merge":
            (windows,) = spans_of([hit.text], encoder, overlap=memory.window_overlap)
        return explain(
            query,
            hit.text,
            query_vector=query_vector,
            document_vector=scored.vector or SparseEmbedding.from_dict({}),
            tokenizer=tokenizer,
            windows=windows,
        )

    def _scored(self, hit: Hit, query_vector: SparseEmbedding) -> Hit:
        """Read what is stored of a hit, with its vector.

        Of a document kept as windows: the hit's own window, or, for a hit that is the whole document, the one
        that fits the query best.
        """
        stored = self._store.stored([hit.id]).get(hit.id)
        windows = range(0 if stored is None else stored.windows)
        records = self._store.call(
            "retrieve",
            ids=[point_id(hit.id, self._store.layout, n) for n in windows],
            with_payload=True,
            with_vectors=[self._names["sparse"]],
        )
        found = [to_hit(record, self._store.layout, self._names["sparse"]) for record in records]
        fitting = [window for window in found if hit.window in (None, window.window)]
        if not fitting:
            raise InputError(
                f"document {hit.id!r} is not stored any more as it was found; it was deleted or replaced "
                "since. Search again."
            )
        return max(
            fitting, key=lambda window: 0.0 if window.vector is None else window.vector.dot(query_vector)
        )

    def _encode(self, asks: Sequence[SearchRequest]) -> list[Query | None]:
        """Encode queries, texts as one batch; None for one that can find nothing."""
        texts = [ask.text for ask in asks if ask.text and ask.mode != "dense"]
        vectors = iter(self._model().query_embed(texts)) if texts else iter(())
        return [self._encoded(ask, vectors) for ask in asks]

    def _encoded(self, ask: SearchRequest, vectors: Iterator[SparseEmbedding]) -> Query | None:
        sparse: SparseEmbedding | None = None
        dense: Sequence[float] | None = None
        if isinstance(ask.query, SparseEmbedding):
            sparse = ask.query
        elif ask.text:
            sparse = next(vectors) if ask.mode != "dense" else None
            if ask.mode != "sparse" and self._dense is not None:
                dense = self._dense.embed_query(ask.text)
        if sparse is not None:
            sparse = pruned(sparse, self._max_active_dims) or None
        return None if sparse is None and dense is None else Query(sparse=sparse, dense=dense)
