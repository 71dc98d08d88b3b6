"""The LlamaIndex adapter inside LlamaIndex: its engines, pipelines, events, and nothing of OpenAI."""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    get_response_synthesizer,
    load_index_from_storage,
)
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from splade_retriever import SpladeIndex
from splade_retriever.collection import Collection
from splade_retriever.edge import EdgeClient
from splade_retriever.errors import (
    FilterError,
    IndexClosedError,
    InputError,
    NotSupportedError,
    StorageError,
    UnknownModelError,
)
from splade_retriever.llama_index import (
    SparseOnly,
    SpladeRerank,
    SpladeRetriever,
    SpladeSparseEmbedding,
    SpladeVectorStore,
    sparse_encoders,
)
from tests.words import LetterEncoder, WordEncoder

NODES = [
    TextNode(
        id_="landing", text="Chandrayaan-3 landed near the south pole of the Moon.", metadata={"year": 2023}
    ),
    TextNode(id_="rover", text="The rover Pragyan left the lander Vikram.", metadata={"year": 2023}),
    TextNode(id_="rocket", text="A rocket lifted the lander to a lunar orbit.", metadata={"year": 2019}),
]
SINCE_2020 = MetadataFilters(filters=[MetadataFilter(key="year", operator=FilterOperator.GT, value=2020)])


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def model() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def store(client: QdrantClient, model: WordEncoder) -> SpladeVectorStore:
    return SpladeVectorStore(client=client, model=model)


@pytest.fixture
def filled(store: SpladeVectorStore) -> SpladeVectorStore:
    store.add(NODES)
    return store


def ids_of(found: Sequence[NodeWithScore]) -> list[str]:
    return [scored.node_id for scored in found]


# -- the sparse embedding ------------------------------------------------------------------------------------


def test_the_embedding_gives_what_the_model_gives(model: WordEncoder) -> None:
    embedding = SpladeSparseEmbedding(model=model)

    assert embedding.get_text_embedding("moon moon") == next(model.passage_embed(["moon moon"])).as_dict()
    assert embedding.get_query_embedding("moon") == next(model.query_embed("moon")).as_dict()


class Asymmetric(WordEncoder):
    def query_embed(self, query: Any) -> Any:
        return super().query_embed("from the query side")


def test_queries_go_through_the_query_side_of_the_model() -> None:
    embedding = SpladeSparseEmbedding(model=Asymmetric())
    expected = next(WordEncoder().query_embed("from the query side")).as_dict()

    assert embedding.get_query_embedding("moon") == expected
    assert asyncio.run(embedding.aget_query_embedding("moon")) == expected


def test_a_batch_is_one_call_of_the_model() -> None:
    class Counting(WordEncoder):
        calls = 0

        def passage_embed(self, texts: Any) -> Any:
            self.calls += 1
            return super().passage_embed(texts)

    model = Counting()
    embedding = SpladeSparseEmbedding(model=model, embed_batch_size=10)
    texts = [f"text {n}" for n in range(25)]

    batch = embedding.get_text_embedding_batch(texts)

    assert model.calls == 3
    assert batch == asyncio.run(embedding.aget_text_embedding_batch(texts))
    assert batch == [embedding.get_text_embedding(text) for text in texts]


def test_similarity_is_the_dot_product(model: WordEncoder) -> None:
    embedding = SpladeSparseEmbedding(model=model)

    assert embedding.similarity({1: 2.0, 2: 3.0}, {2: 0.5, 3: 9.0, 4: 1.0}) == 1.5
    assert embedding.similarity({}, {2: 0.5}) == 0.0


def test_the_embedding_is_a_component_that_is_written_and_read_back() -> None:
    embedding = SpladeSparseEmbedding(embed_batch_size=7)

    data = embedding.to_dict()

    assert data["class_name"] == "SpladeSparseEmbedding" == SpladeSparseEmbedding.class_name()
    again = SpladeSparseEmbedding.from_dict(data)
    assert again.to_dict() == data
    assert again.get_text_embedding("the moon") == embedding.get_text_embedding("the moon")
    assert SpladeSparseEmbedding.from_json(embedding.to_json()).to_dict() == data


