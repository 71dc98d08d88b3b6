"""What the model learns from: a hybrid teacher's scores of each query of a batch with each of its texts.

Three parts add up, since each finds what the others miss:

1. the cosine of the dense teacher all-MiniLM-L6-v2 x 20;
2. word matches, as BM25 counts them, over word pieces;
3. in a later round, the scores of the model as the round before left it: what the words have taught it about
   inflections and synonyms goes on to the next one (born-again networks, arXiv 1805.04770).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_building.model import LAYERS, Encoder, Splade, saturated


class Seen(NamedTuple):
    """Texts as the teacher sees them."""

    ids: Tensor
    """Shape (texts, tokens)."""
    mask: Tensor
    """Shape (texts, tokens), 1 for a token."""
    dense: Tensor
    """Shape (texts, hidden), unit vectors."""
    earlier: Tensor | None
    """Shape (texts, entries): the earlier model's weights; None in the first round."""


class WordMatches:
    """BM25 on word pieces, divided by the root of what the query could reach: a long one is no louder.

    Args:
        idf: Shape (vocab,), 0 for an entry that does not count.
        tokens: Tokens of a text on average.
    """

    k1, b = 0.9, 0.4

    def __init__(self, idf: Tensor, tokens: float) -> None:
        self.idf, self.tokens = idf, tokens

    def scores(self, queries: Seen, texts: Seen) -> Tensor:
        """Return the score of each query with each text, (queries, texts)."""
        asked = self._counts(queries) * self.idf
        found = self._counts(texts)
        found = saturated(found, texts.mask.sum(1, keepdim=True) / self.tokens, k1=self.k1, b=self.b)
        return asked @ found.T / asked.sum(1, keepdim=True).clamp_min(1.0).sqrt()

    def _counts(self, texts: Seen) -> Tensor:
        counts = torch.zeros(len(texts.ids), len(self.idf), device=self.idf.device)
        return counts.scatter_add_(1, texts.ids, texts.mask.to(counts.dtype))


class Dense(nn.Module):
    """The dense teacher all-MiniLM-L6-v2, on top of the student's frozen lower layers."""

    def __init__(self, frozen: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder.from_minilm().requires_grad_(False).eval()
        self.frozen = frozen

    @torch.no_grad()
    def forward(self, lower: Tensor, mask: Tensor) -> Tensor:
        """Map the output of the frozen layers to unit vectors (batch, hidden): mean over tokens."""
        hidden = self.encoder.run(lower, mask, self.frozen, LAYERS)
        weight = mask[:, :, None].to(hidden.dtype)
        return functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


class Hybrid(nn.Module):
    """The three parts together.

    Args:
        words: Counts the word matches.
        frozen: How many lower layers teacher and student share.
        dense_share: What the cosines are multiplied by.
        word_share: The same for the word matches.
        earlier_share: The same for the earlier model's scores.
        earlier: The model of the round before; None in the first round.
        query_power: Exponent of that model's query weights.
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
        """Return the dense vectors, and the earlier model's weights where there is one.

        Args:
            lower: Shape (texts, tokens, hidden), the output of the frozen layers.
            ids: Shape (texts, tokens).
            mask: Shape (texts, tokens), 1 for a token.
            entries: Vocabulary entries to weigh (of a text only those of the queries count); None is all.
        """
        dense = self.dense(lower, mask)
        if self.earlier is None:
            return (dense,)
        hidden = self.earlier.upper(lower, mask)
        head = self.earlier.head
        return dense, head.at(*head.unpadded(hidden, ids, mask), entries)

    @torch.no_grad()
    def scores(self, queries: Seen, texts: Seen) -> Tensor:
        """Return the score of each query with each text, (queries, texts)."""
        found = self.shares["dense"] * queries.dense @ texts.dense.T
        found = found + self.shares["words"] * self.words.scores(queries, texts)
        if queries.earlier is not None and texts.earlier is not None:
            found = found + self.shares["earlier"] * queries.earlier.pow(self.query_power) @ texts.earlier.T
        return found
