"""Haystack: its own test suite on the store, pipelines from YAML, embedders for its Qdrant store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack", reason="needs the extra `haystack`")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.telemetry import _telemetry as haystack_telemetry
from haystack.testing.document_store import CountDocumentsByFilterTest, DocumentStoreBaseExtendedTests

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import InputError
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


@pytest.fixture
def of_tenants() -> Iterator[SpladeDocumentStore]:
    store = SpladeDocumentStore(settings={"tenant_field": "org"})
    store.write_documents([Document(id="1", content=f"Notes of {org}.", meta={"org": org}) for org in "ab"])
    yield store
    store.close()


def of_org(org: str) -> dict[str, Any]:
    return {"field": "meta.org", "operator": "==", "value": org}


def test_documents_of_two_tenants_may_have_the_same_id(of_tenants: SpladeDocumentStore) -> None:
    again = Document(id="1", content="Other notes.", meta={"org": "b"})

    assert of_tenants.count_documents() == 2
    with pytest.raises(DuplicateDocumentError, match="id '1'"):
        of_tenants.write_documents([again])
    other = Document(id="1", content="Notes of c.", meta={"org": "c"})
    assert of_tenants.write_documents([again, other], DuplicatePolicy.SKIP) == 1
    assert of_tenants.write_documents([again, other], DuplicatePolicy.OVERWRITE) == 2
    assert of_tenants.filter_documents(of_org("b")) == [again]


def test_delete_by_filter_deletes_documents_of_a_tenant(of_tenants: SpladeDocumentStore) -> None:
    with pytest.raises(InputError, match=r"separates tenants by 'org'.*delete_by_filter"):
        of_tenants.delete_documents(["1"])

    assert of_tenants.delete_by_filter(of_org("a")) == 1
    assert [document.meta["org"] for document in of_tenants.filter_documents()] == ["b"]
    assert of_tenants.delete_by_filter({}) == 1
    assert of_tenants.count_documents() == 0


def test_an_update_does_not_move_a_document_to_another_tenant(of_tenants: SpladeDocumentStore) -> None:
    with pytest.raises(InputError, match="move document '1' from tenant 'a' to 'b'"):
        of_tenants.update_by_filter(of_org("a"), {"org": "b", "year": 2023})
    with pytest.raises(InputError, match="meta is a str"):
        of_tenants.update_by_filter(of_org("a"), "year")  # type: ignore[arg-type]

    assert of_tenants.update_by_filter(of_org("a"), {"year": 2023}) == 1
    assert [document.meta.get("year") for document in of_tenants.filter_documents(of_org("a"))] == [2023]
    assert [document.meta for document in of_tenants.filter_documents(of_org("b"))] == [{"org": "b"}]


def test_delete_by_filter_reads_no_documents(
    store: SpladeDocumentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("documents were read")

    monkeypatch.setattr(SpladeIndex, "scroll", refused)
    monkeypatch.setattr(SpladeIndex, "get", refused)

    assert store.delete_by_filter({"field": "meta.year", "operator": ">", "value": 2000}) == 1
    assert store.count_documents() == 1


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


def test_a_long_document_has_the_vector_of_all_its_windows() -> None:
    long = "The lander reached the Moon. " * 200 + "Bread."

    (document,) = SpladeDocumentEmbedder().run([Document(content=long)])["documents"]

    model = SparseTextEmbedding()
    (expected,) = embed_complete_texts([long], model)
    assert document.sparse_embedding is not None
    assert document.sparse_embedding.indices == expected.indices.tolist()
    assert document.sparse_embedding.values == expected.values.tolist()
    assert "bread" in model.tokens_and_weights(expected)


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
