"""The LlamaIndex adapter inside LlamaIndex: its engines, pipelines, events, and nothing of OpenAI."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Document,
    StorageContext,
    VectorStoreIndex,
    get_response_synthesizer,
    load_index_from_storage,
)
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import IndexNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from splade_retriever.errors import NotSupportedError
from splade_retriever.llama_index import (
    SparseOnly,
    SpladeRerank,
    SpladeRetriever,
    SpladeSparseEmbedding,
    SpladeVectorStore,
)
from tests.llama_index.parts import (
    NODES,
    SINCE_2020,
    ids_of,
)
from tests.python_process import run_python
from tests.words import LetterEncoder, WordEncoder

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


def test_an_index_needs_no_dense_model_no_openai_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "OPENAI" in name]:
        monkeypatch.delenv(name)

    run = run_python(WITHOUT_KEY)

    assert (run.returncode, run.stdout.strip()) == (0, "done"), run.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of langchain_community, which LlamaIndex tries
def test_an_index_queries_in_every_mode_of_its_store(client: QdrantClient) -> None:
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
def test_an_index_refreshes_changed_documents_and_can_be_reopened(
    store: SpladeVectorStore, tmp_path: Path, use_async: bool
) -> None:
    documents = [
        Document(id_="lander", text="The lander stood."),
        Document(id_="rover", text="The rover drove."),
    ]
    made = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=SparseOnly(),
        use_async=use_async,
    )

    assert made.refresh_ref_docs([documents[0], Document(id_="rover", text="The rover slept.")]) == [
        False,
        True,
    ]
    made.storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path))
    opened = load_index_from_storage(context, embed_model=SparseOnly())

    found = opened.as_retriever(similarity_top_k=5).retrieve("the")
    assert sorted(scored.text for scored in found) == ["The lander stood.", "The rover slept."]


def test_sparse_only_makes_empty_embeddings() -> None:
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
    run = run_python(WITHOUT_LLAMA_INDEX)

    assert run.stdout.startswith("MissingExtraError")
    assert 'pip install "splade-retriever[llama-index]"' in run.stdout


# -- in the engines of LlamaIndex ----------------------------------------------------------------------------


def test_a_query_engine_answers_from_the_found_nodes(filled: SpladeVectorStore) -> None:
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
def test_query_fusion_joins_two_retrievers(filled: SpladeVectorStore, use_async: bool) -> None:
    fusion = QueryFusionRetriever(
        [SpladeRetriever(filled, filters=SINCE_2020), SpladeRetriever(filled, mode="text_search")],
        llm=MockLLM(),
        num_queries=1,
        mode="reciprocal_rerank",  # type: ignore[arg-type]
        use_async=use_async,
        similarity_top_k=5,
    )

    assert ids_of(fusion.retrieve("lander")) == ["rover", "rocket"]


def test_auto_merging_replaces_parts_by_their_parent(store: SpladeVectorStore) -> None:
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
def test_sub_questions_are_answered_from_a_retriever(filled: SpladeVectorStore, use_async: bool) -> None:
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
def test_an_agent_uses_a_retriever_as_a_tool(filled: SpladeVectorStore) -> None:
    from llama_index.core.agent.workflow import ReActAgent

    tool = RetrieverTool.from_defaults(
        SpladeRetriever(filled, similarity_top_k=1), name="moon", description="what is known of the Moon"
    )
    assert "Pragyan" in str(tool.call("the rover"))
    agent = ReActAgent(tools=[tool], llm=Scripted(max_tokens=None))

    async def main() -> str:
        return str(await agent.run("What drove?"))

    assert asyncio.run(main()) == "Pragyan."


def test_an_index_node_is_followed(store: SpladeVectorStore) -> None:
    inner = TextNode(id_="inner", text="All about rovers.")
    pointer = IndexNode(id_="pointer", text="rovers", index_id="rovers")
    store.add([pointer])

    found = SpladeRetriever(store, object_map={"rovers": inner}).retrieve("rovers")

    assert ids_of(found) == ["inner"]


def test_the_object_of_an_index_node_is_followed(filled: SpladeVectorStore) -> None:
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


def test_callbacks_receive_retrieval_events(filled: SpladeVectorStore) -> None:
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


def test_instrumentation_receives_events_of_retrieval_embedding_and_reranking(
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
