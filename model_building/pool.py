"""Collect the texts and queries of a round over mined candidates, with and without labels, as token ids.

    python -m model_building.pool --data TRAIN_FOLDER --evaluation EVAL_FOLDER --out runs/pool

Besides the pairs of every source there are passages (`passages.jsonl.gz`), questions without an answer
(`queries.jsonl.gz`), and sentences of the texts, which ask for other texts: a teacher that scores needs no
labels. All of them pass `model_building.overlap.Guard`.

Writes `texts.npz` (token ids, joined, and where each text ends), `queries.npz` (the same, and for each query
the row of the text that answers it and of the text that it was cut from, -1 for none), `frequency.npz` and
`pool.json`, the numbers of texts and queries.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model_building.minilm import minilm_folder
from model_building.overlap import Guard, read_jsonl
from model_building.prepare import document_text, flat, hash_of, tokenise
from model_building.sources import SOURCES, UNLABELLED

__all__ = ["Query", "Text", "collect", "cut_sentences"]

logger = logging.getLogger(__name__)

QUERY_TOKENS, TEXT_TOKENS = 96, 192
MIN_ROWS = 64
"""Rows of a source that a share of the data keeps at least."""
EXCLUDED_QUESTIONS = ("opentriviaqa", "triviaqa")
"""Sources of questions that are left out: the provenance of single questions is unknown."""
MAX_PAIRS = {"oewn": 8_000}
"""Maximum number of pairs of a source; word definitions are short texts and many."""
SENTENCES = {
    "arxiv": 24_000,
    "science-qa": 9_000,
    "docs": 16_000,
    "openstax": 8_000,
    "medquad": 5_000,
    "enwiki": 8_000,
}
"""Source -> number of sentences that become queries, one per text."""
MIN_WORDS, MAX_WORDS = 7, 45
"""Words of such a sentence."""
LONG_QUERIES = 0.2
"""Share of them that continue with the two sentences after."""


class Text(NamedTuple):
    """A text of the pool."""

    source: str
    text: str


class Query(NamedTuple):
    """A query of the pool; `answer` and `cut_from` are keys of texts, None for none."""

    source: str
    text: str
    answer: int | None = None
    cut_from: int | None = None


def main() -> None:
    """Parse the arguments and write the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pool"))
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows to keep, for a quick try")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    collect(arguments.data, arguments.evaluation, arguments.out, seed=arguments.seed, share=arguments.share)


def collect(data: Path, evaluation: Path, out: Path, *, seed: int = 13, share: float = 1.0) -> None:
    """Write the pool of all sources in `data`."""
    out.mkdir(parents=True, exist_ok=True)
    reader = _Reader(data, Guard(evaluation), np.random.default_rng(seed), share)
    texts: dict[int, Text] = {}
    queries: list[Query] = []
    for source in SOURCES:
        for pair in reader.rows(source.name, "pairs", MAX_PAIRS.get(source.name)):
            key = hash_of(pair["text"])
            texts.setdefault(key, Text(source.name, document_text(pair)))
            queries.append(Query(source.name, pair["query"], answer=key))
    for source in UNLABELLED:
        for passage in reader.rows(source.name, "passages", source.rows):
            texts.setdefault(hash_of(passage["text"]), Text(source.name, document_text(passage)))
        for question in reader.rows(source.name, "queries", source.rows):
            queries.append(Query("queries", question["text"].strip('" ')))
    sentences = cut_sentences(texts, reader.random, share)
    queries += [query for query in sentences if reader.allows("sentences", query.text, "")]
    _write(out, texts, _distinct(queries), reader.overlapping)


