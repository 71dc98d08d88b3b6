"""Splits the score of a text into the contributions of its words and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum
from typing import Any, NamedTuple

import numpy as np

from splade_retriever.explanation.contributions import Contribution, Mark, Span, UnmatchedToken
from splade_retriever.explanation.explanation import Explanation
from splade_retriever.explanation.words import (
    LiteralTokenizer,
    Places,
    Word,
    places_of,
    word_by_token,
    words_of,
)
from splade_retriever.sparse import SparseEmbedding

__all__ = ["ScoredQuery", "ScoredText", "explain", "explain_all"]


@dataclass(frozen=True)
class ScoredQuery:
    """A query as it was encoded. One value explains any number of texts."""

    text: str
    vector: SparseEmbedding
    tokenizer: LiteralTokenizer
    """The tokenizer of the model that made the vector."""
    origins: Mapping[int, Span] = field(default_factory=dict)
    """Token id -> the part of the query that the model expanded to this token."""
    controls: tuple[str, ...] = ()
    """What the controls of the query do."""
    controlled: Mapping[int, str] = field(default_factory=dict)
    """Token id -> what a control of the query did to its weight."""

    @cached_property
    def words(self) -> list[Word]:
        """The words of the query, with their tokens."""
        (places,) = places_of([(self.text, None)], self.tokenizer)
        return words_of(self.text, places)

    @cached_property
    def word_of(self) -> dict[int, Word]:
        """Token id -> the word of the query that the token belongs to."""
        return word_by_token(self.words)

    @cached_property
    def token_of(self) -> dict[int, str]:
        """Token id -> vocabulary entry, of each token of the vector."""
        ids = self.vector.indices.tolist()
        return dict(zip(ids, self.tokenizer.tokens(ids), strict=True))

    @cached_property
    def weight_of(self) -> dict[int, float]:
        """Token id -> weight."""
        return self.vector.as_dict()

    @cached_property
    def unmatched(self) -> dict[int, UnmatchedToken]:
        """Token id -> the token as one that a text does not have."""
        return {id: self._unmatched((id,)) for id in self.token_of}

    def unmatched_in(self, shared: Mapping[int, object]) -> tuple[UnmatchedToken, ...]:
        """Sum the weights of the tokens that a text does not share, by word, the heaviest first."""
        tokens: list[UnmatchedToken] = []
        pieces: dict[tuple[int, ...], list[int]] = {}
        for id in self.token_of:
            if id in shared:
                continue
            word = self.word_of.get(id)
            if word is None or len(word.ids) == 1:
                tokens.append(self.unmatched[id])
            else:
                pieces.setdefault(word.ids, []).append(id)
        tokens += [self._unmatched(tuple(sorted(ids, key=word.index))) for word, ids in pieces.items()]
        return tuple(sorted(tokens, key=lambda token: -token.weight))

    def _unmatched(self, ids: tuple[int, ...]) -> UnmatchedToken:
        word = self.word_of.get(ids[0])
        return UnmatchedToken(
            token=self.token_of[ids[0]] if word is None or len(word.ids) == 1 else word.label,
            weight=fsum(self.weight_of[id] for id in ids),
            in_query=word is not None,
            pieces=tuple(self.token_of[id] for id in ids),
        )


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A document, and its vector as it was scored."""

    text: str
    """Marks are positions in this string."""
    vector: SparseEmbedding
    windows: Sequence[Span] | None = None
    """The parts of the text, (start, end) in characters, that the vector was made from; None where it was
    made from the beginning of the text, as far as the model reads."""
    origins: Mapping[int, Span] = field(default_factory=dict)
    """Token id -> the part of the text that the model expanded to this token."""


def explain(
    query: str,
    text: str,
    *,
    query_vector: SparseEmbedding,
    document_vector: SparseEmbedding,
    tokenizer: LiteralTokenizer,
    windows: Sequence[Span] | None = None,
) -> Explanation:
    """Split the score of a text into the contributions of its words and tokens.

    Args:
        query: The query as it was encoded.
        text: The document.
        query_vector: Vector of `query`.
        document_vector: Vector of `text`, as it was scored.
        tokenizer: The tokenizer of the model that made both vectors.
        windows: As for `ScoredText`.
    """
    scored = ScoredQuery(query, query_vector, tokenizer)
    return explain_all(scored, [ScoredText(text, document_vector, windows)])[0]


def explain_all(query: ScoredQuery, documents: Sequence[ScoredText]) -> list[Explanation]:
    """Split the scores of texts into the contributions of their words and tokens; all are tokenised at once.

    score = sum over tokens j of query weight_j * document weight_j.

    A rare word is several tokens (word pieces). Their products are summed into one contribution of the word
    that they are pieces of: the query's word, or, for tokens that only the text has, the text's word.

    Returns:
        Of each text the contributions in descending order (ties by token id), and the words of the text they
        come from.
    """
    places = places_of([(document.text, document.windows) for document in documents], query.tokenizer)
    return [_explain(query, *pair) for pair in zip(documents, places, strict=True)]


