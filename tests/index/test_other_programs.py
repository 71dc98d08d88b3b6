"""Collections that other programs made: flat payloads, other keys, native ids, points without a text."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from qdrant_client import QdrantClient, models

from splade_retriever import EdgeClient, migrate
from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.index.payload import Layout
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.langchain import SpladeRetriever, SpladeSparseEmbeddings, SpladeVectorStore
from splade_retriever.langchain.qdrant_arguments import location_of
from splade_retriever.llama_index import SpladeVectorStore as LlamaIndexStore
from tests.words import WordEncoder

UUID = "3f2c1f0e-8a44-4f0e-9a53-0d5f6f1f8f11"


def fill(client: Any, payloads: dict[int | str, dict[str, Any]], text: str = "moon") -> None:
    """Make a collection whose points all have the same vector."""
    (vector,) = WordEncoder().passage_embed([text])
    sparse = models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    client.create_collection(
        "docs", vectors_config={}, sparse_vectors_config={"s": models.SparseVectorParams()}
    )
    points = [
        models.PointStruct(id=id, payload=payload, vector={"s": sparse}) for id, payload in payloads.items()
    ]
    client.upsert("docs", points=points)


def opened(client: Any, **options: Any) -> SpladeIndex:
    return SpladeIndex(
        client=client, collection="docs", model=WordEncoder(), vector_name="s", create=False, **options
    )


@pytest.mark.parametrize(
    ("payload", "text", "metadata"),
    [
        ({"text": "A.", "year": 1}, "A.", {"year": 1}),
        ({"document": "A.", "year": 1}, "A.", {"year": 1}),  # qdrant-client's FastEmbed methods
        ({"page_content": "A.", "metadata": {"year": 1}}, "A.", {"year": 1}),
        ({"page_content": "A.", "metadata": None}, "A.", {}),
        ({"content": "A.", "meta": {"year": 1}}, "A.", {"year": 1}),  # Haystack
    ],
)
def test_the_payload_is_recognised(client: Any, payload: Any, text: str, metadata: Any) -> None:
    fill(client, {7: payload, UUID: payload})
    index = opened(client)
    assert {(hit.id, hit.text) for hit in index.search("moon")} == {("7", text), (UUID, text)}
    assert [hit.metadata for hit in index.get(["7", UUID])] == [metadata, metadata]


def test_flat_metadata_can_be_filtered(client: Any) -> None:
    fill(client, {1: {"text": "A.", "year": 2020}, 2: {"text": "B.", "year": 2021}})
    index = opened(client)
    assert [hit.id for hit in index.search("moon", filter={"year": {"$gte": 2021}})] == ["2"]
    assert index.count({"year": 2020}) == 1


def test_an_adopted_flat_collection_is_written_in_its_layout(client: Any) -> None:
    fill(client, {1: {"text": "A.", "year": 2020}, 2: {"text": "B.", "year": 2021}})
    index = opened(client, adopt=True)
    index.add(["C.", "D."], [{"year": 1}, {"year": 2, "lang": "en"}], ["1", "new"])
    assert index.update_metadata("new", {"year": 3})
    index.add(["C."], [{"year": 5}], ["1"])  # only the metadata changed
    index = opened(client)
    found = {hit.id: (hit.text, hit.metadata) for hit in index.scroll()}
    assert found == {
        "1": ("C.", {"year": 5}),
        "2": ("B.", {"year": 2021}),
        "new": ("D.", {"year": 3}),
    }
    (record,) = client.retrieve("docs", [1])
    assert record.payload["text"] == "C."
    with pytest.raises(InputError, match="'text'"):
        index.add(["E."], [{"text": "something else"}])


def test_points_without_a_text_are_found_with_an_empty_one(client: Any) -> None:
    fill(client, {1: {"year": 3}, 2: {"text": "A."}, 3: {"text": 7}, 4: {}})
    index = opened(client)
    assert {hit.id: hit.text for hit in index.search("moon")} == {"1": "", "2": "A.", "3": "", "4": ""}
    assert index.count() == len(list(index.scroll())) == 4


def test_a_layout_with_other_keys_finds_native_ids_too(client: Any) -> None:
    fill(client, {7: {"words": "A.", "about": {"year": 1}}})
    index = opened(client, layout=Layout("words", "about"))
    assert [(hit.text, hit.metadata) for hit in index.get(["7"])] == [("A.", {"year": 1})]


def test_the_names_of_langchain_qdrant_are_understood(client: Any) -> None:
    fill(client, {7: {"words": "A.", "about": {"year": 1}}})
    retriever = SpladeRetriever.from_existing_collection(
        "docs",
        client=client,
        model=WordEncoder(),
        sparse_vector_name="s",
        content_payload_key="words",
        metadata_payload_key="about",
        filter={"year": 1},
    )
    (document,) = retriever.invoke("moon")
    assert (document.id, document.page_content, document.metadata) == ("7", "A.", {"year": 1})


def test_a_vector_store_of_langchain_opens_it_by_the_names_of_langchain_qdrant(client: Any) -> None:
    fill(client, {7: {"words": "A.", "about": {"year": 1}}})
    store = SpladeVectorStore.from_existing_collection(
        "docs",
        client=client,
        sparse_embedding=SpladeSparseEmbeddings(WordEncoder()),
        sparse_vector_name="s",
        content_payload_key="words",
        metadata_payload_key="about",
        adopt=True,
    )
    store.add_texts(["The moon."], [{"year": 2}], ids=["8"])

    found = store.similarity_search("moon", filter={"year": {"$lt": 3}})
    assert {(document.id, document.page_content) for document in found} == {("7", "A."), ("8", "The moon.")}
    (point,) = client.retrieve("docs", [8], with_payload=["words", "about"])
    assert point.payload == {"words": "The moon.", "about": {"year": 2}}


def test_a_vector_store_of_llama_index_opens_it_with_another_text_key(client: Any) -> None:
    fill(client, {7: {"words": "A.", "year": 1}})
    store = LlamaIndexStore.from_existing_collection(
        "docs", client=client, model=WordEncoder(), sparse_vector_name="s", text_key="words"
    )

    (node,) = store.get_nodes(node_ids=["7"])
    assert (node.get_content(), node.metadata) == ("A.", {"year": 1})


def test_payload_keys_with_blanks_are_read_and_filtered(client: Any) -> None:
    fill(client, {7: {"the words": "A moon.", "about it": {"year": 1}}})
    index = opened(client, layout=Layout("the words", "about it"))

    (hit,) = index.search("moon", filter={"year": 1, "$text": "moon"})
    assert (hit.text, hit.metadata) == ("A moon.", {"year": 1})


LOCAL = {
    "location": None,
    "url": None,
    "path": None,
    "host": None,
    "port": 6333,
    "https": None,
    "prefix": None,
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"url": "http://a:1234"}, "http://a:1234"),
        ({"url": "https://a"}, "https://a:6333"),
        ({"url": "https://a", "port": None}, "https://a"),
        ({"location": "http://[::1]"}, "http://[::1]:6333"),
        ({"location": ":memory:"}, ":memory:"),
        ({"path": "./folder"}, "./folder"),
        ({"host": "a"}, "http://a:6333"),
        ({"host": "a", "has_key": True, "port": 443, "prefix": "/v"}, "https://a:443/v"),
        ({"host": "a", "https": False, "has_key": True}, "http://a:6333"),
    ],
)
def test_the_place_is_named_as_in_qdrant_client(arguments: dict[str, Any], expected: str) -> None:
    assert location_of(**{**LOCAL, "has_key": False, **arguments}) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "No model is passed. Pass model="),
        ({"sparse_embedding": object()}, "sparse_embedding is an object"),
        ({"model": "x", "path": "y"}, "expected exactly one"),
        ({"model": WordEncoder(), "retrieval_mode": RetrievalMode.DENSE}, "expected 'sparse' or 'hybrid'"),
        ({"model": WordEncoder(), "retrieval_mode": RetrievalMode.HYBRID}, "embedding is None"),
    ],
)
def test_arguments_of_langchain_qdrant_that_do_not_fit_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SpladeVectorStore.from_existing_collection("docs", location=":memory:", **arguments)


def test_the_arguments_are_those_of_langchain_qdrant_in_their_order() -> None:
    theirs = inspect.signature(QdrantVectorStore.from_existing_collection).parameters
    ours = inspect.signature(SpladeVectorStore.from_existing_collection).parameters

    assert list(ours)[: len(theirs) - 1] == list(theirs)[:-1]  # theirs ends with **kwargs


def test_a_foreign_collection_that_is_not_adopted_is_not_written(client: Any) -> None:
    fill(client, {1: {"text": "A."}})
    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        opened(client).add(["B."], ids=["1"])
    with pytest.raises(CollectionMismatchError, match="Nothing was written"):
        opened(client).update_metadata("1", {"year": 2})
    assert [record.payload for record in client.retrieve("docs", [1])] == [{"text": "A."}]
    assert opened(client).delete(["1"]) == 1


def test_metadata_is_checked_when_it_is_updated_as_when_it_is_added(client: Any) -> None:
    fill(client, {1: {"text": "A.", "year": 2020}})
    index = opened(client, adopt=True)
    refused: list[tuple[Any, Any, str]] = [
        ("1", {"b": 2, "text": "mine"}, "'text', where the collection stores something else"),
        ("1", None, "None, expected a dict"),
        (5, {}, "id 0 is 5, an int, expected a string"),
        ("\ud800", {}, "half a surrogate pair"),
    ]
    for id, metadata, message in refused:
        with pytest.raises(InputError, match=message):
            index.update_metadata(id, metadata)
    assert index.get(["1"])[0].metadata == {"year": 2020}


def test_an_index_that_is_opened_again_has_the_layout_that_was_passed(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        fill(client, {7: {"txt": "A.", "year": 1}})
    arguments = {"collection": "docs", "model": WordEncoder(), "vector_name": "s"}
    with SpladeIndex(tmp_path, layout=Layout("txt", None), **arguments) as index:  # type: ignore[arg-type]
        arguments_of_pickle = index.reopen_arguments
        serialized: Any = SpladeRetriever(index=index).to_json()
        stated = serialized["kwargs"]["settings"]
    with SpladeIndex(**arguments_of_pickle) as index:
        (hit,) = index.search("moon")
    with SpladeIndex(tmp_path, **{**stated, **arguments}) as index:
        (same,) = index.search("moon")

    assert (hit.text, hit.metadata) == (same.text, same.metadata) == ("A.", {"year": 1})
    assert json.loads(json.dumps(stated)) == stated


def test_migrate_reads_a_folder_of_local_mode(tmp_path: Path) -> None:
    local = QdrantClient(path=str(tmp_path / "local"))
    fill(local, {1: {"text": "A.", "year": 2020}, UUID: {"text": "B."}})
    local.close()
    report = migrate(tmp_path / "local", tmp_path / "index", collection="docs")
    assert (report.copied, report.state) == (2, "new")
    with SpladeIndex(
        tmp_path / "index", collection="docs", model=WordEncoder(), vector_name="s", create=False
    ) as index:
        assert {hit.text for hit in index.search("moon")} == {"A.", "B."}
