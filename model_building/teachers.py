"""The hybrid teacher: scores of each query of a batch with each of its texts.

The score is the sum of three parts, because each finds texts that the others miss:

1. the cosine of the dense teacher all-MiniLM-L6-v2, times 20;
2. BM25's word matches, over word pieces;
3. in a later round, the scores of the model that the earlier round made, which pass on what it learned about
   inflections and synonyms (born-again networks, arXiv 1805.04770).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_building.minilm import minilm_encoder
from splade_retriever.encoding.onnx.bundled_graph import LAYERS
from splade_retriever.training.model import Splade, saturated

__all__ = ["Dense", "Hybrid", "TeacherInput", "WordMatches"]


class TeacherInput(NamedTuple):
    """Texts in the form that the teacher scores."""

    ids: Tensor
    """Shape (texts, tokens)."""
    mask: Tensor
    """Shape (texts, tokens), 1 for a token."""
    dense: Tensor
    """Shape (texts, hidden), unit vectors."""
    earlier: Tensor | None
    """Shape (texts, entries): the weights by the earlier model; None in the first round."""


class WordMatches:
    """BM25 over word pieces, divided by the root of the query's summed IDF, so long queries score no higher.

    Args:
        idf: Shape (vocab,), 0 for an entry that is not counted.
        tokens: Mean number of tokens of a text.
    """

    k1, b = 0.9, 0.4

    def __init__(self, idf: Tensor, tokens: float) -> None:
        self.idf, self.tokens = idf, tokens

    def scores(self, queries: TeacherInput, texts: TeacherInput) -> Tensor:
        """Return the score of each query with each text, (queries, texts)."""
        return self.of_queries(queries.ids, queries.mask) @ self.of_texts(texts.ids, texts.mask).T

    def of_queries(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return counts x IDF, divided by the root of their sum, (queries, vocab)."""
        weights = self._counts(ids, mask) * self.idf
        return weights / weights.sum(1, keepdim=True).clamp_min(1.0).sqrt()

    def of_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the saturated counts, (texts, vocab)."""
        length = mask.sum(1, keepdim=True) / self.tokens
        return saturated(self._counts(ids, mask), length, k1=self.k1, b=self.b)

    def _counts(self, ids: Tensor, mask: Tensor) -> Tensor:
        counts = torch.zeros(len(ids), len(self.idf), device=self.idf.device)
        return counts.scatter_add_(1, ids, mask.to(counts.dtype))


class Dense(nn.Module):
    """The dense teacher all-MiniLM-L6-v2, which continues from the student's frozen lower layers."""

    def __init__(self, frozen: int = 3) -> None:
        super().__init__()
        self.encoder = minilm_encoder().requires_grad_(False).eval()
        self.frozen = frozen

    @torch.no_grad()
    def forward(self, lower: Tensor, mask: Tensor) -> Tensor:
        """Map the output of the frozen layers to unit vectors, (batch, hidden), by the mean over tokens."""
        hidden = self.encoder.run(lower, mask, self.frozen, LAYERS)
        weight = mask[:, :, None].to(hidden.dtype)
        return functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


class Hybrid(nn.Module):
    """The sum of the three parts.

    Args:
        words: Scores the word matches.
        frozen: Number of lower layers that teacher and student share.
        dense_share: Factor of the cosines.
        word_share: Factor of the word matches.
        earlier_share: Factor of the earlier model's scores.
        earlier: The model of the earlier round; None in the first round.
        query_power: Exponent of the earlier model's query weights.
    """

    def __init__(
        self,
        words: WordMatches,
        frozen: int,
        *,
        dense_share: float,
        word_share: float,
        earlier_share: float = 0.0,
        earlier: Splade | None = None,
        query_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.words, self.dense = words, Dense(frozen)
        self.earlier = earlier.requires_grad_(False).eval() if earlier is not None else None
        self.query_power = query_power
        self.shares = {"dense": dense_share, "words": word_share, "earlier": earlier_share}

    @torch.no_grad()
    def forward(self, lower: Tensor, ids: Tensor, mask: Tensor, entries: Tensor | None) -> tuple[Tensor, ...]:
        """Return the dense vectors, and the weights by the earlier model if there is one.

        Args:
            lower: Shape (texts, tokens, hidden), the output of the frozen layers.
            ids: Shape (texts, tokens).
            mask: Shape (texts, tokens), 1 for a token.
            entries: Entries to compute weights of, because a text only needs those of the queries; None is
                all.
        """
        dense = self.dense(lower, mask)
        if self.earlier is None:
            return (dense,)
        hidden = self.earlier.upper(lower, mask)
        head = self.earlier.head
        return dense, head.at(*head.unpadded(hidden, ids, mask), entries)

    @torch.no_grad()
    def scores(self, queries: TeacherInput, texts: TeacherInput) -> Tensor:
        """Return the score of each query with each text, (queries, texts)."""
        scores = self.shares["dense"] * queries.dense @ texts.dense.T
        scores = scores + self.shares["words"] * self.words.scores(queries, texts)
        if queries.earlier is not None and texts.earlier is not None:
            scores = scores + self.shares["earlier"] * queries.earlier.pow(self.query_power) @ texts.earlier.T
        return scores
