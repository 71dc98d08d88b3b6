"""Measure what each step of making the model gains: the rounds, their averages, and what is done to weights.

    python -m research.variants --evaluation EVAL_FOLDER --runs runs/first runs/second

Every run is exported in int8 as it ended and, if it is a later round, as the average that `finished` makes.
Then its texts are encoded once, and ranked again and again: with all weights, with queries cut to their
heaviest ones, with a floor, with queries raised to a power, and with counts added. Prints one line each. With
`--vectors` a folder keeps what was encoded, as that takes most of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, load_npz, save_npz

from model_building.evaluate import ask_for_collections, chosen
from model_building.export import arrays, write_folder
from model_building.model import TOKENS, LexicalHead, saturated
from model_building.train import LATER, finished
from research.ceiling import bm25, table
from splade_retriever import SparseTextEmbedding
from splade_retriever.evaluation.baselines import best_rows
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import score_rankings
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
    parser.add_argument("--power", type=float, default=LATER.query_power, help="exponent of query weights")
    parser.add_argument("--count-share", type=float, default=0.8, help="what counts add, see LexicalHead")
    parser.add_argument("--vectors", type=Path, default=None, help="keep what is encoded here")
    arguments = parser.parse_args()
    measured = [
        BeirCollection.read(folder, every_nth=every_nth) for folder, every_nth in chosen(arguments).items()
    ]
    lines: dict[str, dict[str, float]] = {}
    for name, weights in made(arguments.runs, arguments.end_share):
        kept = None if arguments.vectors is None else arguments.vectors / name.replace(" ", "-")
        pairs = encoded(weights, measured, kept)
        for use in uses(arguments.keep, arguments.floor, arguments.power, arguments.count_share):
            line = f"{name} | {use.label(pairs)}"
            lines[line] = {
                collection.name: ndcg(collection, ranked(collection, use.asked(asked), use.found(found)))
                for collection, (asked, found) in zip(measured, pairs, strict=True)
            }
    print("\n".join(table(bm25_line(measured, HEADING) | lines, heading=HEADING)))


HEADING = "weights | a query keeps | floor | power | counts | dimensions a text | a query"


@dataclass(frozen=True)
class Encoded:
    """Queries or documents of a collection.

    Attributes:
        weights: All their weights, a sparse matrix (texts, entries).
        counts: What a whole share of the counts adds, the same shape.
    """

    weights: Any
    counts: Any


Pairs = Sequence[tuple[Encoded, Encoded]]
"""The queries and documents of each collection."""


def made(runs: Iterable[Path], end_share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the weights of each run by name: as it ended, and the average of a later round."""
    for number, run in enumerate(runs, 1):
        yield f"round {number}", arrays(finished(run, 1.0))
        if (run / "start.pt").exists():
            yield f"round {number} averaged", arrays(finished(run, end_share))


def encoded(weights: dict[str, Any], measured: Sequence[BeirCollection], kept: Path | None) -> Pairs:
    """Encode queries and documents, or read what was kept of them."""
    gain = np.exp(weights["head.log_gain"])
    with TemporaryDirectory() as folder:
        write_folder(weights, Path(folder), "int8")
        model = SparseTextEmbedding(folder, lazy_load=True)

        def texts(found: dict[str, str], name: str) -> Encoded:
            matrix = _weights(model, found, kept and kept / f"{name}.npz")
            return Encoded(matrix, _counts(model, found).multiply(gain).tocsr())

        return [
            (texts(each.queries, f"{each.name}.queries"), texts(each.documents, f"{each.name}.documents"))
            for each in measured
        ]


def _weights(model: SparseTextEmbedding, texts: dict[str, str], kept: Path | None) -> Any:
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


def _counts(model: SparseTextEmbedding, texts: dict[str, str]) -> Any:
    """Return BM25's counts, (texts, entries), as the head makes them."""
    ids = [encoding.ids for encoding in model.tokenizer.encode_batch(list(texts.values()))]
    return saturated_counts(ids, model.vocab_size, tokens=TOKENS, k1=LexicalHead.k1, b=LexicalHead.b)


