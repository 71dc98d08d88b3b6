"""The vector store for LlamaIndex: what it stores, returns and refuses."""

import asyncio
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from splade_retriever import SpladeIndex
from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import (
    FilterError,
    IndexClosedError,
    InputError,
    NotSupportedError,
    StorageError,
)
from splade_retriever.llama_index import SpladeRetriever, SpladeSparseEmbedding, SpladeVectorStore
from tests.llama_index.parts import (
    NODES,
    SINCE_2020,
)
from tests.words import WordEncoder


def test_an_index_together_with_settings_is_an_error(model: WordEncoder, client: QdrantClient) -> None:
    index = SpladeIndex(client=client, model=model)

    with pytest.raises(InputError, match="index="):
        SpladeVectorStore(index=index, model=model)
    assert SpladeVectorStore(index=index).index is index


def test_from_dict_of_a_store_is_an_error(model: WordEncoder) -> None:
    store = SpladeVectorStore(model=model, collection="notes")

    with pytest.raises(NotSupportedError, match=r"SpladeVectorStore\(location, collection='notes'\)"):
        SpladeVectorStore.from_dict(store.to_dict())


def test_a_store_closes_only_the_index_it_opened(model: WordEncoder) -> None:
    index = SpladeIndex(model=model)
    SpladeVectorStore(index=index).close()
    assert index.count() == 0
    index.close()

    store = SpladeVectorStore(model=model)
    store.close()
    with pytest.raises(IndexClosedError):
        store.get_nodes()


def test_nodes_of_a_collection_of_windows_have_the_window_as_text(client: QdrantClient) -> None:
    store = SpladeVectorStore(
        client=client, model=WordEncoder(max_length=4), windows="points", window_overlap=0
    )
    step = SpladeSparseEmbedding(model=WordEncoder(max_length=4))
    long = TextNode(id_="long", text="one two three four five six seven", metadata={"title": "numbers"})
    store.add([long, *step([TextNode(id_="short", text="six")])])

    found = SpladeRetriever(store).retrieve("seven")

    assert [(scored.node_id, scored.text) for scored in found] == [("long", " five six seven")]
    assert found[0].node.metadata == {"title": "numbers"}
    assert store.get_nodes(["long"]) == [long]
    assert store.query(VectorStoreQuery(query_str="six", similarity_top_k=9, node_ids=["long"])).ids == [
        "long"
    ]
    store.delete_nodes(["long"])
    assert [node.node_id for node in store.get_nodes()] == ["short"]


def test_all_nodes_of_a_generator_are_stored(store: SpladeVectorStore) -> None:
    store.add(node for node in NODES)  # type: ignore[arg-type]

    assert store.get_nodes([node.node_id for node in NODES]) == NODES


def test_an_item_that_is_not_a_node_is_an_error_with_its_position(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="Item 1 is a str"):
        store.add([NODES[0], "a text"])  # type: ignore[list-item]
    assert store.get_nodes() == []


def test_metadata_that_is_not_json_is_an_error_and_nothing_is_written(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"metadata\.at is a tuple"):
        store.add([NODES[0], TextNode(text="text", metadata={"at": (1, 2)})])
    assert store.get_nodes() == []


def test_nodes_are_read_in_the_order_of_the_ids(filled: SpladeVectorStore) -> None:
    assert filled.get_nodes(["rocket", "nothing", "landing"]) == [NODES[2], NODES[0]]


def test_a_query_without_text_is_an_error(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="query_str"):
        filled.query(VectorStoreQuery(query_embedding=[0.5]))


def test_a_misspelt_argument_of_a_query_is_an_error(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="filtre"):
        filled.query(VectorStoreQuery(query_str="moon"), filtre={})


def test_a_filter_of_the_engine_is_combined_with_the_others(filled: SpladeVectorStore) -> None:
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2019))]
    )
    query = VectorStoreQuery(query_str="lander", similarity_top_k=5)

    assert filled.query(query, filter=only).ids == ["rocket"]
    assert filled.query(query, filter={"year": 2023}).ids == ["rover"]


