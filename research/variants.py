"""Measure the gain of each step that makes the model: rounds, their averages, and changes of the weights.

    python -m research.variants --evaluation EVAL_FOLDER --runs runs/first runs/second

Each run is exported in int8 with its weights at the end and, if it is a later round, with the average that
`finished` returns. Texts are encoded once and ranked several times: with all weights, with the heaviest
weights of queries, with a floor, with queries raised to a power, and with counts added. Prints one line
each. With `--vectors` a folder keeps the encoded texts, because encoding takes most of the time.
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

from model_building.evaluate import add_collection_options, chosen_collections
from model_building.export import export_bundled
from model_building.train import LATER, Tokens, finished
from research.ceiling import bm25, table
from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.bundled_graph import SATURATION, Saturation
from splade_retriever.evaluation.baselines import best_rows
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import score_rankings
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.training.export import arrays
from splade_retriever.training.model import saturated


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_collection_options(parser)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="the rounds, the first one first")
    parser.add_argument("--end-share", type=float, default=LATER.earlier_end, help="see `finished`")
    parser.add_argument(
        "--keep", type=int, default=LATER.keep_query, help="number of weights that a query keeps"
    )
    parser.add_argument("--floor", type=float, default=0.18, help="lighter weights become 0")
    parser.add_argument("--power", type=float, default=LATER.query_power, help="exponent of query weights")
    parser.add_argument(
        "--count-share", type=float, default=0.8, help="share of BM25's count that a weight gains"
    )
    parser.add_argument("--vectors", type=Path, default=None, help="folder that keeps the encoded texts")
    arguments = parser.parse_args()
    measured = [
        BeirCollection.read(folder, every_nth=n) for folder, n in chosen_collections(arguments).items()
    ]
    lines: dict[str, dict[str, float]] = {}
    for name, weights in made(arguments.runs, arguments.end_share):
        kept = None if arguments.vectors is None else arguments.vectors / name.replace(" ", "-")
        pairs = encoded(weights, measured, kept)
        for use in uses(arguments.keep, arguments.floor, arguments.power, arguments.count_share):
            line = f"{name} | {use.label(pairs)}"
            lines[line] = {
                collection.name: ndcg(
                    collection, ranked(collection, use.queries(queries), use.texts(documents))
                )
                for collection, (queries, documents) in zip(measured, pairs, strict=True)
            }
    print("\n".join(table(bm25_line(measured, HEADING) | lines, heading=HEADING)))


HEADING = "weights | a query keeps | floor | power | counts | dimensions a text | a query"


@dataclass(frozen=True)
class Encoded:
    """Queries or documents of a collection.

    Attributes:
        weights: All their weights, a sparse matrix (texts, entries).
        counts: The counts times the gains, the same shape: what a count share of 1 adds.
    """

    weights: Any
    counts: Any


Pairs = Sequence[tuple[Encoded, Encoded]]
"""The queries and documents of each collection."""


def made(runs: Iterable[Path], end_share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the weights of each run by name: at its end, and the average of a later round."""
    for number, run in enumerate(runs, 1):
        yield f"round {number}", arrays(finished(run, 1.0))
        if (run / "start.pt").exists():
            yield f"round {number} averaged", arrays(finished(run, end_share))


