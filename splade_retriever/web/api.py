"""The JSON API of the page: requests and answers, without a web framework."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation, literal_tokenizer
from splade_retriever.index.documents import Hit
from splade_retriever.index.hit_explanations import explain_hits
from splade_retriever.index.search_request import Mode
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import type_name

__all__ = ["SearchApi"]

_MAX_K: Final = 100
_MAX_QUERY: Final = 10_000
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "query": (str,),
    "id": (str,),
    "tenant": (str, type(None)),
    "k": (int,),
    "filter": (dict, type(None)),
    "syntax": (bool,),
    "weights": (list, type(None)),
}


@dataclass(frozen=True, slots=True)
class SearchApi:
    """Answers requests about one index; every method takes the JSON body and returns JSON values."""

    index: SpladeIndex

    def info(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the collection, its model and its number of documents."""
        _check(body, [])
        return {
            "collection": self.index.collection,
            "model": self.index.model_name,
            "documents": self.index.count(),
            "second_model": self.index.second_model_name,
            "hybrid": len(self.index.branches) > 1,
        }

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Search, and explain each hit, as far as the encoder has a tokenizer.

        Raises:
            SpladeError: The request is not valid, or the search failed.
        """
        _check(body, ["query", "k", "filter", "syntax", "weights"])
        started = time.perf_counter()
        query, vector = _query(body), self._vector(body)
        k, filter = _k(body), body.get("filter")
        if vector is None and len(self.index.branches) == 1 and not isinstance(query, SpladeQuery):
            vector = self.index.query_vector(query)  # encoded once for search and explanations
        searched = query if vector is None else vector
        mode: Mode | None = None if vector is None else "sparse"
        hits = self.index.search(searched, k, filter, with_vectors=True, mode=mode) if query.strip() else []
        explanations = explain_hits(self.index, query, hits, query_vector=vector)
        shown = self.index.query_vector(query) if vector is None else vector
        return {
            "query": body["query"],
            "hits": [
                self._hit(rank, hit, explanation)
                for rank, (hit, explanation) in enumerate(zip(hits, explanations, strict=True), 1)
            ],
            "vector": self._tokens(query, shown),
            "ms": round((time.perf_counter() - started) * 1000, 1),
        }

    def explain(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Explain the score of a document, with the words that expansions come from.

        Raises:
            SpladeError: The request is not valid, or there is no such document.
        """
        _check(body, ["query", "id", "tenant", "syntax", "weights"])
        query, vector = _query(body), self._vector(body)
        found = self.index.get([_id(body)], tenant=body.get("tenant"), with_vectors=True)
        if not found:
            raise InputError(f"There is no document with the id {body['id']!r}.")
        (explanation,) = self.index.explain_all(query, found, origins=True, query_vector=vector)
        return self._hit(None, found[0], explanation)

    def why_not(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Explain why a search does not return a document.

        Raises:
            SpladeError: The request is not valid, or there is no such document.
        """
        _check(body, ["query", "id", "tenant", "k", "filter", "syntax"])
        missing = self.index.why_not(
            _query(body), _id(body), _k(body), body.get("filter"), tenant=body.get("tenant")
        )
        return missing.to_dict()

    def _vector(self, body: Mapping[str, Any]) -> SparseEmbedding | None:
        pairs = body.get("weights")
        if pairs is None:
            return None
        weights: dict[int, float] = {}
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int)):
                raise InputError(f"weights has {pair!r}, expected a pair of a token id and a weight.")
            if isinstance(pair[1], bool) or not isinstance(pair[1], int | float):
                raise InputError(f"The weight of token {pair[0]} is {pair[1]!r}, expected a number.")
            if pair[1] > 0:
                weights[pair[0]] = float(pair[1])
        vector = SparseEmbedding.from_dict(weights)
        self._tokens("", vector)  # an unknown id is an error now
        return vector

    def _tokens(self, query: str, vector: SparseEmbedding) -> list[dict[str, Any]]:
        tokenizer = literal_tokenizer(self.index.model, query)
        if tokenizer is None:
            return []
        (encoding,) = tokenizer.encode_batch([str(query)])
        literal, weights = set(encoding.ids), vector.as_dict()
        ids = sorted(weights, key=lambda id: -weights[id])
        return [
            {"id": id, "token": token, "weight": weights[id], "in_query": id in literal}
            for id, token in zip(ids, tokenizer.tokens(ids), strict=True)
        ]

    def _hit(self, rank: int | None, hit: Hit, explanation: Explanation) -> dict[str, Any]:
        return {
            "rank": rank,
            "id": hit.id,
            "tenant": self.index.layout.tenant_of(hit.metadata),
            "score": hit.score,
            "text": hit.text,
            "metadata": hit.metadata,
            "explanation": {
                **explanation.to_dict(),
                "marks": [[mark.start, mark.end, mark.score, mark.in_query] for mark in explanation.marks],
            },
        }


def _check(body: Mapping[str, Any], names: list[str]) -> None:
    """Check the names and types of a request."""
    for name, value in body.items():
        if name not in names:
            raise InputError(f"The request has the unknown name {name!r}; allowed: {', '.join(names)}.")
        kinds = _TYPES[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"{name} is {type_name(value)}, expected {_expected(kinds)}.")
    for name in ("query", "id"):
        if name in names and name not in body:
            raise InputError(f"The request has no {name}.")


def _expected(kinds: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)


def _query(body: Mapping[str, Any]) -> str:
    query: str = body["query"]
    if len(query) > _MAX_QUERY:
        raise InputError(f"The query has {len(query):,} characters, expected at most {_MAX_QUERY:,}.")
    return SpladeQuery.parse(query) if body.get("syntax") else query


def _k(body: Mapping[str, Any]) -> int:
    k: int = body.get("k", 10)
    if not 1 <= k <= _MAX_K:
        raise InputError(f"k is {k}, expected 1 to {_MAX_K}.")
    return k


def _id(body: Mapping[str, Any]) -> str:
    id: str = body["id"]
    return id