def test_misspelt_arguments_are_errors_and_nothing_is_changed(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"argument filter; allowed: node_ids, filters"):
        filled.delete_nodes(["rover"], filter={"year": 2019})
    with pytest.raises(InputError, match="filters"):
        filled.delete("rover", filters=SINCE_2020)
    with pytest.raises(InputError, match="batchsize"):
        filled.add([TextNode(text="text")], batchsize=3)
    with pytest.raises(InputError, match="batchsize"):
        asyncio.run(filled.async_add([TextNode(text="text")], batchsize=3))
    with pytest.raises(InputError, match="filter"):
        asyncio.run(filled.adelete_nodes(["rover"], filter={"year": 2019}))
    assert len(filled.get_nodes()) == 3


def test_wrong_argument_types_are_errors(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="query is a str"):
        filled.query("moon")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ref_doc_id=3"):
        filled.delete(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nodes is one TextNode"):
        filled.add(NODES[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dense is a str"):
        SpladeVectorStore(model=WordEncoder(), dense="openai")  # type: ignore[arg-type]


def test_comparing_with_none_is_an_error_that_names_is_empty(filled: SpladeVectorStore) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=None)])

    with pytest.raises(FilterError, match="IS_EMPTY"):
        filled.query(VectorStoreQuery(query_str="moon", filters=filters))


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_an_alpha_outside_0_to_1_is_an_error(filled: SpladeVectorStore, alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        filled.query(VectorStoreQuery(query_str="moon", mode="hybrid", alpha=alpha))  # type: ignore[arg-type]


@pytest.mark.parametrize("condition", list(FilterCondition))
def test_empty_filters_delete_nothing(filled: SpladeVectorStore, condition: FilterCondition) -> None:
    empty = MetadataFilters(filters=[], condition=condition)
    nested = MetadataFilters(filters=[empty], condition=condition)

    for filters in (empty, nested):
        with pytest.raises(InputError, match="clear"):
            filled.delete_nodes(filters=filters)
        with pytest.raises(InputError, match="clear"):
            asyncio.run(filled.adelete_nodes(filters=filters))
    assert len(filled.get_nodes()) == len(NODES)


def test_delete_nodes_without_ids_and_filter_is_an_error(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="clear"):
        filled.delete_nodes()
    assert len(filled.get_nodes()) == 3


NODES_OF_ALL_KINDS: dict[str, BaseNode] = {
    "an image document": ImageDocument(
        id_="i", text="A lander.", image=b"aGVsbG8=", image_mimetype="image/png"
    ),
    "an image by its address": ImageNode(id_="i", text="A lander.", image_url="https://example.org/a.png"),
    "an image by its path": ImageNode(id_="i", text="A lander.", image_path="a.png", text_embedding=[0.5]),
    "an image without a text": ImageNode(id_="i", image="aGVsbG8="),
}
NODE_OF_KIND: dict[str, BaseNode] = {
    "a text": TextNode(
        id_="inner",
        text="All of it.",
        metadata={"year": 2023},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")},
    ),
    "a document": Document(id_="inner", text="All of it.", excluded_llm_metadata_keys=["year"]),
    "an image": ImageNode(id_="inner", text="All of it.", image="aGVsbG8="),
    "an index node for a text": IndexNode(
        id_="inner", text="All of it.", index_id="deep", obj=TextNode(id_="deepest", text="The heart of it.")
    ),
}
NODES_OF_ALL_KINDS |= {
    f"an index node for {kind}": IndexNode(id_="i", text="A lander.", index_id="lander", obj=inner)
    for kind, inner in NODE_OF_KIND.items()
}


@pytest.mark.parametrize("kind", NODES_OF_ALL_KINDS)
def test_images_and_index_nodes_come_back_equal(store: SpladeVectorStore, kind: str) -> None:
    store.add([NODES_OF_ALL_KINDS[kind]])

    (found,) = store.get_nodes(["i"])

    assert type(found) is type(NODES_OF_ALL_KINDS[kind])
    assert found == NODES_OF_ALL_KINDS[kind]


def test_an_index_node_whose_object_cannot_be_stored_is_an_error(store: SpladeVectorStore) -> None:
    pointer = IndexNode(id_="pointer", text="rovers", index_id="rovers", obj=SpladeRetriever(store))

    with pytest.raises(InputError, match=r"'pointer' has an obj of type SpladeRetriever.*object_map"):
        store.add([NODES[0], pointer])
    assert store.get_nodes() == []


def test_filters_by_id_and_source_use_indexed_fields_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in strict mode refuses such a filter, and another reads every payload for it."""
    client = EdgeClient(":memory:")
    asked: list[str] = []

    def watch(method: str) -> None:
        original = getattr(client, method)

        def watched(*args: Any, **arguments: Any) -> Any:
            asked.extend(_keys_of([args, arguments]))
            return original(*args, **arguments)

        monkeypatch.setattr(client, method, watched)

    for method in ("query_batch_points", "scroll", "count", "delete"):
        watch(method)
    for windows in ("truncate", "points"):
        store = SpladeVectorStore(client=client, collection=windows, model=WordEncoder(), windows=windows)
        store.add(NODES)
        asked.clear()
        for narrowed in ({"doc_ids": ["rover"]}, {"node_ids": ["rover"]}):
            assert store.query(VectorStoreQuery(query_str="the", **narrowed)).ids == ["rover"]  # type: ignore[arg-type]
        store.delete("rover")
        store.delete_nodes(["moon"])

        assert store.get_nodes(["rover"]) == []
        assert set(asked) <= set(client.get_collection(windows).payload_schema)
        assert asked
    client.close()


def test_text_search_finds_the_same_with_a_text_index() -> None:
    client = EdgeClient(":memory:")
    store = SpladeVectorStore(client=client, model=WordEncoder())
    store.add(NODES)
    query = VectorStoreQuery(query_str="ROVER orb", similarity_top_k=9, mode=VectorStoreQueryMode.TEXT_SEARCH)
    without = store.query(query).ids

    store.client.create_payload_index(store.collection, "page_content", "text")

    assert store.query(query).ids == without == ["rover"]  # whole words, without regard to case
    client.close()


def _keys_of(value: Any) -> list[str]:
    """Collect the payload paths that the filters within a value compare."""
    if isinstance(value, models.FieldCondition):
        return [value.key]
    if isinstance(value, list | tuple):
        return [key for item in value for key in _keys_of(item)]
    if isinstance(value, dict):
        return _keys_of([*value.values()])
    return _keys_of([*vars(value).values()]) if isinstance(value, BaseModel) else []


class Verse(TextNode):
    metre: str = "none"

    @classmethod
    def class_name(cls) -> str:
        return "Verse"


def test_a_node_of_a_custom_class_comes_back_equal(store: SpladeVectorStore) -> None:
    verse = Verse(id_="v", text="Tyger tyger", metre="trochaic")
    store.add([verse])

    assert store.get_nodes(["v"]) == [verse]


def test_a_node_of_an_unknown_class_is_an_error_that_names_it(store: SpladeVectorStore) -> None:
    store.index.add(["text"], ids=["a"], extras=[{"llama_index": {"class": "Gone", "node": {}}}])

    with pytest.raises(StorageError, match="'Gone'"):
        store.get_nodes(["a"])


def test_the_report_of_a_search_is_not_stored_when_a_node_is_added_again(filled: SpladeVectorStore) -> None:
    (scored,) = SpladeRetriever(filled, explain=True).retrieve("moon")
    assert "_splade" in scored.node.metadata

    filled.add([scored.node])

    assert filled.get_nodes(["landing"]) == [NODES[0]]


def test_metadata_of_nodes_is_coerced_by_opt_in(model: WordEncoder) -> None:
    with SpladeVectorStore(model=model, metadata="coerce") as store:
        store.add([TextNode(id_="a", text="moon", metadata={"at": (1, 2)})])

        assert store.get_nodes(["a"])[0].metadata == {"at": [1, 2]}
