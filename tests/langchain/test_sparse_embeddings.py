"""SpladeSparseEmbeddings: the vectors of the encoder, in langchain-qdrant's store."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
from qdrant_client import models

from splade_retriever.errors import UnknownModelError
from splade_retriever.langchain import (
    SpladeReranker,
    SpladeSparseEmbeddings,
)
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import opened_store
from tests.langchain.parts import ENGINES, LetterEmbeddings
from tests.words import WordEncoder


class TwoSided(WordEncoder):
    """Encodes queries otherwise than documents, as inference-free models do."""

    def query_embed(self, query: Any) -> Iterator[SparseEmbedding]:
        return (
            SparseEmbedding(values=[1.0] * len(vector), indices=vector.indices)
            for vector in super().query_embed(query)
        )


@pytest.mark.asyncio
async def test_sparse_embeddings_are_the_vectors_of_the_encoder_with_queries_encoded_as_queries() -> None:
    encoder = TwoSided()
    embeddings = SpladeSparseEmbeddings(encoder)
    document, query = (*encoder.passage_embed(["moon moon"]), *encoder.query_embed("moon moon"))

    assert isinstance(embeddings, SparseEmbeddings)
    (of_document,), of_query = embeddings.embed_documents(["moon moon"]), embeddings.embed_query("moon moon")
    assert (of_document.indices, of_document.values) == (document.indices.tolist(), [2.0])
    assert (of_query.indices, of_query.values) == (query.indices.tolist(), [1.0])
    assert await embeddings.aembed_documents(["moon moon"]) == [of_document]
    assert await embeddings.aembed_query("moon moon") == of_query


@pytest.mark.asyncio
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", [RetrievalMode.SPARSE, RetrievalMode.HYBRID])
async def test_sparse_embeddings_work_in_langchain_qdrants_own_store(
    mode: RetrievalMode, engine: str, request: pytest.FixtureRequest
) -> None:
    with opened_store(engine, request) as client:
        await check_store_of_langchain_qdrant(client, mode)


async def check_store_of_langchain_qdrant(client: Any, mode: RetrievalMode) -> None:
    hybrid = mode is RetrievalMode.HYBRID
    client.create_collection(
        "docs",
        vectors_config=models.VectorParams(size=26, distance=models.Distance.COSINE) if hybrid else {},
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()},
    )
    store = QdrantVectorStore(
        client=client,
        collection_name="docs",
        embedding=LetterEmbeddings() if hybrid else None,
        sparse_embedding=SpladeSparseEmbeddings(WordEncoder()),
        retrieval_mode=mode,
    )

    store.add_texts(["a rover on the Moon", "bread and butter"])

    assert store.similarity_search("rover Moon", k=1)[0].page_content == "a rover on the Moon"
    await store.aadd_texts(["a rocket"])
    assert [found.page_content for found in await store.asimilarity_search("rocket", k=1)] == ["a rocket"]


def test_an_unknown_model_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownModelError, match="no-such-model"):
        SpladeSparseEmbeddings("no-such-model")


@pytest.mark.parametrize("opened", [SpladeReranker, SpladeSparseEmbeddings])
def test_a_model_of_the_wrong_type_is_an_error_at_construction(opened: Any) -> None:
    with pytest.raises(ValueError, match=r"model is a LetterEmbeddings, expected a model's name"):
        opened(model=LetterEmbeddings())
