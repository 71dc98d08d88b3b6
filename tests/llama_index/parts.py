"""Parts that the tests of the LlamaIndex adapter share: nodes, and a store with and without them."""

from collections.abc import Iterator, Sequence

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SpladeVectorStore
from tests.words import WordEncoder

NODES = [
    TextNode(
        id_="landing", text="Chandrayaan-3 landed near the south pole of the Moon.", metadata={"year": 2023}
    ),
    TextNode(id_="rover", text="The rover Pragyan left the lander Vikram.", metadata={"year": 2023}),
    TextNode(id_="rocket", text="A rocket lifted the lander to a lunar orbit.", metadata={"year": 2019}),
]
SINCE_2020 = MetadataFilters(filters=[MetadataFilter(key="year", operator=FilterOperator.GT, value=2020)])


@pytest.fixture(name="client")
def local_client() -> Iterator[QdrantClient]:
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


@pytest.fixture(name="model")
def word_model() -> WordEncoder:
    return WordEncoder()


@pytest.fixture(name="store")
def empty_store(client: QdrantClient, model: WordEncoder) -> SpladeVectorStore:
    return SpladeVectorStore(client=client, model=model)


@pytest.fixture(name="filled")
def filled_store(store: SpladeVectorStore) -> SpladeVectorStore:
    store.add(NODES)
    return store


def ids_of(found: Sequence[NodeWithScore]) -> list[str]:
    return [scored.node_id for scored in found]
