"""Adapt the bundled model to texts without labels.

The model learns from the pairs of a `Corpus` with the losses of `training.learner`. The teacher is the model
as it was before, so a small corpus adds to what the model knows and does not replace it. Entries that
expanded no text before may expand these texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splade_retriever.encoding.model_folder import open_folder
from splade_retriever.encoding.text_embedding import SparseTextEmbedding
from splade_retriever.errors import InputError, StorageError
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.training.batches import in_groups, padded
from splade_retriever.training.corpus import PASSAGE_TOKENS, Corpus, Pair
from splade_retriever.training.expansions import expansions_of_state
from splade_retriever.training.export import ExportSettings, arrays, write_folder
from splade_retriever.training.learner import Learner, LearningSettings
from splade_retriever.training.load_model import bundled_folder, load_model
from splade_retriever.training.model import Splade
from splade_retriever.validation import checked_int

__all__ = ["AdaptSettings", "adapt", "draw_batch"]

logger = logging.getLogger(__name__)

QUERY_TOKENS = 32
PRESSURE = 0.1
"""Factor of the regularisers at the start; 1 would remove dimensions before anything is learned."""
LOG_EVERY = 10
"""Steps between two lines of the log."""


@dataclass(frozen=True)
class AdaptSettings:
    """Sizes and rates of adapting.

    Attributes:
        steps: Number of batches.
        batch: Pairs per batch.
        groups: Groups of texts of similar length that a batch is encoded in.
        frozen: Number of lower layers that keep their weights.
        keep_text: Weights of a text that training sees, the heaviest.
        keep_query: The same of a query, if the model's card sets no number.
        seed: Decides the batches.
        learning: Rates and losses. `adapt` replaces the dimensions and the power by those of the model.
    """

    steps: int = 40
    batch: int = 16
    groups: int = 2
    frozen: int = 3
    keep_text: int = 512
    keep_query: int = 256
    seed: int = 13
    learning: LearningSettings = field(
        default_factory=lambda: LearningSettings(
            head_rate=1e-3, layer_rate=5e-5, warm_up=0.1, distillation=1.0, ramp=0.0
        )
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "groups", "keep_text", "keep_query"):
            object.__setattr__(self, name, checked_int(name, getattr(self, name), minimum=1))


def adapt(
    corpus: Corpus,
    to: str | Path,
    *,
    start: str | Path | None = None,
    settings: AdaptSettings | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Train a model on a corpus and write it to a folder, in int8.

    Args:
        corpus: The texts.
        to: The folder to write; its name becomes the model's name.
        start: The model folder to start from, which is not changed; None is the bundled model.
        settings: Sizes and rates; None is the defaults.
        on_step: Called after each step with the number of steps taken and of all steps.

    Raises:
        InputError: If `to` is the folder of `start`, or the corpus has no pairs.
        StorageError: If `to` cannot be made.
        ModelFilesError: If `start` has no model.
        ModelGraphError: If the model in `start` was not trained by this package.
    """
    settings, start, to = settings or AdaptSettings(), Path(start or bundled_folder()), Path(to)
    sections = corpus.sections()
    if to.resolve() == start.resolve():
        raise InputError(
            f"The adapted model would replace the one it starts from, {start}. Pass another folder."
        )
    if not sections:
        raise InputError("The corpus has no pairs to learn from. Pass a folder with longer texts.")
    try:
        to.mkdir(parents=True, exist_ok=True)  # now, and not after the training
    except OSError as error:
        raise StorageError(
            f"The folder {to} cannot be made: {error.strerror or error}. Nothing was trained. Choose a "
            f"folder that can be written."
        ) from error
    model = load_model(start, frozen=settings.frozen)
    teacher = _Teacher(SparseTextEmbedding(str(start)), [pair for pairs in sections for pair in pairs])
    card = open_folder(start).card
    learning = replace(
        settings.learning,
        dims_text=teacher.dims("text"),
        dims_query=teacher.dims("query"),
        query_power=card.query_power,
    )
    settings = replace(
        settings, learning=learning, keep_query=card.query_max_active_dims or settings.keep_query
    )
    expanding = model.head.expanding.numpy().copy()
    model.head.expand_all()  # the corpus may need entries that expanded nothing before
    _train(model, teacher, sections, settings, on_step)
    state = arrays(model.state_dict())
    counts = expansions_of_state(
        state, {"corpus": teacher.all_tokens()}, model.head.floor, vocabulary=teacher.vocabulary
    )
    state["head.expanding"] = expanding | (counts > 0)
    write_folder(
        state,
        to,
        ExportSettings(
            floor=model.head.floor,
            count_share=model.head.count_share,
            query_max_active_dims=card.query_max_active_dims,
            query_power=card.query_power,
        ),
        name=to.resolve().name,
        origin=f"Adapted from {card.model}",
        tokenizer=start / "tokenizer.json",
    )


