"""An index over a real Qdrant server: what only a server has, such as aliases, ports and limits."""

import socket
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.errors import CollectionMismatchError, FilterError, NotSupportedError, ServerError
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.reindex import reindex
from tests.qdrant_server import Cluster, QdrantServer, ServerAddress, free_ports
from tests.words import WordEncoder

pytestmark = pytest.mark.server

Opened = Callable[..., SpladeIndex]


@pytest.fixture
def opened(empty_server: ServerAddress) -> Opened:
    """Open an index on the server, with a separate connection, as in another process."""

    def open_index(**options: Any) -> SpladeIndex:
        server = {"api_key": empty_server.api_key, "grpc_port": empty_server.grpc_port}
        options = {"model": WordEncoder(), **server, **options}
        return SpladeIndex(empty_server.url, **options)

    return open_index


def set_alias(client: QdrantClient, alias: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


# -- aliases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_alias", [True, False])
def test_an_open_index_reports_that_its_name_belongs_to_another_collection(
    opened: Opened, server_client: QdrantClient, is_alias: bool
) -> None:
    first = "docs.1" if is_alias else "docs"
    with opened(collection=first) as index:
        index.add(["a moon rock"], ids=["old"])
    if is_alias:
        set_alias(server_client, "docs", "docs.1")
    with opened(collection="docs") as index:
        assert [hit.id for hit in index.search("moon")] == ["old"]

        report = reindex(server_client, WordEncoder("other words"), collection="docs")
        if not is_alias:
            server_client.delete_collection("docs")
            set_alias(server_client, "docs", report.new_collection)

        writes: list[Callable[[], object]] = [
            lambda: index.add(["another moon rock"], ids=["lost"]),
            lambda: index.delete(["old"]),
            index.clear,
        ]
        for write in writes:
            with pytest.raises(CollectionMismatchError, match="Open the index again"):
                write()
        time.sleep(1.1)
        reads: list[Callable[[], object]] = [
            lambda: index.search("moon"),
            lambda: index.get(["old"]),
            lambda: [*index.scroll()],
            index.count,
        ]
        for read in reads:
            with pytest.raises(CollectionMismatchError, match="Open the index again"):
                read()

    with opened(collection="docs", model=WordEncoder("other words")) as index:
        assert [hit.id for hit in index.search("moon")] == ["old"]


# -- ports and proxies ---------------------------------------------------------------------------------------


@pytest.mark.own_server
def test_requests_over_grpc_go_to_the_server_of_the_url(start_server: Callable[..., QdrantServer]) -> None:
    right, wrong = start_server(), start_server()
    with SpladeIndex(right.url, prefer_grpc=True, grpc_port=right.grpc_port, model=WordEncoder()) as index:
        index.add(["a moon rock"], ids=["1"])
        assert [hit.id for hit in index.search("moon")] == ["1"]
        assert index.open_arguments is not None
        assert index.open_arguments["grpc_port"] == right.grpc_port

    both = (
        f"REST port {right.port} and gRPC port {wrong.grpc_port} of {right.url} belong to different servers"
    )
    with pytest.raises(ServerError, match=both):
        SpladeIndex(right.url, prefer_grpc=True, grpc_port=wrong.grpc_port, model=WordEncoder())
    assert wrong.client().get_collections().collections == []


@pytest.mark.own_server
def test_two_empty_servers_are_distinguished_when_a_collection_is_created(
    start_server: Callable[..., QdrantServer],
) -> None:
    right, wrong = start_server(), start_server()

    with pytest.raises(ServerError, match="belong to different servers"):
        SpladeIndex(right.url, prefer_grpc=True, grpc_port=wrong.grpc_port, model=WordEncoder())

    assert wrong.client().get_collections().collections == []
    assert right.client().get_collections().collections == []


@pytest.mark.own_server
def test_two_servers_with_the_same_collections_are_distinguished(
    start_server: Callable[..., QdrantServer],
) -> None:
    right, wrong = start_server(), start_server()
    for server in (right, wrong):
        with SpladeIndex(server.url, model=WordEncoder()) as index:
            index.add(["a moon rock"], ids=["1"])

    with pytest.raises(
        ServerError, match="belong to different servers, which both have a collection 'splade'"
    ):
        SpladeIndex(right.url, prefer_grpc=True, grpc_port=wrong.grpc_port)
    with SpladeIndex(right.url, prefer_grpc=True, grpc_port=right.grpc_port, model=WordEncoder()) as index:
        assert index.count() == 1


@pytest.mark.own_server
def test_two_nodes_of_one_cluster_are_one_server(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    with SpladeIndex(first.url, model=WordEncoder()) as index:
        index.add(["a moon rock"], ids=["1"])

    with SpladeIndex(first.url, prefer_grpc=True, grpc_port=second.grpc_port, model=WordEncoder()) as index:
        assert index.count() == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_not_reached_by_a_proxy(
    empty_server: ServerAddress, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    (closed,) = free_ports(1)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    url = empty_server.url.replace("127.0.0.1", host)
    with SpladeIndex(url, api_key=empty_server.api_key, model=WordEncoder()) as index:
        assert index.count() == 0


# -- several shards ------------------------------------------------------------------------------------------


def test_pages_over_equal_scores_on_several_shards_neither_repeat_nor_miss_documents(opened: Opened) -> None:
    ids = [f"{n:04}" for n in range(2500)]
    with opened(shard_number=4) as index:
        index.add(["moon"] * len(ids), ids=ids)

        pages = [index.search("moon", 250, offset=offset) for offset in range(0, len(ids), 250)]

    assert [hit.id for page in pages for hit in page] == ids


# -- filters -------------------------------------------------------------------------------------------------


def test_text_filters_match_words_in_any_case(opened: Opened, server_client: QdrantClient) -> None:
    texts = {
        "rover": "The Lunar rover",
        "landed": "It landed",
        "land": "Dry LAND",
        "tag": "nothing",
    }
    with opened() as index:
        index.add(texts.values(), [{"title": text} for text in texts.values()], [*texts])

        assert [hit.id for hit in index.search("rover", filter={"$text": "lunar"})] == ["rover"]
        assert index.count({"title": {"$text": "land"}}) == 1
        index.delete(filter={"$text": "land"})

        assert sorted(hit.id for hit in index.scroll()) == ["landed", "rover", "tag"]
    schema = server_client.get_collection("splade").payload_schema
    assert {path: index.data_type for path, index in schema.items()} == {
        "page_content": "text",
        "metadata.title": "text",
    }


def test_a_text_filter_on_a_field_with_another_index_is_refused(opened: Opened) -> None:
    with opened(indexed_fields={"title": "keyword"}) as index:
        index.add(["moon"], [{"title": "The Moon"}])

        with pytest.raises(FilterError, match="an index of kind 'keyword'"):
            index.delete(filter={"title": {"$text": "moon"}})
        assert index.count() == 1


# -- versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (models.FieldCondition(key="metadata.a", match=models.MatchPrefix(prefix="b")), "a match by prefix"),
        (
            models.FieldCondition(key="metadata.a", match=models.MatchSubstring(substring="c")),
            "a match by sub",
        ),
        (models.SliceCondition(slice=models.Slice(total=1, index=0)), "a slice"),
    ],
)
@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_condition_that_the_server_is_too_old_for_is_refused_and_names_both_versions(
    opened: Opened, server_client: QdrantClient, condition: Any, name: str, prefer_grpc: bool
) -> None:
    version = server_client.info().version
    is_old = tuple(map(int, version.split(".")[:2])) < (1, 19)
    with opened(prefer_grpc=prefer_grpc) as index:
        index.add(["moon"], [{"a": "bc"}])
        filter = models.Filter(must_not=[models.Filter(must=[condition])])

        if is_old:
            with pytest.raises(NotSupportedError, match=rf"has {name}.* version 1\.19 .* version {version}"):
                index.count(filter)
        else:
            assert index.count(filter) == 0


def test_a_server_of_another_version_than_the_client_is_used_without_a_warning(
    opened: Opened,
    server_client: QdrantClient,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if server_client.info().version == version_of("qdrant-client"):
        pytest.skip("the server and the client have the same version")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened() as index:
            index.add(["moon"])
            assert index.search("moon")
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


# -- requests ------------------------------------------------------------------------------------------------


def test_rest_and_grpc_find_the_same(opened: Opened) -> None:
    metadata: list[dict[str, Any]] = [
        {"n": n, "price": 0.1 + n / 3, "tags": ["a", {"b": None}], "deep": {"on": n % 2 == 0}}
        for n in range(30)
    ]
    with opened() as over_rest:
        over_rest.add([f"moon rock {'base ' * (n % 3)}" for n in range(30)], metadata)
        over_rest.add(["moon"], ids=["no metadata"])
    with opened() as over_rest, opened(prefer_grpc=True) as over_grpc:
        searched: list[tuple[str, dict[str, Any]]] = [
            ("moon base", {}),
            ("moon base", {"filter": {"n": {"$gte": 3}}, "with_vectors": True, "offset": 2}),
            ("rock", {"score_threshold": 0.5, "k": 31}),
            ("unknown", {}),
        ]
        for query, options in searched:
            assert over_grpc.search(query, **options) == over_rest.search(query, **options)
        batches = [index.search_batch(["moon", "base", "unknown"]) for index in (over_rest, over_grpc)]
        assert batches[0] == batches[1]
        assert over_rest.search("moon", k=40)[0].extra == {}


def test_requests_on_this_machine_share_a_connection(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[Any] = []
    connect = socket.create_connection

    def counted(*args: Any, **keywords: Any) -> socket.socket:
        connections.append(args)
        return connect(*args, **keywords)

    with opened() as index:
        index.add(["moon"])
        monkeypatch.setattr(socket, "create_connection", counted)
        for _ in range(5):
            assert len(index.search("moon")) == 1

    assert connections == []
