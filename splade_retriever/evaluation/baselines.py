"""What a model is measured beside: BM25 and dense vectors, each by exact search in memory."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.protocols import DenseEncoder

__all__ = ["Bm25", "Dense", "SentenceTransformerEncoder", "needed"]

_K1: Final = 0.9
_B: Final = 0.4
"""Anserini's values, with which BEIR's BM25 figures are made."""


class Bm25:
    """BM25 over English stems without stop words (bm25s, Snowball).

    Raises:
        MissingExtraError: Without bm25s and PyStemmer.
    """

    name = "BM25"

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._bm25s = needed("bm25s", "bm25s")
        self._stemmer = needed("Stemmer", "PyStemmer").Stemmer("english")
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


class Dense:
    """Dense vectors by cosine.

    Args:
        documents: Id -> text.
        encoder: Encodes them all, in one call.

    Raises:
        InputError: If the encoder does not give one vector of one length a document.
    """

    def __init__(self, documents: Mapping[str, str], encoder: DenseEncoder) -> None:
        self.name: str = getattr(encoder, "name", type(encoder).__name__)
        self._encoder = encoder
        self._ids = list(documents)
        vectors = encoder.embed_documents(list(documents.values()))
        lengths = {len(vector) for vector in vectors}
        if len(vectors) != len(self._ids) or len(lengths) != 1:
            raise InputError(
                f"the dense encoder {self.name} gave {len(vectors)} vectors of lengths {sorted(lengths)} for "
                f"{len(self._ids)} documents, expected one of one length each. Mend the encoder."
            )
        self._unit = _unit(np.asarray(vectors, dtype=np.float32))

    def rank(self, query: str, k: int) -> list[str]:
        """Return the ids of the best `k` documents, best first."""
        vector = _unit(np.asarray([self._encoder.embed_query(query)], dtype=np.float32))[0]
        return [self._ids[row] for row in best_rows(self._unit @ vector, k)]


class SentenceTransformerEncoder:
    """A sentence-transformers model as a `DenseEncoder`, with the prompts that the model asks for.

    Args:
        model: Its name or folder.

    Raises:
        MissingExtraError: Without sentence-transformers.
        InputError: If there is no such model.
    """

    def __init__(self, model: str) -> None:
        library = needed("sentence_transformers", "sentence-transformers", extra=None)
        try:
            self._model: Any = library.SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise InputError(
                f"sentence-transformers cannot open {model!r} ({error}). Pass a model's name or folder."
            ) from error
        self.name = model

    def embed_documents(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Encode documents, cut at the model's own length."""
        vectors: Sequence[Sequence[float]] = self._model.encode_document(texts, show_progress_bar=False)
        return vectors

    def embed_query(self, text: str) -> Sequence[float]:
        """Encode one query."""
        vector: Sequence[float] = self._model.encode_query(text, show_progress_bar=False)
        return vector


def needed(module: str, package: str, *, extra: str | None = "eval") -> Any:
    """Import an optional dependency.

    Raises:
        MissingExtraError: If it is not installed; the message has the command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        install = package if extra is None else f"'splade-retriever[{extra}]'"
        raise MissingExtraError(
            f"evaluation needs {package}, which is not installed ({error}). Run: pip install {install}"
        ) from error


def best_rows(scores: NDArray[np.float32], k: int) -> list[int]:
    """Return the rows of the `k` highest scores, highest first, equal ones in their order."""
    if k < len(scores):
        lowest = np.partition(scores, -k)[-k]
        rows = np.flatnonzero(scores >= lowest)
    else:
        rows = np.arange(len(scores))
    found: list[int] = rows[np.argsort(-scores[rows], kind="stable")][:k].tolist()
    return found


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
