"""Measure each way of training alone, on a fixed budget of processor time.

    python -m research.ways --data runs/data --evaluation EVAL_FOLDER --out runs/ways \
        --collections cacm cisi cranfield squad-dev

Every way is a first round of its own, from the starting weights, which differs from the first line's in what
its name says. It runs on one core for `--minutes` of processor time, so that others on the machine cost it
nothing, and a way whose steps are dearer takes fewer of them. Then queries and texts, cut as in training, are
ranked by all their weights. Seeds are among the ways: what two of them differ by is chance. Lines that begin
with "…" are made of the weights of the line above.

A way that is done is read from `--out`; one that was stopped goes on. `--jobs` run side by side.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
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

from model_building.evaluate import ask_for_collections, chosen
from model_building.model import TOKENS, LexicalHead, Splade, minilm_folder
from model_building.prepare import QUERY_TOKENS, TEXT_TOKENS
from model_building.restore import bundled_folder, load_model
from model_building.teachers import Hybrid, Seen, WordMatches
from model_building.train import (
    LATER,
    Pairs,
    Recipe,
    Run,
    Tokens,
    padded,
    start_weights,
)
from research.ceiling import batches, table
from research.variants import bm25_line, heaviest, ndcg, ranked, saturated_counts
from splade_retriever.evaluation.beir import BeirCollection

HEADINGS = ("arxiv", "docs", "openstax", "oewn", "stackexchange")
"""Sources whose queries are titles, headings or terms."""
SAMPLE = 300
"""Texts of each source that tell which entries fire."""
AVERAGED_FROM = 0.6
"""The share of a run after which its weights join the average."""
COUNT_SHARE = 0.8
"""What counts add to weights where they do, as in the bundled model."""


def main() -> None:
    """Read the command line, run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask_for_collections(parser)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what `prepare` wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/ways"))
    parser.add_argument("--minutes", type=float, default=7, help="of processor time, for each way")
    parser.add_argument("--steps", type=int, default=None, help="this many steps each, whatever they take")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--jobs", type=int, default=2, help="ways at a time, a core for each")
    arguments = parser.parse_args()
    measured = chosen(arguments)
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
    with ProcessPoolExecutor(arguments.jobs, mp_context=context, initializer=_alone) as pool:
        for results in pool.map(one, arguments.ways):
            for result in results:
                found[result.line(base)] = result.ndcg
    print("\n".join(table(found, heading=HEADING)))


HEADING = "way | steps | dimensions a text | a query | with counts"


@dataclass(frozen=True)
class Result:
    """What came of a way.

    Attributes:
        name: Of the way.
        steps: That it took.
        dims: Of a text and of a query, the mean of the collections.
        ndcg: Collection -> nDCG@10.
        counted: The same with BM25's counts added to the weights of texts and queries.
    """

    name: str
    steps: int
    dims: Sequence[float]
    ndcg: dict[str, float]
    counted: dict[str, float]

    def line(self, bm25: float) -> str:
        """Return the cells that tell it apart; `bm25` is what its mean with counts is divided by."""
        text, query = (f"{dims:.0f}" for dims in self.dims)
        return f"{self.name} | {self.steps} | {text} | {query} | {fmean(self.counted.values()) / bm25:.3f}"


def tried(
    name: str, *, data: Path, out: Path, collections: Mapping[Path, int], seconds: float, steps: int | None
) -> list[Result]:
    """Run a way and measure what it makes, or read what came of it.

    Args:
        name: Of the way.
        data: What `model_building.prepare` wrote.
        out: Its folder is made in here.
        collections: Folder -> every how many-th of its queries to ask.
        seconds: Of processor time.
        steps: How many steps instead.
    """
    folder = out / re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    kept = folder / "results.json"
    every_nth = {path.name: n for path, n in collections.items()}
    asked = {"collections": every_nth, "seconds": seconds, "steps": steps}
    if kept.exists():
        told = json.loads(kept.read_text(encoding="utf-8"))
        if told["asked"] != asked:
            raise SystemExit(
                f"{kept} is of {told['asked']}, not of {asked}; give another --out to start anew."
            )
        return [Result(**row) for row in told["results"]]
    trial = WAYS[name](name, data, folder)
    trial.train(seconds=seconds, steps=steps, clock=time.process_time)
    measured = [BeirCollection.read(path, every_nth=n) for path, n in collections.items()]
    results = [trial.measured(label, measured) for label in trial.made()]
    told = {"asked": asked, "results": [vars(result) for result in results]}
    kept.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return results


def _alone() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)


# -- the ways ------------------------------------------------------------------------------------------------


