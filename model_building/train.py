"""Train the bundled model, on a CPU or a GPU, for a given time; an interrupted run resumes.

    python -m model_building.train --data runs/data --out runs/first --minutes 90
    python -m model_building.train --data runs/data --out runs/second --minutes 90 --earlier runs/first

One step takes a batch of pairs from one source. The losses are those of `splade_retriever.training.learner`,
the teacher is that of `model_building.teachers`.

In a share of the batches one part of each text is the query for the rest of it (cropping, arXiv 2112.09118):
the queries of pairs are short, users ask long ones, too.

A later round starts from the model that an earlier one made, whose scores join the teacher. The result of a
later round is an average of the weights at its end and at its start (`finished`), which ranks better than
either.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_building.checkpoint import SAVE_EVERY, load_checkpoint, restore, save_state, state_of
from model_building.minilm import minilm_encoder
from model_building.sources import SOURCES
from model_building.teachers import Hybrid, TeacherInput, WordMatches
from splade_retriever.training.batches import in_groups, padded
from splade_retriever.training.learner import Learner, LearningSettings
from splade_retriever.training.model import Splade

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.getLogger(__name__)

RecipeT = TypeVar("RecipeT", bound="DataclassInstance")

UNUSED = 999
"""Entries below this id are special or unused."""
MIN_CROPPED = 48
"""Tokens of a text that is cut in two."""
LOG_EVERY = 50
"""Steps between two lines of the log, each with the mean of its figures since the line before."""

Tokens = Sequence[NDArray[np.uint16]]
"""The token ids of texts."""


@dataclass(frozen=True)
class Recipe:
    """All settings that decide the result, besides the data.

    `LearningSettings` describes the fields that it shares with this class.

    Attributes:
        seed: Decides the batches.
        batch: Pairs per step.
        groups: Groups of texts of similar length that a batch is encoded in.
        frozen: Number of lower layers that keep their weights.
        keep_text: Weights of a text that training sees, the heaviest.
        keep_query: The same of a query.
        dense_share: Factor of the dense teacher's cosines.
        word_share: Factor of the word matches in the teacher.
        earlier_share: Factor of the earlier model's scores in the teacher.
        crops: Share of the batches that are cropped.
        earlier_end: Share of the weights at the end of the earlier round in the model that a later one
            starts from.
    """

    seed: int = 13
    batch: int = 48
    groups: int = 4
    head_rate: float = LearningSettings.head_rate
    layer_rate: float = LearningSettings.layer_rate
    warm_up: float = LearningSettings.warm_up
    frozen: int = 3
    keep_text: int = 512
    keep_query: int = 256
    dense_share: float = 20.0
    word_share: float = 1.0
    earlier_share: float = 0.0
    distillation: float = LearningSettings.distillation
    softened: float = LearningSettings.softened
    temperature: float = LearningSettings.temperature
    crops: float = 0.0
    flops_text: float = LearningSettings.flops_text
    flops_query: float = LearningSettings.flops_query
    l1_query: float = LearningSettings.l1_query
    relief: float = LearningSettings.relief
    dims_text: float = LearningSettings.dims_text
    dims_query: float = LearningSettings.dims_query
    ramp: float = LearningSettings.ramp
    query_power: float = LearningSettings.query_power
    earlier_end: float = 0.6

    def learning(self) -> LearningSettings:
        """Return the settings of the learner."""
        return LearningSettings(**{each.name: getattr(self, each.name) for each in fields(LearningSettings)})


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
"""The recipe of a round that starts from an earlier one."""


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/model"))
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--steps", type=int, default=None, help="number of steps, in place of minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=True, help="run the layers in bfloat16"
    )
    parser.add_argument("--earlier", type=Path, default=None, help="the run that this round starts from")
    add_recipe_options(parser, Recipe())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run = Run(
        with_options(LATER if arguments.earlier else Recipe(), arguments),
        arguments.data,
        arguments.out,
        earlier=arguments.earlier,
        device=arguments.device,
        bf16=arguments.bf16,
    )
    run.train(seconds=arguments.minutes * 60, steps=arguments.steps)


def add_recipe_options(parser: argparse.ArgumentParser, recipe: DataclassInstance) -> None:
    """Add an option for each field of a recipe."""
    for name, default in asdict(recipe).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=None)


def with_options(recipe: RecipeT, arguments: argparse.Namespace) -> RecipeT:
    """Return a recipe with the values of the options that `add_recipe_options` added."""
    changed = {name: value for name in asdict(recipe) if (value := getattr(arguments, name)) is not None}
    return replace(recipe, **changed)


def finished(run: Path, end_share: float = Recipe.earlier_end, device: str = "cpu") -> dict[str, Tensor]:
    """Return the weights that a run made, by name (after arXiv 2109.01903).

    Args:
        run: The run's folder.
        end_share: Share of the weights at the end of the run; the rest is those at its start. The result of a
            first round, which starts from no model, is its weights at the end.
        device: The device of the weights.
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
        """Key of each text, equal for equal texts."""
        self.tokens = int(self._ends["text"][-1])
        """Number of tokens of all texts."""

    def __len__(self) -> int:
        return len(self.keys)

    def draw(self, size: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw `size` neighbouring rows with different texts, from a random start."""
        start = int(random.integers(len(self)))
        window = (start + np.arange(min(len(self), size * 3))) % len(self)
        _, first = np.unique(self.keys[window], return_index=True)
        return window[np.sort(first)][:size]

    def rows(self, name: str, rows: NDArray[np.int64]) -> list[NDArray[np.uint16]]:
        """Return the token ids of some queries or texts."""
        ends = self._ends[name]
        return [self._ids[name][ends[row - 1] if row else 0 : ends[row]] for row in rows]


def read_pairs(data: Path) -> list[Pairs]:
    """Read the pairs of all sources in a folder that `model_building.prepare` wrote."""
    return [Pairs(file) for file in sorted(data.glob("*.npz")) if file.stem != "frequency"]


def mean_tokens(sources: Sequence[Pairs]) -> float:
    """Return the mean number of tokens of a text."""
    return sum(source.tokens for source in sources) / sum(map(len, sources))


def cropped(
    query: NDArray[np.uint16], text: NDArray[np.uint16], random: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Cut a text in two near its middle; one part becomes the query. A short text is not cut.

    Args:
        query: Token ids of the pair's query, special tokens included.
        text: Token ids of its text, special tokens included.
        random: Decides where to cut, and which part is the query.
    """
    if len(text) < MIN_CROPPED:
        return query, text
    at = int(len(text) * random.uniform(0.3, 0.7))
    front, back = np.append(text[:at], text[-1]), np.append(text[0], text[at:])
    return (front, back) if random.random() < 0.5 else (back, front)


def word_idf(frequency: NDArray[np.int64], documents: int) -> Tensor:
    """Return the IDF of each vocabulary entry, as BM25 defines it; 0 for special and unused entries."""
    idf = np.log1p((documents - frequency + 0.5) / (frequency + 0.5))
    idf[:UNUSED] = 0
    return torch.tensor(idf, dtype=torch.float32)


def start_weights(idf: Tensor) -> Tensor:
    """Return the weight of each vocabulary entry in a text that holds it, before training; 0 bars the entry.

    The product of a query's and a document's weight starts at 0.17 x IDF, which ranks best in a sum with
    20 x the cosine of the dense teacher.
    """
    return (0.17 * idf).sqrt()


class Run:
    """One training run: its data, teacher, model and checkpoint.

    Args:
        recipe: The sizes, rates and shares.
        data: The folder that `model_building.prepare` wrote.
        out: The folder of the checkpoint; a run in it resumes.
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
        factors = {source.name: source.draw for source in SOURCES}
        draw = np.array([factors[source.name] * len(source) for source in self.sources])
        self.draw = draw / draw.sum()
        self.model = self._untrained(idf).to(device)
        self.learner = Learner(recipe.learning(), self.model)
        earlier_model = self._start_from(earlier, idf) if earlier is not None else None
        self.teacher = Hybrid(
            WordMatches(idf.to(device), mean_tokens(self.sources)),
            recipe.frozen,
            dense_share=recipe.dense_share,
            word_share=recipe.word_share,
            earlier_share=recipe.earlier_share,
            earlier=earlier_model,
            query_power=recipe.query_power,
        ).to(device)
        self.earlier = (
            json.loads((earlier / "recipe.json").read_text("utf-8")) if earlier is not None else None
        )
        self.step, self.spent = 0, 0.0
        self.curve: list[dict[str, float]] = []
        if (checkpoint := out / "checkpoint.pt").exists():
            self._resume(load_checkpoint(checkpoint, recipe, device=device))

    def _untrained(self, idf: Tensor) -> Splade:
        """Return the model before training."""
        return Splade(minilm_encoder(), start_weights(idf), self.recipe.frozen)

    def _start_from(self, earlier: Path, idf: Tensor) -> Splade:
        """Load the weights that an earlier run made into the student, and return a model with them."""
        start = self.out / "start.pt"
        if not start.exists():
            save_state(finished(earlier, self.recipe.earlier_end), start)
        weights = torch.load(start, map_location=self.device)
        self.model.load_state_dict(weights)
        checkpoint = torch.load(earlier / "checkpoint.pt", map_location="cpu")
        self.learner.pressure.factors = checkpoint["pressure"]
        model = Splade(minilm_encoder(), start_weights(idf), self.recipe.frozen)
        model.load_state_dict(weights)
        model.to(self.device)
        return model

    def train(
        self, *, seconds: float, steps: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Train for a time or a number of steps; write a checkpoint every two minutes and at the end.

        Args:
            seconds: The time, by the clock.
            steps: The number of steps, in place of the time.
            clock: Returns seconds.
        """
        start = saved = clock() - self.spent
        recent: list[dict[str, float]] = []
        while (done := self.step / steps if steps else (clock() - start) / seconds) < 1:
            recent.append(self._one_step(done))
            self.step += 1
            if self.step % LOG_EVERY == 0:
                point = {name: fmean(parts[name] for parts in recent) for name in recent[0]}
                self.curve.append({"step": self.step, "minutes": (clock() - start) / 60, **point})
                recent.clear()
                logger.info(self._line(self.curve[-1]))
            if clock() - saved > SAVE_EVERY:
                saved = clock()
                self._save(saved - start)
        self._save(clock() - start)
        logger.info("finished: %d steps, %.1f minutes", self.step, self.spent / 60)

    def _one_step(self, done: float) -> dict[str, float]:
        queries, texts = self._draw_batch(np.random.default_rng((self.recipe.seed, self.step)))
        query_weights, query_input = self._encode_queries(queries)
        entries = None if query_input.earlier is None else query_input.earlier.amax(0).nonzero()[:, 0]
        text_weights, text_input = self._encode(texts, self.recipe.keep_text, entries)
        if query_input.earlier is not None:
            query_input = query_input._replace(earlier=query_input.earlier[:, entries])
        return self._update(query_weights, text_weights, self.teacher.scores(query_input, text_input), done)

    def _draw_batch(self, random: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Draw queries and texts; text i answers query i, further texts answer no query."""
        source, rows = self._draw_rows(random)
        queries, texts = source.rows("query", rows), source.rows("text", rows)
        if random.random() < self.recipe.crops:
            parts = [cropped(*pair, random) for pair in zip(queries, texts, strict=True)]
            queries, texts = [query for query, _ in parts], [text for _, text in parts]
        return queries, texts

    def _draw_rows(self, random: np.random.Generator) -> tuple[Pairs, NDArray[np.int64]]:
        """Draw a source and the rows of a batch."""
        source = self.sources[random.choice(len(self.sources), p=self.draw)]
        return source, source.draw(self.recipe.batch, random)

    def _encode_queries(self, queries: Tokens) -> tuple[Tensor, TeacherInput]:
        """Encode queries, as `_encode` does."""
        return self._encode(queries, self.recipe.keep_query)

    def _update(self, queries: Tensor, texts: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        """Take the step, see `Learner.update`."""
        return self.learner.update(queries, texts, teacher, done)

    def _encode(self, texts: Tokens, keep: int, entries: Tensor | None = None) -> tuple[Tensor, TeacherInput]:
        """Return sparse weights, (texts, vocab), and the teacher's input, see `Hybrid.forward`."""

        def both(ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
                lower = self.model.lower(ids, mask)
                teacher = self.teacher(lower, ids, mask, entries)
                weights = self.model.head(self.model.upper(lower, mask), ids, mask, keep)
            return weights.float(), *(part.float() for part in teacher)

        ids, mask = padded(texts, self.device)
        weights, dense, *earlier = in_groups(ids, mask, self.recipe.groups, both)
        return weights, TeacherInput(ids, mask, dense, earlier[0] if earlier else None)

    def _line(self, point: dict[str, float]) -> str:
        shown = " ".join(
            f"{name} {value:.3f}" for name, value in point.items() if name not in ("step", "minutes")
        )
        texts = 2 * self.recipe.batch * self.step / point["minutes"] / 60
        return f"step {self.step} {point['minutes']:.1f} min, {texts:.0f} texts/s: {shown}"

    def _save(self, spent: float) -> None:
        self.spent = spent
        save_state(self._state(), self.out / "checkpoint.pt")
        record: dict[str, Any] = {"steps": self.step, "minutes": spent / 60, "recipe": asdict(self.recipe)}
        record |= {"curve": self.curve, "earlier": self.earlier, "hardware": hardware(self.device)}
        (self.out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return state_of(self)

    def _resume(self, state: dict[str, Any]) -> None:
        """Restore the content of a checkpoint."""
        restore(self, state)


def hardware(device: str) -> str:
    """Return the name of the hardware that a run uses."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    main()
