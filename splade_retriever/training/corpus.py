"""Pairs to learn from and questions to measure with, made from a folder of texts without labels.

A heading is a query that each passage under it answers. The first sentence of a passage is a query that the
rest of the passage answers (the inverse cloze task, arXiv 1906.00300).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splade_retriever.encoding.text_embedding import SparseTextEmbedding
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError
from splade_retriever.files.discovery import find_files
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter

__all__ = ["PASSAGE_TOKENS", "Corpus", "Pair"]

logger = logging.getLogger(__name__)

PASSAGE_TOKENS = 128
MIN_WORDS = 12
"""Words that a passage must have without its first sentence."""


@dataclass(frozen=True)
class Pair:
    """A query made from the texts, and the text that answers it."""

    query: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Passages of a folder, and the files that are held out for measuring.

    Attributes:
        passages: The passages of all files.
        held_out: Names of the held-out files, relative to the folder.
    """

    passages: list[Passage]
    held_out: frozenset[str]

    def __str__(self) -> str:
        files = {passage.metadata["source"] for passage in self.passages}
        pairs = sum(map(len, self.sections()))
        return (
            f"{len(self.passages)} passages from {len(files)} files: {pairs} pairs to learn from, "
            f"{len(self.questions())} headings of {len(self.held_out)} held-out files to measure with"
        )

    @classmethod
    def read(
        cls,
        folder: str | Path,
        tokenizer: Tokenizer | None = None,
        *,
        held_out: float = 0.3,
        seed: int = 13,
    ) -> Corpus:
        """Read the Markdown and text files of a folder; files that cannot be read are logged.

        Args:
            folder: The folder.
            tokenizer: Counts the tokens of a passage; None is the bundled model's.
            held_out: Share of the files with headings that is held out; at least one file is.
            seed: Decides which files.

        Raises:
            InputError: If there is no such folder, if fewer than two of its files have headings, or if the
                share is not between 0 and 1.
        """
        if not 0 < held_out < 1:
            raise InputError(f"held_out must be between 0 and 1, got {held_out!r}.")
        passages = list(_passages(Path(folder), tokenizer))
        with_headings = sorted({p.metadata["source"] for p in passages if "heading" in p.metadata})
        if len(with_headings) < 2:
            raise InputError(
                f"Folder {str(folder)!r} has {len(with_headings)} files with headings (Markdown), expected "
                "at least two: one to learn from, one to measure with. Pass a folder with more of them."
            )
        number = min(len(with_headings) - 1, max(1, round(held_out * len(with_headings))))
        chosen = np.random.default_rng(seed).permutation(len(with_headings))[:number]
        return cls(passages, frozenset(with_headings[place] for place in chosen))

    def sections(self) -> list[list[Pair]]:
        """Return the pairs to learn from by section, in the order of the files.

        Two pairs of one section must not be in one batch: each would count as a wrong answer to the other.
        """
        headings = self._headings()
        pairs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        for passage in self.passages:
            section = _section(passage)
            if section[0] not in self.held_out:
                pairs[section].extend(_pairs(passage, headings.get(section)))
        return [of_section for of_section in pairs.values() if of_section]

    def questions(self) -> dict[str, list[str]]:
        """Return the headings of the held-out files, each with the ids of the passages under it."""
        headings = self._headings()
        answers: dict[str, list[str]] = defaultdict(list)
        for passage in self.passages:
            heading = headings.get(_section(passage))
            if heading is not None and passage.metadata["source"] in self.held_out:
                answers[heading].append(passage.id)
        return dict(answers)

    def write_beir(self, folder: Path) -> None:
        """Write all passages, without their headings, and the questions, in BEIR layout."""
        questions = self.questions()
        rows = {
            "corpus": [{"_id": passage.id, "text": passage.text} for passage in self.passages],
            "queries": [{"_id": f"q{n}", "text": text} for n, text in enumerate(questions)],
        }
        for name, lines in rows.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        judged = (f"q{n}\t{id}\t1\n" for n, ids in enumerate(questions.values()) for id in ids)
        (folder / "qrels.tsv").write_text("".join(judged), encoding="utf-8")

    def _headings(self) -> dict[tuple[str, str], str]:
        """Return the innermost heading of each section; one that several sections share says too little."""
        innermost = {section: section[1].rpartition(" > ")[2] for section in map(_section, self.passages)}
        uses = Counter(heading.lower() for heading in innermost.values())
        return {
            section: heading
            for section, heading in innermost.items()
            if heading and uses[heading.lower()] == 1
        }


def _passages(folder: Path, tokenizer: Tokenizer | None) -> Iterator[Passage]:
    splitter = Splitter(tokenizer or SparseTextEmbedding(lazy_load=True).tokenizer, PASSAGE_TOKENS)
    options = ReadOptions(base=folder)
    for file in find_files([folder], options):
        for item in [file] if isinstance(file, FileIssue) else read_file(file, options, splitter):
            if isinstance(item, FileIssue):
                logger.warning("%s %s", item.place, item.reason)
            else:
                yield item


def _section(passage: Passage) -> tuple[str, str]:
    return passage.metadata["source"], passage.metadata.get("heading", "")


def _pairs(passage: Passage, heading: str | None) -> Iterator[Pair]:
    if heading is not None:
        yield Pair(heading, passage.text)
    sentence, *rest = re.split(r"(?<=[.!?])\s+", passage.text, maxsplit=1)
    if rest and len(rest[0].split()) >= MIN_WORDS:
        yield Pair(sentence, rest[0])
