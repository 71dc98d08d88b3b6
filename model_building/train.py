"""Train the bundled model, on a CPU or a GPU, for a given time; resumable.

    python -m model_building.train --data runs/data --out runs/first --minutes 90
    python -m model_building.train --data runs/data --out runs/second --minutes 90 --earlier runs/first

One step takes a batch of pairs from one source and adds four losses over the in-batch score matrix S = Q D^T:

1. contrastive, both ways: cross-entropy of S against the diagonal (arXiv 1807.03748); no text stands twice;
2. distillation, both ways: KL divergence from the hybrid teacher's in-batch scores (after arXiv 2010.02666,
   `model_building/teachers.py`), as they are and softened (arXiv 1503.02531), so that the order of texts
   far from the answer is learned, too;
3. FLOPS: sum over the vocabulary of the squared mean weight (arXiv 2004.05665), for documents and queries;
   weights count without their entry's gain (to the power of `relief`), so that a rare word is pressed less
   (arXiv 2411.04403);
4. a little L1 on queries.

A share of the batches asks with a part of each text for the rest of it (cropping, arXiv 2112.09118): pairs
have short queries only, users ask long ones, too.

Instead of fixed factors, the two regularisers are held at a number of active dimensions: their factors grow
while a text has more than that and shrink while it has fewer. That number falls from five times its final
value, quadratically, over the first 30 % of the run (the ramp of arXiv 2109.10086).

A later round starts from the model that an earlier one made, whose scores join the teacher. What a later
round has made is an average of the weights it ends and starts with (`finished`), which ranks better than
either.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_building.model import Splade
from model_building.sources import SOURCES
from model_building.teachers import Hybrid, Seen, WordMatches

log = logging.getLogger(__name__)

UNUSED = 999  # entries below this id are special or unused
SHORTEST_CROPPED = 48  # tokens of a text that is cut in two

Tokens = Sequence[NDArray[np.uint16]]
"""The token ids of texts."""


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
    dense_share: float = 20.0
    word_share: float = 1.0
    earlier_share: float = 0.0
    distillation: float = 2.0
    softened: float = 0.0
    temperature: float = 3.0
    crops: float = 0.0
    flops_text: float = 5e-3
    flops_query: float = 5e-3
    l1_query: float = 1e-3
    relief: float = 1.0
    dims_text: float = 120.0
    dims_query: float = 26.0
    ramp: float = 0.3
    query_power: float = 1.0
    earlier_end: float = 0.6


LATER = replace(
    Recipe(),
    head_rate=1e-3,
    layer_rate=8e-5,
    keep_query=32,
    word_share=0.8,
    earlier_share=0.6,
    softened=0.1,
    crops=0.1,
    dims_text=122.0,
    dims_query=30.0,
    ramp=0.0,
    query_power=1.5,
)
"""A round that goes on from an earlier one."""

EVERY = 50
"""Steps between two lines of the log, each with the mean of its figures since the line before."""


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
    parser.add_argument("--earlier", type=Path, default=None, help="the run to go on from, in a new round")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given = {name: value for name in asdict(Recipe()) if (value := getattr(arguments, name)) is not None}
    run = Run(
        replace(LATER if arguments.earlier else Recipe(), **given),
        arguments.data,
        arguments.out,
        earlier=arguments.earlier,
        device=arguments.device,
        bf16=arguments.bf16,
    )
    run.train(seconds=arguments.minutes * 60, steps=arguments.steps)


def finished(run: Path, end_share: float = Recipe.earlier_end, device: str = "cpu") -> dict[str, Tensor]:
    """Return the weights that a run has made, by name (after arXiv 2109.01903).

    Args:
        run: The run's folder.
        end_share: Of the weights at its end; the rest is the share of those at its start. A first round has
            no model to start with: its weights are those at its end.
        device: Where the weights go.
    """
    end: dict[str, Tensor] = torch.load(run / "checkpoint.pt", map_location=device)["model"]
    if not (run / "start.pt").exists():
        return end
    start = torch.load(run / "start.pt", map_location=device)
    return {
        name: value.lerp(start[name], 1 - end_share) if value.is_floating_point() else value
        for name, value in end.items()
    }


class Pairs:
    """The tokenised pairs of one source, ordered by topic."""

    def __init__(self, file: Path) -> None:
        stored = np.load(file)
        self.name = file.stem
        self._ids = {name: stored[name] for name in ("query", "text")}
        self._ends = {name: stored[f"{name}_end"] for name in ("query", "text")}
        self.keys = stored["text_key"]
        """Of each text; two that are equal have the same."""
        self.tokens = int(self._ends["text"][-1])
        """Of all texts together."""

    def __len__(self) -> int:
        return len(self.keys)

    def draw(self, size: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Pick `size` neighbours with different texts, from a random place."""
        start = int(random.integers(len(self)))
        window = (start + np.arange(min(len(self), size * 3))) % len(self)
        _, first = np.unique(self.keys[window], return_index=True)
        return window[np.sort(first)][:size]

    def rows(self, name: str, rows: NDArray[np.int64]) -> list[NDArray[np.uint16]]:
        """Return the token ids of some queries or texts."""
        ends = self._ends[name]
        return [self._ids[name][ends[row - 1] if row else 0 : ends[row]] for row in rows]


