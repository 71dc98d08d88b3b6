"""Ten chains return the same on langchain-qdrant's store with FastEmbed and on this package's."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import create_retriever_tool

from benchmarks import langchain_swap
from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.langchain import (
    SpladeReranker,
    SpladeSparseEmbeddings,
    SpladeTranslator,
    SpladeVectorStore,
)
from tests.langchain.chains import (
    CHAINS,
    MODEL,
    QUESTIONS,
    RETRIEVERS,
    Stack,
    langchain_qdrant_stack,
    outcome,
    passages,
    splade_retriever_stack,
    texts_of,
)
from tests.langchain.parts import ScriptedModel
from tests.mlm_graphs import Shape, save_folder

pytest.importorskip("fastembed", reason="FastEmbed is not installed (extra `test`)")
classic = pytest.importorskip("langchain_classic.retrievers", reason="langchain-classic is not installed")
pytest.importorskip("langchain.agents", reason="langchain is not installed (extra `test`)")

SHAPE = Shape(vocab=30522, hidden=32, layers=2, positions=512)
CANNOT = {
    "indexing API": "is not a valid UUID",
    "self-query": "langchain-community",
}
"""Chains that their stack cannot run (self-query only without langchain-community), and what it says."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("splade"), SHAPE)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return passages(30)


@pytest.fixture(scope="module")
def their_stack(folder: Path, documents: list[Document]) -> Stack:
    return langchain_qdrant_stack(folder, documents)


@pytest.fixture(scope="module")
def our_stack(folder: Path, documents: list[Document]) -> Stack:
    return splade_retriever_stack(folder, documents)


# langchain-community, if it is installed, warns about itself.
@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", list(CHAINS))
def test_a_chain_returns_the_same_after_the_swap(name: str, their_stack: Stack, our_stack: Stack) -> None:
    own, other = list(CHAINS[name](our_stack)), outcome(CHAINS[name], their_stack)

    assert own
    if isinstance(other, Exception):
        assert CANNOT[name] in str(other)
    else:
        assert own == other


