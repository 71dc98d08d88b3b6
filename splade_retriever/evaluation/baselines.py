"""Baselines to compare a model with: BM25 and dense vectors, each with exact search in memory."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.protocols import DenseEncoder, NodeEncoder, as_dense

__all__ = ["Bm25", "DenseBaseline", "SentenceTransformerEncoder", "best_rows", "import_optional"]

_K1: Final = 0.9
_B: Final = 0.4
"""Anserini's values, which BEIR's published BM25 figures use."""


class Bm25:
    """BM25 over English stems without stop words (bm25s, Snowball).

    Raises:
        MissingExtraError: bm25s or PyStemmer is not installed.
    """

    name = "BM25"

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._bm25s = import_optional("bm25s", "bm25s")
        self._stemmer = import_optional("Stemmer", "PyStemmer").Stemmer("english")
        self._ids = list(documents)
        self._index = self._bm25s.BM25(k1=_K1, b=_B)
        self._index.index(self._words(list(documents.values())), show_progress=False)

    def rank(self, query: str, k: int) -> list[str]:
        """Return the ids of the best `k` documents that share a stem with the query, best first."""
        (stems,) = self._words([query])
        if not stems:
            return []
        scores: NDArray[np.float32] = self._index.get_scores(stems)
        return [self._ids[row] for row in best_rows(scores, k) if scores[row] > 0]

    def _words(self, texts: list[str]) -> list[list[str]]:
        stems: list[list[str]] = self._bm25s.tokenize(
            texts, stemmer=self._stemmer, stopwords="en", return_ids=False, show_progress=False
        )
        return stems


class DenseBaseline:
    """Dense vectors, compared by cosine.

    Args:
        documents: Id -> text.
        encoder: Encodes all documents in one call.

    Raises:
        InputError: If the encoder has neither framework's methods, or does not return one vector of equal
            length per document.
    """

    def __init__(self, documents: Mapping[str, str], encoder: DenseEncoder | NodeEncoder) -> None:
        self.name: str = getattr(encoder, "name", type(encoder).__name__)
        self._encoder = as_dense(encoder)
        self._ids = list(documents)
        vectors = self._encoder.embed_documents(list(documents.values()))
        lengths = {len(vector) for vector in vectors}
        if len(vectors) != len(self._ids) or len(lengths) != 1:
            raise InputError(
                f"The dense encoder {self.name} returned {len(vectors)} vectors of lengths {sorted(lengths)} "
                f"for {len(self._ids)} documents, expected one vector of equal length per document. Fix the "
                "encoder."
            )
        self._unit = _unit(np.asarray(vectors, dtype=np.float32))

    def rank(self, query: str, k: int) -> list[str]:
        """Return the ids of the best `k` documents, best first."""
        vector = _unit(np.asarray([self._encoder.embed_query(query)], dtype=np.float32))[0]
        return [self._ids[row] for row in best_rows(self._unit @ vector, k)]


class SentenceTransformerEncoder:
    """A sentence-transformers model as a `DenseEncoder`, with the prompts that the model defines.

    Args:
        model: Name or folder of the model.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: The model cannot be opened.
    """

    def __init__(self, model: str) -> None:
        library = import_optional("sentence_transformers", "sentence-transformers", extra=None)
        try:
            self._model: Any = library.SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise InputError(
                f"sentence-transformers cannot open {model!r} ({error}). Pass a model's name or folder."
            ) from error
        self.name = model

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, truncated at the model's maximum length."""
        vectors: Sequence[Sequence[float]] = self._model.encode_document(texts, show_progress_bar=False)
        return vectors

    def embed_query(self, text: str) -> Sequence[float]:
        """Encode one query."""
        vector: Sequence[float] = self._model.encode_query(text, show_progress_bar=False)
        return vector


def import_optional(module: str, package: str, *, extra: str | None = "eval") -> Any:
    """Import an optional dependency.

    Raises:
        MissingExtraError: It is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        install = package if extra is None else f"'splade-retriever[{extra}]'"
        raise MissingExtraError(
            f"Evaluation needs {package}, which is not installed ({error}). Run: pip install {install}"
        ) from error


def best_rows(scores: NDArray[np.float32], k: int) -> list[int]:
    """Return the rows of the `k` highest scores in descending order; equal scores keep their order."""
    if k < len(scores):
        lowest = np.partition(scores, -k)[-k]
        rows = np.flatnonzero(scores >= lowest)
    else:
        rows = np.arange(len(scores))
    best: list[int] = rows[np.argsort(-scores[rows], kind="stable")][:k].tolist()
    return best


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