class _Reader:
    """Reads sources, shuffled, without the rows that overlap with the evaluation collections.

    Attributes:
        overlapping: Number of rows left out by source.
    """

    def __init__(self, data: Path, guard: Guard, random: np.random.Generator, share: float) -> None:
        self.data, self.guard, self.random, self.share = data, guard, random, share
        self.overlapping: Counter[str] = Counter()

    def rows(self, name: str, kind: str, limit: int | None) -> list[dict[str, str]]:
        """Return the rows of one file of a source; none if the source has no such file."""
        file = self.data / name / f"{kind}.jsonl.gz"
        if not file.exists():
            return []
        rows = [row for row in read_jsonl(file) if row.get("source") not in EXCLUDED_QUESTIONS]
        size = max(MIN_ROWS, int(len(rows) * self.share))
        chosen = [rows[place] for place in self.random.permutation(len(rows))[:size]][:limit]
        kept = [row for row in chosen if self.allows(name, *_parts(row, kind))]
        logger.info("%s, %s: %d kept, %d overlap", name, kind, len(kept), len(chosen) - len(kept))
        return kept

    def allows(self, name: str, query: str, text: str) -> bool:
        """Return whether a query with its text shares nothing with an evaluation collection; count if not."""
        allowed = self.guard.allows(query, text)
        if not allowed:
            self.overlapping[name] += 1
        return allowed


def _parts(row: dict[str, str], kind: str) -> tuple[str, str]:
    """Return the query and the text of a row, "" for none."""
    if kind == "queries":
        return row["text"], ""
    return row.get("query", ""), document_text(row)


def cut_sentences(texts: dict[int, Text], random: np.random.Generator, share: float = 1.0) -> Iterator[Query]:
    """Yield sentences of texts, at most one per text."""
    for name, wanted in SENTENCES.items():
        keys = [key for key, text in texts.items() if text.source == name]
        for place in random.permutation(len(keys))[: int(wanted * share)]:
            parts = re.split(r"(?<=[.?!])\s+", texts[keys[place]].text)
            suited = [n for n, part in enumerate(parts) if MIN_WORDS <= len(part.split()) <= MAX_WORDS]
            if len(parts) > 1 and suited:
                first = int(random.choice(suited))
                number = 3 if random.random() < LONG_QUERIES else 1
                yield Query("sentences", " ".join(parts[first : first + number]), cut_from=keys[place])


def _distinct(queries: Sequence[Query]) -> list[Query]:
    """Drop queries that occur before with the same answer."""
    return list({(query.text.lower(), query.answer): query for query in queries}.values())


def _write(out: Path, texts: dict[int, Text], queries: Sequence[Query], overlapping: Counter[str]) -> None:
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    text_ids = tokenise(tokenizer, [text.text for text in texts.values()], TEXT_TOKENS)
    query_ids = tokenise(tokenizer, [query.text for query in queries], QUERY_TOKENS)
    frequency = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for ids in text_ids:
        frequency[np.unique(ids)] += 1
    row_of = {key: row for row, key in enumerate(texts)}
    names = sorted({query.source for query in queries})
    columns: dict[str, Any] = {
        **flat("query", query_ids),
        "answer": _text_rows(row_of, [query.answer for query in queries]),
        "cut_from": _text_rows(row_of, [query.cut_from for query in queries]),
        "source": np.array([names.index(query.source) for query in queries], dtype=np.uint8),
        "sources": np.array(names),
    }
    np.savez(out / "queries.npz", **columns)
    text_columns: dict[str, Any] = {**flat("text", text_ids)}
    np.savez(out / "texts.npz", **text_columns)
    np.savez(out / "frequency.npz", frequency=frequency, documents=len(texts))
    counts = {
        "texts": len(texts),
        "queries": len(queries),
        "questions": sum(query.source == "queries" for query in queries),
        "sentences": sum(query.source == "sentences" for query in queries),
        "overlapping": dict(overlapping),
    }
    (out / "pool.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    logger.info("%d texts of %d tokens, %d queries", len(texts), sum(map(len, text_ids)), len(queries))


def _text_rows(row_of: dict[int, int], keys: Sequence[int | None]) -> NDArray[np.int32]:
    return np.array([-1 if key is None else row_of[key] for key in keys], dtype=np.int32)


if __name__ == "__main__":
    main()
