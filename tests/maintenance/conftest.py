"""Fixtures and encoders of the tests of maintenance."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import MOON
from tests.words import WordEncoder


class DoublingEncoder(WordEncoder):
    """A second model: the same words, weights twice as large."""

    def __init__(self, *, max_length: int = 512) -> None:
        super().__init__("doubling", max_length=max_length)

    def _vector(self, text: str) -> SparseEmbedding:
        found = super()._vector(text)
        return SparseEmbedding(values=found.values * 2, indices=found.indices)


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


@pytest.fixture(name="folder")
def index_folder(tmp_path: Path) -> Path:
    """A folder with an index of three documents."""
    with SpladeIndex(tmp_path / "index", model=WordEncoder(), indexed_fields={"n": "integer"}) as index:
        index.add(MOON, [{"n": n} for n in range(3)], ["pole", "rover", "orbit"])
    return tmp_path / "index"