def test_a_component_read_back_with_another_model_is_an_error(model: WordEncoder) -> None:
    data = SpladeSparseEmbedding(model=model).to_dict()

    assert SpladeSparseEmbedding.from_dict(data, model=model).model is model
    with pytest.raises(InputError, match="cannot be compared"):
        SpladeSparseEmbedding.from_dict(data, model=WordEncoder("other"))
    with pytest.raises(UnknownModelError, match="words"):
        SpladeSparseEmbedding.from_dict(data)


def test_the_embedding_goes_to_another_process() -> None:
    embedding = SpladeSparseEmbedding()

    again = pickle.loads(pickle.dumps(embedding))

    assert again.get_text_embedding("the moon") == embedding.get_text_embedding("the moon")


def test_a_model_is_given_by_name_or_as_an_encoder_and_nothing_else(model: WordEncoder) -> None:
    name = SpladeSparseEmbedding().model.fingerprint["model"]

    assert (
        SpladeSparseEmbedding(model=str(name)).model_name == SpladeRerank(model=str(name)).model_name == name
    )
    with pytest.raises(InputError, match="model is a int"):
        SpladeSparseEmbedding(model=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is a int"):
        SpladeRerank(model=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is a int"):
        sparse_encoders(3)  # type: ignore[arg-type]


def test_the_pair_of_functions_fits_the_existing_qdrant_store() -> None:
    documents, queries = sparse_encoders(Asymmetric())

    ids, weights = documents(["moon moon", "rover"])

    first = next(WordEncoder().passage_embed(["moon moon"]))
    assert (ids[0], weights[0]) == (first.indices.tolist(), first.values.tolist())
    assert len(ids) == len(weights) == 2
    side = next(WordEncoder().query_embed("from the query side"))
    assert queries(["moon"]) == ([side.indices.tolist()], [side.values.tolist()])


# -- the store -----------------------------------------------------------------------------------------------


def test_a_store_of_an_index_takes_no_other_settings(model: WordEncoder, client: QdrantClient) -> None:
    index = SpladeIndex(client=client, model=model)

    with pytest.raises(InputError, match="index="):
        SpladeVectorStore(index=index, model=model)
    assert SpladeVectorStore(index=index).index is index


def test_a_store_closes_only_the_index_it_opened(model: WordEncoder) -> None:
    index = SpladeIndex(model=model)
    SpladeVectorStore(index=index).close()
    assert index.count() == 0
    index.close()

    store = SpladeVectorStore(model=model)
    store.close()
    with pytest.raises(IndexClosedError):
        store.get_nodes()


def test_a_collection_of_windows_gives_nodes_with_the_window_as_text(client: QdrantClient) -> None:
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


def test_nodes_of_a_generator_are_all_kept(store: SpladeVectorStore) -> None:
    store.add(node for node in NODES)  # type: ignore[arg-type]

    assert store.get_nodes([node.node_id for node in NODES]) == NODES


def test_what_is_no_node_is_told_with_its_place(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="item 1 is a str"):
        store.add([NODES[0], "a text"])  # type: ignore[list-item]
    assert store.get_nodes() == []


def test_metadata_that_json_has_not_is_an_error_and_nothing_is_written(store: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"metadata\.at is a tuple"):
        store.add([NODES[0], TextNode(text="text", metadata={"at": (1, 2)})])
    assert store.get_nodes() == []


def test_nodes_are_read_in_the_order_asked_for(filled: SpladeVectorStore) -> None:
    assert filled.get_nodes(["rocket", "nothing", "landing"]) == [NODES[2], NODES[0]]


def test_a_query_without_text_is_an_error(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="query_str"):
        filled.query(VectorStoreQuery(query_embedding=[0.5]))


def test_a_misspelt_argument_of_a_query_is_an_error(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="filtre"):
        filled.query(VectorStoreQuery(query_str="moon"), filtre={})


def test_a_filter_of_the_engine_holds_beside_the_others(filled: SpladeVectorStore) -> None:
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2019))]
    )
    query = VectorStoreQuery(query_str="lander", similarity_top_k=5)

    assert filled.query(query, filter=only).ids == ["rocket"]
    assert filled.query(query, filter={"year": 2023}).ids == ["rover"]


