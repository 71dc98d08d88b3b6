"""Measure how well each teacher ranks alone, which a student can hardly exceed.

    python -m research.ceiling --evaluation EVAL_FOLDER --data runs/data --run runs/first

Prints one line per teacher: each part alone, then the teachers of a first and of a later round, whose earlier
model is that of `--run`. Texts are cut at 512 tokens. With `--vectors` a folder keeps the encoded texts,
because encoding takes most of the time: about 20 minutes on two cores for 18,000 documents.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from tokenizers import Tokenizer

from model_building.evaluate import add_collection_options, chosen_collections
from model_building.minilm import minilm_encoder, minilm_folder
from model_building.teachers import Dense, TeacherInput, WordMatches
from model_building.train import (
    LATER,
    Recipe,
    finished,
    mean_tokens,
    read_pairs,
    start_weights,
    word_idf,
)
from splade_retriever.evaluation.baselines import Bm25, best_rows
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import score_rankings
from splade_retriever.training.batches import padded
from splade_retriever.training.model import Splade

MAX_LENGTH = 512
TOKENS_AT_ONCE = 6_000
DOCUMENTS_AT_ONCE = 512

SHARES = {
    "dense, all-MiniLM-L6-v2": (1.0, 0.0, 0.0),
    "word matches": (0.0, 1.0, 0.0),
    "the earlier model": (0.0, 0.0, 1.0),
    "first round: dense + words": (Recipe().dense_share, Recipe().word_share, 0.0),
    "later round: dense + words + earlier": (LATER.dense_share, LATER.word_share, LATER.earlier_share),
}
"""Teacher -> factors of the cosine, the word matches and the earlier model's scores."""


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_collection_options(parser)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="the prepared data")
    parser.add_argument("--run", type=Path, required=True, help="the run with the earlier model")
    parser.add_argument("--vectors", type=Path, default=None, help="folder that keeps the encoded texts")
    arguments = parser.parse_args()
    parts = Parts(arguments.data, arguments.run)
    results: dict[str, dict[str, float]] = {}
    for folder, every_nth in chosen_collections(arguments).items():
        collection = BeirCollection.read(folder, every_nth=every_nth)
        kept = None if arguments.vectors is None else arguments.vectors / folder.name
        scores = parts.scores(collection, kept)
        rankings = {"BM25": bm25(collection)} | {
            name: ranked(collection, sum(share * part for share, part in zip(shares, scores, strict=True)))
            for name, shares in SHARES.items()
        }
        for name, rows in rankings.items():
            quality = score_rankings(rows, collection.judgements, gains="exponential")
            results.setdefault(name, {})[collection.name] = quality["ndcg_at_10"]
    print("\n".join(table(results)))


class Parts:
    """Scores of a collection's queries with its documents, by each part of a teacher.

    Args:
        data: The folder that `model_building.prepare` wrote.
        run: The run with the earlier model.
    """

    def __init__(self, data: Path, run: Path) -> None:
        counted = np.load(data / "frequency.npz")
        idf = word_idf(counted["frequency"], int(counted["documents"]))
        self.model = Splade(minilm_encoder(), start_weights(idf)).eval()
        self.model.load_state_dict(finished(run))
        self.dense = Dense(self.model.frozen)
        self.words = WordMatches(idf, mean_tokens(read_pairs(data)))
        self.tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_LENGTH)

    def scores(self, collection: BeirCollection, kept: Path | None) -> list[NDArray[np.float32]]:
        """Return three arrays (queries, documents): cosines, word matches, the earlier model's scores."""
        queries = self._encoded(list(collection.queries.values()), kept and kept.with_suffix(".queries.npz"))
        documents = self._encoded(
            list(collection.documents.values()), kept and kept.with_suffix(".documents.npz")
        )
        words = [
            self.words.scores(
                _tokens(queries["ids"]), _tokens(documents["ids"][start : start + DOCUMENTS_AT_ONCE])
            )
            for start in range(0, len(documents["ids"]), DOCUMENTS_AT_ONCE)
        ]
        weights = (queries["weights"].power(LATER.query_power) @ documents["weights"].T).toarray()
        return [queries["dense"] @ documents["dense"].T, torch.cat(words, 1).numpy(), weights]

    def _encoded(self, texts: list[str], kept: Path | None) -> dict[str, Any]:
        """Encode texts, or read the kept file: ids, dense vectors and the model's weights."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        if kept is not None and kept.exists():
            stored = np.load(kept)
            shape = (len(ids), len(self.words.idf))
            weights = csr_matrix((stored["data"], stored["indices"], stored["indptr"]), shape=shape)
            return {"ids": ids, "dense": stored["dense"], "weights": weights}
        dense, weights = self._encode(ids)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, dense=dense, data=weights.data, indices=weights.indices, indptr=weights.indptr)
        return {"ids": ids, "dense": dense, "weights": weights}

    @torch.no_grad()
    def _encode(self, ids: list[list[int]]) -> tuple[NDArray[np.float32], Any]:
        dense: list[Any] = [None] * len(ids)
        weights: list[Any] = [None] * len(ids)
        for rows in batches(ids):
            batch, mask = padded([ids[row] for row in rows])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                lower = self.model.lower(batch, mask)
                vectors = self.dense(lower, mask).float().numpy()
                # Keeping all entries computes them in blocks of columns, which bounds the memory.
                entries = len(self.words.idf)
                batch_weights = (
                    self.model.head(self.model.upper(lower, mask), batch, mask, entries).float().numpy()
                )
            for row, vector, weight in zip(rows, vectors, batch_weights, strict=True):
                dense[row], weights[row] = vector, csr_matrix(weight)
        return np.stack(dense), vstack(weights).tocsr()


def batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield rows of texts of similar length, the shortest first."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    while order:
        size = max(1, TOKENS_AT_ONCE // len(ids[order[0]]))
        yield order[: min(size, 64)]
        del order[: min(size, 64)]


def _tokens(ids: Sequence[Sequence[int]]) -> TeacherInput:
    batch, mask = padded(ids)
    return TeacherInput(batch, mask, dense=torch.empty(0), earlier=None)


def bm25(collection: BeirCollection) -> dict[str, list[str]]:
    """Return BM25's ranking of each query."""
    system = Bm25(collection.documents)
    return {id: system.rank(text, 10) for id, text in collection.queries.items()}


def ranked(collection: BeirCollection, scores: Any) -> dict[str, list[str]]:
    """Return the ten best documents of each query by scores (queries, documents)."""
    ids = list(collection.documents)
    rows = zip(collection.queries, scores, strict=True)
    return {query: [ids[place] for place in best_rows(row, 10)] for query, row in rows}


def table(results: Mapping[str, Mapping[str, float]], *, heading: str = "ranking by") -> Iterator[str]:
    """Format nDCG@10 by collection, the mean, and its ratio to the mean of the first line, which is BM25.

    Args:
        results: System -> collection -> nDCG@10; a system may be several cells, separated by bars.
        heading: Heading of those cells.
    """
    first = next(iter(results.values()))
    names, base = list(first), fmean(first.values())
    yield f"| {heading} | {' | '.join(names)} | mean | against BM25 |"
    yield "|---" * (len(names) + 3 + heading.count("|")) + "|"
    for system, row in results.items():
        mean = fmean(row.values())
        figures = " | ".join(f"{row[name]:.4f}" for name in names)
        yield f"| {system} | {figures} | {mean:.4f} | {mean / base:.3f} |"


if __name__ == "__main__":
    main()
