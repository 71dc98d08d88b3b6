"""The retriever for LlamaIndex: what it finds, explains, and can be made from."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from qdrant_client import QdrantClient

from splade_retriever import SpladeIndex
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
    NotSupportedError,
)
from splade_retriever.llama_index import SparseOnly, SpladeRetriever, SpladeVectorStore
from tests.llama_index.parts import (
    NODES,
    SINCE_2020,
    ids_of,
)
from tests.words import LetterEncoder, WordEncoder


def test_a_retriever_returns_the_best_nodes_with_their_scores(filled: SpladeVectorStore) -> None:
    found = SpladeRetriever(filled, similarity_top_k=2).retrieve("rover lander")

    assert [(scored.node_id, scored.score) for scored in found] == [("rover", 2.0), ("rocket", 1.0)]
    assert found[0].node == NODES[1]


def test_a_retriever_of_an_index_finds_the_nodes_of_its_store(filled: SpladeVectorStore) -> None:
    assert ids_of(SpladeRetriever(index=filled.index, similarity_top_k=4).retrieve("moon")) == ["landing"]


def test_a_retriever_applies_filters_and_ids(filled: SpladeVectorStore) -> None:
    assert ids_of(SpladeRetriever(filled, filters=SINCE_2020).retrieve("lander")) == ["rover"]
    assert ids_of(SpladeRetriever(filled, node_ids=["rocket"]).retrieve("lander")) == ["rocket"]
    assert ids_of(SpladeRetriever(filled, doc_ids=["rover"]).retrieve("lander")) == ["rover"]


@pytest.mark.parametrize("way", ["retrieve", "aretrieve"])
@pytest.mark.parametrize("nowhere", ["doc_ids", "node_ids"])
def test_an_empty_list_of_ids_finds_nothing(filled: SpladeVectorStore, nowhere: str, way: str) -> None:
    retriever = SpladeRetriever(filled, **{nowhere: []})  # type: ignore[arg-type]

    found = retriever.retrieve("moon") if way == "retrieve" else asyncio.run(retriever.aretrieve("moon"))

    assert found == []


def test_top_k_can_be_changed(filled: SpladeVectorStore) -> None:
    retriever = SpladeRetriever(filled)
    retriever.similarity_top_k = 1

    assert (retriever.similarity_top_k, len(retriever.retrieve("lander"))) == (1, 1)


def test_concurrent_async_retrievals_return_their_own_results(filled: SpladeVectorStore) -> None:
    retriever = SpladeRetriever(filled, similarity_top_k=1)
    queries = ["moon", "rover", "rocket"] * 10

    async def main() -> list[list[NodeWithScore]]:
        return await asyncio.gather(*(retriever.aretrieve(query) for query in queries))

    assert [ids_of(found) for found in asyncio.run(main())] == [["landing"], ["rover"], ["rocket"]] * 10


@pytest.mark.parametrize("way", ["retrieve", "aretrieve"])
def test_an_explanation_is_in_the_metadata_where_no_model_reads_it(
    filled: SpladeVectorStore, way: str
) -> None:
    retriever = SpladeRetriever(filled, similarity_top_k=1, explain=True)

    found = (
        retriever.retrieve("rover moon")
        if way == "retrieve"
        else asyncio.run(retriever.aretrieve("rover moon"))
    )

    (scored,) = found
    report = scored.node.metadata["_splade"]
    contributions = report["explanation"]["contributions"]
    assert sum(part["score"] for part in contributions) == pytest.approx(scored.score)
    assert "_splade" not in scored.node.get_content(metadata_mode=MetadataMode.LLM)
    assert "_splade" not in scored.node.get_content(metadata_mode=MetadataMode.EMBED)


def test_explaining_several_nodes_encodes_the_query_once(store: SpladeVectorStore) -> None:
    queries: list[Any] = []

    class Counting(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            queries.append(query)
            return super().query_embed(query)

    counted = SpladeVectorStore(client=store.client, collection="counted", model=Counting())
    counted.add(NODES)

    found = SpladeRetriever(counted, explain=True).retrieve("the")

    assert len(found) == 3
    assert len(queries) == 2  # one to search, one to explain


def test_there_is_no_explanation_by_default(filled: SpladeVectorStore) -> None:
    (scored,) = SpladeRetriever(filled, similarity_top_k=1).retrieve("moon")

    assert scored.node.metadata == {"year": 2023}


def test_a_retriever_is_made_from_nodes_and_from_documents(model: WordEncoder) -> None:
    from_nodes = SpladeRetriever.from_nodes(NODES, model=model, similarity_top_k=1)
    assert ids_of(from_nodes.retrieve("rover")) == ["rover"]

    long = " ".join(f"Sentence number {n} says nothing." for n in range(300)) + " The comet came."
    from_documents = SpladeRetriever.from_documents([Document(text=long, id_="long")], model=model)
    (found,) = from_documents.retrieve("comet")
    assert found.text.endswith("The comet came.")
    assert len(found.text) < len(long) / 4
    assert found.node.ref_doc_id == "long"
    from_nodes.vector_store.close()
    from_documents.vector_store.close()


def test_async_constructors_make_the_same_retriever_as_sync_ones(tmp_path: Path) -> None:
    document = Document(text=" ".join(f"Sentence number {n} says nothing." for n in range(300)), id_="long")

    async def main() -> list[SpladeRetriever]:
        return [
            await SpladeRetriever.afrom_nodes(
                NODES, location=tmp_path / "nodes", model=WordEncoder(), similarity_top_k=1
            ),
            await SpladeRetriever.afrom_documents([document], model=WordEncoder(), explain=True),
        ]

    from_nodes, from_documents = asyncio.run(main())

    assert ids_of(from_nodes.retrieve("rover")) == ["rover"]
    chunks = from_documents.retrieve("nothing")
    assert {(found.node.ref_doc_id, "_splade" in found.metadata) for found in chunks} == {("long", True)}
    with SpladeRetriever.from_documents([document], model=WordEncoder()) as expected:
        assert from_documents.vector_store.index.count() == expected.vector_store.index.count() > 1
    for retriever in (from_nodes, from_documents):
        retriever.close()
        with pytest.raises(IndexClosedError):
            retriever.retrieve("rover")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[SpladeIndex]:
    """The indexes that a test closes, in order."""
    noted: list[SpladeIndex] = []
    close = SpladeIndex.close

    def note(index: SpladeIndex) -> None:
        noted.append(index)
        close(index)

    monkeypatch.setattr(SpladeIndex, "close", note)
    return noted


def test_async_constructors_refuse_what_sync_ones_refuse_and_close_the_store(
    model: WordEncoder, closed: list[SpladeIndex]
) -> None:
    with pytest.raises(TypeError, match="modle"):
        asyncio.run(SpladeRetriever.afrom_nodes(NODES, modle=model))
    with pytest.raises(InputError, match="Document 0 is a str"):
        asyncio.run(SpladeRetriever.afrom_documents(["a"], model=model))  # type: ignore[list-item]
    assert not closed
    with pytest.raises(InputError, match="metadata"):
        asyncio.run(SpladeRetriever.afrom_nodes([TextNode(text="a", metadata={"at": (1, 2)})], model=model))

    assert len(closed) == 1


def test_a_retriever_opens_the_index_at_a_location_and_closes_it(tmp_path: Path, model: WordEncoder) -> None:
    with SpladeRetriever.from_nodes(NODES, location=tmp_path / "index", collection="moon", model=model):
        pass

    with SpladeRetriever(location=tmp_path / "index", collection="moon", model=model) as retriever:
        assert ids_of(retriever.retrieve("rover")) == ["rover"]
    with pytest.raises(IndexClosedError):
        retriever.retrieve("rover")
    with pytest.raises(CollectionNotFoundError):
        SpladeRetriever(location=tmp_path / "missing", model=model)
    assert not (tmp_path / "missing").exists()


def test_async_closing_closes_the_index_that_the_store_opened(tmp_path: Path, model: WordEncoder) -> None:
    async def main() -> SpladeRetriever:
        async with SpladeRetriever.from_nodes(NODES, location=tmp_path / "index", model=model) as retriever:
            assert ids_of(await retriever.aretrieve("rover")) == ["rover"]
        return retriever

    closed = asyncio.run(main())
    with pytest.raises(IndexClosedError):
        closed.retrieve("rover")


def test_a_retriever_of_an_open_index_or_store_does_not_close_it(model: WordEncoder) -> None:
    with SpladeIndex(model=model) as index:
        SpladeRetriever(index=index).close()

        assert index.count() == 0
    with SpladeVectorStore(model=model) as store:
        with SpladeRetriever(store):
            pass
        asyncio.run(SpladeRetriever(store).aclose())

        assert store.get_nodes() == []


def test_a_copy_of_a_retriever_does_not_close_the_index(model: WordEncoder) -> None:
    original = SpladeRetriever.from_nodes(NODES, model=model)
    for duplicate in (copy.copy(original), copy.deepcopy(original)):
        duplicate.close()
        assert ids_of(original.retrieve("rover")) == ["rover"]
    copy.copy(original.vector_store).close()
    assert ids_of(original.retrieve("rover")) == ["rover"]
    original.close()
    with pytest.raises(IndexClosedError):
        original.retrieve("rover")


class WaitingEmbedding(MockEmbedding):
    """Answers queries only when 40 of them wait at the same time."""

    _waiting: int = 0
    _all_wait: asyncio.Event | None = None

    async def _aget_query_embedding(self, query: str) -> list[float]:
        self._all_wait = self._all_wait or asyncio.Event()
        self._waiting += 1
        if self._waiting == 40:
            self._all_wait.set()
        await asyncio.wait_for(self._all_wait.wait(), 20)
        return self._get_vector()


def test_concurrent_hybrid_retrievals_await_the_dense_embedding_together(client: QdrantClient) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), dense=WaitingEmbedding(embed_dim=8))
    store.add(NODES)
    retriever = SpladeRetriever(store, mode="hybrid", alpha=0.0, similarity_top_k=1)

    async def main() -> list[list[NodeWithScore]]:
        return await asyncio.gather(*(retriever.aretrieve("rover") for _ in range(40)))

    assert [ids_of(found) for found in asyncio.run(main())] == [["rover"]] * 40


def test_from_nodes_makes_a_hybrid_retriever() -> None:
    retriever = SpladeRetriever.from_nodes(
        NODES, model=WordEncoder(), dense=LetterEncoder(), mode="hybrid", alpha=0.0
    )

    assert ids_of(retriever.retrieve("rover")) == ["rover"]
    assert retriever.retrieve("rover")[0].score == pytest.approx(1.0)
    retriever.vector_store.close()


def test_a_failed_constructor_closes_the_store(model: WordEncoder, closed: list[SpladeIndex]) -> None:
    with pytest.raises(InputError, match="metadata"):
        SpladeRetriever.from_nodes([TextNode(text="a", metadata={"at": (1, 2)})], model=model)

    assert len(closed) == 1


def test_an_item_that_is_not_a_document_is_an_error_with_its_position(model: WordEncoder) -> None:
    with pytest.raises(InputError, match="documents is one str"):
        SpladeRetriever.from_documents("a text", model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="documents is one Document"):
        SpladeRetriever.from_documents(Document(text="a"), model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="documents is an int"):
        SpladeRetriever.from_documents(5, model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nodes is an int"):
        SpladeRetriever.from_nodes(5, model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Document 1 is a str"):
        SpladeRetriever.from_documents([Document(text="a"), "b"], model=model)  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of langchain_community, which LlamaIndex tries
def test_a_retriever_needs_exactly_one_source(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="takes one of vector_store="):
        SpladeRetriever()
    with pytest.raises(InputError, match="takes one of vector_store="):
        SpladeRetriever(filled, index=filled.index)
    with pytest.raises(InputError, match="collection, which applies to a location= only"):
        SpladeRetriever(filled, collection="x")
    made = VectorStoreIndex.from_vector_store(filled, embed_model=SparseOnly())
    with pytest.raises(InputError, match=r"index\.vector_store"):
        SpladeRetriever(index=made)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text_search"):
        SpladeRetriever(filled, mode="sparce")
    with pytest.raises(InputError, match=r"type SpladeIndex.*index="):
        SpladeRetriever(filled.index)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"alpha=0\.3 in mode 'default'"):
        SpladeRetriever(filled, alpha=0.3)


def test_a_mode_that_the_store_does_not_have_is_an_error_of_the_query(filled: SpladeVectorStore) -> None:
    with pytest.raises(NotSupportedError, match="'mmr'"):
        SpladeRetriever(filled, mode="mmr").retrieve("moon")
    with pytest.raises(InputError, match="dense"):
        SpladeRetriever(filled, mode="hybrid").retrieve("moon")


@pytest.mark.parametrize("dense", [MockEmbedding(embed_dim=3), LetterEncoder()])
def test_hybrid_takes_dense_embeddings_of_llama_index_and_others(client: QdrantClient, dense: Any) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), dense=dense)
    store.add(NODES)

    found = SpladeRetriever(store, mode="hybrid", similarity_top_k=3, explain=True).retrieve("moon")

    assert ids_of(found)[0] == "landing"
    assert len(found) == 3
    branches = found[0].node.metadata["_splade"]["branches"]
    assert set(branches) == {"sparse", "dense"}
    assert branches["sparse"]["rank"] == 1


def test_a_node_that_is_first_in_both_rankings_scores_1(client: QdrantClient) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), dense=LetterEncoder())
    store.add(NODES)

    for alpha in (0.0, 0.25, 0.5, 1.0):
        retriever = SpladeRetriever(store, mode="hybrid", alpha=alpha)
        assert retriever.retrieve(NODES[1].text)[0].score == pytest.approx(1.0)


def test_the_texts_of_a_query_transform_are_encoded(filled: SpladeVectorStore) -> None:
    class Hypothetical(BaseQueryTransform):
        def _get_prompts(self) -> dict[str, Any]:
            return {}

        def _update_prompts(self, prompts: Any) -> None:
            pass

        def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> QueryBundle:
            return QueryBundle(
                "what drove?", custom_embedding_strs=["Pragyan the rover", query_bundle.query_str]
            )

    engine = RetrieverQueryEngine.from_args(SpladeRetriever(filled, similarity_top_k=1), llm=MockLLM())

    response = TransformQueryEngine(engine, Hypothetical()).query("what drove?")

    assert ids_of(response.source_nodes) == ["rover"]


def test_documents_that_are_added_to_stored_ones_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = Document(text="The lander reached the Moon.")
    for _ in range(2):
        SpladeRetriever.from_documents([document], location=tmp_path, model=WordEncoder()).close()

    (record,) = caplog.records
    assert record.getMessage().startswith("1 nodes were added to the 1 of the collection, and none was")
    node = TextNode(id_="moon", text="The lander reached the Moon.")
    caplog.clear()
    for _ in range(2):
        SpladeRetriever.from_nodes([node], location=tmp_path / "nodes", model=WordEncoder()).close()
    assert not caplog.records