def test_misspelt_arguments_are_errors_and_nothing_is_changed(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match=r"filter, .*allowed: node_ids, filters"):
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


def test_what_a_method_does_not_take_is_told_in_words(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="query is a str"):
        filled.query("moon")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ref_doc_id=3"):
        filled.delete(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nodes is one TextNode"):
        filled.add(NODES[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dense is a str"):
        SpladeVectorStore(model=WordEncoder(), dense="openai")  # type: ignore[arg-type]


def test_comparing_with_nothing_points_to_is_empty(filled: SpladeVectorStore) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=None)])

    with pytest.raises(FilterError, match="IS_EMPTY"):
        filled.query(VectorStoreQuery(query_str="moon", filters=filters))


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_an_alpha_outside_0_to_1_is_an_error(filled: SpladeVectorStore, alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        filled.query(VectorStoreQuery(query_str="moon", mode="hybrid", alpha=alpha))  # type: ignore[arg-type]


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
STANDS_FOR: dict[str, BaseNode] = {
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
    for kind, inner in STANDS_FOR.items()
}


@pytest.mark.parametrize("kind", NODES_OF_ALL_KINDS)
def test_images_and_index_nodes_come_back_equal(store: SpladeVectorStore, kind: str) -> None:
    store.add([NODES_OF_ALL_KINDS[kind]])

    (found,) = store.get_nodes(["i"])

    assert type(found) is type(NODES_OF_ALL_KINDS[kind])
    assert found == NODES_OF_ALL_KINDS[kind]


def test_an_index_node_for_what_cannot_be_written_is_an_error(store: SpladeVectorStore) -> None:
    pointer = IndexNode(id_="pointer", text="rovers", index_id="rovers", obj=SpladeRetriever(store))

    with pytest.raises(InputError, match=r"'pointer' stands for a SpladeRetriever.*object_map"):
        store.add([NODES[0], pointer])
    assert store.get_nodes() == []


def test_filters_by_id_and_source_need_no_field_that_has_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in strict mode refuses such a filter, and another reads every payload for it."""
    client = EdgeClient(":memory:")
    asked: list[str] = []
    to_the_store = Collection.call

    def watched(self: Collection, method: str, **arguments: Any) -> Any:
        asked.extend(_keys_of(arguments))
        return to_the_store(self, method, **arguments)

    monkeypatch.setattr(Collection, "call", watched)
    for windows in ("cut", "points"):
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


def test_text_search_finds_the_same_through_an_index_for_text() -> None:
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


def test_a_node_of_a_class_of_ones_own_comes_back_as_it(store: SpladeVectorStore) -> None:
    class Verse(TextNode):
        metre: str = "none"

        @classmethod
        def class_name(cls) -> str:
            return "Verse"

    verse = Verse(id_="v", text="Tyger tyger", metre="trochaic")
    store.add([verse])

    assert store.get_nodes(["v"]) == [verse]


def test_a_node_of_an_unknown_class_is_an_error_that_names_it(store: SpladeVectorStore) -> None:
    store.index.add(["text"], ids=["a"], extras=[{"llama_index": {"class": "Gone", "node": {}}}])

    with pytest.raises(StorageError, match="'Gone'"):
        store.get_nodes(["a"])


# -- without a dense model or a key --------------------------------------------------------------------------

WITHOUT_KEY = """
import sys
from importlib.abc import MetaPathFinder

tried = []


class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "openai" or (name.startswith("llama_index.") and "openai" in name):
            tried.append(name)


sys.meta_path.insert(0, Watch())

from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from qdrant_client import QdrantClient

from splade_retriever.llama_index import SparseOnly, SpladeRetriever, SpladeVectorStore
from tests.words import WordEncoder

documents = [Document(text="The lander stood on the Moon."), Document(text="The rover drove away.")]
store = SpladeVectorStore(client=QdrantClient(":memory:"), model=WordEncoder())
made = VectorStoreIndex.from_documents(
    documents, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=SparseOnly()
)
assert [n.text for n in made.as_retriever().retrieve("rover")] == ["The rover drove away."]
opened = VectorStoreIndex.from_vector_store(store, embed_model=SparseOnly())
assert [n.text for n in opened.as_retriever().retrieve("moon")] == ["The lander stood on the Moon."]
assert "rover" in str(opened.as_query_engine(llm=MockLLM()).query("rover"))
retriever = SpladeRetriever(store)
assert [n.text for n in retriever.retrieve("moon")] == ["The lander stood on the Moon."]
Settings.embed_model = SparseOnly()
opened = VectorStoreIndex.from_vector_store(store)
opened.insert(Document(text="A rocket lifted off."))
assert [n.text for n in opened.as_retriever().retrieve("rocket")] == ["A rocket lifted off."]
assert not tried, tried
assert "openai" not in sys.modules
assert not [name for name in sys.modules if name.startswith("llama_index.") and "openai" in name]
print("done")
"""


def test_an_index_needs_no_dense_model_no_openai_and_no_key() -> None:
    environment = {name: value for name, value in os.environ.items() if "OPENAI" not in name}

    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_KEY], env=environment, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout.strip()) == (0, "done"), run.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of langchain_community, which LlamaIndex tries
def test_an_index_asks_in_every_mode_of_its_store(client: QdrantClient) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), dense=LetterEncoder())
    made = VectorStoreIndex(
        NODES, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=SparseOnly()
    )

    def found(mode: str, **rest: Any) -> list[str]:
        return ids_of(made.as_retriever(vector_store_query_mode=mode, **rest).retrieve("rover Pragyan"))

    assert found("sparse") == found("default") == found("text_search") == ["rover"]
    assert found("hybrid", alpha=0.0) == ["rover"]
    assert found("hybrid", alpha=0.5, hybrid_top_k=3)[0] == "rover"
    assert len(found("hybrid", alpha=0.5, hybrid_top_k=3)) == 3
    with pytest.raises(NotSupportedError):
        found("mmr")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of langchain_community, which LlamaIndex tries
@pytest.mark.parametrize("use_async", [False, True])
def test_an_index_refreshes_what_changed_and_is_opened_again(
    store: SpladeVectorStore, tmp_path: Path, use_async: bool
) -> None:
    told = [Document(id_="lander", text="The lander stood."), Document(id_="rover", text="The rover drove.")]
    made = VectorStoreIndex.from_documents(
        told,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=SparseOnly(),
        use_async=use_async,
    )

    assert made.refresh_ref_docs([told[0], Document(id_="rover", text="The rover slept.")]) == [False, True]
    made.storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path))
    opened = load_index_from_storage(context, embed_model=SparseOnly())

    found = opened.as_retriever(similarity_top_k=5).retrieve("the")
    assert sorted(scored.text for scored in found) == ["The lander stood.", "The rover slept."]


def test_no_dense_embedding_is_an_empty_one() -> None:
    nothing = SparseOnly()

    assert nothing.get_text_embedding_batch(["a", "b"]) == [[], []]
    assert asyncio.run(nothing.aget_query_embedding("a")) == []


WITHOUT_LLAMA_INDEX = """
import sys

sys.modules["llama_index"] = sys.modules["llama_index.core"] = None
try:
    import splade_retriever.llama_index
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_without_llama_index_the_error_names_the_extra() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LLAMA_INDEX], capture_output=True, text=True, check=True
    )

    assert run.stdout.startswith("MissingExtraError")
    assert 'pip install "splade-retriever[llama-index]"' in run.stdout


