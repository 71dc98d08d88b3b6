"""Train the bundled model, on a CPU or a GPU, for a given time; resumable.

    python -m examples.training.train --data runs/data --out runs/model --minutes 90

One step takes a batch of pairs from one source and adds four losses over the in-batch score matrix S = Q D^T:

1. contrastive, both ways: cross-entropy of S against the diagonal (arXiv 1807.03748); no text stands twice;
2. distillation, both ways: KL divergence from the hybrid teacher's in-batch scores (after arXiv 2010.02666),
   the dense teacher's cosines x 20 plus the untrained head's own scores, which match words by their IDF: the
   student starts at the lexical half of its teacher and has the other half to learn;
3. FLOPS: sum over the vocabulary of the squared mean weight (arXiv 2004.05665), for documents and queries;
   weights count without their entry's gain, so that a rare word is pressed less (arXiv 2411.04403);
4. a little L1 on queries.

Instead of fixed factors, the two regularisers are held at a number of active dimensions: their factors grow
while a text has more than that and shrink while it has fewer. That number falls from five times its final
value, quadratically, over the first 30 % of the run (the ramp of arXiv 2109.10086).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from examples.training.model import Splade, Teacher
from examples.training.sources import SOURCES

log = logging.getLogger(__name__)

UNUSED = 999  # entries below this id are special, unused or punctuation


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, beside the data."""

    seed: int = 13
    batch: int = 48
    groups: int = 4
    head_rate: float = 2e-3
    layer_rate: float = 1e-4
    warm_up: float = 0.03
    frozen: int = 3
    keep_text: int = 512
    keep_query: int = 256
    teacher_scale: float = 20.0
    distillation: float = 2.0
    flops_text: float = 5e-3
    flops_query: float = 5e-3
    l1_query: float = 1e-3
    dims_text: float = 120.0
    dims_query: float = 26.0
    ramp: float = 0.3


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/model"))
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument(
        "--steps", type=int, default=None, help="stop after this many steps instead of by time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=True, help="run the layers in bfloat16"
    )
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe(**{name: getattr(arguments, name) for name in asdict(Recipe())})
    Run(recipe, arguments.data, arguments.out, device=arguments.device, bf16=arguments.bf16).train(
        seconds=arguments.minutes * 60, steps=arguments.steps
    )


