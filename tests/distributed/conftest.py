"""A small dataset, and what one process makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from tests.qdrant_server import ServerAddress
from tests.tiny import write_tiny_model

WORDS = ["moon", "rover", "lunar", "water", "ice", "orbit", "rocket", "pole"]
ROOT = Path(__file__).parents[2]


def dataset(size: int = 60) -> list[dict[str, Any]]:
    return [
        {"id": n, "text": f"the {WORDS[n % 8]} of the {WORDS[n * 3 % 8]}", "year": 2000 + n, "topic": "moon"}
        for n in range(size)
    ]


def stored(index: SpladeIndex) -> dict[str, Any]:
    """Everything that a collection stores, by the engine's ids, and its metadata."""
    client, name = index.client, index.collection
    points, _ = client.scroll(name, limit=1000, with_payload=True, with_vectors=True)
    return {
        "metadata": client.get_collection(name).config.metadata,
        "points": {str(point.id): (point.payload, _comparable(point.vector)) for point in points},
    }


def _comparable(vectors: Any) -> dict[str, dict[int, float]]:
    return {
        name: dict(sorted(zip(vector.indices, vector.values, strict=True)))
        for name, vector in vectors.items()
    }


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SparseTextEmbedding:
    return SparseTextEmbedding(write_tiny_model(tmp_path_factory.mktemp("distributed") / "tiny"))


@pytest.fixture
def index(empty_server: ServerAddress, tiny: SparseTextEmbedding) -> Iterator[SpladeIndex]:
    """The collection that workers fill."""
    with SpladeIndex(empty_server.url, collection="docs", model=tiny, windows="merge") as opened:
        yield opened


@pytest.fixture
def expected(empty_server: ServerAddress, tiny: SparseTextEmbedding) -> dict[str, Any]:
    """What `add` stores of the dataset in one process."""
    rows = dataset()
    with SpladeIndex(empty_server.url, collection="alone", model=tiny, windows="merge") as alone:
        alone.add(
            [row["text"] for row in rows],
            [{"year": row["year"], "topic": row["topic"]} for row in rows],
            [str(row["id"]) for row in rows],
        )
        return stored(alone)