# -- the retriever -------------------------------------------------------------------------------------------


def test_a_retriever_gives_the_best_nodes_with_their_scores(filled: SpladeVectorStore) -> None:
    found = SpladeRetriever(filled, similarity_top_k=2).retrieve("rover lander")

    assert [(scored.node_id, scored.score) for scored in found] == [("rover", 2.0), ("rocket", 1.0)]
    assert found[0].node == NODES[1]


def test_a_retriever_of_an_index_finds_what_a_store_put_there(filled: SpladeVectorStore) -> None:
    assert ids_of(SpladeRetriever(index=filled.index, similarity_top_k=4).retrieve("moon")) == ["landing"]


def test_a_retriever_heeds_filters_and_ids(filled: SpladeVectorStore) -> None:
    assert ids_of(SpladeRetriever(filled, filters=SINCE_2020).retrieve("lander")) == ["rover"]
    assert ids_of(SpladeRetriever(filled, node_ids=["rocket"]).retrieve("lander")) == ["rocket"]
    assert ids_of(SpladeRetriever(filled, doc_ids=["rover"]).retrieve("lander")) == ["rover"]


@pytest.mark.parametrize("way", ["retrieve", "aretrieve"])
@pytest.mark.parametrize("nowhere", ["doc_ids", "node_ids"])
def test_of_no_documents_and_no_nodes_nothing_is_found(
    filled: SpladeVectorStore, nowhere: str, way: str
) -> None:
    retriever = SpladeRetriever(filled, **{nowhere: []})  # type: ignore[arg-type]

    found = retriever.retrieve("moon") if way == "retrieve" else asyncio.run(retriever.aretrieve("moon"))

    assert found == []


