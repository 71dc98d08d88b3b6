"""Splits the score of a text into the contributions of its words and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from splade_retriever.explanation.contributions import Contribution, Mark, Span, UnmatchedToken
from splade_retriever.explanation.explanation import Explanation
from splade_retriever.explanation.words import LiteralTokenizer, Word, word_by_token, words_of
from splade_retriever.sparse import SparseEmbedding

__all__ = ["explain"]


def explain(
    query: str,
    text: str,
    *,
    query_vector: SparseEmbedding,
    document_vector: SparseEmbedding,
    tokenizer: LiteralTokenizer,
    windows: Sequence[Span] | None = None,
    query_origins: Mapping[int, Span] | None = None,
    text_origins: Mapping[int, Span] | None = None,
    controls: Sequence[str] = (),
    controlled: Mapping[int, str] | None = None,
    query_words: Sequence[Word] | None = None,
) -> Explanation:
    """Split the score of a text into the contributions of its words and tokens.

    score = sum over tokens j of query weight_j * document weight_j.

    A rare word is several tokens (word pieces). Their products are summed into one contribution of the word
    that they are pieces of: the query's word, or, for tokens that only the text has, the text's word.

    Args:
        query: The query as it was encoded.
        text: The document; marks are positions in this string.
        query_vector: Vector of `query`.
        document_vector: Vector of `text`, as it was scored.
        tokenizer: The tokenizer of the model that made both vectors.
        windows: The parts of the text, (start, end) in characters, that the document's vector was made from;
            None where it was made from the beginning of the text, as far as the model reads.
        query_origins: Token id -> the part of the query that the model expanded to this token.
        text_origins: Token id -> the part of the text that the model expanded to this token.
        controls: What the controls of the query do.
        controlled: Token id -> what a control of the query did to its weight.
        query_words: The words of the query, for callers that explain several texts.

    Returns:
        The contributions in descending order (ties by token id), and the words of the text they come from.
    """
    shared, query_rows, document_rows = np.intersect1d(
        query_vector.indices, document_vector.indices, assume_unique=True, return_indices=True
    )
    weights = np.column_stack([query_vector.values[query_rows], document_vector.values[document_rows]])
    ids = shared.tolist()
    products = {
        id: _Product(token, *pair)
        for id, token, pair in zip(
            ids, tokenizer.tokens(ids), weights.astype(np.float64).tolist(), strict=True
        )
    }
    unmatched = np.delete(query_vector.indices, query_rows)
    if query_words is None:
        query_words = words_of(query, [(0, len(query))], tokenizer)
    needed = products.keys() if not text_origins else None  # origins may be any word
    text_words = words_of(text, windows or [(0, len(text))], tokenizer, containing=needed)
    origins = _Origins(query_words, text_words, query_origins or {}, text_origins or {}, controlled or {})
    contributions = _contributions(products, query_words, text_words, origins)
    return Explanation(
        query=query,
        text=text,
        score=fsum(contribution.score for contribution in contributions),
        contributions=contributions,
        marks=tuple(_marks(products, query_words, text_words)),
        controls=tuple(controls),
        unmatched=_unmatched(query_vector, unmatched.tolist(), query_words, tokenizer),
    )


@dataclass(frozen=True, slots=True)
class _Product:
    """A token that both vectors have."""

    token: str
    query_weight: float
    document_weight: float

    @property
    def score(self) -> float:
        return self.query_weight * self.document_weight


class _Origins:
    """Where the tokens of an expansion come from, as complete words, and what controls did to tokens."""

    def __init__(
        self,
        query_words: Sequence[Word],
        text_words: Sequence[Word],
        query_origins: Mapping[int, Span],
        text_origins: Mapping[int, Span],
        controlled: Mapping[int, str],
    ) -> None:
        self._controlled = controlled
        self._query = {id: _complete(span, query_words) for id, span in query_origins.items()}
        self._text = {id: _complete(span, text_words) for id, span in text_origins.items()}

    def of(self, pieces: Sequence[tuple[int, float]], *, in_query: bool, in_text: bool) -> dict[str, Any]:
        """Return the origins of a contribution: those of its heaviest piece, on the side that expanded it."""
        id, _ = max(pieces, key=lambda piece: piece[1])
        found: dict[str, Any] = {"control": self._controlled.get(id)}
        if not in_query and id in self._query:
            found["query_origin"] = self._query[id]
        if not in_text and id in self._text:
            found["text_origin"] = self._text[id]
        return found


def _complete(span: Span, words: Sequence[Word]) -> Span:
    """Return the word that a token is a piece of."""
    return next((word.span for word in words if word.start <= span[0] < word.end), span)


def _contributions(
    products: Mapping[int, _Product],
    query_words: Sequence[Word],
    text_words: Sequence[Word],
    origins: _Origins,
) -> tuple[Contribution, ...]:
    """Sum the products of word pieces by word, each product in one contribution."""
    query_word_of, text_word_of = word_by_token(query_words), word_by_token(text_words)
    spans_of: dict[int, list[Span]] = {}
    for text_word in text_words:
        for id in dict.fromkeys(text_word.ids):
            spans_of.setdefault(id, []).append(text_word.span)
    in_text_words = {word.ids for word in text_words}
    groups: dict[tuple[int, ...], list[int]] = {}
    word_of: dict[tuple[int, ...], Word | None] = {}
    for id in products:
        word = query_word_of.get(id) or text_word_of.get(id)
        key = (id,) if word is None else word.ids
        groups.setdefault(key, []).append(id)
        word_of[key] = word
    contributions = []
    for key, ids in groups.items():
        pieces = [products[id] for id in sorted(ids, key=key.index)]
        word = word_of[key]
        score = fsum(piece.score for piece in pieces)
        query_weight = fsum(piece.query_weight for piece in pieces)
        in_query, in_text = any(id in query_word_of for id in ids), key in in_text_words
        contributions.append(
            Contribution(
                token=pieces[0].token if len(key) == 1 or word is None else word.label,
                query_weight=query_weight,
                document_weight=pieces[0].document_weight if len(pieces) == 1 else score / query_weight,
                score=score,
                in_query=in_query,
                in_text=in_text,
                pieces=tuple(piece.token for piece in pieces),
                places=tuple(sorted({span for id in ids for span in spans_of.get(id, ())}))
                if in_text
                else (),
                **origins.of([(id, products[id].score) for id in ids], in_query=in_query, in_text=in_text),
            )
        )
    return tuple(sorted(contributions, key=lambda contribution: -contribution.score))


def _unmatched(
    query_vector: SparseEmbedding,
    ids: Sequence[int],
    query_words: Sequence[Word],
    tokenizer: LiteralTokenizer,
) -> tuple[UnmatchedToken, ...]:
    """Sum the weights of query tokens without a match by word."""
    word_of, weight_of = word_by_token(query_words), query_vector.as_dict()
    token_of = dict(zip(ids, tokenizer.tokens(ids), strict=True))
    groups: dict[tuple[int, ...], list[int]] = {}
    for id in ids:
        word = word_of.get(id)
        groups.setdefault((id,) if word is None else word.ids, []).append(id)
    tokens = [
        UnmatchedToken(
            token=token_of[group[0]] if len(key) == 1 else word_of[group[0]].label,
            weight=fsum(weight_of[id] for id in group),
            in_query=group[0] in word_of,
            pieces=tuple(token_of[id] for id in sorted(group, key=key.index)),
        )
        for key, group in groups.items()
    ]
    return tuple(sorted(tokens, key=lambda token: -token.weight))


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
