"""Measure each change of the training recipe alone, on a fixed budget of processor time.

    python -m research.ways --data runs/data --evaluation EVAL_FOLDER --out runs/ways \
        --collections cacm cisi cranfield squad-dev

Each way is a first round from the starting weights that differs from the base recipe in the change that its
name states. It runs on one core for `--minutes` of processor time, so other load on the machine does not
matter, and a way with slower steps takes fewer of them. Queries and texts, cut as in training, are then
ranked by all their weights. One way changes only the seed: its difference from the base is chance. Lines
that begin with "…" use the weights of the line above.

The results of finished ways are read from `--out`; an interrupted way resumes. `--jobs` ways run in parallel.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_building.evaluate import add_collection_options, chosen_collections
from model_building.minilm import minilm_folder
from model_building.prepare import QUERY_TOKENS, TEXT_TOKENS
from model_building.teachers import Hybrid, TeacherInput, WordMatches
from model_building.train import (
    LATER,
    Pairs,
    Recipe,
    Run,
    Tokens,
    start_weights,
)
from research.ceiling import batches, table
from research.variants import bm25_line, heaviest, ndcg, ranked, saturated_counts
from splade_retriever.encoding.onnx.bundled_graph import SATURATION, Saturation
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.training.batches import padded
from splade_retriever.training.load_model import bundled_folder, load_model
from splade_retriever.training.model import Splade

HEADINGS = ("arxiv", "docs", "openstax", "oewn", "stackexchange")
"""Sources whose queries are titles, headings or terms."""
SAMPLE = 300
"""Number of texts of each source that decide which entries have weights."""
AVERAGED_FROM = 0.6
"""The share of a run after which its weights join the average."""
COUNT_SHARE = 0.8
"""Share of BM25's count that weights gain."""


def main() -> None:
    """Parse the arguments, run the unfinished ways and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_collection_options(parser)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="the prepared data")
    parser.add_argument("--out", type=Path, default=Path("runs/ways"))
    parser.add_argument("--minutes", type=float, default=7, help="processor time of each way")
    parser.add_argument("--steps", type=int, default=None, help="steps of each way, in place of minutes")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--jobs", type=int, default=2, help="number of ways in parallel, one core each")
    arguments = parser.parse_args()
    measured = chosen_collections(arguments)
    one = partial(
        tried,
        data=arguments.data,
        out=arguments.out,
        collections=measured,
        seconds=arguments.minutes * 60,
        steps=arguments.steps,
    )
    found = bm25_line((BeirCollection.read(path, every_nth=n) for path, n in measured.items()), HEADING)
    (base,) = (fmean(row.values()) for row in found.values())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context, initializer=_use_one_thread) as pool:
        for results in pool.map(one, arguments.ways):
            for result in results:
                found[result.line(base)] = result.ndcg
    print("\n".join(table(found, heading=HEADING)))


HEADING = "way | steps | dimensions a text | a query | with counts"


@dataclass(frozen=True)
class Result:
    """Figures of a way.

    Attributes:
        name: Name of the way.
        steps: Number of its steps.
        dims: Active dimensions of a text and of a query, the mean of the collections.
        ndcg: Collection -> nDCG@10.
        counted: The same with BM25's counts added to the weights of texts and queries.
    """

    name: str
    steps: int
    dims: Sequence[float]
    ndcg: dict[str, float]
    counted: dict[str, float]

    def line(self, bm25: float) -> str:
        """Return the cells that identify it; its mean with counts is divided by `bm25`."""
        text, query = (f"{dims:.0f}" for dims in self.dims)
        return f"{self.name} | {self.steps} | {text} | {query} | {fmean(self.counted.values()) / bm25:.3f}"


def tried(
    name: str, *, data: Path, out: Path, collections: Mapping[Path, int], seconds: float, steps: int | None
) -> list[Result]:
    """Run a way and measure it, or read its kept results.

    Args:
        name: Name of the way.
        data: The folder that `model_building.prepare` wrote.
        out: The folder of all ways; the way has a subfolder.
        collections: Folder -> N of "ask every N-th query".
        seconds: Processor time.
        steps: Number of steps, in place of the time.
    """
    folder = out / re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    kept = folder / "results.json"
    every_nth = {path.name: n for path, n in collections.items()}
    budget = {"collections": every_nth, "seconds": seconds, "steps": steps}
    if kept.exists():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["asked"] != budget:
            raise SystemExit(
                f"The results in {kept} are of {stored['asked']}, not of {budget}. Pass another --out."
            )
        return [Result(**row) for row in stored["results"]]
    trial = WAYS[name](name, data, folder)
    trial.train(seconds=seconds, steps=steps, clock=time.process_time)
    measured = [BeirCollection.read(path, every_nth=n) for path, n in collections.items()]
    results = [trial.measured(label, measured) for label in trial.made()]
    stored = {"asked": budget, "results": [vars(result) for result in results]}
    kept.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return results


def _use_one_thread() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)


# -- the ways ------------------------------------------------------------------------------------------------


class Trial(Run):
    """A first round that is measured at the end of its budget.

    Args:
        name: Name of the way.
        data: The folder that `model_building.prepare` wrote.
        out: The folder of the checkpoint and of the results.
        changed: Fields of the recipe that differ from the first round's.
    """

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        super().__init__(replace(Recipe(), **changed), data, out, bf16=True)
        self.name = name

    def made(self) -> Iterator[str]:
        """Yield the label of each set of weights to measure, after loading them into the model."""
        yield self.name

    def measured(self, name: str, collections: Sequence[BeirCollection]) -> Result:
        """Rank the collections by the current weights."""
        tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        tokenizer.no_padding()

        def ids(texts: Mapping[str, str], limit: int) -> list[list[int]]:
            tokenizer.enable_truncation(limit)
            return [encoding.ids for encoding in tokenizer.encode_batch(list(texts.values()))]

        dims, plain, counted = [], {}, {}
        for each in collections:
            query_ids, text_ids = ids(each.queries, QUERY_TOKENS), ids(each.documents, TEXT_TOKENS)
            queries, texts = self.weighed_queries(query_ids), self.weighed(text_ids)
            dims.append((texts.getnnz() / texts.shape[0], queries.getnnz() / queries.shape[0]))
            plain[each.name] = ndcg(each, ranked(each, queries.power(self.recipe.query_power), texts))
            queries, texts = self._counted(queries, query_ids), self._counted(texts, text_ids)
            counted[each.name] = ndcg(each, ranked(each, queries.power(self.recipe.query_power), texts))
        text, query = np.mean(dims, axis=0)
        return Result(name, self.step, (float(text), float(query)), plain, counted)

    @torch.no_grad()
    def weighed(self, ids: Sequence[Sequence[int]]) -> Any:
        """Return the weights of texts, a sparse (texts, entries)."""
        rows: list[Any] = [None] * len(ids)
        for place in batches(ids):
            batch, mask = padded([ids[row] for row in place])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                weights = self.model(batch, mask).float().numpy()
            for row, text in zip(place, weights, strict=True):
                rows[row] = csr_matrix(text)
        return vstack(rows).tocsr()

    def weighed_queries(self, ids: Sequence[Sequence[int]]) -> Any:
        """Return the heaviest weights of queries, as in training."""
        return heaviest(self.weighed(ids), self.recipe.keep_query)

    def _counted(self, weights: Any, ids: Sequence[Sequence[int]]) -> Any:
        """Add BM25's counts to weights (texts, entries), unless the head has added them."""
        if self.model.head.count_share:
            return weights
        counts = saturated_counts(ids, weights.shape[1], SATURATION)
        added = counts.multiply(COUNT_SHARE * self.model.head.gain().detach().numpy())
        return (weights + added.multiply(weights > 0)).tocsr()


