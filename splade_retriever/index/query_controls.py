"""Applies the controls of a query to its vector."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from splade_retriever.errors import InputError
from splade_retriever.explanation import LiteralTokenizer, literal_tokenizer
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.splade_query import QueryControls, SpladeQuery
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

__all__ = ["ControlledVector", "controlled", "encoded_query"]


@dataclass(frozen=True, slots=True)
class ControlledVector:
    """The vector of a query after its controls."""

    vector: SparseEmbedding
    text: str
    """The query's text with the words that the controls added."""
    notes: dict[int, str] = field(default_factory=dict)
    """Token id -> what a control did to its weight."""


def encoded_query(query: str, encoder: Encoder, *, max_active_dims: int | None) -> ControlledVector:
    """Encode a query, prune it, and apply its controls."""
    (vector,) = encoder.query_embed([str(query)]) if query.strip() else (SparseEmbedding.from_dict({}),)
    return controlled(query, prune(vector, max_active_dims), encoder)


def controlled(query: str, vector: SparseEmbedding, encoder: Encoder) -> ControlledVector:
    """Apply the controls of a query to its vector.

    1. Without expansion, only the tokens of the text's words keep a weight.
    2. A synonym gets the largest weight of the word that it stands beside; it is split into tokens.
    3. A boosted word's weights are multiplied. A word without weight is added with the weights that the model
       gives to the word as a query.

    Args:
        query: The query; a plain string has no controls.
        vector: Its vector, pruned.
        encoder: Encodes added words; its tokenizer splits words.

    Raises:
        InputError: The encoder has no tokenizer that returns the ids of words.
    """
    text = str(query)
    if not isinstance(query, SpladeQuery) or not query.controls.changes_weights:
        return ControlledVector(vector, text)
    tokenizer = literal_tokenizer(encoder, text)
    if tokenizer is None:
        raise InputError(
            f"The encoder {type(encoder).__name__} has no tokenizer that splits words into ids, which boost, "
            "synonyms and expand=False need. Use SparseTextEmbedding."
        )
    words = _WordIds(tokenizer)
    return _Controls(query.controls, text, words, encoder).applied(vector)


class _WordIds:
    def __init__(self, tokenizer: LiteralTokenizer) -> None:
        self._tokenizer = tokenizer

    def of(self, text: str) -> list[int]:
        """Return the ids of the tokens of a text, without special tokens."""
        (encoding,) = self._tokenizer.encode_batch([text])
        return [id for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > start]


class _Controls:
    def __init__(self, controls: QueryControls, text: str, words: _WordIds, encoder: Encoder) -> None:
        self._controls, self._text, self._words, self._encoder = controls, text, words, encoder

    def applied(self, vector: SparseEmbedding) -> ControlledVector:
        weights = vector.as_dict()
        notes: dict[int, str] = {}
        if not self._controls.expand:
            kept = set(self._words.of(self._text))
            weights = {id: weight for id, weight in weights.items() if id in kept}
        for word, synonyms in self._controls.synonyms.items():
            source = [weights[id] for id in self._words.of(word) if id in weights]
            for id in self._ids(synonyms) if source else ():
                if weights.get(id, 0.0) < max(source):
                    weights[id] = max(source)
                    notes[id] = f"synonym of {word}"
        for word, factor in self._controls.boost.items():
            for id, weight in self._weights_of(word, weights).items():
                weights[id] = weight * factor
                notes[id] = f"boost x{factor:g}"
        positive = {id: weight for id, weight in weights.items() if weight > 0}
        return ControlledVector(SparseEmbedding.from_dict(positive), self._complete_text(), notes)

    def _ids(self, words: Sequence[str]) -> Iterator[int]:
        for word in words:
            yield from self._words.of(word)

    def _weights_of(self, word: str, weights: dict[int, float]) -> dict[int, float]:
        """Return the weights of the tokens of a word, in the query or, if it has none, by itself."""
        ids = self._words.of(word)
        present = {id: weights[id] for id in ids if id in weights}
        if present:
            return present
        (alone,) = self._encoder.query_embed([word])
        return {id: weight for id, weight in alone.as_dict().items() if id in ids}

    def _complete_text(self) -> str:
        present = self._text.lower()
        added = [word for words in self._controls.synonyms.values() for word in words]
        added += list(self._controls.boost)
        new = [word for word in dict.fromkeys(added) if word.lower() not in present]
        return " ".join([self._text, *new]).strip()
