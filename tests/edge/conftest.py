"""Fixtures and parts that the tests of the embedded engine share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from qdrant_client import models

from splade_retriever.edge.client import EdgeClient

ROOT: Final = Path(__file__).parents[2]
SPARSE: Final = {"sparse": models.SparseVectorParams()}
DENSE: Final = {"dense": models.VectorParams(size=2, distance=models.Distance.DOT)}


def weights(**by_index: float) -> models.SparseVector:
    """Make a sparse vector: `weights(i1=0.5, i7=2.0)`."""
    return models.SparseVector(indices=[int(key[1:]) for key in by_index], values=list(by_index.values()))


def point(id: Any, n: int = 0, **vector: Any) -> models.PointStruct:
    return models.PointStruct(id=id, vector=vector or {"sparse": weights(i1=1.0)}, payload={"n": n})


@pytest.fixture
def client() -> Iterator[EdgeClient]:
    with EdgeClient() as opened:
        opened.create_collection("c", DENSE, sparse_vectors_config=SPARSE)
        yield opened
