"""Groups and random samples: the same as on a Qdrant server, or refused."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import NotSupportedError
from tests.qdrant_server import ServerAddress

pytestmark = pytest.mark.server

N = 200
SIZE = 6


@pytest.fixture
def both(
    tmp_path: Path, empty_server: ServerAddress, server_client: QdrantClient
) -> Iterator[tuple[Any, Any]]:
    """An embedded engine and a server with the same points."""
    draw = random.Random(3)
    points = [
        models.PointStruct(
            id=n,
            vector={
                "dense": [draw.uniform(-1, 1) for _ in range(SIZE)],
                "sparse": models.SparseVector(
                    indices=sorted(draw.sample(range(30), 5)), values=[draw.uniform(0.1, 2) for _ in range(5)]
                ),
            },
            payload={"group": draw.choice([0, 1, 2, 2, 2, 2, 2, 3, 4]), "tags": draw.sample("abcd", 2)},
        )
        for n in range(N)
    ]
    with EdgeClient(tmp_path) as edge:
        for client in (edge, server_client):
            client.create_collection(
                "c",
                vectors_config={"dense": models.VectorParams(size=SIZE, distance=models.Distance.DOT)},
                sparse_vectors_config={"sparse": models.SparseVectorParams()},
            )
            client.upsert("c", points, wait=True)
        yield edge, server_client


def random_groups(draw: random.Random) -> dict[str, Any]:
    """Draw a search for groups."""
    if draw.random() < 0.5:
        query: Any = [draw.uniform(-1, 1) for _ in range(SIZE)]
        using = "dense"
    else:
        values = [draw.uniform(0.1, 2) for _ in range(8)]
        query = models.SparseVector(indices=sorted(draw.sample(range(30), 8)), values=values)
        using = "sparse"
    # Two tags of a point start with the same score: which group comes first is free.
    group_by, limits = draw.choice([("group", [1, 2, 4, 10]), ("tags", [10]), ("missing", [10])])
    return {
        "query": query,
        "using": using,
        "group_by": group_by,
        "limit": draw.choice(limits),
        "group_size": draw.choice([1, 2, 5, 50]),
    }


def test_groups_are_those_of_a_server(both: tuple[Any, Any]) -> None:
    draw = random.Random(5)
    for _ in range(120):
        search = random_groups(draw)
        edge, server = (
            {
                group.id: [hit.id for hit in group.hits]
                for group in client.query_points_groups("c", **search).groups
            }
            for client in both
        )
        assert edge == server, search


def test_groups_over_a_prefetch_are_refused(both: tuple[Any, Any]) -> None:
    """A server runs the prefetch again without the points of groups that are full."""
    edge, server = both
    search: dict[str, Any] = {"query": [0.5] * SIZE, "using": "dense", "group_by": "group", "limit": 5}
    prefetch = models.Prefetch(query=[1.0] * SIZE, using="dense", limit=5)

    assert len(server.query_points_groups("c", prefetch=prefetch, **search).groups) > 1
    with pytest.raises(NotSupportedError, match="has a prefetch"):
        edge.query_points_groups("c", prefetch=prefetch, **search)


@pytest.mark.parametrize("offset", [0, 5, N - 5, N + 5])
def test_a_random_sample_has_as_many_points_as_on_a_server(both: tuple[Any, Any], offset: int) -> None:
    sample = models.SampleQuery(sample=models.Sample.RANDOM)

    edge, server = (
        [point.id for point in client.query_points("c", query=sample, limit=10, offset=offset).points]
        for client in both
    )

    assert len(edge) == len(set(edge)) == len(server)


def test_distance_matrices_are_refused(both: tuple[Any, Any]) -> None:
    edge, server = both
    assert len(server.search_matrix_pairs("c", sample=2, limit=1, using="dense").pairs) == 2
    for search in (edge.search_matrix_pairs, edge.search_matrix_offsets):
        with pytest.raises(NotSupportedError, match="distance matrices"):
            search("c", sample=2, limit=1, using="dense")
