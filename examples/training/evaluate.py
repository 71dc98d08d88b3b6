"""Measure a model folder against BM25 on BEIR-layout collections.

    python -m examples.training.evaluate --evaluation EVAL_FOLDER --model splade_retriever/bundled

Prints nDCG@10 (exponential gains) and R@100 of exact search, and the same of bm25s on stemmed words (k1 0.9,
b 0.4) in the same run, over title and text, with active dimensions and texts a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from splade_retriever import SparseEmbedding, SparseTextEmbedding

DEPTH = 100


@dataclass(frozen=True)
class Collection:
    """A BEIR-layout folder: texts, queries, and graded judgements {query: {document: grade}}."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]

    @classmethod
    def read(cls, folder: Path, *, every: int = 1) -> Collection:
        """Read a folder; keep each `every`-th judged query."""
        judged: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines():
            query, document, grade = line.split("\t")[:3]
            if grade.lstrip("-").isdigit() and int(grade) > 0:
                judged.setdefault(query, {})[document] = int(grade)
        documents = {
            row["_id"]: f"{row.get('title') or ''} {row['text']}".strip()
            for row in _rows(folder / "corpus.jsonl.gz")
        }
        everything = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl.gz")}
        kept = [query for query in everything if query in judged][::every]
        return cls(folder.name, documents, {query: everything[query] for query in kept}, judged)


def main() -> None:
    """Read the command line and print one line a collection, then the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--model", default=None, help="a model folder; without it the bundled model")
    parser.add_argument("--collections", nargs="*", default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the table here, too")
    arguments = parser.parse_args()
    model = SparseTextEmbedding(arguments.model)
    folders = sorted(file.parent for file in arguments.evaluation.glob("*/qrels.tsv"))
    rows = []
    print(
        "| collection | BM25 | SPLADE | ratio | R@100 BM25 | R@100 SPLADE | dims doc | dims query | texts/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for folder in folders:
        if arguments.collections and folder.name not in arguments.collections:
            continue
        row = measure(Collection.read(folder, every=10 if folder.name == "squad-dev" else 1), model)
        rows.append(row)
        _show(row)
    mean: dict[str, Any] = {
        key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "name"
    }
    mean |= {"name": "mean", "ratio": mean["splade"] / mean["bm25"]}
    _show(mean)
    if arguments.json:
        arguments.json.write_text(json.dumps([*rows, mean], indent=2) + "\n")


def measure(collection: Collection, model: SparseTextEmbedding) -> dict[str, Any]:
    """Return the figures of one collection."""
    texts, queries = list(collection.documents.values()), list(collection.queries.values())
    begun = time.perf_counter()
    documents = list(model.passage_embed(texts))
    seconds = time.perf_counter() - begun
    asked = list(model.query_embed(queries))
    scores = (_matrix(asked, model.vocab_size) @ _matrix(documents, model.vocab_size).T).toarray()
    splade = _graded(collection, scores)
    bm25 = _graded(collection, _bm25(texts, queries))
    return {
        "name": collection.name,
        "bm25": bm25[0],
        "splade": splade[0],
        "ratio": splade[0] / bm25[0],
        "bm25_recall": bm25[1],
        "splade_recall": splade[1],
        "dims": float(np.mean([len(e) for e in documents])),
        "query_dims": float(np.mean([len(e) for e in asked])),
        "rate": len(texts) / seconds,
    }


def ndcg(ranked: Iterable[str], judged: dict[str, int], k: int = 10) -> float:
    """Return nDCG@k with gains 2**grade - 1 and discount log2(rank + 1)."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = np.array([2.0 ** judged.get(document, 0) - 1 for document in list(ranked)[:k]])
    best = np.sort([2.0**grade - 1 for grade in judged.values()])[::-1][:k]
    return float(found @ discount[: len(found)] / (best @ discount[: len(best)]))


def _graded(collection: Collection, scores: NDArray[Any]) -> tuple[float, float]:
    names = np.array(list(collection.documents))
    gains, recalls = [], []
    for query, row in zip(collection.queries, scores, strict=True):
        ranked = names[np.argsort(-row, kind="stable")[:DEPTH]].tolist()
        # A collection may hold the query itself as a document: it is no answer.
        ranked = [document for document in ranked if document != query]
        judged = collection.judged[query]
        gains.append(ndcg(ranked, judged))
        recalls.append(len(judged.keys() & set(ranked)) / len(judged))
    return float(np.mean(gains)), float(np.mean(recalls))


def _bm25(texts: list[str], queries: list[str]) -> NDArray[Any]:
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(
        bm25s.tokenize(texts, stemmer=stemmer, stopwords="en", show_progress=False), show_progress=False
    )
    asked = bm25s.tokenize(queries, stemmer=stemmer, stopwords="en", return_ids=False, show_progress=False)
    return np.stack([index.get_scores(words) if words else np.zeros(len(texts)) for words in asked])


def _matrix(embeddings: list[SparseEmbedding], vocab: int) -> csr_matrix:
    ends = np.cumsum([0, *map(len, embeddings)])
    return csr_matrix(
        (
            np.concatenate([e.values for e in embeddings]),
            np.concatenate([e.indices for e in embeddings]),
            ends,
        ),
        shape=(len(embeddings), vocab),
    )


def _rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _show(row: dict[str, Any]) -> None:
    figures = [f"{row[key]:.4f}" for key in ("bm25", "splade")] + [f"{row['ratio']:.3f}"]
    figures += [f"{row[key]:.4f}" for key in ("bm25_recall", "splade_recall")]
    figures += [f"{row['dims']:.0f}", f"{row['query_dims']:.0f}", f"{row['rate']:.1f}"]
    print(f"| {row['name']} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
