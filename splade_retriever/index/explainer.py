"""Why a hit was found: its sparse score, split by token."""

from collections.abc import Sequence

from splade_retriever.encoding.windows import spans_of
from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation, LiteralTokenizer, ScoredQuery, ScoredText, explain_all
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.documents import DocumentKey, Hit
from splade_retriever.index.options import IndexOptions
from splade_retriever.index.origins import OriginFinder
from splade_retriever.index.payload import point_id, to_hit
from splade_retriever.index.query_controls import ControlledVector, encoded_query
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.index.stored_documents import read_stored
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import type_name

__all__ = ["Explainer"]


class Explainer:
    """Explains hits of one collection."""

    def __init__(self, collection: Collection, model: CollectionModel, options: IndexOptions) -> None:
        self._collection = collection
        self._model = model
        self._vector_name = options.vector_name
        self._max_active_dims = options.query_max_active_dims

    def query_vector(self, query: str) -> SparseEmbedding:
        """Return the vector of a query, pruned, with its controls."""
        return encoded_query(query, self._model.encoder, max_active_dims=self._max_active_dims).vector

    def explain(
        self,
        query: str,
        hits: Sequence[Hit],
        *,
        origins: bool = False,
        query_vector: SparseEmbedding | None = None,
    ) -> list[Explanation]:
        """Split the sparse score of each hit into the contributions of tokens; the query is encoded once.

        Args:
            query: The query.
            hits: Hits of a search.
            origins: Find the word that each token of an expansion comes from, by the model.
            query_vector: The vector that found the hits, where it is not the query's.

        Raises:
            InputError: The query is not a text, the encoder has no tokenizer that reads ids, or a hit is no
                longer stored.
        """
        _check_arguments(query, hits)
        if not hits:
            return []
        encoder = self._model.encoder
        tokenizer = getattr(encoder, "tokenizer", None)
        if not isinstance(tokenizer, LiteralTokenizer):
            raise InputError(
                f"The encoder {type(encoder).__name__} has no tokenizer that turns ids into tokens, which "
                "explain needs. Use SparseTextEmbedding."
            )
        if query_vector is None:
            encoded = encoded_query(query, encoder, max_active_dims=self._max_active_dims)
        else:
            encoded = ControlledVector(query_vector, str(query))
        finder = OriginFinder(encoder, encoded.text, encoded.vector) if origins else None
        scored = ScoredQuery(
            encoded.text,
            encoded.vector,
            tokenizer,
            origins={} if finder is None else finder.of_query(),
            controls=query.controls.notes() if isinstance(query, SpladeQuery) else (),
            controlled=encoded.notes,
        )
        return explain_all(scored, [self._scored_text(hit, encoded.vector, finder) for hit in hits])

    def _scored_text(
        self, hit: Hit, query_vector: SparseEmbedding, finder: OriginFinder | None
    ) -> ScoredText:
        scored = hit if hit.vector is not None else self._stored_hit(hit, query_vector)
        windows = None if scored.window == hit.window or scored.window is None else [scored.window]
        settings = self._collection.settings
        if settings is not None and settings.windows == "merge":
            (windows,) = spans_of([hit.text], self._model.encoder, overlap=settings.window_overlap)
        vector = scored.vector or SparseEmbedding.from_dict({})
        origins = {} if finder is None else finder.of_text(hit.text, vector, windows)
        return ScoredText(hit.text, vector, windows, origins)

    def _stored_hit(self, hit: Hit, query_vector: SparseEmbedding) -> Hit:
        """Read what is stored of a hit, with its vector.

        Of a document stored as windows: the hit's window, or, for a hit that is the complete document, the
        window with the highest score.
        """
        layout = self._collection.layout
        key = DocumentKey(hit.id, layout.tenant_of(hit.metadata))
        stored = read_stored(self._collection, [key]).get(key)
        windows = range(0 if stored is None else stored.windows)
        records = self._collection.retrieve(
            [point_id(key, layout, n) for n in windows], vectors=[self._vector_name]
        )
        stored_windows = [to_hit(record, layout, self._vector_name) for record in records]
        candidates = [window for window in stored_windows if hit.window in (None, window.window)]
        if not candidates:
            raise InputError(
                f"Document {hit.id!r} is no longer stored as it was found: it was deleted or replaced since. "
                "Search again."
            )
        return max(
            candidates, key=lambda window: 0.0 if window.vector is None else window.vector.dot(query_vector)
        )


def _check_arguments(query: object, hits: object) -> None:
    if isinstance(hits, Hit) or not isinstance(hits, Sequence):
        raise InputError(
            f"explain_all got one {type(hits).__name__}, expected several hits. Pass [hit], or use explain."
        )
    for hit in hits:
        if not isinstance(query, str) or not isinstance(hit, Hit):
            raise InputError(
                f"explain got {type_name(query)} and {type_name(hit)}, expected the text of the "
                "query and a Hit. A search by vector has no words to explain."
            )