class Base(Trial):
    """The base that the others are compared with, and two changes of its weights after training."""

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        self._sum: dict[str, Tensor] = {}
        self._summed = 0
        super().__init__(name, data, out, **changed)

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"sum": self._sum, "summed": self._summed}

    def _resume(self, state: dict[str, Any]) -> None:
        super()._resume(state)
        self._sum, self._summed = state["sum"], state["summed"]

    def _update(self, queries: Tensor, texts: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        figures = super()._update(queries, texts, teacher, done)
        if done >= AVERAGED_FROM:
            trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
            self._sum = {name: self._sum.get(name, 0) + value.detach() for name, value in trained}
            self._summed += 1
        return figures

    def made(self) -> Iterator[str]:
        """Yield the weights at the end, those without the entries that have no weight, and the average."""
        yield self.name
        seen = [
            source.rows("text", np.arange(0, len(source), 1 + len(source) // SAMPLE))
            for source in self.sources
        ]
        fired = sum(self.weighed(texts).getnnz(0) for texts in seen)
        silent = torch.from_numpy(fired == 0) & ~self.model.head.barred
        self.model.head.barred |= silent
        yield f"… without the {int(silent.sum()):,} entries that never fire on {sum(map(len, seen)):,} texts"
        if self._summed:
            self.model.load_state_dict(
                self.model.state_dict() | {name: value / self._summed for name, value in self._sum.items()}
            )
            self.model.head.barred &= ~silent
            yield f"… the average over its last {self._summed} steps"


class Untrained(Trial):
    """The model before training: no step is taken."""

    def train(self, **_: Any) -> None:
        """Leave the weights unchanged."""


class NoLexicalStart(Trial):
    """A head without the skip of the input token: every match has to be learned."""

    def _untrained(self, idf: Tensor) -> Splade:
        model = super()._untrained(idf)
        model.head.skip, model.head.scale = 0.0, 1.0
        model.head.bias.data.fill_(-3.0)
        return model


class Counting(Trial):
    """Counts are added in training, not after it."""

    def _untrained(self, idf: Tensor) -> Splade:
        model = super()._untrained(idf)
        model.head.count_share = COUNT_SHARE
        return model


class FromSources(Trial):
    """Batches come from the sources in `of` only."""

    def __init__(self, name: str, data: Path, out: Path, *, of: Collection[str], **changed: Any) -> None:
        super().__init__(name, data, out, **changed)
        drawn = self.draw * [source.name in of for source in self.sources]
        if not drawn.any():
            raise SystemExit(f"Folder {data} has none of the sources of the way {name!r}: {sorted(of)}.")
        self.draw = drawn / drawn.sum()


class TaughtByBundled(Trial):
    """The bundled model, which several rounds trained, joins the teacher."""

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        super().__init__(name, data, out, **changed)
        shares = {part: getattr(LATER, part) for part in ("dense_share", "word_share", "earlier_share")}
        self.teacher = Hybrid(
            self.teacher.words,
            self.recipe.frozen,
            earlier=load_model(bundled_folder(), frozen=self.recipe.frozen),
            query_power=LATER.query_power,
            **shares,
        )


class InferenceFree(Trial):
    """Queries are looked up in a table of learned weights, one for each token (after arXiv 2411.04403)."""

    def _untrained(self, idf: Tensor) -> Splade:
        model = super()._untrained(idf)
        model.head.table = nn.Parameter(start_weights(idf))
        return model

    def _encode_queries(self, queries: Tokens) -> tuple[Tensor, TeacherInput]:
        ids, mask = padded(queries, self.device)
        with torch.no_grad(), torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            dense, *_ = self.teacher(self.model.lower(ids, mask), ids, mask, None)
        return self._looked_up(ids, mask), TeacherInput(ids, mask, dense.float(), None)

    def _looked_up(self, ids: Tensor, mask: Tensor) -> Tensor:
        head = self.model.head
        present = torch.zeros(len(ids), len(head.table)).scatter_add(1, ids, mask.float()) > 0
        return (present & ~head.barred) * head.table.clamp_min(0)

    @torch.no_grad()
    def weighed_queries(self, ids: Sequence[Sequence[int]]) -> Any:
        """Return the looked-up weights of queries."""
        return csr_matrix(self._looked_up(*padded(ids)).numpy())


class HardNegatives(Trial):
    """Each query has a further text that BM25 ranks high and the teacher does not score like an answer."""

    nearest, margin = 20, 0.95
    """Number of best texts to draw from; share of the answer's score from which a text is an answer, too."""

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        self._found: dict[str, Any] = {}
        super().__init__(name, data, out, **changed)

    def _draw_batch(self, random: np.random.Generator) -> tuple[Tokens, Tokens]:
        source, rows = self._draw_rows(random)
        queries = source.rows("query", rows)
        mined = self._mined(source, queries, rows, random)
        return queries, source.rows("text", np.concatenate([rows, mined]))

    def _mined(
        self, source: Pairs, queries: Tokens, rows: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw for each query one of BM25's best texts that no query of the batch is paired with."""
        idf = self.teacher.words.idf.numpy()
        if source.name not in self._found:
            texts, length = source.rows("text", np.arange(len(source))), source.tokens / len(source)
            saturation = Saturation(k1=WordMatches.k1, b=WordMatches.b, tokens=length)
            counts = saturated_counts(texts, len(idf), saturation)
            self._found[source.name] = counts.multiply(idf).T.tocsr()
        words = saturated_counts(queries, len(idf), Saturation(k1=0.0, b=0.0, tokens=1.0))
        scores = (words @ self._found[source.name]).toarray()
        scores[:, np.isin(source.keys, source.keys[rows])] = -1
        nearest = min(self.nearest, len(source) - 1)
        best = np.argpartition(-scores, nearest, axis=1)[:, :nearest]
        return np.take_along_axis(best, random.integers(nearest, size=(len(rows), 1)), axis=1)[:, 0]

    def _update(self, queries: Tensor, texts: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        pairs = len(teacher)
        wrong = teacher[:, pairs:].diagonal() < self.margin * teacher[:, :pairs].diagonal()
        kept = torch.cat([torch.ones_like(wrong), wrong])
        return super()._update(queries, texts[kept], teacher[:, kept], done)


BASE = "the first round's recipe"

WAYS: dict[str, Callable[..., Trial]] = {
    BASE: Base,
    "another seed": partial(Trial, seed=14),
    "no training: the start": Untrained,
    "no lexical start": NoLexicalStart,
    "no teacher: contrastive alone": partial(Trial, distillation=0.0),
    "the dense teacher alone, no words": partial(Trial, word_share=0.0),
    "a later round's teacher, the bundled model in it": TaughtByBundled,
    "BM25-mined hard negatives": HardNegatives,
    "FLOPS blind to IDF": partial(Trial, relief=0.0),
    "inference-free queries": InferenceFree,
    "batches of 192": partial(Trial, batch=192, groups=12),
    "titles and headings only": partial(FromSources, of=HEADINGS),
    "crops of texts ask, a third of the batches": partial(Trial, crops=0.33),
    "no layer frozen": partial(Trial, frozen=0),
    "five layers frozen": partial(Trial, frozen=5),
    "counts in training": Counting,
}
"""Name -> function of the name, the data, the folder and changes of the recipe that returns the trial."""


if __name__ == "__main__":
    main()
