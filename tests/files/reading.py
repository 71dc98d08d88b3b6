"""Helpers that read a file with given content."""

from collections.abc import Iterable
from pathlib import Path

from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter
from tests.words import WordTokenizer

WORDS = WordTokenizer(512)


def words(n: int, word: str = "word") -> str:
    return " ".join([word] * n)


def read(
    path: Path, content: str | bytes, *, tokens: int = 64, options: ReadOptions | None = None
) -> list[Passage | FileIssue]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(path, options or ReadOptions(), Splitter(WORDS, tokens)))


def passages_of(items: Iterable[object]) -> list[Passage]:
    """The passages; fails if there is an issue among them."""
    listed = list(items)
    assert all(isinstance(item, Passage) for item in listed), listed
    return [item for item in listed if isinstance(item, Passage)]


def issues_of(items: Iterable[object]) -> list[tuple[str, str]]:
    return [(Path(item.place).name, item.reason) for item in items if isinstance(item, FileIssue)]
