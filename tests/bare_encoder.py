"""An encoder with the methods that an index needs, and no others."""

from collections.abc import Iterable, Iterator, Mapping

from splade_retriever.sparse import SparseEmbedding
from tests.words import WordEncoder


class BareEncoder:
    """`WordEncoder` without a tokenizer, as a user's own encoder may be."""

    def __init__(self) -> None:
        self.fingerprint: Mapping[str, str | int | None] = {"model": "bare"}
        self._words = WordEncoder()

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        return self._words.passage_embed(texts)

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        return self._words.query_embed(query)