def read_pairs(data: Path) -> list[Pairs]:
    """Read the pairs of all sources that `model_building.prepare` wrote."""
    return [Pairs(file) for file in sorted(data.glob("*.npz")) if file.stem != "frequency"]


def mean_tokens(sources: Sequence[Pairs]) -> float:
    """Return the tokens of a text on average."""
    return sum(source.tokens for source in sources) / sum(map(len, sources))


def cropped(
    query: NDArray[np.uint16], text: NDArray[np.uint16], random: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Cut a text in two somewhere in its middle; either part may ask for the other. A short one stays a pair.

    Args:
        query: Token ids of the pair's query, between the two special tokens.
        text: Token ids of its text, the same.
        random: Decides where, and which part asks.
    """
    if len(text) < SHORTEST_CROPPED:
        return query, text
    at = int(len(text) * random.uniform(0.3, 0.7))
    front, back = np.append(text[:at], text[-1]), np.append(text[0], text[at:])
    return (front, back) if random.random() < 0.5 else (back, front)


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


def word_idf(frequency: NDArray[np.int64], documents: int) -> Tensor:
    """Return the IDF of BM25 of each vocabulary entry, 0 for special and unused ones."""
    idf = np.log1p((documents - frequency + 0.5) / (frequency + 0.5))
    idf[:UNUSED] = 0
    return torch.tensor(idf, dtype=torch.float32)


def start_weights(idf: Tensor) -> Tensor:
    """Return the weight that each vocabulary entry gives itself before training; 0 bars it.

    The product of the query's and the document's weight starts at 0.17 x IDF: beside 20 x the cosine of the
    dense teacher that is the share which ranks best.
    """
    return (0.17 * idf).sqrt()


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
        queries: Shape (batch, vocab), weights before they are raised to the recipe's power.
        texts: Shape (texts, vocab), weights; row i answers query i, those after the queries' answer none.
        gain: Shape (vocab,), the head's gains: the regularisers see weights without them.
        teacher: Shape (batch, texts), the teacher's scores.
        recipe: The factors.
        pressure: "text" and "query" -> what their regulariser is multiplied by.
    """
    scores = queries.pow(recipe.query_power) @ texts.T
    diagonal = torch.arange(len(scores), device=scores.device)
    back, taught_back = (matrix[:, : len(matrix)].T for matrix in (scores, teacher))
    relief = gain.pow(recipe.relief)
    mean = {"text": texts.mean(0) / relief, "query": queries.mean(0) / relief}
    heavy = {name: weights.square().sum() for name, weights in mean.items()}
    return {
        "contrastive": (functional.cross_entropy(scores, diagonal) + functional.cross_entropy(back, diagonal))
        / 2,
        "distillation": recipe.distillation
        * (_divergence(scores, teacher) + _divergence(back, taught_back))
        / 2,
        "softened": recipe.softened
        * (
            _divergence(scores, teacher, recipe.temperature)
            + _divergence(back, taught_back, recipe.temperature)
        )
        / 2,
        "flops": pressure["text"] * recipe.flops_text * heavy["text"]
        + pressure["query"] * recipe.flops_query * heavy["query"],
        "l1": pressure["query"] * recipe.l1_query * mean["query"].sum(),
    }


def _divergence(scores: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || scores) over each row, x temperature^2, so that gradients keep their size."""
    wanted = functional.softmax(teacher / temperature, dim=1)
    found = functional.log_softmax(scores / temperature, dim=1)
    return temperature**2 * functional.kl_div(found, wanted, reduction="batchmean")


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
            texts: Shape (texts, vocab), the same; row i answers query i, as in `losses`.
            teacher: Shape (batch, texts), the teacher's scores.
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
            name: float((weights > self.model.head.floor).sum(1).float().mean())
            for name, weights in (("query", queries), ("text", texts))
        }
        self.pressure.see(dims, done)
        return (
            {name: float(value.detach()) for name, value in parts.items()}
            | {f"{name}_dims": value for name, value in dims.items()}
            | {f"{name}_pressure": value for name, value in self.pressure.factors.items()}
        )


class Run:
    """One training run: data, teacher, what learns, checkpoint.

    Args:
        recipe: The sizes, rates and shares.
        data: What `model_building.prepare` wrote.
        out: The folder of the checkpoint; a run that is there goes on.
        earlier: The folder of a finished run to start from, whose model joins the teacher.
        device: "cpu" or "cuda".
        bf16: Run the layers in bfloat16.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        *,
        earlier: Path | None = None,
        device: str = "cpu",
        bf16: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device, self.bf16 = recipe, out, device, bf16
        out.mkdir(parents=True, exist_ok=True)
        counted = np.load(data / "frequency.npz")
        idf = word_idf(counted["frequency"], int(counted["documents"]))
        self.sources = read_pairs(data)
        often = {source.name: source.draw for source in SOURCES}
        draw = np.array([often[source.name] * len(source) for source in self.sources])
        self.draw = draw / draw.sum()
        self.model = self._untrained(idf).to(device)
        self.learner = Learner(recipe, self.model)
        before = self._go_on_from(earlier, idf) if earlier is not None else None
        self.teacher = Hybrid(
            WordMatches(idf.to(device), mean_tokens(self.sources)),
            recipe.frozen,
            dense_share=recipe.dense_share,
            word_share=recipe.word_share,
            earlier_share=recipe.earlier_share,
            earlier=before,
            query_power=recipe.query_power,
        ).to(device)
        self.earlier = (
            json.loads((earlier / "recipe.json").read_text("utf-8")) if earlier is not None else None
        )
        self.step, self.spent = 0, 0.0
        self.curve: list[dict[str, float]] = []
        if (out / "checkpoint.pt").exists():
            self._load()

    def _untrained(self, idf: Tensor) -> Splade:
        """Return what learns, as it starts."""
        return Splade(start_weights(idf), self.recipe.frozen)

    def _go_on_from(self, earlier: Path, idf: Tensor) -> Splade:
        """Give the student the weights that an earlier run has made, and return that model."""
        begun = self.out / "start.pt"
        if not begun.exists():
            _save(finished(earlier, self.recipe.earlier_end), begun)
        weights = torch.load(begun, map_location=self.device)
        self.model.load_state_dict(weights)
        told = torch.load(earlier / "checkpoint.pt", map_location="cpu")
        self.learner.pressure.factors = told["pressure"]
        before = Splade(start_weights(idf), self.recipe.frozen).to(self.device)
        before.load_state_dict(weights)
        return before

    def train(
        self, *, seconds: float, steps: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Train until the time or the steps are used up; a checkpoint every two minutes and at the end.

        Args:
            seconds: How long, by the clock.
            steps: How many steps instead.
            clock: Tells the seconds.
        """
        begun = saved = clock() - self.spent
        seen: list[dict[str, float]] = []
        while (done := self.step / steps if steps else (clock() - begun) / seconds) < 1:
            seen.append(self._one_step(done))
            self.step += 1
            if self.step % EVERY == 0:
                point = {name: fmean(parts[name] for parts in seen) for name in seen[0]}
                self.curve.append({"step": self.step, "minutes": (clock() - begun) / 60, **point})
                seen.clear()
                log.info(self._line(self.curve[-1]))
            if clock() - saved > 120:
                saved = clock()
                self._save(saved - begun)
        self._save(clock() - begun)
        log.info("finished: %d steps, %.1f minutes", self.step, self.spent / 60)

    def _one_step(self, done: float) -> dict[str, float]:
        queries, texts = self._drawn(np.random.default_rng((self.recipe.seed, self.step)))
        asked, asking = self._ask(queries)
        entries = None if asking.earlier is None else asking.earlier.amax(0).nonzero()[:, 0]
        found, answering = self._forward(texts, self.recipe.keep_text, entries)
        if asking.earlier is not None:
            asking = asking._replace(earlier=asking.earlier[:, entries])
        return self._learn(asked, found, self.teacher.scores(asking, answering), done)

    def _drawn(self, random: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Draw the queries of a batch and texts, the first of which answer them in their order."""
        source, rows = self._batch(random)
        queries, texts = source.rows("query", rows), source.rows("text", rows)
        if random.random() < self.recipe.crops:
            parts = [cropped(*pair, random) for pair in zip(queries, texts, strict=True)]
            queries, texts = [asking for asking, _ in parts], [answering for _, answering in parts]
        return queries, texts

    def _batch(self, random: np.random.Generator) -> tuple[Pairs, NDArray[np.int64]]:
        """Draw a source and the rows of a batch."""
        source = self.sources[random.choice(len(self.sources), p=self.draw)]
        return source, source.draw(self.recipe.batch, random)

    def _ask(self, queries: Tokens) -> tuple[Tensor, Seen]:
        """Weigh queries, as `_forward` does."""
        return self._forward(queries, self.recipe.keep_query)

    def _learn(self, asked: Tensor, found: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        """Take the step, see `Learner.update`."""
        return self.learner.update(asked, found, teacher, done)

    def _forward(self, texts: Tokens, keep: int, entries: Tensor | None = None) -> tuple[Tensor, Seen]:
        """Return sparse weights, (texts, vocab), and what the teacher sees; see `Hybrid.forward`."""

        def both(ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
                lower = self.model.lower(ids, mask)
                taught = self.teacher(lower, ids, mask, entries)
                weights = self.model.head(self.model.upper(lower, mask), ids, mask, keep)
            return weights.float(), *(part.float() for part in taught)

        ids, mask = padded(texts, self.device)
        weights, dense, *earlier = in_groups(ids, mask, self.recipe.groups, both)
        return weights, Seen(ids, mask, dense, earlier[0] if earlier else None)

    def _line(self, point: dict[str, float]) -> str:
        shown = " ".join(
            f"{name} {value:.3f}" for name, value in point.items() if name not in ("step", "minutes")
        )
        texts = 2 * self.recipe.batch * self.step / point["minutes"] / 60
        return f"step {self.step} {point['minutes']:.1f} min, {texts:.0f} texts/s: {shown}"

    def _save(self, spent: float) -> None:
        self.spent = spent
        _save(self._state(), self.out / "checkpoint.pt")
        told: dict[str, Any] = {"steps": self.step, "minutes": spent / 60, "recipe": asdict(self.recipe)}
        told |= {"curve": self.curve, "earlier": self.earlier, "hardware": self._hardware()}
        (self.out / "recipe.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.learner.optimiser.state_dict(),
            "step": self.step,
            "spent": self.spent,
            "pressure": self.learner.pressure.factors,
            "recipe": asdict(self.recipe),
            "curve": self.curve,
        }

    def _hardware(self) -> str:
        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"

    def _load(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", map_location=self.device)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{self.out} was begun with another recipe; give another --out to start anew.")
        self._resume(state)

    def _resume(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint held."""
        self.model.load_state_dict(state["model"])
        self.learner.optimiser.load_state_dict(state["optimiser"])
        self.learner.pressure.factors = state["pressure"]
        self.step, self.spent, self.curve = state["step"], state["spent"], state["curve"]


def _save(state: dict[str, Any], file: Path) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    waiting = file.with_suffix(".tmp")
    torch.save(state, waiting)
    waiting.replace(file)


if __name__ == "__main__":
    main()
