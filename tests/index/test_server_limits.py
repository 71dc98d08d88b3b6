"""An index over a real Qdrant server with limits: large requests, strict mode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.errors import FilterError, InputError, StorageError
from splade_retriever.index.documents import BadInput
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.migrate import migrate
from splade_retriever.maintenance.reindex import reindex
from tests.qdrant_server import QdrantServer, ServerAddress
from tests.words import LetterEncoder, WordEncoder

pytestmark = pytest.mark.server

MIB = 2**20


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def opened(empty_server: ServerAddress, request: pytest.FixtureRequest) -> Callable[..., SpladeIndex]:
    def open_index(**options: Any) -> SpladeIndex:
        server: Any = {"api_key": empty_server.api_key, "grpc_port": empty_server.grpc_port}
        keywords = {"model": WordEncoder(), "prefer_grpc": request.param, **server, **options}
        return SpladeIndex(empty_server.url, **keywords)

    return open_index


def text_of(mib: float, word: str = "moon") -> str:
    """A text of a size with few tokens, so that encoding it takes no time."""
    return f"{word} " + "\u4e00" * int(mib * MIB / 3)


# -- large requests ------------------------------------------------------------------------------------------


def test_texts_that_are_too_large_together_are_stored(opened: Callable[..., SpladeIndex]) -> None:
    with opened() as index:
        ids = index.add([text_of(0.7)] * 64, ids=[str(n) for n in range(64)])

        assert len(ids) == index.count() == 64
        assert len(index.search("moon", k=64)) == 64


def test_a_document_above_the_limit_is_refused_by_name_and_its_neighbours_are_stored(
    empty_server: ServerAddress,
) -> None:
    texts = ["a moon rock", text_of(33), "a moon base"]
    bad: list[BadInput] = []
    with SpladeIndex(empty_server.url, model=WordEncoder(), api_key=empty_server.api_key) as index:
        with pytest.raises(InputError, match=r"Input 1 of add: document 'large' has 33 MiB.* takes 32 MiB"):
            index.add(texts, ids=["a", "large", "b"])
        assert index.count() == 0

        assert index.add(texts, ids=["a", "large", "b"], on_error=bad.append) == ["a", "b"]

        assert [(item.position, item.id) for item in bad] == [(1, "large")]
        assert sorted(hit.id for hit in index.scroll()) == ["a", "b"]
        with pytest.raises(InputError, match="update_metadata of 'a': the metadata is too large"):
            index.update_metadata("a", {"note": "x" * 33 * MIB})
        assert index.get(["a"])[0].metadata == {}


@pytest.mark.own_server
def test_the_limit_of_a_server_that_takes_less_is_learned(start_server: Callable[..., QdrantServer]) -> None:
    server = start_server(settings={"service.max_request_size_mb": 1})
    bad: list[BadInput] = []
    with SpladeIndex(server.url, model=WordEncoder()) as index:
        texts = [text_of(0.3) for _ in range(10)]
        texts[4] = text_of(1.2)

        ids = index.add(texts, ids=[str(n) for n in range(10)], on_error=bad.append)

        assert [item.id for item in bad] == ["4"]
        assert "the server takes 1 MiB in a request" in bad[0].reason
        assert ids == [str(n) for n in range(10) if n != 4]
        assert index.count() == 9
        with pytest.raises(InputError, match=r"Input 0 of add: document 'x' has 1\.2 MiB"):
            index.add([text_of(1.2)], ids=["x"])


@pytest.mark.own_server
def test_a_folder_with_large_documents_is_migrated(
    start_server: Callable[..., QdrantServer], tmp_path: Path
) -> None:
    server = start_server(settings={"service.max_request_size_mb": 1})
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        index.add([*[text_of(0.3)] * 20, text_of(1.2)], ids=[*map(str, range(20)), "large"])

    with pytest.raises(StorageError, match=r"Document 'large' is too large .* takes 1 MiB.*prefer_grpc=True"):
        migrate(tmp_path / "a", server.url)
    report = migrate(tmp_path / "a", server.url, prefer_grpc=True, grpc_port=server.grpc_port)

    assert (report.present, report.copied) == (20, 1)
    with SpladeIndex(server.url, model=WordEncoder()) as index:
        assert index.count() == 21


# -- strict mode ---------------------------------------------------------------------------------------------

STRICT = models.StrictModeConfig(
    enabled=True,
    max_query_limit=10,
    search_max_batchsize=2,
    upsert_max_batchsize=7,
    search_allow_exact=False,
    unindexed_filtering_retrieve=False,
    unindexed_filtering_update=False,
    max_timeout=20,
)


@pytest.mark.parametrize("windows", ["truncate", "points"])
def test_an_index_works_within_the_limits_of_strict_mode(
    opened: Callable[..., SpladeIndex], server_client: QdrantClient, windows: str
) -> None:
    texts = [f"moon rock {' '.join(['lander'] * (n % 4))}" for n in range(60)]
    ids = [f"{n:02}" for n in range(60)]
    with opened(dense=LetterEncoder(), windows=windows) as index:
        index.add(texts[:30], ids=ids[:30])
        unlimited = [index.search("moon lander", k=k, mode="sparse") for k in (10, 25)]
    server_client.update_collection("splade", strict_mode_config=STRICT)

    with opened(dense=LetterEncoder()) as index:
        # Many scores are equal: these are ordered by id, also over the pages of the second search.
        assert [index.search("moon lander", k=k, mode="sparse") for k in (10, 25)] == unlimited
        assert len(index.search("moon lander", k=10, mode="hybrid")) == 10
        assert [len(hits) for hits in index.search_batch(["moon"] * 5, k=11)] == [11] * 5
        index.add(texts, ids=ids)
        assert index.count() == 60
        assert len([*index.scroll()]) == 60
        assert index.update_metadata("07", {"year": 1969})
        index.delete(ids[:20])
        assert len(index.get(ids)) == index.count() == 40


def test_a_filter_without_an_index_names_the_argument_that_makes_one(
    opened: Callable[..., SpladeIndex], server_client: QdrantClient
) -> None:
    with opened() as index:
        index.add(["moon"], [{"year": 1969, "by": {"name": "a"}}])
    server_client.update_collection("splade", strict_mode_config=STRICT)

    with opened() as index:
        with pytest.raises(FilterError, match=r"indexed_fields=\{'year': 'integer'\}"):
            index.search("moon", filter={"year": 1969})
        with pytest.raises(FilterError, match=r"indexed_fields=\{'by.name': 'keyword'\}"):
            index.delete(filter={"by.name": "a"})
    with opened(indexed_fields={"year": "integer"}) as index:
        assert len(index.search("moon", filter={"year": 1969})) == 1


def test_a_filter_above_a_limit_names_the_limit(
    opened: Callable[..., SpladeIndex], server_client: QdrantClient
) -> None:
    strict = models.StrictModeConfig(
        enabled=True, condition_max_size=5, filter_max_conditions=4, max_query_limit=3
    )
    with opened() as index:
        index.add(["moon rock"] * 9, [{"n": n} for n in range(9)], ids=[f"{n}" for n in range(9)])
        server_client.update_collection("splade", strict_mode_config=strict)

    with opened() as index:
        many_values: dict[str, Any] = {"n": {"$in": list(range(6))}}
        many_conditions: dict[str, Any] = {"$or": [{"n": n} for n in range(5)]}
        for filter, message in (
            (many_values, r"has 6 values in one condition.* accepts 5 \(condition_max_size=5\)"),
            (many_conditions, r"has 5 conditions.* accepts 4 \(filter_max_conditions=4\)"),
        ):
            with pytest.raises(FilterError, match=message):
                index.search("moon", filter=filter)
            with pytest.raises(FilterError, match=message):
                index.delete(filter=filter)
        # A search of several pages leaves out more points than one condition may name.
        assert [hit.id for hit in index.search("moon", k=9)] == [str(n) for n in range(9)]
        assert index.delete(filter={"n": {"$in": [0, 1, 2, 3, 4]}}) == 5


@pytest.mark.own_server
def test_the_strict_mode_of_the_server_holds_for_new_collections_adopted_ones_and_reindexing(
    start_server: Callable[..., QdrantServer],
) -> None:
    strict = {
        f"storage.collection.strict_mode.{name}": value
        for name, value in STRICT.model_dump(exclude_none=True).items()
    }
    server = start_server(settings=strict)
    texts = [f"moon rock {n}" for n in range(30)]
    with SpladeIndex(server.url, model=WordEncoder()) as index:
        index.add(texts, ids=map(str, range(30)))

    report = reindex(server.url, WordEncoder("other words"), windows="points")
    with SpladeIndex(server.url, model=None, collection=report.new_collection) as index:
        assert index.windows == "points"
        assert index.count() == len([*index.scroll()]) == 30

    client = server.client()
    client.create_collection("foreign", {}, sparse_vectors_config={"splade": models.SparseVectorParams()})
    with SpladeIndex(
        server.url, model=WordEncoder(), collection="foreign", adopt=True, windows="points"
    ) as index:
        index.add(texts, ids=map(str, range(30)))
        assert index.count() == 30
        assert len(index.search("moon", k=30)) == 30


@pytest.mark.own_server
def test_strict_mode_is_kept_within_by_a_migration(
    start_server: Callable[..., QdrantServer], tmp_path: Path
) -> None:
    server = start_server(
        settings={
            f"storage.collection.strict_mode.{name}": value
            for name, value in STRICT.model_dump(exclude_none=True).items()
        }
    )
    with SpladeIndex(tmp_path / "a", model=WordEncoder(), dense=LetterEncoder(), windows="points") as index:
        index.add([f"moon rock {n}" for n in range(30)], ids=map(str, range(30)))

    assert migrate(tmp_path / "a", server.url).copied == 30