def test_sparse_embeddings_return_the_vectors_of_fastembed_sparse(
    folder: Path, documents: list[Document]
) -> None:
    fastembed_sparse = pytest.importorskip("langchain_qdrant").FastEmbedSparse
    texts = texts_of(documents[:8])
    before = fastembed_sparse(MODEL, specific_model_path=str(folder), batch_size=1)
    after = SpladeSparseEmbeddings(SparseTextEmbedding(MODEL, specific_model_path=str(folder)))

    pairs = zip(
        [*before.embed_documents(texts), before.embed_query(QUESTIONS[0])],
        [*after.embed_documents(texts), after.embed_query(QUESTIONS[0])],
        strict=True,
    )
    for other, own in pairs:
        assert own.indices
        assert dict(zip(own.indices, own.values, strict=True)) == pytest.approx(
            dict(zip(other.indices, other.values, strict=True)), rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize("name", list(RETRIEVERS))
def test_a_retriever_around_ours_returns_the_same_in_async(name: str, our_stack: Stack) -> None:
    retriever = RETRIEVERS[name](our_stack)

    awaited = asyncio.run(retriever.ainvoke(QUESTIONS[1]))

    assert awaited
    assert awaited == retriever.invoke(QUESTIONS[1])


def test_an_agent_awaits_the_retriever_as_its_tool_and_gets_its_documents(our_stack: Stack) -> None:
    from langchain.agents import create_agent

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(content="found")
        call = {"name": "astronomy", "args": {"query": messages[-1].content}, "id": "1"}
        return AIMessage(content="", tool_calls=[call])

    tool = create_retriever_tool(
        our_stack.retriever, "astronomy", "Finds passages.", response_format="content_and_artifact"
    )
    agent = create_agent(ScriptedModel(answer=answer), [tool])
    said = asyncio.run(agent.ainvoke({"messages": [HumanMessage(QUESTIONS[1])]}))["messages"]

    (result,) = [message for message in said if isinstance(message, ToolMessage)]
    assert result.artifact == our_stack.retriever.invoke(QUESTIONS[1])
    assert result.content == "\n\n".join(texts_of(result.artifact))


def test_self_query_parses_the_filters_that_a_model_writes(our_stack: Stack) -> None:
    pytest.importorskip("lark", reason="lark, which reads structured queries, is not installed")
    asked: list[str] = []

    def write(messages: Sequence[BaseMessage]) -> AIMessage:
        asked.append(str(messages[-1].content))
        query = {
            "query": "Moon",
            "filter": 'or(eq("source", "asteroids"), like("source", "moon"))',
            "limit": 3,
        }
        return AIMessage(content=f"```json\n{json.dumps(query)}\n```")

    retriever = classic.SelfQueryRetriever.from_llm(
        ScriptedModel(answer=write),
        our_stack.store,
        "passages of a textbook",
        [{"name": "source", "description": "the chapter", "type": "string"}],
        structured_query_translator=SpladeTranslator(),
        enable_limit=True,
    )

    found = retriever.invoke("three passages on the Moon, in asteroids")

    assert len(found) == 3
    assert all(
        document.metadata["source"] == "asteroids" or "moon" in document.metadata["source"]
        for document in found
    )
    assert "contain | like | in | nin" in asked[0]  # the prompt lists the operators of the translator


def index_of(stack: Stack) -> SpladeIndex:
    assert isinstance(stack.store, SpladeVectorStore)
    return stack.store.index


def test_the_indexing_api_adds_skips_and_deletes(our_stack: Stack) -> None:
    before = index_of(our_stack).count()

    assert CHAINS["indexing API"](our_stack) == ["added 3", "skipped 2, deleted 1"]
    assert index_of(our_stack).count() == before


def test_a_filter_and_a_limit_reach_the_store_through_self_query(our_stack: Stack) -> None:
    found = CHAINS["self-query"](our_stack)

    of_file = [d.page_content for d in passages(30) if d.metadata["source"] == "asteroids"]
    assert len(found) == 2
    assert set(found) <= set(of_file)


def test_the_reranker_works_in_contextual_compression(our_stack: Stack) -> None:
    model = index_of(our_stack).model
    retriever = classic.ContextualCompressionRetriever(
        base_compressor=SpladeReranker(model=model, top_n=2),
        base_retriever=our_stack.store.as_retriever(search_kwargs={"k": 6}),
    )

    # One model ranks and reranks: the best two stay the best two.
    assert texts_of(retriever.invoke(QUESTIONS[0])) == texts_of(
        our_stack.store.similarity_search(QUESTIONS[0], k=2)
    )


# -- the table of the page -----------------------------------------------------------------------------------


def first_words(stack: Any) -> list[str]:
    """Gives the stack's name."""
    if stack == "broken":
        raise ValueError("ids | must be UUIDs, " + "and so on " * 20)
    return ["same"]


def test_a_row_has_the_chain_its_times_and_whether_the_answers_are_equal() -> None:
    alike = langchain_swap.row("words", first_words, ["one", "two"], 3)  # type: ignore[list-item]
    broken = langchain_swap.row("words", first_words, ["broken", "two"], 3)  # type: ignore[list-item]

    assert re.fullmatch(r"\| words \| gives the stack's name \| \d+ ms \| \d+ ms \| yes \|", alike)
    assert broken.startswith("| words | gives the stack's name | ValueError: ids \\| must be UUIDs, and so")
    assert re.search(r" \.\.\. \| \d+ ms \|  \|$", broken)


def test_the_table_replaces_the_one_between_the_marks_of_the_page() -> None:
    page = (Path(__file__).parents[2] / langchain_swap.PAGE).read_text("utf-8")

    once = langchain_swap.with_table(page, "| a |")

    assert f"{langchain_swap.START}\n| a |\n{langchain_swap.END}" in once
    assert langchain_swap.with_table(once, "| b |") == once.replace("| a |", "| b |")
    with pytest.raises(ValueError, match="has no lines"):
        langchain_swap.with_table("# Page", "| a |")


def test_every_chain_has_a_description() -> None:
    assert all(langchain_swap.purpose(chain) for chain in CHAINS.values())
