"""Mine candidates: for each query of a pool the texts that are worth ranking.

The candidates of a query are the texts nearest by cosine and those nearest by the earlier model, in the order
of the teacher, which judges what either takes for an answer. Queries are ordered by topic (k-means over their
dense vectors), so that neighbours are hard for each other in a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_building.pool_teacher import PoolTeacher, SparseRows
from model_building.token_store import Rows

__all__ = ["Mined", "Sketch", "mine", "order_by_topic"]

SKETCH_COLUMNS = 4096
NEAREST, LISTED = 100, 128
"""Candidates of a query by either way, and candidates that are kept."""
QUERIES_AT_ONCE = 512
QUERIES_PER_TOPIC = 64
ROWS_AT_ONCE = 16_384


class Mined(NamedTuple):
    """The candidates of each query."""

    answers: Rows
    """Shape (queries,): the text that answers each, by its label or else the best by the teacher."""
    lists: NDArray[np.int32]
    """Shape (queries, `LISTED`): other candidates, the best by the teacher first, then -1."""
    order: Rows
    """Shape (queries,): the queries by topic."""


@torch.no_grad()
def mine(teacher: PoolTeacher, answer: NDArray[np.int32], cut_from: NDArray[np.int32]) -> Mined:
    """Find the candidates of each query.

    Args:
        teacher: Scores them.
        answer: Shape (queries,): the text that answers each, -1 for none.
        cut_from: Shape (queries,): the text that each was cut from, which is no candidate; -1 for none.
    """
    texts, queries = teacher.texts, teacher.queries
    device = texts.dense.device
    sketch = Sketch(teacher.vocab, device)
    text_sketches = sketch(texts.model)
    answers, lists = [], []
    for rows in torch.arange(len(answer), device=device).split(QUERIES_AT_ONCE):
        labelled, barred = (
            torch.from_numpy(values[rows.cpu().numpy()]).to(device).long() for values in (answer, cut_from)
        )
        found = torch.cat(
            [
                labelled[:, None].clamp_min(0),
                _nearest(queries.dense[rows] @ texts.dense.T, barred),
                _nearest(sketch(queries.model.at(rows)) @ text_sketches.T, barred),
            ],
            1,
        )
        scores = teacher.list_scores(rows, found)
        scores[:, 0].masked_fill_(labelled < 0, -torch.inf)
        scores[_repeated(found, scores)] = -torch.inf
        best = found.gather(1, scores.argmax(1, keepdim=True))[:, 0]
        best = torch.where(labelled < 0, best, labelled)
        scores.masked_fill_(found == best[:, None], -torch.inf)
        kept, order = scores.topk(min(LISTED, scores.shape[1]), dim=1)
        answers.append(best.cpu().numpy())
        lists.append(torch.where(kept > -torch.inf, found.gather(1, order), -1).int().cpu().numpy())
    return Mined(np.concatenate(answers), np.concatenate(lists), order_by_topic(queries.dense))


def _nearest(scores: Tensor, barred: Tensor) -> Tensor:
    """Return the columns of the largest scores of each row, without the barred one."""
    rows = (barred >= 0).nonzero()[:, 0]
    scores[rows, barred[rows]] = -torch.inf
    return scores.topk(min(NEAREST, scores.shape[1]), dim=1).indices


def _repeated(found: Tensor, scores: Tensor) -> Tensor:
    """Mark the candidates that a row has before, (rows, candidates); one without a score counts as absent."""
    scored = torch.where(scores > -torch.inf, found, -1)
    ordered, places = scored.sort(dim=1, stable=True)
    repeated = functional.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    return torch.zeros_like(repeated).scatter(1, places, repeated)


class Sketch:
    """Folds sparse rows into fewer columns, with random signs, so that products stay about the same.

    Source: feature hashing, arXiv 0902.2206.
    """

    def __init__(self, vocab: int, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        self._column = torch.randint(SKETCH_COLUMNS, (vocab,), generator=random).to(device)
        self._sign = (torch.randint(2, (vocab,), generator=random) * 2 - 1).half().to(device)

    def __call__(self, vectors: SparseRows) -> Tensor:
        """Return the folded rows, (rows, `SKETCH_COLUMNS`), float16."""
        parts = []
        for entries, values in zip(*(part.split(ROWS_AT_ONCE) for part in vectors), strict=True):
            wide = entries.long()
            folded = torch.zeros(len(wide), SKETCH_COLUMNS, dtype=values.dtype, device=values.device)
            parts.append(folded.scatter_add_(1, self._column[wide], values * self._sign[wide]))
        return torch.cat(parts)


def order_by_topic(vectors: Tensor, *, rounds: int = 8, seed: int = 0) -> Rows:
    """Order unit vectors so that neighbours are similar: by k-means, at random within a cluster."""
    random = torch.Generator().manual_seed(seed)
    clusters = max(1, len(vectors) // QUERIES_PER_TOPIC)
    centres = vectors[torch.randperm(len(vectors), generator=random)[:clusters].to(vectors.device)]
    nearest = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(ROWS_AT_ONCE)])
        sums = torch.zeros(clusters, vectors.shape[1], device=vectors.device)
        centres = functional.normalize(sums.index_add_(0, nearest, vectors.float()), dim=1).to(vectors.dtype)
    order = np.random.default_rng(seed).permutation(len(vectors))
    return order[np.argsort(nearest.cpu().numpy()[order], kind="stable")]
