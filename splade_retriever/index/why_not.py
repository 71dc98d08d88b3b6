"""Why a search did not return a document: its exact rank, and what kept it out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from qdrant_client import models

from splade_retriever.encoding.windows import WindowTokenizer, embed_complete_texts, spans_of
from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation, Place, Reason, WhyNot, differences
from splade_retriever.filters import FilterLike
from splade_retriever.index.branches import SparseBranch
from splade_retriever.index.collection import Collection
from splade_retriever.index.document_filters import document_filter
from splade_retriever.index.documents import DocumentKey, Hit
from splade_retriever.index.explainer import Explainer
from splade_retriever.index.payload import PACKAGE_KEY, document_key, package_fields, point_id
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.reader import Reader
from splade_retriever.index.search_request import EncodedQuery, SearchRequest, just_below
from splade_retriever.index.searcher import Searcher
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.index.stored_documents import read_stored
from splade_retriever.sparse import SparseEmbedding

__all__ = ["WhyNotFinder"]

_SMALLEST_GAIN: Final = 1e-3
"""Scores that differ by less differ by rounding."""
_TOKENS_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class _Missing:
    """What is known of a document and of the search that did not return it."""

    request: SearchRequest
    filter: FilterLike | None
    """The filter as the caller wrote it."""
    query: EncodedQuery
    key: DocumentKey
    document: Hit
    page: Sequence[Hit]
    """The first hits of the search, at most `k`."""
    places: Mapping[str, Place]
    score: float
    explanation: Explanation
    last_explanation: Explanation | None
    """That of the last hit of a complete page."""


class WhyNotFinder:
    """Finds out why documents of one collection were not found."""

    def __init__(
        self,
        collection: Collection,
        branch: SparseBranch,
        parts: tuple[Searcher, Explainer, Reader],
        names: Mapping[str, str],
        *,
        engine_filter: Callable[[FilterLike | None], models.Filter | None],
    ) -> None:
        """Keep the parts; nothing is opened.

        Args:
            collection: The collection.
            branch: The ranking of the model, whose pruning and truncation can be a reason.
            parts: What searches, explains and reads.
            names: Each ranking -> the vector's name.
            engine_filter: Converts a filter.
        """
        self._collection, self._branch = collection, branch
        self._searcher, self._explainer, self._reader = parts
        self._names = names
        self._engine_filter = engine_filter

    def why_not(
        self, request: SearchRequest, id: str, *, filter: FilterLike | None, tenant: str | None
    ) -> WhyNot:
        """Explain why a search did not return a document.

        Args:
            request: The search.
            id: The document.
            filter: The filter of the search as the caller wrote it.
            tenant: Whose id it is, where the collection separates tenants.

        Raises:
            InputError: There is no document with this id, or the query is a vector.
        """
        _text(request)
        documents = self._reader.get([id], tenant=tenant, with_vectors=True)
        if not documents:
            raise InputError(
                f"Collection {self._collection.name!r} has no document with the id {id!r}. Check the id, or "
                "add the document."
            )
        missing = self._missing(request, filter, DocumentKey(id, tenant), documents[0])
        hit = next((hit for hit in missing.page if self._is(hit, missing.key)), None)
        rank = self._rank(missing)
        last = missing.page[-1] if missing.last_explanation is not None else None
        return WhyNot(
            query=missing.explanation.query,
            id=id,
            k=request.depth,
            found=hit is not None,
            rank=rank,
            score=missing.score if hit is None else hit.score,
            explanation=missing.explanation,
            cut_id=None if last is None else last.id,
            cut_score=None if last is None else last.score,
            cut_explanation=missing.last_explanation,
            reasons=() if hit is not None else tuple(self._reasons(missing, rank)),
            places=missing.places if request.mode == "hybrid" else {},
        )

    def _missing(
        self, request: SearchRequest, filter: FilterLike | None, key: DocumentKey, document: Hit
    ) -> _Missing:
        first_page = replace(request, k=request.depth, options=replace(request.options, offset=0))
        (page,) = self._searcher.search([first_page])
        (encoded,) = self._searcher.encode([request])
        query = encoded or EncodedQuery()
        places = {name: self._place(branch, name, request, key) for name, branch in query.branches.items()}
        explained = [document, *page[-1:]] if len(page) == request.depth else [document]
        explanations = self._explainer.explain(_text(request), explained)
        if request.mode == "second":
            explanations = [one.second or one for one in explanations]
        explanation, *last = explanations
        if request.mode == "hybrid":
            score = next((hit.score for hit in self._fused(request) if self._is(hit, key)), 0.0)
        else:
            score = places[request.mode].score if request.mode in places else 0.0
        return _Missing(
            request, filter, query, key, document, page, places, score, explanation, last[0] if last else None
        )

    def _is(self, hit: Hit, key: DocumentKey) -> bool:
        return DocumentKey(hit.id, self._collection.layout.tenant_of(hit.metadata)) == key

    # -- the rank --------------------------------------------------------------------------------------------

    def _rank(self, missing: _Missing) -> int | None:
        if missing.request.mode != "hybrid":
            place = missing.places.get(missing.request.mode)
            return None if place is None else place.rank
        fused = self._fused(missing.request)
        return next((rank for rank, hit in enumerate(fused, 1) if self._is(hit, missing.key)), None)

    def _fused(self, request: SearchRequest) -> list[Hit]:
        """Return all that a hybrid search ranks: the first places of all branches."""
        options = replace(request.options, offset=0, score_threshold=None)
        limit = len(self._names) * options.fusion.depth
        (hits,) = self._searcher.search([replace(request, k=limit, options=options)])
        return hits

    def _place(self, branch: EncodedQuery, name: str, request: SearchRequest, key: DocumentKey) -> Place:
        """Return the place of a document among those that match the filter, counted by the engine."""
        collection = self._collection
        stored = read_stored(collection, [key])[key]
        points = [point_id(key, collection.layout, n) for n in range(stored.windows)]
        vector = branch.vectors[name]
        own = self._ranking(vector, name, models.Filter(must=[models.HasIdCondition(has_id=points)]))
        if not own:
            return Place(None, 0.0)
        score = max(float(point.score) for point in own)
        filter = document_filter(collection, request.filter)
        ahead = self._ranking(vector, name, filter, at_least=score, payload=collection.has_windows)
        above = {self._document(point) for point in ahead if point.score > score}
        ties = [point.id for point in ahead if point.score == score and point.id not in points]
        before = {
            self._document(record)
            for record in self._tied(ties)
            if str(package_fields(record).get("id", record.id)) < key.id
        }
        return Place(1 + len((above | before) - {self._own(points, key)}), score)

    def _tied(self, points: list[Any]) -> list[models.Record]:
        return self._collection.retrieve(points, payload=self._identifying()) if points else []

    def _document(self, point: models.ScoredPoint | models.Record) -> object:
        """Return what all points of a document share."""
        if not self._collection.has_windows:
            return point.id
        return document_key(_with_text(point, self._collection.layout.content_key), self._collection.layout)

    def _own(self, points: Sequence[models.ExtendedPointId], key: DocumentKey) -> object:
        return key if self._collection.has_windows else points[0]

    def _identifying(self) -> list[str]:
        metadata_path = self._collection.layout.metadata_path
        return [PACKAGE_KEY] if metadata_path is None else [PACKAGE_KEY, metadata_path]

    def _ranking(
        self,
        vector: Any,
        name: str,
        filter: models.Filter | None,
        *,
        at_least: float | None = None,
        payload: bool = False,
    ) -> list[models.ScoredPoint]:
        """Return all points of a branch that score at least so much, without their texts."""
        request = models.QueryRequest(
            query=models.NearestQuery(nearest=vector),
            using=self._names[name],
            filter=filter,
            limit=max(1, self._collection.count(filter)),
            score_threshold=None if at_least is None else just_below(at_least),
            # Local mode is always exact, and warns of parameters.
            params=None if self._collection.single_thread else models.SearchParams(exact=True),
            with_payload=self._identifying() if payload else False,
        )
        (response,) = self._collection.query_batch([request])
        return response.points

    # -- the reasons -----------------------------------------------------------------------------------------

    def _reasons(self, missing: _Missing, rank: int | None) -> Iterator[Reason]:
        yield from self._filter_reasons(missing)
        yield from _threshold_reasons(missing)
        yield from _rank_reasons(missing, rank)
        yield from self._pruning_reasons(missing)
        yield from self._truncation_reasons(missing)

    def _filter_reasons(self, missing: _Missing) -> Iterator[Reason]:
        if self._matches(missing.request.filter, missing.key):
            return
        parts: list[Any] = [missing.filter]
        if isinstance(missing.filter, Mapping) and len(missing.filter) > 1:
            parts = [{name: value} for name, value in missing.filter.items()]
        if isinstance(missing.request.query, SpladeQuery):
            parts += (missing.request.query.controls.filter or {}).get("$and", [])
        failed = [part for part in parts if not self._matches(self._engine_filter(part), missing.key)]
        listing = ", ".join(repr(part) for part in failed if part is not None) or "of the query"
        values = ", ".join(
            f"{name}={missing.document.metadata.get(name)!r}"
            for part in failed
            if isinstance(part, Mapping)
            for name in part
            if not name.startswith("$") and "." not in name
        )
        found = f" It has {values}." if values else ""
        yield Reason("filter", f"The filter {listing} does not match the document.{found}")

    def _matches(self, filter: models.Filter | None, key: DocumentKey) -> bool:
        if filter is None:
            return True
        only = models.HasIdCondition(has_id=[point_id(key, self._collection.layout)])
        narrowed = document_filter(self._collection, filter)
        return (
            self._collection.count(models.Filter(must=[only, *([] if narrowed is None else [narrowed])])) > 0
        )

    def _pruning_reasons(self, missing: _Missing) -> Iterator[Reason]:
        query, score = missing.query.sparse, missing.explanation.score
        if query is None or self._branch.has_engine_weights:
            return
        text, settings = missing.document.text, self._collection.settings
        if self._branch.max_active_dims is not None:
            full_query = replace(self._branch, max_active_dims=None).encoded(_text(missing.request))
            stored = missing.document.vector or SparseEmbedding.from_dict({})
            gain = full_query.vector.dot(stored) - score
            if gain > _SMALLEST_GAIN:
                yield Reason(
                    "query pruning",
                    f"query_max_active_dims={self._branch.max_active_dims} removed tokens of the query that "
                    f"the document has. With them its score would be {score + gain:.3f}.",
                )
        if settings is None or not (settings.max_active_dims or settings.min_weight):
            return
        if settings.windows == "points" or missing.document.vector is None:
            return
        complete = self._vector(text, complete=settings.windows == "merge")
        pruned = prune(complete, settings.max_active_dims, settings.min_weight)
        gain = complete.dot(query) - score
        if gain > _SMALLEST_GAIN and _is_close(pruned, missing.document.vector):
            limits = [f"max_active_dims={settings.max_active_dims}"] if settings.max_active_dims else []
            limits += [f"min_weight={settings.min_weight}"] if settings.min_weight else []
            yield Reason(
                "document pruning",
                f"{' and '.join(limits)} removed tokens of the document that the query has. With them its "
                f"score would be {score + gain:.3f}.",
            )

    def _truncation_reasons(self, missing: _Missing) -> Iterator[Reason]:
        settings, encoder = self._collection.settings, self._branch.encoder
        query, text = missing.query.sparse, missing.document.text
        if settings is None or settings.windows != "truncate" or query is None:
            return
        tokenizer = getattr(encoder, "tokenizer", None)
        if not isinstance(tokenizer, WindowTokenizer):
            return
        (encoding,) = tokenizer.encode_batch([text])
        if not encoding.truncated:
            return
        complete = prune(self._vector(text, complete=True), settings.max_active_dims, settings.min_weight)
        score = complete.dot(query)
        if score - missing.explanation.score > _SMALLEST_GAIN:
            (windows,) = spans_of([text], encoder, overlap=0)
            yield Reason(
                "truncation",
                f"The model reads the first {windows[0][1]:,} of {len(text):,} characters. The complete text "
                f"would score {score:.3f}: use a collection with windows='merge' or 'points'.",
            )

    def _vector(self, text: str, *, complete: bool) -> SparseEmbedding:
        encoder = self._branch.encoder
        if complete:
            return embed_complete_texts([text], encoder)[0]
        (vector,) = encoder.passage_embed([text])
        return vector


def _text(request: SearchRequest) -> str:
    """Return the query, a `SpladeQuery` as it is."""
    if isinstance(request.query, str):
        return request.query
    raise InputError(
        f"why_not got a query of type {type(request.query).__name__}, expected a text, whose tokens can be "
        "explained."
    )


def _threshold_reasons(missing: _Missing) -> Iterator[Reason]:
    threshold = missing.request.options.score_threshold
    if threshold is not None and missing.score < threshold:
        yield Reason(
            "score threshold",
            f"Its score of {missing.score:.3f} is below score_threshold={threshold:g}.",
        )


def _rank_reasons(missing: _Missing, rank: int | None) -> Iterator[Reason]:
    depth, mode = missing.request.depth, missing.request.mode
    if rank is None:
        yield _unranked_reason(missing)
    elif rank > depth:
        yield Reason(
            "rank",
            f"It is on rank {rank:,} with a score of {missing.score:.3f}; the search returns {depth} hits."
            f"{_needed(missing) if mode != 'dense' else ''}",
        )


def _unranked_reason(missing: _Missing) -> Reason:
    if missing.request.mode == "hybrid" and any(place.rank for place in missing.places.values()):
        listing = " and ".join(
            f"on place {place.rank:,} of the {name} ranking" if place.rank else f"not in the {name} ranking"
            for name, place in missing.places.items()
        )
        limit = missing.request.options.fusion.depth
        return Reason("fusion depth", f"It is {listing}; a hybrid search reads the first {limit} of each.")
    words = [token.token for token in missing.explanation.unmatched][:_TOKENS_NAMED]
    tokens = f" ({', '.join(words)}, ...)" if words else ""
    return Reason("no shared token", f"It shares no token with the query{tokens}.")


def _needed(missing: _Missing) -> str:
    """Say what the last hit has that the document lacks."""
    if missing.last_explanation is None:
        return ""
    last = missing.page[-1]
    gains = [
        f"{part.token} ({part.difference:+.3f})"
        for part in differences(missing.explanation, missing.last_explanation)[:_TOKENS_NAMED]
        if part.difference > 0
    ]
    more = f" That hit has more from {', '.join(gains)}." if gains else ""
    return f" It needs {last.score - missing.score:.3f} more to reach {last.id!r}, the last hit.{more}"


def _is_close(one: SparseEmbedding, other: SparseEmbedding) -> bool:
    """Return whether two vectors are the same up to rounding: the text is the one that was encoded."""
    return len(one) == len(other) and bool((one.indices == other.indices).all())


def _with_text(point: models.ScoredPoint | models.Record, content_key: str) -> models.Record:
    """Return a point that was read without its text as one with an empty text."""
    return models.Record(id=point.id, payload={content_key: "", **(point.payload or {})})