def test_top_k_can_be_changed(filled: SpladeVectorStore) -> None:
    retriever = SpladeRetriever(filled)
    retriever.similarity_top_k = 1

    assert (retriever.similarity_top_k, len(retriever.retrieve("lander"))) == (1, 1)


def test_many_async_retrievals_are_right_each(filled: SpladeVectorStore) -> None:
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


def test_explaining_encodes_the_query_once_however_many_are_found(store: SpladeVectorStore) -> None:
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


def test_without_asking_there_is_no_explanation(filled: SpladeVectorStore) -> None:
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


def test_a_hybrid_retriever_is_made_from_nodes_in_one_go() -> None:
    retriever = SpladeRetriever.from_nodes(
        NODES, model=WordEncoder(), dense=LetterEncoder(), mode="hybrid", alpha=0.0
    )

    assert ids_of(retriever.retrieve("rover")) == ["rover"]
    assert retriever.retrieve("rover")[0].score == pytest.approx(1.0)
    retriever.vector_store.close()


def test_a_retriever_that_cannot_be_made_leaves_no_store_open(
    model: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[SpladeIndex] = []
    close = SpladeIndex.close

    def noted(self: SpladeIndex) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(SpladeIndex, "close", noted)

    with pytest.raises(InputError, match="metadata"):
        SpladeRetriever.from_nodes([TextNode(text="a", metadata={"at": (1, 2)})], model=model)

    assert len(closed) == 1


def test_what_is_no_document_is_refused_with_its_position(model: WordEncoder) -> None:
    with pytest.raises(InputError, match="documents is one str"):
        SpladeRetriever.from_documents("a text", model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="document 1 is a str"):
        SpladeRetriever.from_documents([Document(text="a"), "b"], model=model)  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of langchain_community, which LlamaIndex tries
def test_a_retriever_needs_one_of_store_and_index(filled: SpladeVectorStore) -> None:
    with pytest.raises(InputError, match="either"):
        SpladeRetriever()
    with pytest.raises(InputError, match="either"):
        SpladeRetriever(filled, index=filled.index)
    made = VectorStoreIndex.from_vector_store(filled, embed_model=SparseOnly())
    with pytest.raises(InputError, match=r"index\.vector_store"):
        SpladeRetriever(index=made)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text_search"):
        SpladeRetriever(filled, mode="sparce")
    with pytest.raises(InputError, match=r"type SpladeIndex.*index="):
        SpladeRetriever(filled.index)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"alpha=0\.3 in mode 'default'"):
        SpladeRetriever(filled, alpha=0.3)


