"""The teacher of a round over mined candidates: scores any query of a pool with any text of it.

The score is the sum of three parts, as in `model_building.teachers`: the cosine of all-mpnet-base-v2, word
matches, and the scores of the model that the round starts from. The vectors of all texts and queries are
computed once and kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_building.checkpoint import SAVE_EVERY, save_state
from model_building.mpnet import HIDDEN, Mpnet
from model_building.teachers import WordMatches
from model_building.token_store import TokenStore
from splade_retriever.training.model import Splade

__all__ = ["PoolTeacher", "Shares", "SparseRows", "TeacherVectors", "Vectorizer"]

logger = logging.getLogger(__name__)

TEXT_WEIGHTS, TEXT_WORDS = 256, 320
"""Weights by the earlier model and words that are kept of a text, the heaviest."""


@dataclass(frozen=True)
class Shares:
    """Factors of the parts: cosine, word matches, earlier model."""

    dense: float = 20.0
    words: float = 0.8
    model: float = 0.3


class SparseRows(NamedTuple):
    """Sparse vectors: the largest values of each row, and their entries."""

    entries: Tensor
    """Shape (rows, kept), int32."""
    values: Tensor
    """Shape (rows, kept), float16; 0 where a row has fewer."""

    @classmethod
    def zeros(cls, rows: int, kept: int, device: str) -> SparseRows:
        """Return rows without values."""
        return cls(
            torch.zeros(rows, kept, dtype=torch.int32, device=device),
            torch.zeros(rows, kept, dtype=torch.float16, device=device),
        )

    def put(self, rows: Tensor, dense: Tensor) -> None:
        """Store dense vectors at some rows."""
        values, entries = dense.topk(self.values.shape[1], dim=1)
        self.entries[rows], self.values[rows] = entries.int(), values.half()

    def at(self, rows: Tensor) -> SparseRows:
        """Return some rows."""
        return SparseRows(self.entries[rows], self.values[rows])

    def dense(self, vocab: int) -> Tensor:
        """Return dense vectors, (rows, vocab)."""
        zeros = torch.zeros(len(self.values), vocab, device=self.values.device)
        return zeros.scatter_add_(1, self.entries.long(), self.values.float())


class TeacherVectors(NamedTuple):
    """The vectors of texts, or of queries."""

    dense: Tensor
    """Shape (rows, hidden), unit vectors, float16."""
    words: SparseRows
    """See `WordMatches.of_texts` and `WordMatches.of_queries`."""
    model: SparseRows
    """Weights by the earlier model, as it is used: those of queries are raised to its power."""


class Vectorizer:
    """Computes the teacher's vectors.

    Args:
        dense: The dense teacher.
        words: Scores the word matches.
        model: The earlier model, with its floor and its counts; it is changed.
        keep_query: Weights of a query that the earlier model keeps, the heaviest.
        query_power: Exponent of its query weights.
        bf16: Run both models in bfloat16.
    """

    def __init__(
        self,
        dense: Mpnet,
        words: WordMatches,
        model: Splade,
        *,
        keep_query: int,
        query_power: float,
        bf16: bool = True,
    ) -> None:
        self.dense, self.words = dense, words
        self.model = model.requires_grad_(False).eval()
        self.model.head.expand_all()
        self.keep_query, self.query_power, self.bf16 = keep_query, query_power, bf16

    def of_texts(self, store: TokenStore, file: Path) -> TeacherVectors:
        """Return the vectors of texts.

        Args:
            store: The texts.
            file: Where the vectors are kept, so that an interrupted call resumes.
        """
        vectors: TeacherVectors = self._vectors(store, file, queries=False)
        return vectors

    def of_queries(self, store: TokenStore, file: Path) -> TeacherVectors:
        """Return the vectors of queries; the arguments are those of `of_texts`."""
        vectors: TeacherVectors = self._vectors(store, file, queries=True)
        vectors.model.values.pow_(self.query_power)
        return vectors

    @torch.no_grad()
    def _vectors(self, store: TokenStore, file: Path, *, queries: bool) -> TeacherVectors:
        device = store.device
        if file.exists():
            # The file is one that this method wrote, so its types are known.
            kept = torch.load(file, map_location=device, weights_only=False)
            if not np.array_equal(kept["lengths"], store.lengths):
                raise SystemExit(f"{file} holds vectors of another pool. Delete it, or pass another --out.")
        else:
            empty = self._empty(store, queries=queries)
            kept = {"vectors": empty, "lengths": store.lengths, "batches": 0}
        vectors: TeacherVectors = kept["vectors"]
        counted = self.words.of_queries if queries else self.words.of_texts
        saved = time.monotonic()
        for batch, (rows, ids) in enumerate(store.of_one_length()):
            if batch < kept["batches"]:
                continue
            places, mask = torch.from_numpy(rows).to(device), torch.ones_like(ids)
            vectors.words.put(places, counted(ids, mask))
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                vectors.dense[places] = self.dense(ids).half()
                vectors.model.put(places, self.model(ids, mask).float())
            if time.monotonic() - saved > SAVE_EVERY:
                save_state({**kept, "batches": batch + 1}, file)
                saved = time.monotonic()
                logger.info("vectors of texts up to %d tokens", ids.shape[1])
        save_state({**kept, "batches": batch + 1}, file)
        return vectors

    def _empty(self, store: TokenStore, *, queries: bool) -> TeacherVectors:
        texts, device = len(store), store.device
        return TeacherVectors(
            torch.zeros(texts, HIDDEN, dtype=torch.float16, device=device),
            SparseRows.zeros(texts, min(TEXT_WORDS, int(store.lengths.max())), device),
            SparseRows.zeros(texts, self.keep_query if queries else TEXT_WEIGHTS, device),
        )


class PoolTeacher:
    """Scores queries with texts, given their vectors.

    Args:
        queries: The vectors of all queries.
        texts: The vectors of all texts.
        vocab: Entries of the vocabulary.
        shares: Factors of the parts.
    """

    def __init__(self, queries: TeacherVectors, texts: TeacherVectors, vocab: int, shares: Shares) -> None:
        self.queries, self.texts, self.vocab, self.shares = queries, texts, vocab, shares

    def scores(self, queries: Tensor, texts: Tensor) -> Tensor:
        """Return the score of each of some queries with each of some texts, (queries, texts)."""
        scores = self.shares.dense * (self.queries.dense[queries].float() @ self.texts.dense[texts].float().T)
        for share, query_rows, text_rows in self._sparse_parts():
            scores += share * (
                query_rows.at(queries).dense(self.vocab) @ text_rows.at(texts).dense(self.vocab).T
            )
        return scores

    def list_scores(self, queries: Tensor, lists: Tensor) -> Tensor:
        """Return the score of each of some queries with each text of its list, (queries, listed)."""
        cosines = self.texts.dense[lists] @ self.queries.dense[queries][:, :, None]
        scores = self.shares.dense * cosines[:, :, 0].float()
        for share, query_rows, text_rows in self._sparse_parts():
            asked, listed = query_rows.at(queries).dense(self.vocab), text_rows.at(lists)
            weights = asked.gather(1, listed.entries.flatten(1).long()).view(listed.entries.shape)
            scores += share * (weights * listed.values).sum(2)
        return scores

    def _sparse_parts(self) -> Iterator[tuple[float, SparseRows, SparseRows]]:
        yield self.shares.words, self.queries.words, self.texts.words
        yield self.shares.model, self.queries.model, self.texts.model