def saturated_counts(ids: Sequence[Sequence[int]], vocab: int, *, tokens: float, k1: float, b: float) -> Any:
    """Return how often each vocabulary entry stands in each text, saturated: a sparse (texts, vocab).

    Args:
        ids: The token ids of each text.
        vocab: How many entries there are.
        tokens: Of a text, usually.
        k1: See `saturated`.
        b: See `saturated`.
    """
    lengths = np.array([len(own) for own in ids])
    rows = np.repeat(np.arange(len(ids)), lengths)
    counts = csr_matrix((np.ones(len(rows)), (rows, np.concatenate(ids))), (len(ids), vocab))
    counts.sum_duplicates()
    each = np.repeat(lengths, np.diff(counts.indptr))[:, None] / tokens
    found = (torch.from_numpy(part) for part in (counts.data[:, None], each))
    counts.data = saturated(*found, k1=k1, b=b).numpy()[:, 0]
    return counts


@dataclass(frozen=True)
class Use:
    """What is done to weights before they are searched.

    Attributes:
        keep: How many weights a query keeps, the heaviest; None is all.
        floor: Weights below this are left out.
        power: Exponent of a query's weights.
        count_share: What counts add to weights, see `LexicalHead`.
    """

    keep: int | None = None
    floor: float = 0.0
    power: float = 1.0
    count_share: float = 0.0

    def label(self, pairs: Pairs) -> str:
        """Return the cells that tell it apart, the mean dimensions of texts and queries last."""
        asked = [self.asked(queries).getnnz() / queries.weights.shape[0] for queries, _ in pairs]
        found = [self.found(documents).getnnz() / documents.weights.shape[0] for _, documents in pairs]
        dims = f"{np.mean(found):.0f} | {np.mean(asked):.0f}"
        return f"{self.keep or 'all'} | {self.floor:g} | {self.power:g} | {self.count_share:g} | {dims}"

    def found(self, texts: Encoded) -> Any:
        """Return texts as they are searched, (texts, entries)."""
        left = texts.weights.copy()
        left.data[left.data < self.floor] = 0
        left.eliminate_zeros()
        return left + self.count_share * texts.counts.multiply(left > 0) if self.count_share else left

    def asked(self, queries: Encoded) -> Any:
        """Return queries as they are searched, (queries, entries)."""
        left = self.found(queries).tocsr()
        return (left if self.keep is None else heaviest(left, self.keep)).power(self.power)


def heaviest(weights: Any, keep: int) -> Any:
    """Return sparse weights (texts, entries) with the `keep` heaviest of each text only."""
    left = weights.copy()
    for start, end in pairwise(left.indptr):
        own = left.data[start:end]
        own[np.argsort(-own, kind="stable")[keep:]] = 0
    left.eliminate_zeros()
    return left


def ranked(collection: BeirCollection, queries: Any, documents: Any) -> dict[str, list[str]]:
    """Return each query's ten best documents by the product of weights, both sparse (texts, entries)."""
    ids, scores = list(collection.documents), (queries @ documents.T).toarray()
    return {
        query: [ids[place] for place in best_rows(row, 10) if row[place] > 0]
        for query, row in zip(collection.queries, scores, strict=True)
    }


def uses(keep: int, floor: float, power: float, count_share: float) -> Iterator[Use]:
    """Yield what is measured: each step on top of those before it."""
    yield Use()
    yield Use(keep)
    yield Use(keep, floor)
    yield Use(keep, floor, power)
    yield Use(keep, floor, power, count_share)


def bm25_line(measured: Iterable[BeirCollection], heading: str) -> dict[str, dict[str, float]]:
    """Return the first line of `table`: BM25 in the first of the cells of a heading."""
    line = f"BM25{' |' * heading.count('|')}"
    return {line: {collection.name: ndcg(collection, bm25(collection)) for collection in measured}}


def ndcg(collection: BeirCollection, rankings: dict[str, list[str]]) -> float:
    """Return nDCG@10 with exponential gains."""
    return float(score_rankings(rankings, collection.judgements, gains="exponential")["ndcg_at_10"])


if __name__ == "__main__":
    main()