def encoded(weights: dict[str, Any], measured: Sequence[BeirCollection], kept: Path | None) -> Pairs:
    """Encode queries and documents, or read the kept files."""
    gain = np.exp(weights["head.log_gain"])
    with TemporaryDirectory() as folder:
        export_bundled(weights, Path(folder))
        model = SparseTextEmbedding(folder, lazy_load=True)

        def encode(texts: dict[str, str], name: str) -> Encoded:
            matrix = _weights(model, texts, kept and kept / f"{name}.npz")
            return Encoded(matrix, _counts(model, texts).multiply(gain).tocsr())

        return [
            (encode(each.queries, f"{each.name}.queries"), encode(each.documents, f"{each.name}.documents"))
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
    """Return BM25's counts as the head computes them, (texts, entries)."""
    ids = [encoding.ids for encoding in model.tokenizer.encode_batch(list(texts.values()))]
    return saturated_counts(ids, model.vocab_size, SATURATION)


def saturated_counts(ids: Sequence[Sequence[int]] | Tokens, vocab: int, saturation: Saturation) -> Any:
    """Return how often each vocabulary entry occurs in each text, saturated: a sparse (texts, vocab).

    Args:
        ids: The token ids of each text.
        vocab: Number of entries.
        saturation: How counts saturate.
    """
    lengths = np.array([len(text) for text in ids])
    rows = np.repeat(np.arange(len(ids)), lengths)
    counts = csr_matrix((np.ones(len(rows)), (rows, np.concatenate(ids))), (len(ids), vocab))
    counts.sum_duplicates()
    relative = np.repeat(lengths, np.diff(counts.indptr))[:, None] / saturation.tokens
    counts_and_lengths = (torch.from_numpy(part) for part in (counts.data[:, None], relative))
    counts.data = saturated(*counts_and_lengths, k1=saturation.k1, b=saturation.b).numpy()[:, 0]
    return counts


@dataclass(frozen=True)
class Use:
    """Changes of the weights before they are searched.

    Attributes:
        keep: Number of weights that a query keeps, the heaviest; None is all.
        floor: Lighter weights become 0.
        power: Exponent of a query's weights.
        count_share: Share of BM25's count that a weight gains, see `LexicalHead`.
    """

    keep: int | None = None
    floor: float = 0.0
    power: float = 1.0
    count_share: float = 0.0

    def label(self, pairs: Pairs) -> str:
        """Return the cells that identify it, the mean dimensions of texts and queries last."""
        query_dims = [self.queries(queries).getnnz() / queries.weights.shape[0] for queries, _ in pairs]
        text_dims = [self.texts(documents).getnnz() / documents.weights.shape[0] for _, documents in pairs]
        dims = f"{np.mean(text_dims):.0f} | {np.mean(query_dims):.0f}"
        return f"{self.keep or 'all'} | {self.floor:g} | {self.power:g} | {self.count_share:g} | {dims}"

    def texts(self, texts: Encoded) -> Any:
        """Return the weights of texts with the changes, (texts, entries)."""
        left = texts.weights.copy()
        left.data[left.data < self.floor] = 0
        left.eliminate_zeros()
        return left + self.count_share * texts.counts.multiply(left > 0) if self.count_share else left

    def queries(self, queries: Encoded) -> Any:
        """Return the weights of queries with the changes, (queries, entries)."""
        left = self.texts(queries).tocsr()
        return (left if self.keep is None else heaviest(left, self.keep)).power(self.power)


def heaviest(weights: Any, keep: int) -> Any:
    """Return only the `keep` heaviest weights of each text, a sparse (texts, entries)."""
    left = weights.copy()
    for start, end in pairwise(left.indptr):
        weights_of_text = left.data[start:end]
        weights_of_text[np.argsort(-weights_of_text, kind="stable")[keep:]] = 0
    left.eliminate_zeros()
    return left


def ranked(collection: BeirCollection, queries: Any, documents: Any) -> dict[str, list[str]]:
    """Return the ten best documents of each query by the product of sparse weights (texts, entries)."""
    ids, scores = list(collection.documents), (queries @ documents.T).toarray()
    return {
        query: [ids[place] for place in best_rows(row, 10) if row[place] > 0]
        for query, row in zip(collection.queries, scores, strict=True)
    }


def uses(keep: int, floor: float, power: float, count_share: float) -> Iterator[Use]:
    """Yield the measured changes, each added to those before it."""
    yield Use()
    yield Use(keep)
    yield Use(keep, floor)
    yield Use(keep, floor, power)
    yield Use(keep, floor, power, count_share)


def bm25_line(measured: Iterable[BeirCollection], heading: str) -> dict[str, dict[str, float]]:
    """Return the first line of `table`: BM25, in the first of the heading's cells."""
    line = f"BM25{' |' * heading.count('|')}"
    return {line: {collection.name: ndcg(collection, bm25(collection)) for collection in measured}}


def ndcg(collection: BeirCollection, rankings: dict[str, list[str]]) -> float:
    """Return nDCG@10 with exponential gains."""
    return float(score_rankings(rankings, collection.judgements, gains="exponential")["ndcg_at_10"])


if __name__ == "__main__":
    main()
