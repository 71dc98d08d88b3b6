"""Measure what each step of making the model gains: the rounds, their averages, and what is done to weights.

    python -m examples.training.variants --evaluation EVAL_FOLDER --runs runs/first runs/second

Every run is exported in int8 as it ended and, if it is a later round, as the average that `finished` makes.
Then its texts are encoded once, and ranked again and again: with all weights, with queries cut to their
heaviest ones, with a floor, and with queries raised to a power. Prints one line each. With `--vectors` a
folder keeps what was encoded, as that takes most of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from examples.training.ceiling import bm25, table
from examples.training.evaluate import ask_for_collections, chosen
from examples.training.export import arrays, write_folder
from examples.training.train import LATER, finished
from splade_retriever import SparseTextEmbedding
from splade_retriever.baselines import best_rows
from splade_retriever.beir import BeirCollection
from splade_retriever.evaluate import score_rankings
from splade_retriever.sparse import SparseEmbedding


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask_for_collections(parser)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="the rounds, the first one first")
    parser.add_argument("--end-share", type=float, default=LATER.earlier_end, help="see `finished`")
    parser.add_argument("--keep", type=int, default=LATER.keep_query, help="weights of a query to keep")
    parser.add_argument("--floor", type=float, default=0.18, help="weights below this are left out")
    parser.add_argument("--powers", type=float, nargs="*", default=[1.25, 1.5, 2.0], help="of query weights")
    parser.add_argument("--vectors", type=Path, default=None, help="keep what is encoded here")
    arguments = parser.parse_args()
    measured = [
        BeirCollection.read(folder, every_nth=every_nth) for folder, every_nth in chosen(arguments).items()
    ]
    found: dict[str, dict[str, float]] = {}
    for name, weights in made(arguments.runs, arguments.end_share):
        kept = None if arguments.vectors is None else arguments.vectors / name.replace(" ", "-")
        vectors = encoded(weights, measured, kept)
        for use in uses(arguments.keep, arguments.floor, arguments.powers):
            line = f"{name} | {use.label(vectors)}"
            found[line] = {
                collection.name: ndcg(collection, use.ranked(collection, *pair))
                for collection, pair in zip(measured, vectors, strict=True)
            }
    line = f"BM25{' |' * HEADING.count('|')}"
    found = {line: {each.name: ndcg(each, bm25(each)) for each in measured}, **found}
    print("\n".join(table(found, heading=HEADING)))


HEADING = "weights | a query keeps | floor | power | dimensions a text | a query"

Vectors = Sequence[tuple[Any, Any]]
"""A matrix (queries, entries) and one (documents, entries), for each collection."""


def made(runs: Iterable[Path], end_share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the weights of each run by name: as it ended, and the average of a later round."""
    for number, run in enumerate(runs, 1):
        yield f"round {number}", arrays(finished(run, 1.0))
        if (run / "start.pt").exists():
            yield f"round {number} averaged", arrays(finished(run, end_share))


def encoded(weights: dict[str, Any], measured: Sequence[BeirCollection], kept: Path | None) -> Vectors:
    """Return all weights of queries and documents, or read what was kept of them."""
    with TemporaryDirectory() as folder:
        write_folder(weights, Path(folder), "int8")
        model = SparseTextEmbedding(folder, lazy_load=True)
        return [
            (
                _matrix(model, collection.queries, kept and kept / f"{collection.name}.queries.npz"),
                _matrix(model, collection.documents, kept and kept / f"{collection.name}.documents.npz"),
            )
            for collection in measured
        ]


def _matrix(model: SparseTextEmbedding, texts: dict[str, str], kept: Path | None) -> Any:
    if kept is not None and kept.exists():
        return load_npz(kept)
    rows: list[SparseEmbedding] = list(model.embed(texts.values()))
    ends = np.cumsum([0, *(len(row.indices) for row in rows)])
    data, indices = (np.concatenate([getattr(row, part) for row in rows]) for part in ("values", "indices"))
    matrix = csr_matrix((data, indices, ends), shape=(len(rows), model.vocab_size))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_npz(kept, matrix)
    return matrix


@dataclass(frozen=True)
class Use:
    """What is done to weights before they are searched.

    Attributes:
        keep: How many weights a query keeps, the heaviest; None is all.
        floor: Weights below this are left out.
        power: Exponent of a query's weights.
    """

    keep: int | None = None
    floor: float = 0.0
    power: float = 1.0

    def label(self, vectors: Vectors) -> str:
        """Return the cells that tell it apart, the mean dimensions of texts and queries last."""
        asked = [self.asked(queries).getnnz() / queries.shape[0] for queries, _ in vectors]
        found = [self.floored(documents).getnnz() / documents.shape[0] for _, documents in vectors]
        dims = f"{np.mean(found):.0f} | {np.mean(asked):.0f}"
        return f"{self.keep or 'all'} | {self.floor:g} | {self.power:g} | {dims}"

    def floored(self, matrix: Any) -> Any:
        """Return a matrix without the weights below the floor."""
        left = matrix.copy()
        left.data[left.data < self.floor] = 0
        left.eliminate_zeros()
        return left

    def asked(self, queries: Any) -> Any:
        """Return queries as they are searched."""
        left = self.floored(queries)
        for start, end in zip(left.indptr, left.indptr[1:], strict=False):
            if self.keep is not None and end - start > self.keep:
                own = left.data[start:end]
                own[np.argsort(-own, kind="stable")[self.keep :]] = 0
        left.eliminate_zeros()
        return left.power(self.power)

    def ranked(self, collection: BeirCollection, queries: Any, documents: Any) -> dict[str, list[str]]:
        """Return each query's ten best documents."""
        ids, scores = list(collection.documents), (self.asked(queries) @ self.floored(documents).T).toarray()
        return {
            query: [ids[place] for place in best_rows(row, 10) if row[place] > 0]
            for query, row in zip(collection.queries, scores, strict=True)
        }


def uses(keep: int, floor: float, powers: Sequence[float]) -> Iterator[Use]:
    """Yield what is measured: each step beside those before it."""
    yield Use()
    yield Use(keep)
    yield Use(keep, floor)
    yield from (Use(keep, floor, power) for power in powers)


def ndcg(collection: BeirCollection, rankings: dict[str, list[str]]) -> float:
    """Return nDCG@10 with exponential gains."""
    return float(score_rankings(rankings, collection.judgements, gains="exponential")["ndcg_at_10"])


if __name__ == "__main__":
    main()