def _explain(query: ScoredQuery, document: ScoredText, places: Places) -> Explanation:
    products = _products(query, document.vector)
    needed = None if document.origins else products  # the origin of an expansion may be any word
    words = words_of(document.text, places, containing=needed)
    contributions = _contributions(query, document, products, words)
    return Explanation(
        query=query.text,
        text=document.text,
        score=fsum(contribution.score for contribution in contributions),
        contributions=contributions,
        marks=tuple(_marks(products, query.words, words)),
        controls=query.controls,
        unmatched=query.unmatched_in(products),
    )


class _Product(NamedTuple):
    """A token that both vectors have."""

    query_weight: float
    document_weight: float
    score: float


def _products(query: ScoredQuery, vector: SparseEmbedding) -> dict[int, _Product]:
    """Multiply the weights of the tokens that both vectors have, ascending by id."""
    if not len(vector):
        return {}
    rows = np.minimum(np.searchsorted(vector.indices, query.vector.indices), len(vector) - 1)
    present = vector.indices[rows] == query.vector.indices
    weights = vector.values[rows[present]].tolist()
    return {
        id: _Product(query.weight_of[id], weight, query.weight_of[id] * weight)
        for id, weight in zip(query.vector.indices[present].tolist(), weights, strict=True)
    }


def _contributions(
    query: ScoredQuery, document: ScoredText, products: Mapping[int, _Product], words: Sequence[Word]
) -> tuple[Contribution, ...]:
    """Sum the products of word pieces by word, each product in one contribution."""
    text_word_of = word_by_token(words)
    in_text = {word.ids for word in words}
    places: dict[int, list[Span]] = {}
    for text_word in words:
        for id in text_word.ids if len(text_word.ids) == 1 else set(text_word.ids):
            places.setdefault(id, []).append(text_word.span)
    groups: dict[tuple[int, ...], list[int]] = {}
    for id in products:
        word = query.word_of.get(id) or text_word_of.get(id)
        groups.setdefault((id,) if word is None else word.ids, []).append(id)
    origins = _Origins(query, document, words)
    contributions = []
    for key, ids in groups.items():
        pieces = ids if len(ids) == 1 else sorted(ids, key=key.index)
        found = key in in_text
        spans = [span for id in ids for span in places[id]] if found else []
        first = pieces[0]
        word = query.word_of.get(first) or text_word_of.get(first)
        product = products[first] if len(ids) == 1 else _sum([products[id] for id in pieces])
        in_query = first in query.word_of
        contributions.append(
            Contribution(
                query.token_of[first] if word is None or len(key) == 1 else word.label,
                *product,
                in_query,
                found,
                tuple([query.token_of[id] for id in pieces]),
                places=tuple(spans if len(ids) == 1 else sorted(set(spans))),
                **origins.of(ids, products, in_query=in_query, in_text=found),
            )
        )
    return tuple(sorted(contributions, key=lambda contribution: -contribution.score))


def _sum(products: Sequence[_Product]) -> _Product:
    """Sum the pieces of a word; the weight in the text is the average, weighted by the query."""
    score = fsum(product.score for product in products)
    query_weight = fsum(product.query_weight for product in products)
    return _Product(query_weight, score / query_weight, score)


class _Origins:
    """Where the tokens of an expansion come from, as complete words, and what controls did to tokens."""

    def __init__(self, query: ScoredQuery, document: ScoredText, words: Sequence[Word]) -> None:
        self._query, self._document, self._words = query, document, words
        self._any = bool(query.origins or query.controlled or document.origins)

    def of(
        self, ids: Sequence[int], products: Mapping[int, _Product], *, in_query: bool, in_text: bool
    ) -> dict[str, Any]:
        """Return what is known of the heaviest piece of a contribution."""
        if not self._any:
            return {}
        id = max(ids, key=lambda id: products[id].score)
        found: dict[str, Any] = {"control": self._query.controlled.get(id)}
        if not in_query and id in self._query.origins:
            found["query_origin"] = _complete(self._query.origins[id], self._query.words)
        if not in_text and id in self._document.origins:
            found["text_origin"] = _complete(self._document.origins[id], self._words)
        return found


def _complete(span: Span, words: Sequence[Word]) -> Span:
    """Return the word that a token is a piece of."""
    return next((word.span for word in words if word.start <= span[0] < word.end), span)


def _marks(
    products: Mapping[int, _Product], query_words: Sequence[Word], text_words: Sequence[Word]
) -> Iterator[Mark]:
    """Mark the words of a text that contributed.

    A word of the query counts as found only where all its pieces are together: "async" does not mark "as".
    """
    of_query = {word.ids for word in query_words}
    query_ids = {id for ids in of_query for id in ids}
    for word in text_words:
        literal = word.ids in of_query
        shares = [
            products[id].score
            for id in dict.fromkeys(word.ids)
            if id in products and (literal or id not in query_ids)
        ]
        if shares and word.is_word:
            yield Mark(word.start, word.end, fsum(shares), literal)
