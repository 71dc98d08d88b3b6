"""Haystack: its own test suite on the store, pipelines from YAML, embedders for its Qdrant store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack", reason="needs the extra `haystack`")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.telemetry import _telemetry as haystack_telemetry
from haystack.testing.document_store import CountDocumentsByFilterTest, DocumentStoreBaseExtendedTests

from splade_retriever import SparseTextEmbedding
from splade_retriever.haystack import (
    SpladeDocumentEmbedder,
    SpladeDocumentStore,
    SpladeRetriever,
    SpladeTextEmbedder,
)

MODULES = ["splade_retriever.haystack.*"]
MOON = Document(id="moon", content="The lander reached the Moon.", meta={"year": 2023, "tags": ["a", "b"]})
TIDES = Document(id="tides", content="Tides follow the Moon.", meta={"year": 1687})


def test_the_tests_send_no_usage_statistics_of_haystack() -> None:
    assert haystack_telemetry.telemetry is None


def by_id(document: Document) -> str:
    return document.id


class TestHaystacksOwnSuite(DocumentStoreBaseExtendedTests, CountDocumentsByFilterTest):
    @pytest.fixture
    def document_store(self) -> Iterator[Any]:
        store = SpladeDocumentStore()
        yield store
        store.close()

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """A Qdrant collection returns documents in the order of its points' ids."""
        assert sorted(received, key=by_id) == sorted(expected, key=by_id)

    def test_write_documents(self, document_store: Any) -> None:
        assert document_store.write_documents([MOON, TIDES]) == 2
        with pytest.raises(Exception, match="id 'moon'"):
            document_store.write_documents([MOON], DuplicatePolicy.FAIL)


def component_of(pipeline: Pipeline, name: str) -> Any:
    return pipeline.get_component(name)


@pytest.fixture
def store() -> Iterator[SpladeDocumentStore]:
    store = SpladeDocumentStore()
    store.write_documents([MOON, TIDES])
    yield store
    store.close()


def test_documents_come_back_equal(store: SpladeDocumentStore) -> None:
    documents = [
        Document(id="picture", blob=ByteStream(b"\x00\xff", mime_type="image/png"), meta={"n": 1.5}),
        Document(id="dense", content="text", embedding=[0.1, 0.2]),
        SpladeDocumentEmbedder().run([Document(id="sparse", content="text")])["documents"][0],
    ]
    store.write_documents(documents)

    found = {document.id: document for document in store.filter_documents()}

    assert [found[document.id] for document in [*documents, MOON]] == [*documents, MOON]


def test_the_retriever_finds_filters_and_explains(store: SpladeDocumentStore) -> None:
    late: dict[str, Any] = {"field": "meta.year", "operator": ">", "value": 2000}
    retriever = SpladeRetriever(store, top_k=1, explain=True)

    (found,) = retriever.run("moon lander")["documents"]
    (early,) = retriever.run("moon", filters={"operator": "NOT", "conditions": [late]})["documents"]

    assert found.id == "moon"
    assert found.meta["_splade"]["explanation"]["contributions"]
    assert found.score == pytest.approx(found.meta["_splade"]["score"])
    assert early.id == "tides"
    assert asyncio.run(retriever.run_async("moon lander"))["documents"] == [found]
    controlled = SpladeRetriever(store, origins=True, controls={"exclude": ["lander"]})
    again = SpladeRetriever.from_dict(controlled.to_dict())
    (other,) = controlled.run("moon")["documents"]
    assert (other.id, again.controls, again.origins) == ("tides", controlled.controls, True)
    assert other.meta["_splade"]["explanation"]["controls"] == ["exclude lander"]
    assert asyncio.run(controlled.run_async("moon"))["documents"] == [other]
    merged = SpladeRetriever(store, filters=late, filter_policy=FilterPolicy.MERGE)
    tagged: dict[str, Any] = {"field": "meta.tags", "operator": "==", "value": "c"}
    assert merged.run("moon", filters=tagged)["documents"] == []


def test_a_pipeline_comes_back_from_yaml(tmp_path: Path) -> None:
    store = SpladeDocumentStore(str(tmp_path / "index"), settings={"indexed_fields": {"year": "integer"}})
    store.write_documents([MOON, TIDES])
    pipeline = Pipeline()
    pipeline.add_component("retriever", SpladeRetriever(store, top_k=1))
    text = pipeline.dumps()
    store.close()

    again = Pipeline.loads(text, allowed_modules=MODULES)

    found = again.run({"retriever": {"query": "moon lander"}})["retriever"]["documents"]
    assert [document.id for document in found] == ["moon"]
    component_of(again, "retriever").document_store.close()


@pytest.mark.parametrize(
    "filters",
    [
        {"operator": "AND", "conditions": []},
        {"operator": "XOR", "conditions": [{"field": "meta.a", "operator": "==", "value": 1}]},
        {"field": "meta.a", "operator": "~", "value": 1},
        {"field": "content", "operator": "==", "value": "x"},
        {"field": "meta.a", "operator": ">", "value": True},
    ],
)
def test_wrong_filters_are_refused(filters: dict[str, Any], store: SpladeDocumentStore) -> None:
    with pytest.raises(FilterError):
        store.filter_documents(filters)
    with pytest.raises(FilterError):
        SpladeRetriever(store, filters=filters)


def test_the_embedders_make_the_vectors_of_the_encoder() -> None:
    model = SparseTextEmbedding()
    embedder = SpladeDocumentEmbedder(meta_fields_to_embed=["year"], embedding_separator=" ")

    (document,) = embedder.run([MOON])["documents"]
    query = SpladeTextEmbedder().run("moon lander")["sparse_embedding"]

    (expected,) = model.passage_embed(["2023 The lander reached the Moon."])
    assert document.sparse_embedding is not None
    assert document.sparse_embedding.indices == expected.indices.tolist()
    assert document.sparse_embedding.values == expected.values.tolist()
    assert query.indices == next(model.query_embed("moon lander")).indices.tolist()
    assert MOON.sparse_embedding is None
    with pytest.raises(TypeError, match="use SpladeDocumentEmbedder"):
        SpladeTextEmbedder().run([MOON])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="use SpladeTextEmbedder"):
        SpladeDocumentEmbedder().run("moon")  # type: ignore[arg-type]


def test_embedders_come_back_from_yaml() -> None:
    pipeline = Pipeline()
    pipeline.add_component("text", SpladeTextEmbedder(settings={"threads": 1}))
    pipeline.add_component("documents", SpladeDocumentEmbedder(meta_fields_to_embed=["year"]))

    again = Pipeline.loads(pipeline.dumps(), allowed_modules=MODULES)

    assert component_of(again, "text").settings == {"threads": 1}
    assert component_of(again, "documents").meta_fields_to_embed == ["year"]


def test_haystacks_qdrant_store_takes_the_embeddings() -> None:
    integration = pytest.importorskip(
        "haystack_integrations.document_stores.qdrant", reason="needs qdrant-haystack"
    )
    from haystack_integrations.components.retrievers.qdrant import QdrantSparseEmbeddingRetriever

    theirs = integration.QdrantDocumentStore(":memory:", use_sparse_embeddings=True)
    theirs.write_documents(SpladeDocumentEmbedder().run([MOON, TIDES])["documents"])
    query = SpladeTextEmbedder().run("moon lander")["sparse_embedding"]

    found = QdrantSparseEmbeddingRetriever(theirs, top_k=1).run(query_sparse_embedding=query)["documents"]

    assert [document.id for document in found] == ["moon"]
