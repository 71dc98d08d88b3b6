"""The bundled model in PyTorch: a MiniLM encoder with a lexical head.

Steps of the head, for the hidden state h of the token t:

1. u = scale * LayerNorm(GELU(W h)) + skip * e(t), where W starts as the identity;
2. logit of vocabulary entry v = (u . e(v)) * exp(s_v) + b_v;
3. weight of v = max over tokens of g_v * log(1 + relu(logit)), or 0 where that is below the floor. The floor
   is set after training: light weights are many and decide little;
4. after training, a weight above 0 of a token of the text gains a share of BM25's count of that token,
   because max pooling forgets how often a token occurs (`LexicalHead.counted`).

In an exported model an entry has a weight only in texts with a token that it is related to: each token has at
most 64 related entries, its own among them (`encoding.onnx.related_entries`). An export may also restrict
which entries expand texts at all (`LexicalHead.expanding`); the others have a weight only in texts that hold
them.

e(v) is the encoder's word embedding, centred, normalised to length 1 and frozen. Because of the skip every
token matches itself from the first step, as in BM25. The gain g_v starts from the entry's document frequency,
so a rare word outweighs a common one. It is outside the logarithm, so a rare word is as easy to learn as an
expansion as a common one. Training adds context and expansion.

Source: SPLADE v2, arXiv 2109.10086 (max pooling, log saturation); MiniLM, arXiv 2002.10957.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from splade_retriever.encoding.onnx.bundled_graph import (
    HEAD_SCALE,
    HEAD_SKIP,
    HEADS,
    HIDDEN,
    INNER,
    LAYERS,
    POSITIONS,
    SATURATION,
    SPECIAL_BIAS,
)

__all__ = ["Encoder", "LexicalHead", "Splade", "saturated"]

_ABSENT = -1e4
"""Product with an entry that may not have a weight in the text."""


class Layer(nn.Module):
    """One post-norm transformer layer of BERT."""

    def __init__(
        self, hidden: int = HIDDEN, heads: int = HEADS, inner: int = INNER, *, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Map (batch, tokens, hidden) to the same shape.

        Args:
            hidden: Shape (batch, tokens, hidden).
            allowed: Shape (batch or 1, heads or 1, tokens or 1, tokens): True where a token may be attended
                to, or numbers to add to the attention scores.
        """
        batch, tokens, width = hidden.shape

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, tokens, self.heads, -1).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(hidden)), split(self.key(hidden)), split(self.value(hidden)), attn_mask=allowed
        )
        hidden = self.attention_norm(
            hidden + self.output(mixed.transpose(1, 2).reshape(batch, tokens, width))
        )
        return self.norm(hidden + self.down(functional.gelu(self.up(hidden))))


