"""Why a hit was found: its sparse scores, split by token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from splade_retriever.encoding.windows import WindowTokenizer, spans_of
from splade_retriever.errors import InputError
from splade_retriever.explanation import (
    Explanation,
    ScoredQuery,
    ScoredText,
    explain_all,
    literal_tokenizer,
)
from splade_retriever.index.branches import SparseBranch
from splade_retriever.index.collection import Collection
from splade_retriever.index.documents import DocumentKey, Hit
from splade_retriever.index.engine_weights import scored_vectors
from splade_retriever.index.origins import OriginFinder
from splade_retriever.index.payload import point_id, to_hit
from splade_retriever.index.query_controls import ControlledVector
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.index.stored_documents import read_stored
from splade_retriever.protocols import OriginEncoder
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import type_name

__all__ = ["Explainer"]


class Explainer:
    """Explains hits of one collection."""

    def __init__(self, collection: Collection, branches: Sequence[SparseBranch]) -> None:
        self._collection = collection
        self._first, *self._others = branches

    def query_vector(self, query: str) -> SparseEmbedding:
        """Return the vector of a query, pruned, with its controls.

        Raises:
            InputError: The query is not a text.
        """
        if not isinstance(query, str):
            raise InputError(f"query is {type_name(query)}, expected a str.")
        return self._first.encoded(query).vector

    def explain(
        self,
        query: str,
        hits: Sequence[Hit],
        *,
        origins: bool = False,
        query_vector: SparseEmbedding | None = None,
    ) -> list[Explanation]:
        """Split the sparse scores of each hit into the contributions of tokens; the query is encoded once.

        Args:
            query: The query.
            hits: Hits of a search.
            origins: Find the word that each token of an expansion comes from, by the model.
            query_vector: The vector that found the hits, where it is not the query's. Then the second model,
                if there is one, has no part in the explanations.

        Raises:
            InputError: The query is not a text, the encoder has no tokenizer that reads ids, or a hit is no
                longer stored.
        """
        _check_arguments(query, hits)
        if not hits:
            return []
        first = self._first
        if literal_tokenizer(first.encoder, query) is None:
            raise InputError(
                f"The encoder {type(first.encoder).__name__} has no tokenizer that turns ids into tokens, "
                "which explain needs. Use SparseTextEmbedding."
            )
        own = None if query_vector is None else ControlledVector(query_vector, str(query))
        explanations = self._explained(first, query, own or first.encoded(query), hits, origins=origins)
        for branch in self._others if own is None else ():
            if literal_tokenizer(branch.encoder, query) is not None:
                has_origins = origins and isinstance(branch.encoder, OriginEncoder)
                others = self._explained(branch, query, branch.encoded(query), hits, origins=has_origins)
                explanations = [
                    replace(explanation, second=other)
                    for explanation, other in zip(explanations, others, strict=True)
                ]
        return explanations

    def _explained(
        self,
        branch: SparseBranch,
        query: str,
        encoded: ControlledVector,
        hits: Sequence[Hit],
        *,
        origins: bool,
    ) -> list[Explanation]:
        """Explain the scores of hits in one ranking, whose encoder has a tokenizer."""
        tokenizer = literal_tokenizer(branch.encoder, encoded.text)
        assert tokenizer is not None
        finder = OriginFinder(branch.encoder, encoded.text, encoded.vector) if origins else None
        scored = ScoredQuery(
            encoded.text,
            encoded.vector,
            tokenizer,
            origins={} if finder is None else finder.of_query(),
            controls=query.controls.notes() if isinstance(query, SpladeQuery) else (),
            controlled=encoded.notes,
        )
        as_scored = self._as_scored(branch, hits, encoded.vector)
        texts = [
            self._scored_text(branch, hit, stored, finder)
            for hit, stored in zip(hits, as_scored, strict=True)
        ]
        return explain_all(scored, texts)

    def _scored_text(
        self, branch: SparseBranch, hit: Hit, scored: Hit, finder: OriginFinder | None
    ) -> ScoredText:
        windows = None if scored.window == hit.window or scored.window is None else [scored.window]
        settings, encoder = self._collection.settings, branch.encoder
        has_windows = isinstance(getattr(encoder, "tokenizer", None), WindowTokenizer)
        if settings is not None and settings.windows == "merge" and has_windows:
            (windows,) = spans_of([hit.text], encoder, overlap=settings.window_overlap)
        vector = scored.vector or SparseEmbedding.from_dict({})
        origins = {} if finder is None else finder.of_text(hit.text, vector, windows)
        return ScoredText(hit.text, vector, windows, origins)

    def _as_scored(
        self, branch: SparseBranch, hits: Sequence[Hit], query_vector: SparseEmbedding
    ) -> list[Hit]:
        """Return what was scored of each hit, with its vector: the stored one, unless the hit has it."""
        has_vectors = branch.name == "sparse" and not branch.has_engine_weights
        missing = [hit for hit in hits if not has_vectors or hit.vector is None]
        stored = iter(self._stored(branch, missing, query_vector) if missing else [])
        return [hit if has_vectors and hit.vector is not None else next(stored) for hit in hits]

    def _stored(self, branch: SparseBranch, hits: Sequence[Hit], query_vector: SparseEmbedding) -> list[Hit]:
        """Read what is stored of hits, with their vectors.

        Of a document stored as windows: the hit's window, or, for a hit that is the complete document, the
        window with the highest score.
        """
        layout = self._collection.layout
        keys = [DocumentKey(hit.id, layout.tenant_of(hit.metadata)) for hit in hits]
        documents = read_stored(self._collection, list(dict.fromkeys(keys)))
        points = {
            key: [point_id(key, layout, n) for n in range(stored.windows)]
            for key, stored in documents.items()
        }
        all_windows = self._windows(branch, [id for ids in points.values() for id in ids], query_vector)
        found = []
        for hit, key in zip(hits, keys, strict=True):
            windows = [all_windows[id] for id in points.get(key, ()) if id in all_windows]
            candidates = [window for window in windows if hit.window in (None, window.window)]
            if not candidates:
                raise InputError(
                    f"Document {hit.id!r} is no longer stored as it was found: it was deleted or replaced "
                    "since. Search again."
                )
            found.append(max(candidates, key=lambda window: _score(window, query_vector)))
        return found

    def _windows(
        self, branch: SparseBranch, ids: Sequence[Any], query_vector: SparseEmbedding
    ) -> dict[Any, Hit]:
        """Read points with their vectors, in which the engine's part of the weights is included."""
        name, layout = branch.vector_name, self._collection.layout
        hits = {
            record.id: to_hit(record, layout, name)
            for record in self._collection.retrieve(ids, vectors=[name])
        }
        if not branch.has_engine_weights:
            return hits
        vectors = scored_vectors(self._collection, name, query_vector, list(hits))
        return {id: replace(hit, vector=vectors[id]) for id, hit in hits.items()}


def _score(window: Hit, query_vector: SparseEmbedding) -> float:
    return 0.0 if window.vector is None else window.vector.dot(query_vector)


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