def draw_batch(sections: Sequence[list[Pair]], size: int, random: np.random.Generator) -> list[Pair]:
    """Draw one pair each from `size` neighbouring sections, which have similar topics."""
    first = int(random.integers(len(sections)))
    neighbours = [sections[(first + n) % len(sections)] for n in range(min(size, len(sections)))]
    return [pairs[int(random.integers(len(pairs)))] for pairs in neighbours]


def _train(
    model: Splade,
    teacher: _Teacher,
    sections: Sequence[list[Pair]],
    settings: AdaptSettings,
    on_step: Callable[[int, int], None] | None,
) -> None:
    learner = Learner(settings.learning, model)
    learner.pressure.factors = dict.fromkeys(learner.pressure.factors, PRESSURE)
    random = np.random.default_rng(settings.seed)
    for step in range(1, settings.steps + 1):
        batch = draw_batch(sections, settings.batch, random)
        queries = _weights(model, teacher.tokens("query", batch), settings.keep_query, settings.groups)
        texts = _weights(model, teacher.tokens("text", batch), settings.keep_text, settings.groups)
        parts = learner.update(queries, texts, teacher.scores(batch), (step - 1) / settings.steps)
        if step % LOG_EVERY == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            logger.info("step %d of %d: %s", step, settings.steps, shown)
        if on_step is not None:
            on_step(step, settings.steps)


def _weights(model: Splade, texts: Sequence[list[int]], keep: int, groups: int) -> Tensor:
    """Return the weights of tokenised texts, (texts, vocab), with gradients."""
    (weights,) = in_groups(*padded(texts), groups, lambda ids, mask: (model(ids, mask, keep),))
    return weights


class _Teacher:
    """The vectors of the pairs before training, and their tokens."""

    def __init__(self, encoder: SparseTextEmbedding, pairs: Sequence[Pair]) -> None:
        self._vocab = encoder.vocab_size
        self.vocabulary = encoder.tokenizer.vocabulary
        self._vectors: dict[str, dict[str, SparseEmbedding]] = {}
        self._tokens: dict[str, dict[str, list[int]]] = {}
        for name, encode, limit in (
            ("query", encoder.query_embed, QUERY_TOKENS),
            ("text", encoder.passage_embed, PASSAGE_TOKENS),
        ):
            texts = list(dict.fromkeys(getattr(pair, name) for pair in pairs))
            self._vectors[name] = dict(zip(texts, encode(texts), strict=True))
            tokens = (_shortened(encoding.ids, limit) for encoding in encoder.tokenizer.encode_batch(texts))
            self._tokens[name] = dict(zip(texts, tokens, strict=True))

    def dims(self, name: str) -> float:
        """Return the mean number of active dimensions of a query or text."""
        return float(np.mean([len(vector) for vector in self._vectors[name].values()]))

    def tokens(self, name: str, batch: Sequence[Pair]) -> list[list[int]]:
        """Return the token ids of the queries or texts."""
        return [self._tokens[name][getattr(pair, name)] for pair in batch]

    def all_tokens(self) -> list[list[int]]:
        """Return the token ids of all queries and texts."""
        return [ids for of_texts in self._tokens.values() for ids in of_texts.values()]

    def scores(self, batch: Sequence[Pair]) -> Tensor:
        """Return the score of each query with each text, (batch, batch)."""
        return self._rows("query", batch) @ self._rows("text", batch).T

    def _rows(self, name: str, batch: Sequence[Pair]) -> Tensor:
        rows = np.zeros((len(batch), self._vocab), dtype=np.float32)
        for row, pair in zip(rows, batch, strict=True):
            vector = self._vectors[name][getattr(pair, name)]
            row[vector.indices] = vector.values
        return torch.from_numpy(rows)


def _shortened(ids: list[int], limit: int) -> list[int]:
    """Shorten to `limit` tokens, the last of which stays the special token."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