class Encoder(nn.Module):
    """MiniLM: embeddings and six layers."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, HIDDEN)
        self.positions = nn.Embedding(POSITIONS, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def embed(self, ids: Tensor) -> Tensor:
        """Map ids (batch, tokens) to the input of the first layer, (batch, tokens, hidden)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.norm(self.words(ids) + self.positions(places))

    def run(self, hidden: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
        """Run layers `first` to `last` - 1; `mask` is (batch, tokens), 1 for a token."""
        allowed = mask.bool()[:, None, None, :]
        for layer in self.layers[first:last]:
            hidden = layer(hidden, allowed)
        return hidden


def saturated(counts: Tensor, length: Tensor, *, k1: float, b: float) -> Tensor:
    """Return BM25's counts: how often an entry occurs in a text, saturated, and less in a long text.

    Args:
        counts: Shape (texts, entries).
        length: Shape (texts, 1): tokens of each text, divided by the average number.
        k1: How slowly a count saturates.
        b: How much a long text lessens it, from 0 to 1.
    """
    return counts * (k1 + 1) / (counts + k1 * (1 - b + b * length))


class LexicalHead(nn.Module):
    """Turns hidden states into weights over the vocabulary; starts from BM25-like matching.

    Max pooling forgets how often a token occurs in a text, and how long the text is. With a `count_share`, a
    weight above 0 of a token of the text gains that share of BM25's count (`saturated`) times the entry's
    gain, which replaces the IDF.

    Args:
        words: Shape (vocab, hidden): the encoder's word embeddings; copied, centred, normalised, frozen.
        start: Shape (vocab,): weight of each entry in a text that holds it, before training; 0 bars the entry
            permanently.
    """

    skip, scale, threshold = HEAD_SKIP, HEAD_SCALE, 4.0
    entries: Tensor
    """Shape (vocab, hidden): the normalised word embeddings."""
    barred: Tensor
    """Shape (vocab,), bool: entries that never have a weight."""
    expanding: Tensor
    """Shape (vocab,), bool: entries that may have a weight in any text; the others have one only in texts
    that hold them. In training these are all entries that are not barred; an export may choose fewer."""
    related: Tensor | None
    """Shape (vocab, entries): the entries related to each token, as in the folder that the model was loaded
    from; None is all that expand, and its own. Training ignores it, an export chooses again."""

    def __init__(self, words: Tensor, start: Tensor) -> None:
        super().__init__()
        vocab, hidden = words.shape
        self.register_buffer("entries", functional.normalize(words.detach() - words.detach().mean(0), dim=1))
        self.register_buffer("barred", start == 0)
        self.register_buffer("expanding", ~self.barred)
        self.floor = self.count_share = 0.0
        self.related = None
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        with torch.no_grad():
            self.dense.weight.copy_(torch.eye(hidden))
            self.dense.bias.zero_()
        self.log_scale = nn.Parameter(torch.zeros(vocab))
        self.bias = nn.Parameter(torch.full((vocab,), -self.threshold))
        # Before training the logit of a token for itself is skip - threshold; the gain turns it into `start`.
        own = torch.log1p(torch.tensor(self.skip - self.threshold))
        self.log_gain = nn.Parameter((torch.where(self.barred, own, start) / own).log())

    def states(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Compute the state u of each token (step 1 of the module), shape (batch, tokens, hidden)."""
        return self.scale * self.norm(functional.gelu(self.dense(hidden))) + self.skip * functional.embedding(
            ids, self.entries
        )

    def entry_bias(self) -> Tensor:
        """Return the bias of each entry, shape (vocab,); it is far below zero for barred entries."""
        return torch.where(self.barred, SPECIAL_BIAS, self.bias)

    def expand_all(self) -> None:
        """Let every entry that is not barred expand, and every token give a weight to each of them."""
        self.expanding = ~self.barred
        self.related = None

    def gain(self) -> Tensor:
        """Return the gain of each entry, shape (vocab,)."""
        return self.log_gain.exp()

    def forward(self, hidden: Tensor, ids: Tensor, mask: Tensor, keep: int | None = None) -> Tensor:
        """Pool to (batch, vocab) weights; with `keep`, all but the `keep` heaviest of each text are 0.

        `keep` is for training. It ignores the floor, because a new weight starts small.

        The gradient of max pooling reaches one token per entry. The winning tokens are found without a graph,
        in blocks of columns; then only the kept entries are computed again at their winning tokens.
        """
        states, tokens = self.unpadded(hidden, ids, mask)
        if keep is None:
            return self.counted(self.at(states, tokens), ids, mask)
        best, where = self._winners(states.detach(), tokens)
        heaviest = (torch.log1p(functional.relu(best)) * self.gain().detach()).topk(keep, dim=1).indices
        place = where.gather(1, heaviest)
        chosen = states.gather(1, place[:, :, None].expand(-1, -1, states.shape[2]))
        logits = (chosen * functional.embedding(heaviest, self.entries)).sum(2) * self.log_scale[
            heaviest
        ].exp()
        weights = torch.log1p(functional.relu(logits + self.entry_bias()[heaviest])) * self.gain()[heaviest]
        # An entry that does not expand has no weight in a text that does not hold it.
        weights = torch.where(best.gather(1, heaviest) > 0, weights, 0.0)
        return self.counted(torch.zeros_like(best).scatter(1, heaviest, weights), ids, mask)

    def counted(self, weights: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Add the share of BM25's counts, times the gains, to weights (batch, vocab) above 0."""
        if not self.count_share:
            return weights
        return torch.where(weights > 0, weights + self.count_share * self.counts(ids, mask), weights)

    def counts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return BM25's counts, times the gains, of the tokens of texts, (batch, vocab)."""
        gain = self.gain()
        counts = gain.new_zeros(len(ids), len(gain)).scatter_add_(1, ids, mask.to(gain.dtype))
        length = mask.sum(1, keepdim=True).to(gain.dtype) / SATURATION.tokens
        return gain * saturated(counts, length, k1=SATURATION.k1, b=SATURATION.b)

    def unpadded(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the states u, shape (batch, tokens, hidden), and the ids, with padding replaced.

        Padding becomes the first token of its text, so it never changes the maximum. Special tokens become
        0, so their logits are the entries' biases, and only the words of a text decide its weights.
        """
        states, real = self.states(hidden, ids), mask.bool()
        states = torch.where(self.barred[ids][:, :, None], 0.0, states)
        return torch.where(real[:, :, None], states, states[:, :1]), torch.where(real, ids, ids[:, :1])

    def at(self, states: Tensor, ids: Tensor, entries: Tensor | None = None) -> Tensor:
        """Pool to the weights of some entries, (batch, entries), 0 below the floor; None is all entries."""
        chosen = slice(None) if entries is None else entries
        products = (states @ self.entries[chosen].T).amax(1)
        products = torch.where(self._allowed(ids, self.related)[:, chosen], products, _ABSENT)
        logits = products * self.log_scale[chosen].exp() + self.entry_bias()[chosen]
        weights = torch.log1p(functional.relu(logits)) * self.gain()[chosen]
        return torch.where(weights < self.floor, 0.0, weights)

    @torch.no_grad()
    def _winners(self, states: Tensor, ids: Tensor, block: int = 2048) -> tuple[Tensor, Tensor]:
        """Return the largest logit of each entry in a text, (batch, vocab), and the position of its token."""
        rows = states.reshape(-1, states.shape[2])
        found = []
        for columns in self.entries.split(block):
            found.append((rows @ columns.T).view(*states.shape[:2], -1).max(1))
        best, where = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        best = torch.where(self._allowed(ids), best, _ABSENT)
        return best * self.log_scale.exp() + self.entry_bias(), where

    def _allowed(self, ids: Tensor, related: Tensor | None = None) -> Tensor:
        """Mark the entries that may have a weight in each text, (batch, vocab)."""
        marked = torch.zeros(len(ids), len(self.entries), dtype=torch.bool, device=ids.device)
        if related is not None:
            return marked.scatter(1, related.to(ids.device)[ids].flatten(1), True)
        return marked.scatter(1, ids, True) | self.expanding


class Splade(nn.Module):
    """The encoder with its head; the lower layers stay frozen.

    Args:
        encoder: The encoder; it is not copied.
        start: The weights that the head starts from, see `LexicalHead`.
        frozen: Number of lower layers that keep their weights.
    """

    def __init__(self, encoder: Encoder, start: Tensor, frozen: int = 3) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = LexicalHead(self.encoder.words.weight, start)
        self.frozen = frozen
        for part in (
            self.encoder.words,
            self.encoder.positions,
            self.encoder.norm,
            *self.encoder.layers[:frozen],
        ):
            part.requires_grad_(False)

    def forward(self, ids: Tensor, mask: Tensor, keep: int | None = None) -> Tensor:
        """Map ids and mask (batch, tokens) to weights (batch, vocab)."""
        return self.head(self.upper(self.lower(ids, mask), mask), ids, mask, keep)

    @torch.no_grad()
    def lower(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Run the frozen layers, (batch, tokens, hidden)."""
        return self.encoder.run(self.encoder.embed(ids), mask, 0, self.frozen)

    def upper(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the trained layers on the output of `lower`."""
        return self.encoder.run(hidden, mask, self.frozen, LAYERS)