def test_a_mode_that_the_store_has_not_is_told_when_it_is_asked(filled: SpladeVectorStore) -> None:
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


def test_first_in_both_rankings_scores_1(client: QdrantClient) -> None:
    store = SpladeVectorStore(client=client, model=WordEncoder(), dense=LetterEncoder())
    store.add(NODES)

    for alpha in (0.0, 0.25, 0.5, 1.0):
        retriever = SpladeRetriever(store, mode="hybrid", alpha=alpha)
        assert retriever.retrieve(NODES[1].text)[0].score == pytest.approx(1.0)


def test_a_query_transform_has_its_texts_encoded(filled: SpladeVectorStore) -> None:
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


# -- in the engines of LlamaIndex ----------------------------------------------------------------------------


def test_a_query_engine_answers_from_what_was_found(filled: SpladeVectorStore) -> None:
    engine = RetrieverQueryEngine.from_args(
        SpladeRetriever(filled, similarity_top_k=2),
        llm=MockLLM(),
        node_postprocessors=[SpladeRerank(top_n=1, model=WordEncoder())],
    )

    for response in (engine.query("the rover"), asyncio.run(engine.aquery("the rover"))):
        assert ids_of(response.source_nodes) == ["rover"]
        assert "Pragyan" in str(response)


def test_a_router_chooses_among_retrievers(filled: SpladeVectorStore) -> None:
    class Second(BaseSelector):
        def _get_prompts(self) -> dict[str, Any]:
            return {}

        def _update_prompts(self, prompts: Any) -> None:
            pass

        def _select(self, choices: Any, query: Any) -> SelectorResult:
            return SelectorResult(selections=[SingleSelection(index=1, reason="a test")])

        async def _aselect(self, choices: Any, query: Any) -> SelectorResult:
            return self._select(choices, query)

    old = MetadataFilters(filters=[MetadataFilter(key="year", value=2019)])
    tools = [
        RetrieverTool.from_defaults(SpladeRetriever(filled, filters=filters), description="nodes")
        for filters in (SINCE_2020, old)
    ]
    router = RouterRetriever(selector=Second(), retriever_tools=tools, llm=MockLLM())

    assert ids_of(router.retrieve("lander")) == ["rocket"]
    assert ids_of(asyncio.run(router.aretrieve("lander"))) == ["rocket"]


@pytest.mark.parametrize("use_async", [True, False])
def test_query_fusion_joins_two_of_them(filled: SpladeVectorStore, use_async: bool) -> None:
    fusion = QueryFusionRetriever(
        [SpladeRetriever(filled, filters=SINCE_2020), SpladeRetriever(filled, mode="text_search")],
        llm=MockLLM(),
        num_queries=1,
        mode="reciprocal_rerank",  # type: ignore[arg-type]
        use_async=use_async,
        similarity_top_k=5,
    )

    assert ids_of(fusion.retrieve("lander")) == ["rover", "rocket"]


def test_auto_merging_puts_the_parent_in_place_of_its_parts(store: SpladeVectorStore) -> None:
    text = " ".join(f"The lander took picture {n} of the far side of the Moon." for n in range(30))
    nodes = HierarchicalNodeParser.from_defaults(chunk_sizes=[512, 64]).get_nodes_from_documents(
        [Document(text=text)]
    )
    leaves = get_leaf_nodes(nodes)
    store.add(leaves)
    context = StorageContext.from_defaults(docstore=SimpleDocumentStore())
    context.docstore.add_documents(nodes)
    parts = SpladeRetriever(store, similarity_top_k=len(leaves))

    merged = AutoMergingRetriever(parts, context, simple_ratio_thresh=0.5)  # type: ignore[arg-type]

    found = ids_of(merged.retrieve("lander picture"))
    assert len(leaves) > 3
    assert found
    assert set(found) <= {node.node_id for node in nodes} - {leaf.node_id for leaf in leaves}


