"""Train the bundled model further over mined candidates and towards a stronger teacher; it resumes.

    python -m model_building.mined_round --pool runs/pool --start MODEL_FOLDER --out runs/mined --steps 1903

`model_building.train` scores the pairs of a batch with each other. Here each query has a list: its answer and
candidates that `model_building.mining` found, the better ones drawn more often. A batch has queries of
several topics; each query ranks all texts of the batch. The losses (`mined_losses`):

1. distillation: KL divergence from the scores of `model_building.pool_teacher`, unchanged and softened, and a
   share of it over the queries of each text;
2. contrastive, both ways, for queries with a label; what the teacher scores above the answer does not count
   against it, because it is an answer too;
3. FLOPS and L1, which hold the active dimensions, as in `splade_retriever.training.learner`.

All layers learn, unless `--frozen` says how many keep their weights. Queries keep their heaviest weights and
are raised to their power, as in use; near the end weights below the floor are 0, as in the export. A round of
1,903 steps needs a GPU; a small pool and few queries per step fit a CPU. Mining resumes, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_building.checkpoint import SAVE_EVERY, load_checkpoint, restore, save_state, state_of
from model_building.mining import Mined, mine
from model_building.mpnet import Mpnet, read_mpnet
from model_building.pool_teacher import PoolTeacher, Shares, Vectorizer
from model_building.teachers import WordMatches
from model_building.token_store import Rows, TokenStore
from model_building.train import add_recipe_options, hardware, with_options, word_idf
from splade_retriever.training.learner import Learner, LearningSettings, divergence
from splade_retriever.training.load_model import load_model

__all__ = ["Batches", "MinedRecipe", "MinedRound", "contrastive", "mine_pool", "mined_losses"]

logger = logging.getLogger(__name__)

DRAWN = {
    "squad-part": 2.0,
    "nq-part": 2.0,
    "science-qa": 2.0,
    "medquad": 1.5,
    "arxiv": 1.5,
    "queries": 0.6,
    "docs": 0.6,
    "openstax": 0.6,
    "oewn": 0.3,
}
"""How often queries of a source are drawn, relative to their number; those of others once."""
RECORD = Path(__file__).parent / "record" / "recipe.json"
"""How the bundled model was made."""
LOG_EVERY = 100
"""Steps between two lines of the log."""


@dataclass(frozen=True)
class MinedRecipe:
    """All settings that decide the result, besides the data, the teacher and the start.

    `LearningSettings` describes the fields that it shares with this class.

    Attributes:
        seed: Decides the batches.
        queries: Queries per step.
        neighbours: Queries of one topic.
        listed: Texts of a query's list, its answer included.
        groups: Groups of texts of similar length that a batch is encoded in.
        frozen: Number of lower layers that keep their weights.
        keep_text: Weights of a text that training sees, the heaviest.
        keep_query: The same of a query.
        contrastive: Factor of the contrastive loss.
        backwards: Factor of the distillation over the queries of each text.
        text_pressure: Pressure on the active dimensions of texts at the start.
        query_pressure: The same of queries.
        floor: Lighter weights are no active dimensions.
        floor_from: Share of the run from which on they are 0.
        count_share: Share of BM25's counts that the scores contain, as after an export with that share.
        score_scale: Multiplies the scores: with counts they are sharper than the teacher's.
    """

    seed: int = 13
    queries: int = 256
    neighbours: int = 16
    listed: int = 6
    groups: int = 3
    frozen: int = 0
    head_rate: float = 1e-3
    layer_rate: float = 2e-4
    warm_up: float = 0.03
    keep_text: int = 256
    keep_query: int = 32
    contrastive: float = 0.5
    distillation: float = 2.0
    backwards: float = 0.3
    softened: float = 0.2
    temperature: float = 3.0
    flops_text: float = 5e-3
    flops_query: float = 5e-3
    l1_query: float = 1e-3
    dims_text: float = 102.0
    dims_query: float = 27.0
    query_power: float = 1.5
    floor: float = 0.2
    floor_from: float = 0.6
    text_pressure: float = 1.0
    query_pressure: float = 1.0
    count_share: float = 0.0
    score_scale: float = 1.0

    def learning(self) -> LearningSettings:
        """Return the settings of the learner; the targets of active dimensions do not fall."""
        names = {field.name for field in fields(LearningSettings)} & {field.name for field in fields(self)}
        return LearningSettings(ramp=0.0, **{name: getattr(self, name) for name in names})


def main() -> None:
    """Parse the arguments, mine the pool if that is not done, and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, default=Path("runs/pool"))
    parser.add_argument(
        "--start", type=Path, required=True, help="the model folder that the round starts from"
    )
    parser.add_argument("--start-record", type=Path, default=RECORD, help="the recipe.json of that model")
    parser.add_argument("--out", type=Path, default=Path("runs/mined"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--steps", type=int, default=None, help="number of steps, in place of minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=True, help="run the layers in bfloat16"
    )
    add_recipe_options(parser, MinedRecipe())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = with_options(MinedRecipe(), arguments)
    where = {"device": arguments.device, "bf16": arguments.bf16}
    arguments.out.mkdir(parents=True, exist_ok=True)
    mined = arguments.out / "mined.pt"
    if not mined.exists():
        mine_pool(arguments.pool, arguments.start, mined, recipe, dense=read_mpnet(), **where)
    run = MinedRound(recipe, arguments.pool, mined, arguments.start, arguments.out, **where)
    run.train(seconds=arguments.minutes * 60, steps=arguments.steps)
    run.write_record(arguments.start_record)


def mine_pool(
    pool: Path,
    start: Path,
    file: Path,
    recipe: MinedRecipe,
    *,
    dense: Mpnet,
    device: str = "cpu",
    bf16: bool = True,
) -> None:
    """Write the teacher's vectors of a pool and its mined candidates to a file; an interrupted call resumes.

    Args:
        pool: The folder that `model_building.pool` wrote.
        start: The model folder that the round starts from.
        file: The file to write.
        recipe: Says how the model at the start is used for queries.
        dense: The dense teacher.
        device: "cpu" or "cuda".
        bf16: Run the layers in bfloat16.
    """
    queries, texts = _read_pool(pool, device)
    counted, stored = np.load(pool / "frequency.npz"), np.load(pool / "queries.npz")
    idf = word_idf(counted["frequency"], int(counted["documents"])).to(device)
    vectorizer = Vectorizer(
        dense.to(device),
        WordMatches(idf, float(texts.lengths.mean())),
        load_model(start, frozen=0).to(device),
        keep_query=recipe.keep_query,
        query_power=recipe.query_power,
        bf16=bf16,
    )
    shares = Shares()
    kept = {name: file.with_name(f"{name}_vectors.pt") for name in ("query", "text")}
    query_vectors = vectorizer.of_queries(queries, kept["query"])
    text_vectors = vectorizer.of_texts(texts, kept["text"])
    logger.info("vectors of %d queries and %d texts", len(queries), len(texts))
    teacher = PoolTeacher(query_vectors, text_vectors, len(idf), shares)
    mined = mine(teacher, stored["answer"], stored["cut_from"])
    logger.info("mined")
    save_state(
        {"queries": query_vectors, "texts": text_vectors, "mined": mined, "shares": asdict(shares)}, file
    )
    for part in kept.values():
        part.unlink()


def _read_pool(pool: Path, device: str) -> tuple[TokenStore, TokenStore]:
    """Read the queries and the texts of a pool."""
    queries, texts = np.load(pool / "queries.npz"), np.load(pool / "texts.npz")
    return (
        TokenStore(queries["query"], queries["query_end"], device),
        TokenStore(texts["text"], texts["text_end"], device),
    )


class Batch(NamedTuple):
    """Queries and the texts that they rank; text i answers query i, further texts are candidates."""

    queries: Rows
    texts: Rows


class Batches:
    """Draws batches.

    Args:
        mined: The candidates of each query.
        drawn: Shape (queries,): how often each query is drawn.
        recipe: The sizes.
    """

    def __init__(self, mined: Mined, drawn: NDArray[np.float64], recipe: MinedRecipe) -> None:
        self.mined, self.recipe = mined, recipe
        self._reached = np.cumsum(drawn[mined.order])

    def draw(self, random: np.random.Generator) -> Batch:
        """Draw topics, neighbouring queries of each, and some candidates of each query."""
        recipe, order = self.recipe, self.mined.order
        places = random.random(recipe.queries // recipe.neighbours) * self._reached[-1]
        starts = np.searchsorted(self._reached, places)
        rows = (starts[:, None] + np.arange(recipe.neighbours)).ravel() % len(order)
        queries = order[np.unique(rows)]
        lists = self.mined.lists[queries]
        # Gumbel's trick: a draw without replacement, here with weights of 1 / (2 + rank).
        keys = random.gumbel(size=lists.shape) - np.log(2.0 + np.arange(lists.shape[1]))
        keys[lists < 0] = -np.inf
        chosen = np.argpartition(-keys, recipe.listed - 2, axis=1)[:, : recipe.listed - 1]
        candidates = np.take_along_axis(lists, chosen, 1)
        answers = self.mined.answers[queries]
        others = np.setdiff1d(candidates[candidates >= 0], answers)
        return Batch(queries, np.concatenate([answers, others]).astype(np.int64))


def mined_losses(
    scores: Tensor,
    queries: Tensor,
    texts: Tensor,
    *,
    gain: Tensor,
    teacher: Tensor,
    labelled: Tensor,
    recipe: MinedRecipe,
    pressure: Mapping[str, float],
) -> dict[str, Tensor]:
    """Return the weighted losses of one batch by name.

    Args:
        scores: Shape (queries, texts), the model's scores; text i answers query i, others are candidates.
        queries: Shape (queries, vocab), weights before they are raised to `query_power`.
        texts: Shape (texts, vocab), weights.
        gain: Shape (vocab,), the head's gains; the regularisers see weights without them.
        teacher: Shape (queries, texts), the teacher's scores.
        labelled: Shape (queries,), bool: the answer is one by a label.
        recipe: The factors.
        pressure: "text" and "query" -> factor of their regularisers.
    """
    scores_back, teacher_back = (matrix[:, : len(matrix)].T for matrix in (scores, teacher))
    mean = {"text": texts.mean(0) / gain, "query": queries.mean(0) / gain}
    flops = {name: weights.square().sum() for name, weights in mean.items()}
    both_ways = contrastive(scores, teacher, labelled) + contrastive(scores_back, teacher_back, labelled)
    backwards = recipe.backwards * divergence(scores_back, teacher_back, 1.0)
    return {
        "contrastive": recipe.contrastive * both_ways / 2,
        "distillation": recipe.distillation * (divergence(scores, teacher, 1.0) + backwards),
        "softened": recipe.softened * divergence(scores, teacher, recipe.temperature),
        "flops": pressure["text"] * recipe.flops_text * flops["text"]
        + pressure["query"] * recipe.flops_query * flops["query"],
        "l1": pressure["query"] * recipe.l1_query * mean["query"].sum(),
    }


def contrastive(scores: Tensor, teacher: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean cross-entropy of labelled rows, whose answers are on the diagonal.

    What the teacher scores as high as the answer does not count against it.
    """
    diagonal = torch.arange(len(scores), device=scores.device)
    as_good = teacher >= teacher.diagonal()[:, None]
    as_good[diagonal, diagonal] = False
    by_row = functional.cross_entropy(scores.masked_fill(as_good, -torch.inf), diagonal, reduction="none")
    return (by_row * labelled).sum() / labelled.sum().clamp_min(1)


class MinedRound:
    """One round: its data, teacher and model.

    Args:
        recipe: The sizes, rates and factors.
        pool: The folder that `model_building.pool` wrote.
        mined: The file that `mine_pool` wrote.
        start: The model folder to start from.
        out: The folder of the checkpoint; a round in it resumes.
        device: "cpu" or "cuda".
        bf16: Run the layers in bfloat16.
    """

    def __init__(
        self,
        recipe: MinedRecipe,
        pool: Path,
        mined: Path,
        start: Path,
        out: Path,
        *,
        device: str = "cpu",
        bf16: bool = True,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device, self.bf16 = recipe, out, device, bf16
        out.mkdir(parents=True, exist_ok=True)
        self.queries, self.texts = _read_pool(pool, device)
        stored = np.load(pool / "queries.npz")
        self.labelled = torch.from_numpy(stored["answer"] >= 0).to(device)
        self.model = load_model(start, frozen=recipe.frozen).to(device)
        self.model.head.expand_all()
        self.model.head.floor, self.model.head.count_share = recipe.floor, 0.0
        if not (out / "start.pt").exists():
            save_state(self.model.state_dict(), out / "start.pt")
        # The file is one that this module wrote, so its types are known.
        kept = torch.load(mined, map_location=device, weights_only=False)
        self.shares = Shares(**kept["shares"])
        self.teacher = PoolTeacher(kept["queries"], kept["texts"], len(self.model.head.bias), self.shares)
        drawn = np.array([DRAWN.get(name, 1.0) for name in stored["sources"]])[stored["source"]]
        self.batches = Batches(kept["mined"], drawn, recipe)
        self.learner = Learner(recipe.learning(), self.model)
        self.learner.pressure.factors = {"text": recipe.text_pressure, "query": recipe.query_pressure}
        self.step, self.spent = 0, 0.0
        self.curve: list[dict[str, float]] = []
        if (checkpoint := out / "checkpoint.pt").exists():
            restore(self, load_checkpoint(checkpoint, recipe, device=device))

    def train(self, *, seconds: float, steps: int | None = None) -> None:
        """Train for a time or a number of steps; write a checkpoint every two minutes and at the end.

        Args:
            seconds: The time.
            steps: The number of steps, in place of the time.
        """
        start = saved = time.monotonic() - self.spent
        recent: list[dict[str, float]] = []
        while (done := self.step / steps if steps else self.spent / seconds) < 1:
            recent.append(self._one_step(done))
            self.step += 1
            self.spent = time.monotonic() - start
            if self.step % LOG_EVERY == 0:
                means = {name: fmean(point[name] for point in recent) for name in recent[0]}
                self.curve.append({"step": self.step, "minutes": self.spent / 60, **means})
                recent.clear()
                logger.info(" ".join(f"{name} {value:.3f}" for name, value in self.curve[-1].items()))
            if time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                self._save()
        self._save()
        logger.info("finished: %d steps, %.1f minutes", self.step, self.spent / 60)

    def write_record(self, start_record: Path) -> None:
        """Write the `recipe.json` of the finished round, as `model_building.train` writes that of a round.

        Args:
            start_record: The `recipe.json` of the model at the start.
        """
        record: dict[str, Any] = {
            "steps": self.step,
            "minutes": self.spent / 60,
            "recipe": asdict(self.recipe),
            "shares": asdict(self.shares),
            "curve": self.curve,
            "hardware": hardware(self.device),
            "earlier": json.loads(start_record.read_text(encoding="utf-8")),
        }
        (self.out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _save(self) -> None:
        save_state(state_of(self), self.out / "checkpoint.pt")

    def _one_step(self, done: float) -> dict[str, float]:
        recipe = self.recipe
        batch = self.batches.draw(np.random.default_rng((recipe.seed, self.step)))
        queries = self._weights(self.queries, batch.queries, recipe.keep_query, groups=1)
        texts = self._weights(self.texts, batch.texts, recipe.keep_text, groups=recipe.groups)
        query_rows, text_rows = (torch.from_numpy(rows).to(self.device) for rows in batch)
        floor = recipe.floor if done >= recipe.floor_from else 0.0
        parts = mined_losses(
            self.scores(batch, queries, texts, floor),
            queries,
            texts,
            gain=self.model.head.gain(),
            teacher=self.teacher.scores(query_rows, text_rows),
            labelled=self.labelled[query_rows],
            recipe=recipe,
            pressure=self.learner.pressure.factors,
        )
        return self.learner.step(parts, queries, texts, done)

    def scores(self, batch: Batch, queries: Tensor, texts: Tensor, floor: float) -> Tensor:
        """Return the scores of weights as they are used after the export, (queries, texts).

        Args:
            batch: The queries and texts that have the weights.
            queries: Shape (queries, vocab), weights without counts.
            texts: Shape (texts, vocab), the same.
            floor: Lighter weights are 0.
        """
        asked = self._with_counts(self.queries, batch.queries, queries, floor)
        answering = self._with_counts(self.texts, batch.texts, texts, floor)
        return self.recipe.score_scale * (asked.pow(self.recipe.query_power) @ answering.T)

    def _with_counts(self, store: TokenStore, rows: Rows, weights: Tensor, floor: float) -> Tensor:
        """Apply the floor, then add the share of the counts to what is left."""
        weights = torch.where(weights < floor, 0.0, weights)
        if not self.recipe.count_share:
            return weights
        added = self.recipe.count_share * self.model.head.counts(*store.padded(rows))
        return torch.where(weights > 0, weights + added, weights)

    def _weights(self, store: TokenStore, rows: Rows, keep: int, *, groups: int) -> Tensor:
        """Return the weights of queries or texts, (rows, vocab), encoded in groups of similar length."""
        order = np.argsort(store.lengths[rows], kind="stable")
        parts = []
        for group in np.array_split(order, min(groups, len(order))):
            ids, mask = store.padded(rows[group])
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
                parts.append(self.model(ids, mask, keep).float())
        return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(self.device)]


if __name__ == "__main__":
    main()
