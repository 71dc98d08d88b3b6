"""Which texts share words: the check that keeps evaluation collections out of the training data."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Guard", "read_jsonl", "word_runs", "words_of"]

OVERLAP_WORDS = 13


class Guard:
    """Finds training pairs that overlap with the evaluation collections."""

    def __init__(self, evaluation: Path) -> None:
        self._queries: set[str] = set()
        self._runs: set[int] = set()
        for file in sorted(evaluation.glob("*/*.jsonl.gz")):
            for row in read_jsonl(file):
                words = words_of(f"{row.get('title') or ''} {row['text']}")
                self._runs.update(word_runs(words))
                if file.name.startswith("queries"):
                    self._queries.add(" ".join(words))
        if not self._queries:
            raise SystemExit(
                f"Folder {evaluation} has no evaluation queries, so the overlap check would check nothing. "
                "Pass a folder of collections in BEIR layout."
            )

    def allows(self, query: str, text: str) -> bool:
        """Return whether the pair shares nothing with an evaluation collection."""
        words = words_of(query)
        if " ".join(words) in self._queries:
            return False
        return not any(run in self._runs for part in (words, words_of(text)) for run in word_runs(part))


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def word_runs(words: list[str]) -> Iterator[int]:
    """Yield a hash of each run of thirteen consecutive words; hashes are equal within a process only."""
    for start in range(len(words) - OVERLAP_WORDS + 1):
        yield hash(tuple(words[start : start + OVERLAP_WORDS]))


def read_jsonl(file: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a gzipped JSON-lines file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
