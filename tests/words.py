"""A small encoder for tests: one dimension per word, weighted by its count."""

import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from splade_retriever.sparse import SparseEmbedding


@dataclass(frozen=True)
class Words:
    """A tokenized text: ids, offsets in characters, and the number of words that were cut off."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    truncated: int


class WordTokenizer:
    """One token per word; satisfies `WindowTokenizer` and `LiteralTokenizer`.

    Its vocabulary is the words it has encoded.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._seen: dict[int, str] = {}

    def id_of(self, word: str) -> int:
        id = zlib.crc32(word.lower().encode()) % 30_000
        self._seen[id] = word.lower()
        return id

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._seen[id] for id in ids]

    def encode_batch(self, texts: Sequence[str]) -> list[Words]:
        matches = [list(re.finditer(r"\w+", text)) for text in texts]
        return [
            Words(
                [self.id_of(match[0]) for match in words[: self.max_length]],
                [match.span() for match in words[: self.max_length]],
                max(0, len(words) - self.max_length),
            )
            for words in matches
        ]


class WordEncoder:
    """Encodes words by hash and counts texts; satisfies `splade_retriever.protocols.Encoder`."""

    def __init__(
        self, model: str = "words", *, max_length: int = 512, **fingerprint: str | int | None
    ) -> None:
        self.fingerprint: dict[str, str | int | None] = {
            "model": model,
            "max_length": max_length,
            **fingerprint,
        }
        self.tokenizer = WordTokenizer(max_length)
        self.encoded = 0
        self._lock = threading.Lock()

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        for text in texts:
            with self._lock:
                self.encoded += 1
            yield self._vector(text)

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        for text in [query] if isinstance(query, str) else query:
            yield self._vector(text)

    def _vector(self, text: str) -> SparseEmbedding:
        words = re.findall(r"\w+", text.lower())[: self.tokenizer.max_length]
        counts = Counter(self.tokenizer.id_of(word) for word in words)
        return SparseEmbedding(values=[float(n) for n in counts.values()], indices=list(counts))


class LetterEncoder:
    """A dense encoder of 26 dimensions, LangChain's shape: how often each letter occurs."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        counts = Counter(text.lower())
        return [float(counts[letter]) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"]
