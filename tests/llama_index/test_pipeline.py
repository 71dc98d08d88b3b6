"""SPLADE as a step of an IngestionPipeline: caches, docstores, and nodes that are not dropped."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQuery
from qdrant_client import QdrantClient

from splade_retriever.errors import CollectionMismatchError
from splade_retriever.llama_index import SpladeSparseEmbedding, SpladeVectorStore
from splade_retriever.sparse import SparseEmbedding
from tests.words import WordEncoder

DOCUMENTS = [
    Document(id_="lander", text="The lander stood on the Moon.", metadata={"year": 2023}),
    Document(id_="rover", text="The rover drove down the ramp.", metadata={"year": 2023}),
]


@pytest.fixture
def model() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def store(model: WordEncoder) -> Iterator[SpladeVectorStore]:
    client = QdrantClient(":memory:")
    yield SpladeVectorStore(client=client, model=model)
    client.close()


def pipeline(model: WordEncoder, store: SpladeVectorStore | None, **rest: Any) -> IngestionPipeline:
    steps = [SentenceSplitter(), SpladeSparseEmbedding(model=model)]
    return IngestionPipeline(transformations=steps, vector_store=store, **rest)


def texts_of(store: SpladeVectorStore, query: str) -> list[str]:
    found = store.query(VectorStoreQuery(query_str=query, similarity_top_k=10)).nodes or []
    return [node.get_content() for node in found]


def test_sparse_only_nodes_are_not_dropped_and_encoded_once(
    model: WordEncoder, store: SpladeVectorStore
) -> None:
    nodes = pipeline(model, store).run(documents=DOCUMENTS)

    assert model.encoded == len(nodes) == 2
    assert texts_of(store, "rover") == ["The rover drove down the ramp."]


def test_the_async_pipeline_stores_the_same(model: WordEncoder, store: SpladeVectorStore) -> None:
    asyncio.run(pipeline(model, store).arun(documents=DOCUMENTS))

    assert model.encoded == 2
    assert texts_of(store, "rover") == ["The rover drove down the ramp."]


def test_the_step_makes_the_same_vectors_as_the_store(model: WordEncoder, store: SpladeVectorStore) -> None:
    (node,) = pipeline(model, store).run(documents=DOCUMENTS[:1])
    (through_the_step,) = store.index.get([node.node_id], with_vectors=True)

    plain = SentenceSplitter().get_nodes_from_documents(DOCUMENTS[:1])[0]
    store.clear()
    store.add([plain])
    (by_the_store,) = store.index.get([plain.node_id], with_vectors=True)

    assert isinstance(through_the_step.vector, SparseEmbedding)
    assert through_the_step.vector == by_the_store.vector
    assert through_the_step.metadata == by_the_store.metadata == {"year": 2023}


def test_the_attached_vector_is_not_stored_in_the_metadata(
    model: WordEncoder, store: SpladeVectorStore
) -> None:
    node = TextNode(id_="a", text="moon", metadata={"n": 1}, excluded_llm_metadata_keys=["n"])

    (carrying,) = SpladeSparseEmbedding(model=model)([node])

    assert carrying.embedding == []
    assert carrying.get_content() == node.get_content()
    assert carrying.get_metadata_str() != node.get_metadata_str()
    assert node == TextNode(id_="a", text="moon", metadata={"n": 1}, excluded_llm_metadata_keys=["n"])
    store.add([carrying])
    assert store.get_nodes(["a"]) == [node]


def test_encoding_twice_returns_the_same_node(model: WordEncoder) -> None:
    step = SpladeSparseEmbedding(model=model)
    once = step([TextNode(id_="a", text="moon")])

    assert step(once) == once
    assert asyncio.run(step.acall(once)) == once


def test_a_cached_text_is_not_encoded_again_for_another_store(
    model: WordEncoder, store: SpladeVectorStore
) -> None:
    cache = IngestionCache()
    pipeline(model, None, cache=cache).run(documents=DOCUMENTS)
    encoded = model.encoded

    pipeline(model, store, cache=cache).run(documents=DOCUMENTS)

    assert model.encoded == encoded == 2
    assert texts_of(store, "rover") == ["The rover drove down the ramp."]


def test_a_cache_of_another_model_is_not_used(model: WordEncoder, store: SpladeVectorStore) -> None:
    cache = IngestionCache()
    pipeline(WordEncoder("another"), None, cache=cache).run(documents=DOCUMENTS)

    pipeline(model, store, cache=cache).run(documents=DOCUMENTS)

    assert model.encoded == 2


def test_a_cache_on_disk_serves_the_next_process(
    model: WordEncoder, store: SpladeVectorStore, tmp_path: Path
) -> None:
    first = pipeline(model, None)
    first.run(documents=DOCUMENTS)
    first.persist(str(tmp_path))
    second = pipeline(model, store)
    second.load(str(tmp_path))

    second.run(documents=DOCUMENTS)

    assert model.encoded == 2
    assert texts_of(store, "rover") == ["The rover drove down the ramp."]


def test_upserts_replace_changed_documents_and_keep_the_others(
    model: WordEncoder, store: SpladeVectorStore
) -> None:
    ingest = pipeline(model, store, docstore=SimpleDocumentStore(), disable_cache=True)
    ingest.run(documents=DOCUMENTS)

    ingest.run(documents=[DOCUMENTS[0], Document(id_="rover", text="The rover fell asleep.")])

    assert model.encoded == 3
    assert texts_of(store, "rover") == ["The rover fell asleep."]
    assert texts_of(store, "lander") == ["The lander stood on the Moon."]


def test_upserts_of_whole_documents_replace_them_too(model: WordEncoder, store: SpladeVectorStore) -> None:
    ingest = IngestionPipeline(
        transformations=[SpladeSparseEmbedding(model=model)],
        vector_store=store,
        docstore=SimpleDocumentStore(),
    )
    ingest.run(documents=DOCUMENTS)

    ingest.run(documents=[Document(id_="rover", text="It fell asleep.")])

    assert texts_of(store, "rover") == []
    assert texts_of(store, "asleep") == ["It fell asleep."]


def test_duplicates_are_stored_once(model: WordEncoder, store: SpladeVectorStore) -> None:
    ingest = pipeline(
        model,
        store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
        disable_cache=True,
    )

    for _ in range(2):
        ingest.run(documents=[*DOCUMENTS, DOCUMENTS[0].model_copy(update={"id_": "again"})])

    assert model.encoded == 2
    assert texts_of(store, "lander") == ["The lander stood on the Moon."]


def test_upserts_and_delete_removes_missing_documents(model: WordEncoder, store: SpladeVectorStore) -> None:
    ingest = pipeline(
        model,
        store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    ingest.run(documents=DOCUMENTS)

    ingest.run(documents=DOCUMENTS[:1])

    assert texts_of(store, "the") == ["The lander stood on the Moon."]


def test_a_vector_of_another_model_is_an_error(store: SpladeVectorStore) -> None:
    nodes = SpladeSparseEmbedding(model=WordEncoder("another"))([TextNode(text="moon")])

    with pytest.raises(CollectionMismatchError, match=r"'another'.*'words'"):
        store.add(nodes)
    assert store.get_nodes() == []
