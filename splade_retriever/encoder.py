"""Texts to sparse embeddings: tokenizer, batches and session put together."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from splade_retriever.errors import InputError, ModelFilesError, UnknownModelError
from splade_retriever.session import Session
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.tokenizer import TokenBatch, Tokenizer, batches

__all__ = ["SparseTextEmbedding"]

log = logging.getLogger(__name__)

# Texts read ahead and sorted by length: enough for full batches, little enough to stay small in memory.
_WINDOW = 512
_TOKEN_BUDGET = 768


class SparseTextEmbedding:
    """A SPLADE model; safe to share between threads.

    Args:
        model_name: A folder with `model.onnx` (pooled), `tokenizer.json` and `card.json`; None is
            the bundled model.
        threads: Batches computed at once; None means one a core.
        providers: ONNX Runtime execution providers, used exactly as given.
        max_length: Tokens a text may have; None is the model's own limit.
        lazy_load: Open the session when the first text is encoded, not now.

    Raises:
        UnknownModelError: If `model_name` is neither None nor a folder.
        ModelFilesError: If a file is missing.
    """

    def __init__(
        self,
        model_name: str | None = None,
        *,
        threads: int | None = None,
        providers: list[str] | None = None,
        max_length: int | None = None,
        lazy_load: bool = False,
    ) -> None:
        self._folder = _folder(model_name)
        self._card = _card(self._folder)
        self.model_name: str = self._card["model"]
        self.max_length: int = max_length or self._card["max_length"]
        self.vocab_size: int = self._card["vocab_size"]
        self.tokenizer = Tokenizer.from_file(self._folder / "tokenizer.json", max_length=self.max_length)
        self.truncated = 0
        self._threads, self._providers = threads, providers
        self._session: Session | None = None
        self._opening = threading.Lock()
        if not lazy_load:
            self._opened()

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Everything that decides a vector; two models of one fingerprint give the same vectors."""
        decisive = ("model", "precision", "activation", "pooling", "query_side")
        return {name: self._card[name] for name in decisive} | {"max_length": self.max_length}

    def embed(
        self, documents: str | Iterable[str], batch_size: int | None = None
    ) -> Iterator[SparseEmbedding]:
        """Encode documents, one embedding a text, in order.

        Args:
            documents: A text or any iterable of texts; read a bounded window ahead.
            batch_size: Texts a batch at most; batches hold about 768 tokens anyway.

        Raises:
            InputError: If an item is not a str; the message names its position.
        """
        stream = iter([documents] if isinstance(documents, str) else documents)
        start = 0
        while window := list(islice(stream, _WINDOW)):
            _check(window, start)
            start += len(window)
            yield from self._encode(window, batch_size)

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int | None = None
    ) -> Iterator[SparseEmbedding]:
        """Encode documents; the same as `embed`."""
        return self.embed(texts, batch_size)

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode queries, one embedding a text, in order."""
        return self.embed(query)

    def token_count(self, texts: str | Iterable[str]) -> int:
        """Count the tokens of all texts, uncut, special tokens included."""
        given = [texts] if isinstance(texts, str) else list(texts)
        _check(given, 0)
        return sum(len(item.ids) + item.truncated for item in self.tokenizer.encode_batch(given))

    def tokens_and_weights(self, embedding: SparseEmbedding) -> dict[str, float]:
        """Return `{token: weight}`, the heaviest first."""
        return embedding.tokens_and_weights(self.tokenizer)

    def _encode(self, texts: list[str], batch_size: int | None) -> list[SparseEmbedding]:
        session = self._opened()
        encodings = self.tokenizer.encode_batch(texts)
        cut = sum(1 for encoding in encodings if encoding.truncated)
        if cut:
            self.truncated += cut
            log.warning("%d texts were longer than %d tokens and were cut", cut, self.max_length)
        found: dict[int, SparseEmbedding] = {}

        def run(batch: TokenBatch) -> None:
            weights = session.weights(batch.input_ids, batch.attention_mask)
            for row, dense in zip(batch.rows, weights, strict=True):
                found[row] = SparseEmbedding.from_dense(dense)

        work = list(batches(encodings, token_budget=_TOKEN_BUDGET, max_texts=batch_size))
        if len(work) == 1:
            run(work[0])
        else:
            with ThreadPoolExecutor(session.threads) as pool:
                list(pool.map(run, work))
        return [found[row] for row in range(len(texts))]

    def _opened(self) -> Session:
        with self._opening:
            if self._session is None:
                self._session = Session(
                    self._folder / "model.onnx", threads=self._threads, providers=self._providers
                )
            return self._session


def _folder(model_name: str | None) -> Path:
    if model_name is None:
        return Path(__file__).parent / "bundled"
    folder = Path(model_name)
    if not folder.is_dir():
        raise UnknownModelError(
            f"No model {model_name!r}: it is not a folder. Pass the path of a model folder, or nothing for "
            f"the bundled model."
        )
    return folder


def _card(folder: Path) -> dict[str, Any]:
    for name in ("model.onnx", "tokenizer.json", "card.json"):
        if not (folder / name).is_file():
            raise ModelFilesError(f"The model folder {folder} has no {name}; pass a complete model folder.")
    card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return card


def _check(texts: list[str], start: int) -> None:
    for position, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise InputError(f"Texts must be str, found {type(text).__name__} at position {position}.")