class Pairs:
    """The tokenised pairs of one source, ordered by topic."""

    def __init__(self, file: Path) -> None:
        stored = np.load(file)
        self.name = file.stem
        self._ids = {name: stored[name] for name in ("query", "text")}
        self._ends = {name: stored[f"{name}_end"] for name in ("query", "text")}
        self._keys = stored["text_key"]

    def __len__(self) -> int:
        return len(self._keys)

    def draw(self, size: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Pick `size` neighbours with different texts, from a random place."""
        start = int(random.integers(len(self)))
        window = (start + np.arange(min(len(self), size * 3))) % len(self)
        _, first = np.unique(self._keys[window], return_index=True)
        return window[np.sort(first)][:size]

    def tensors(self, name: str, rows: NDArray[np.int64], device: str) -> tuple[Tensor, Tensor]:
        """Return ids and mask, (rows, tokens), padded with 0."""
        ends = self._ends[name]
        return padded([self._ids[name][ends[row - 1] if row else 0 : ends[row]] for row in rows], device)


def padded(texts: Sequence[Sequence[int] | NDArray[np.uint16]], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return token ids and mask, (texts, tokens), padded with 0."""
    ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, text in enumerate(texts):
        ids[place, : len(text)] = text
        mask[place, : len(text)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def in_groups(
    ids: Tensor, mask: Tensor, groups: int, forward: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Call `forward` on groups of texts of like length, each cut to its longest; rows come back in order.

    Args:
        ids: Shape (texts, tokens).
        mask: Shape (texts, tokens), 1 for a token.
        groups: How many groups.
        forward: Maps ids and mask of a group to tensors with a row a text.
    """
    lengths = mask.sum(1)
    rows_of = [rows for rows in lengths.argsort().tensor_split(groups) if len(rows)]
    made = []
    for rows in rows_of:
        longest = int(lengths[rows].max())
        made.append(forward(ids[rows, :longest], mask[rows, :longest]))
    back = torch.cat(rows_of).argsort()
    return tuple(torch.cat(parts)[back] for parts in zip(*made, strict=True))


def start_weights(frequency: NDArray[np.int64], documents: int) -> Tensor:
    """Weigh each vocabulary entry by its document frequency; unused entries are barred.

    The product of the query's and the document's weight starts at 0.17 x IDF (the IDF of BM25): beside 20 x
    the cosine of the dense teacher that is the share which ranks best.
    """
    idf = np.log1p((documents - frequency + 0.5) / (frequency + 0.5))
    weights = np.sqrt(0.17 * idf)
    weights[frequency >= documents] = 0  # [CLS] and [SEP] stand in every text
    weights[:UNUSED][frequency[:UNUSED] == 0] = 0  # [PAD], [MASK] and the entries that BERT left unused
    return torch.tensor(weights, dtype=torch.float32)


class Pressure:
    """Holds the active dimensions of texts and of queries at a number, by the factor of their regulariser."""

    rate, start, longest = 0.05, 4.0, 1.0
    """Largest change of a step, as a share; how far above the goal it starts; the largest excess heeded."""

    def __init__(self, goals: dict[str, float], ramp: float) -> None:
        self.goals, self.ramp = goals, ramp
        self.factors = dict.fromkeys(goals, 1.0)

    def see(self, dims: dict[str, float], done: float) -> None:
        """Adjust the factors to what a step had, at the share `done` of the run."""
        slack = 1 + self.start * (1 - min(1.0, done / self.ramp)) ** 2 if self.ramp else 1.0
        for name, goal in self.goals.items():
            excess = min(self.longest, max(-self.longest, dims[name] / (goal * slack) - 1))
            self.factors[name] = min(1e3, max(1e-2, self.factors[name] * (1 + self.rate * excess)))


def losses(
    queries: Tensor,
    texts: Tensor,
    *,
    gain: Tensor,
    teacher: Tensor,
    recipe: Recipe,
    pressure: dict[str, float],
) -> dict[str, Tensor]:
    """Return the weighted losses of one batch by name.

    Args:
        queries: Shape (batch, vocab), weights.
        texts: Shape (batch, vocab), weights; row i answers query i.
        gain: Shape (vocab,), the head's gains: the regularisers see weights without them.
        teacher: Shape (batch, batch), the teacher's scores.
        recipe: The factors.
        pressure: "text" and "query" -> what their regulariser is multiplied by.
    """
    scores = queries @ texts.T
    diagonal = torch.arange(len(scores), device=scores.device)
    mean = {"text": texts.mean(0) / gain, "query": queries.mean(0) / gain}
    heavy = {name: weights.square().sum() for name, weights in mean.items()}
    return {
        "contrastive": (
            functional.cross_entropy(scores, diagonal) + functional.cross_entropy(scores.T, diagonal)
        )
        / 2,
        "distillation": recipe.distillation
        * (_divergence(scores, teacher) + _divergence(scores.T, teacher.T))
        / 2,
        "flops": pressure["text"] * recipe.flops_text * heavy["text"]
        + pressure["query"] * recipe.flops_query * heavy["query"],
        "l1": pressure["query"] * recipe.l1_query * mean["query"].sum(),
    }


def _divergence(scores: Tensor, teacher: Tensor) -> Tensor:
    return functional.kl_div(
        functional.log_softmax(scores, dim=1), functional.softmax(teacher, dim=1), reduction="batchmean"
    )


class Learner:
    """What a batch changes: the model, its optimiser and the pressure on active dimensions."""

    def __init__(self, recipe: Recipe, model: Splade) -> None:
        self.recipe, self.model = recipe, model
        self.pressure = Pressure({"text": recipe.dims_text, "query": recipe.dims_query}, recipe.ramp)
        layers = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": layers, "rate": recipe.layer_rate},
                {"params": list(model.head.parameters()), "rate": recipe.head_rate},
            ],
            weight_decay=0.0,
        )

    def update(self, queries: Tensor, texts: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        """Take one step, at the share `done` of the run; returns the losses and what else a log shows.

        Args:
            queries: Shape (batch, vocab), weights by the model, with gradients.
            texts: Shape (batch, vocab), the same; row i answers query i.
            teacher: Shape (batch, batch), the teacher's scores.
            done: From 0 to 1; the learning rate rises over the warm-up, then falls to 0 at 1.
        """
        rate = min(1.0, done / self.recipe.warm_up) * (1 - done)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        parts = losses(
            queries,
            texts,
            gain=self.model.head.gain(),
            teacher=teacher,
            recipe=self.recipe,
            pressure=self.pressure.factors,
        )
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        dims = {
            name: float((weights > 0).sum(1).float().mean())
            for name, weights in (("query", queries), ("text", texts))
        }
        self.pressure.see(dims, done)
        return (
            {name: float(value.detach()) for name, value in parts.items()}
            | {f"{name}_dims": value for name, value in dims.items()}
            | {f"{name}_pressure": value for name, value in self.pressure.factors.items()}
        )


class Run:
    """One training run: data, teacher, what learns, checkpoint."""

    def __init__(
        self, recipe: Recipe, data: Path, out: Path, *, device: str = "cpu", bf16: bool = False
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device, self.bf16 = recipe, out, device, bf16
        out.mkdir(parents=True, exist_ok=True)
        counted = np.load(data / "frequency.npz")
        self.start = start_weights(counted["frequency"], int(counted["documents"])).to(device)
        self.model = Splade(self.start.cpu(), recipe.frozen).to(device)
        self.learner = Learner(recipe, self.model)
        self.teacher = Teacher(recipe.frozen).to(device)
        self.sources = [Pairs(file) for file in sorted(data.glob("*.npz")) if file.stem != "frequency"]
        often = {source.name: source.draw for source in SOURCES}
        draw = np.array([often[source.name] * len(source) for source in self.sources])
        self.draw = draw / draw.sum()
        self.step, self.spent = 0, 0.0
        if (out / "checkpoint.pt").exists():
            self._load()

    def train(self, *, seconds: float, steps: int | None = None) -> None:
        """Train until the time or the steps are used up; a checkpoint every two minutes and at the end."""
        begun = saved = time.monotonic() - self.spent
        while (done := self._share(begun, seconds, steps)) < 1:
            parts = self._one_step(done)
            self.step += 1
            if self.step % 50 == 0:
                log.info(self._line(parts, time.monotonic() - begun))
            if time.monotonic() - saved > 120:
                saved = time.monotonic()
                self._save(saved - begun)
        self._save(time.monotonic() - begun)
        log.info("finished: %d steps, %.1f minutes", self.step, self.spent / 60)

    def _share(self, begun: float, seconds: float, steps: int | None) -> float:
        return self.step / steps if steps else (time.monotonic() - begun) / seconds

    def _one_step(self, done: float) -> dict[str, float]:
        recipe = self.recipe
        random = np.random.default_rng((recipe.seed, self.step))
        source = self.sources[random.choice(len(self.sources), p=self.draw)]
        rows = source.draw(recipe.batch, random)
        query, text = (source.tensors(name, rows, self.device) for name in ("query", "text"))
        queries, query_dense = self._forward(*query, recipe.keep_query)
        texts, text_dense = self._forward(*text, recipe.keep_text)
        teacher = recipe.teacher_scale * query_dense @ text_dense.T
        teacher += self._matched(query[0]) @ self._matched(text[0]).T
        return self.learner.update(queries, texts, teacher, done)

    def _matched(self, ids: Tensor) -> Tensor:
        """Weigh the words of each text as the untrained head does, (texts, vocab)."""
        bag = torch.zeros(len(ids), len(self.start), device=ids.device)
        return bag.scatter_(1, ids, 1.0) * self.start

    def _forward(self, ids: Tensor, mask: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Return sparse weights (texts, vocab) and dense vectors (texts, hidden)."""

        def both(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
                lower = self.model.lower(ids, mask)
                dense = self.teacher(lower, mask)
                weights = self.model.head(self.model.upper(lower, mask), ids, mask, keep)
            return weights.float(), dense.float()

        weights, dense = in_groups(ids, mask, self.recipe.groups, both)
        return weights, dense

    def _line(self, parts: dict[str, float], seconds: float) -> str:
        shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        texts = 2 * self.recipe.batch * self.step / seconds
        return f"step {self.step} {seconds / 60:.1f} min, {texts:.0f} texts/s: {shown}"

    def _save(self, spent: float) -> None:
        self.spent = spent
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.learner.optimiser.state_dict(),
            "step": self.step,
            "spent": spent,
            "pressure": self.learner.pressure.factors,
            "recipe": asdict(self.recipe),
        }
        torch.save(state, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")
        told = {"steps": self.step, "minutes": spent / 60, "recipe": asdict(self.recipe)}
        (self.out / "recipe.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def _load(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", map_location=self.device)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{self.out} was begun with another recipe; give another --out to start anew.")
        self.model.load_state_dict(state["model"])
        self.learner.optimiser.load_state_dict(state["optimiser"])
        self.learner.pressure.factors = state["pressure"]
        self.step, self.spent = state["step"], state["spent"]


if __name__ == "__main__":
    main()