class Trial(Run):
    """A first round that is measured when its budget is used up.

    Args:
        name: Of the way.
        data: What `model_building.prepare` wrote.
        out: The folder of the checkpoint and of the results.
        changed: What its recipe has in place of the first round's.
    """

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        super().__init__(replace(Recipe(), **changed), data, out, bf16=True)
        self.name = name

    def made(self) -> Iterator[str]:
        """Yield the label of each set of weights that came of it, after setting the model to them."""
        yield self.name

    def measured(self, name: str, collections: Sequence[BeirCollection]) -> Result:
        """Rank the collections by the model as it is."""
        tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        tokenizer.no_padding()

        def ids(texts: Mapping[str, str], limit: int) -> list[list[int]]:
            tokenizer.enable_truncation(limit)
            return [encoding.ids for encoding in tokenizer.encode_batch(list(texts.values()))]

        dims, plain, counted = [], {}, {}
        for each in collections:
            asking, answering = ids(each.queries, QUERY_TOKENS), ids(each.documents, TEXT_TOKENS)
            asked, found = self.weighed_queries(asking), self.weighed(answering)
            dims.append((found.getnnz() / found.shape[0], asked.getnnz() / asked.shape[0]))
            plain[each.name] = ndcg(each, ranked(each, asked.power(self.recipe.query_power), found))
            more = [self._counted(*pair) for pair in ((asked, asking), (found, answering))]
            counted[each.name] = ndcg(each, ranked(each, more[0].power(self.recipe.query_power), more[1]))
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
            for row, own in zip(place, weights, strict=True):
                rows[row] = csr_matrix(own)
        return vstack(rows).tocsr()

    def weighed_queries(self, ids: Sequence[Sequence[int]]) -> Any:
        """Return the weights of queries, of which the heaviest are kept, as in training."""
        return heaviest(self.weighed(ids), self.recipe.keep_query)

    def _counted(self, weights: Any, ids: Sequence[Sequence[int]]) -> Any:
        """Add BM25's counts to weights (texts, entries), as the head does where it counts."""
        if self.model.head.count_share:
            return weights
        counts = saturated_counts(ids, weights.shape[1], tokens=TOKENS, k1=LexicalHead.k1, b=LexicalHead.b)
        added = counts.multiply(COUNT_SHARE * self.model.head.gain().detach().numpy())
        return (weights + added.multiply(weights > 0)).tocsr()


class Base(Trial):
    """What the others are compared with, and what can be made of its weights afterwards."""

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        self._sum: dict[str, Tensor] = {}
        self._summed = 0
        super().__init__(name, data, out, **changed)

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"sum": self._sum, "summed": self._summed}

    def _resume(self, state: dict[str, Any]) -> None:
        super()._resume(state)
        self._sum, self._summed = state["sum"], state["summed"]

    def _learn(self, asked: Tensor, found: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        told = super()._learn(asked, found, teacher, done)
        if done >= AVERAGED_FROM:
            trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
            self._sum = {name: self._sum.get(name, 0) + value.detach() for name, value in trained}
            self._summed += 1
        return told

    def made(self) -> Iterator[str]:
        """Yield the weights at the end, without the entries that never fire, and the average."""
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
    """The start: no step is taken."""

    def train(self, **_: Any) -> None:
        """Leave the weights as they are."""


class NoLexicalStart(Trial):
    """A head whose input token does not skip into it: every match has to be learned."""

    def _untrained(self, idf: Tensor) -> Splade:
        model = super()._untrained(idf)
        model.head.skip, model.head.scale = 0.0, 1.0
        model.head.bias.data.fill_(-3.0)
        return model


class Counting(Trial):
    """Counts are added in training, not afterwards."""

    def _untrained(self, idf: Tensor) -> Splade:
        model = super()._untrained(idf)
        model.head.count_share = COUNT_SHARE
        return model


class FromSources(Trial):
    """Only some of the sources are drawn from: those of `of`."""

    def __init__(self, name: str, data: Path, out: Path, *, of: Container[str], **changed: Any) -> None:
        super().__init__(name, data, out, **changed)
        drawn = self.draw * [source.name in of for source in self.sources]
        if not drawn.any():
            raise SystemExit(f"{data} has none of the sources that are drawn from in the way {name!r}.")
        self.draw = drawn / drawn.sum()


class TaughtByBundled(Trial):
    """The teacher of a later round: the bundled model, which several rounds have made, joins it."""

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

    def _ask(self, queries: Tokens) -> tuple[Tensor, Seen]:
        ids, mask = padded(queries, self.device)
        with torch.no_grad(), torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            dense, *_ = self.teacher(self.model.lower(ids, mask), ids, mask, None)
        return self._looked_up(ids, mask), Seen(ids, mask, dense.float(), None)

    def _looked_up(self, ids: Tensor, mask: Tensor) -> Tensor:
        head = self.model.head
        there = torch.zeros(len(ids), len(head.table)).scatter_add(1, ids, mask.float()) > 0
        return (there & ~head.barred) * head.table.clamp_min(0)

    @torch.no_grad()
    def weighed_queries(self, ids: Sequence[Sequence[int]]) -> Any:
        """Return the looked-up weights of queries."""
        return csr_matrix(self._looked_up(*padded(ids)).numpy())


class HardNegatives(Trial):
    """Each query gets a text beside that BM25 finds for it and the teacher does not hold for an answer."""

    nearest, margin = 20, 0.95
    """Among how many of BM25's best it is drawn; the share of the answer's score that makes it one, too."""

    def __init__(self, name: str, data: Path, out: Path, **changed: Any) -> None:
        self._found: dict[str, Any] = {}
        super().__init__(name, data, out, **changed)

    def _drawn(self, random: np.random.Generator) -> tuple[Tokens, Tokens]:
        source, rows = self._batch(random)
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
            counts = saturated_counts(texts, len(idf), tokens=length, k1=WordMatches.k1, b=WordMatches.b)
            self._found[source.name] = counts.multiply(idf).T.tocsr()
        words = saturated_counts(queries, len(idf), tokens=1.0, k1=0.0, b=0.0)
        scores = (words @ self._found[source.name]).toarray()
        scores[:, np.isin(source.keys, source.keys[rows])] = -1
        nearest = min(self.nearest, len(source) - 1)
        best = np.argpartition(-scores, nearest, axis=1)[:, :nearest]
        return np.take_along_axis(best, random.integers(nearest, size=(len(rows), 1)), axis=1)[:, 0]

    def _learn(self, asked: Tensor, found: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        pairs = len(teacher)
        wrong = teacher[:, pairs:].diagonal() < self.margin * teacher[:, :pairs].diagonal()
        kept = torch.cat([torch.ones_like(wrong), wrong])
        return super()._learn(asked, found[kept], teacher[:, kept], done)


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
"""Name -> what makes the trial, from the name, the data, its folder and changes of the recipe."""


if __name__ == "__main__":
    main()
