"""A tiny encoder for tests of everything around an encoder: one dimension a word, weights by count."""

import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator

from splade_retriever.sparse import SparseEmbedding


class WordEncoder:
    """Encodes words by hash; satisfies `splade_retriever.seams.Encoder` and counts what it is given."""

    def __init__(self, model: str = "words", **fingerprint: str | int | None) -> None:
        self.fingerprint: dict[str, str | int | None] = {"model": model, "max_length": 512, **fingerprint}
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
        counts = Counter(zlib.crc32(word.encode()) % 30_000 for word in re.findall(r"\w+", text.lower()))
        return SparseEmbedding(values=[float(n) for n in counts.values()], indices=list(counts))


class LetterEncoder:
    """A dense encoder of 26 dimensions, LangChain's shape: how often each letter occurs."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        counts = Counter(text.lower())
        return [float(counts[letter]) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"]