@pytest.mark.parametrize("use_async", [False, True])
def test_sub_questions_are_answered_from_it(filled: SpladeVectorStore, use_async: bool) -> None:
    class Two(BaseQuestionGenerator):
        def _get_prompts(self) -> dict[str, Any]:
            return {}

        def _update_prompts(self, prompts: Any) -> None:
            pass

        def generate(self, tools: Any, query: Any) -> list[SubQuestion]:
            return [SubQuestion(sub_question=text, tool_name="moon") for text in ("rover", "rocket")]

        async def agenerate(self, tools: Any, query: Any) -> list[SubQuestion]:
            return self.generate(tools, query)

    llm = MockLLM()
    engine = RetrieverQueryEngine.from_args(SpladeRetriever(filled, similarity_top_k=1), llm=llm)
    tool = QueryEngineTool(
        engine, metadata=ToolMetadata(name="moon", description="what is known of the Moon")
    )
    subs = SubQuestionQueryEngine(
        Two(), get_response_synthesizer(llm=llm), [tool], verbose=False, use_async=use_async
    )

    found = ids_of(subs.query("what drove and what flew?").source_nodes)
    assert {"rover", "rocket"} <= set(found)


class Scripted(MockLLM):
    """Says first that it uses the tool, then that it is done."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        if "Observation: " in prompt and "Pragyan" in prompt:
            return CompletionResponse(text="Thought: I can answer.\nAnswer: Pragyan.")
        return CompletionResponse(text='Thought: I look.\nAction: moon\nAction Input: {"input": "the rover"}')

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def once() -> Iterator[CompletionResponse]:
            said = self.complete(prompt)
            yield CompletionResponse(text=said.text, delta=said.text)

        return once()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the agent's own pydantic code
def test_an_agent_uses_it_as_a_tool(filled: SpladeVectorStore) -> None:
    from llama_index.core.agent.workflow import ReActAgent

    tool = RetrieverTool.from_defaults(
        SpladeRetriever(filled, similarity_top_k=1), name="moon", description="what is known of the Moon"
    )
    assert "Pragyan" in str(tool.call("the rover"))
    agent = ReActAgent(tools=[tool], llm=Scripted())

    async def main() -> str:
        return str(await agent.run("What drove?"))

    assert asyncio.run(main()) == "Pragyan."


def test_an_index_node_is_followed(store: SpladeVectorStore) -> None:
    inner = TextNode(id_="inner", text="All about rovers.")
    pointer = IndexNode(id_="pointer", text="rovers", index_id="rovers")
    store.add([pointer])

    found = SpladeRetriever(store, object_map={"rovers": inner}).retrieve("rovers")

    assert ids_of(found) == ["inner"]


def test_what_an_index_node_stands_for_is_followed(filled: SpladeVectorStore) -> None:
    answering = RetrieverQueryEngine.from_args(SpladeRetriever(filled, similarity_top_k=1), llm=MockLLM())
    pointers = [
        IndexNode(id_="by engine", text="engine", index_id="engine", obj=answering),
        IndexNode(id_="by retriever", text="retriever", index_id="retriever", obj=SpladeRetriever(filled)),
    ]
    outer = SpladeRetriever.from_nodes(pointers, model=WordEncoder())

    assert "Pragyan" in outer.retrieve("engine of the rover Pragyan")[0].text
    assert ids_of(asyncio.run(outer.aretrieve("retriever: Pragyan"))) == ["rover"]
    assert pointers[0].obj is answering
    outer.vector_store.close()


def test_callbacks_hear_of_a_retrieval(filled: SpladeVectorStore) -> None:
    heard = LlamaDebugHandler(print_trace_on_end=False)

    SpladeRetriever(filled, callback_manager=CallbackManager([heard])).retrieve("moon")

    ((start, end),) = heard.get_event_pairs(CBEventType.RETRIEVE)
    assert start.payload is not None
    assert end.payload is not None
    assert start.payload["query_str"] == "moon"
    assert ids_of(end.payload["nodes"]) == ["landing"]


class Heard(BaseEventHandler):
    names: list[str] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.names.append(event.class_name())


@pytest.fixture
def heard() -> Iterator[list[str]]:
    root = get_dispatcher()
    handler = Heard()
    root.add_event_handler(handler)
    yield handler.names
    root.event_handlers.remove(handler)


def test_instrumentation_hears_of_retrieving_embedding_and_reranking(
    filled: SpladeVectorStore, heard: list[str], model: WordEncoder
) -> None:
    found = SpladeRetriever(filled).retrieve("moon")
    SpladeSparseEmbedding(model=model).get_text_embedding_batch(["moon"])
    SpladeRerank(model=model).postprocess_nodes(found, query_str="moon")

    assert heard == [
        "RetrievalStartEvent",
        "RetrievalEndEvent",
        "SparseEmbeddingStartEvent",
        "SparseEmbeddingEndEvent",
        "ReRankStartEvent",
        "ReRankEndEvent",
    ]


# -- the reranker --------------------------------------------------------------------------------------------


def test_reranking_puts_what_fits_first_and_scores_it(model: WordEncoder) -> None:
    given = [NodeWithScore(node=node, score=0.5) for node in NODES]
    rerank = SpladeRerank(top_n=2, model=model)

    ranked = rerank.postprocess_nodes(given, query_str="rover lander")

    assert [(scored.node_id, scored.score) for scored in ranked] == [("rover", 2.0), ("rocket", 1.0)]
    assert [scored.score for scored in given] == [0.5] * 3
    assert asyncio.run(rerank.apostprocess_nodes(given, query_str="rover lander")) == ranked


def test_equal_scores_stay_in_the_order_they_came_in(model: WordEncoder) -> None:
    given = [NodeWithScore(node=node) for node in NODES]

    assert SpladeRerank(top_n=5, model=model).postprocess_nodes(given, query_str="submarine") == [
        NodeWithScore(node=node, score=0.0) for node in NODES
    ]


def test_reranking_nothing_is_nothing_and_without_a_query_an_error(model: WordEncoder) -> None:
    rerank = SpladeRerank(model=model)

    assert rerank.postprocess_nodes([], query_str="moon") == []
    with pytest.raises(InputError, match="query_str"):
        rerank.postprocess_nodes([NodeWithScore(node=NODES[0])])


def test_a_reranker_refuses_what_it_does_not_know(model: WordEncoder) -> None:
    with pytest.raises(InputError, match="top_n=0"):
        SpladeRerank(top_n=0, model=model)
    with pytest.raises(TypeError, match="topn"):
        SpladeRerank(topn=3, model=model)  # type: ignore[call-arg]


def test_callbacks_hear_of_reranking(model: WordEncoder) -> None:
    heard = LlamaDebugHandler(print_trace_on_end=False)
    rerank = SpladeRerank(top_n=1, model=model, callback_manager=CallbackManager([heard]))

    rerank.postprocess_nodes([NodeWithScore(node=node) for node in NODES], query_str="rover")

    ((start, end),) = heard.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert end.payload is not None
    assert (start.payload["query_str"], start.payload["top_k"]) == ("rover", 1)
    assert ids_of(end.payload["nodes"]) == ["rover"]


def test_the_reranker_is_written_and_read_back() -> None:
    again = SpladeRerank.from_dict(SpladeRerank(top_n=7).to_dict())

    assert (again.top_n, again.class_name()) == (7, "SpladeRerank")
    assert again.postprocess_nodes([NodeWithScore(node=NODES[0])], query_str="moon")[0].score
