"""Ten chains that LangChain developers build, each a function of the stack it runs on.

A stack is a vector store with its retriever: langchain-qdrant's with FastEmbed, or this package's. Both read
the same model file and hold the same passages, so that a chain's answer can be compared.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.structured_query import Comparator, Comparison, StructuredQuery
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import VectorStore

from tests.langchain.parts import ScriptedModel, echo_model

MODEL = "prithivida/Splade_PP_en_v1"
K = 4
QUESTIONS = [
    "Why does the Moon show phases?",
    "What is a pulsar?",
    "How do stars form?",
    "What are asteroids?",
]


@dataclass(frozen=True)
class Stack:
    """One way to have SPLADE in LangChain."""

    name: str
    store: VectorStore
    retriever: BaseRetriever
    self_query: dict[str, Any]
    """Arguments of `SelfQueryRetriever` for this store."""


Chain = Callable[[Stack], Sequence[str]]
"""Runs a chain and returns the texts of its answer."""


def langchain_qdrant_stack(folder: Path, documents: Sequence[Document]) -> Stack:
    """FastEmbedSparse and QdrantVectorStore, on qdrant-client's local mode."""
    from langchain_qdrant import FastEmbedSparse, QdrantVectorStore, RetrievalMode

    # One text at a time is FastEmbed's fastest way: padding costs it most (see benchmarks/encode.py).
    sparse = FastEmbedSparse(MODEL, specific_model_path=str(folder), batch_size=1)
    store = QdrantVectorStore.from_documents(
        list(documents),
        embedding=None,  # type: ignore[arg-type]  # a sparse store has none
        sparse_embedding=sparse,
        retrieval_mode=RetrievalMode.SPARSE,
        location=":memory:",
        collection_name="docs",
    )
    retriever = store.as_retriever(search_kwargs={"k": K})
    return Stack("FastEmbedSparse + QdrantVectorStore", store, retriever, their_self_query())


def their_self_query() -> dict[str, Any]:
    """Give the translator for Qdrant that only langchain-community has, where it is installed."""
    try:
        from langchain_community.query_constructors.qdrant import QdrantTranslator
    except ImportError:
        return {}
    return {"structured_query_translator": QdrantTranslator(metadata_key="metadata")}


def splade_retriever_stack(folder: Path, documents: Sequence[Document]) -> Stack:
    """The same in this package: one line for the store, one for the retriever."""
    from splade_retriever import SparseTextEmbedding
    from splade_retriever.langchain import SpladeRetriever, SpladeTranslator, SpladeVectorStore

    model = SparseTextEmbedding(MODEL, specific_model_path=str(folder))
    store = SpladeVectorStore.from_documents(documents, model=model)
    retriever = SpladeRetriever(index=store.index, k=K)
    return Stack("splade-retriever", store, retriever, {"structured_query_translator": SpladeTranslator()})


def retrieval_qa(stack: Stack) -> Sequence[str]:
    """Retrieves, fills a prompt, asks a model."""
    return [question_answering(stack).invoke(QUESTIONS[0])]


def agent_tool(stack: Stack) -> Sequence[str]:
    """An agent of `create_agent` calls the retriever as its tool."""
    from langchain.agents import create_agent

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(content=messages[-1].content)
        call = {"name": "astronomy", "args": {"query": messages[-1].content}, "id": "1"}
        return AIMessage(content="", tool_calls=[call])

    tool = create_retriever_tool(stack.retriever, "astronomy", "Finds passages of an astronomy textbook.")
    agent = create_agent(ScriptedModel(answer=answer), [tool])
    return [agent.invoke({"messages": [HumanMessage(QUESTIONS[1])]})["messages"][-1].text]


def ensemble(stack: Stack) -> Sequence[str]:
    """`EnsembleRetriever` joins two retrievers."""
    return texts_of(ensemble_retriever(stack).invoke(QUESTIONS[2]))


def compression(stack: Stack) -> Sequence[str]:
    """`ContextualCompressionRetriever` keeps what a model judges relevant."""
    return texts_of(compression_retriever(stack).invoke(QUESTIONS[3]))


def multi_query(stack: Stack) -> Sequence[str]:
    """`MultiQueryRetriever` asks the model for three wordings."""
    return texts_of(multi_query_retriever(stack).invoke(QUESTIONS[0]))


def self_query(stack: Stack) -> Sequence[str]:
    """`SelfQueryRetriever` takes filter and limit from the question."""
    return texts_of(self_query_retriever(stack).invoke("the Moon, in asteroids, two passages"))


def indexing_api(stack: Stack) -> Sequence[str]:
    """`index` adds, skips and deletes, with sha256 keys."""
    records = InMemoryRecordManager(namespace=stack.name)
    records.create_schema()
    added = [Document(page_content=f"Extra passage {n}.", metadata={"source": "extra"}) for n in range(3)]
    settings: dict[str, Any] = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    first = index(added, records, stack.store, **settings)
    second = index(added[:2], records, stack.store, **settings)
    index([], records, stack.store, **{**settings, "cleanup": "full"})  # as it was
    return [
        f"added {first['num_added']}",
        f"skipped {second['num_skipped']}, deleted {second['num_deleted']}",
    ]


def streaming(stack: Stack) -> Sequence[str]:
    """The first chain, its answer in pieces."""
    return ["".join(question_answering(stack).stream(QUESTIONS[1]))]


def batch(stack: Stack) -> Sequence[str]:
    """The first chain, four questions in one call."""
    return question_answering(stack).batch(QUESTIONS)


def at_the_same_time(stack: Stack) -> Sequence[str]:
    """The first chain, four questions awaited together."""

    async def main() -> list[str]:
        chain = question_answering(stack)
        return list(await asyncio.gather(*(chain.ainvoke(question) for question in QUESTIONS)))

    return asyncio.run(main())


CHAINS: dict[str, Chain] = {
    "retrieval QA": retrieval_qa,
    "agent tool": agent_tool,
    "ensemble": ensemble,
    "compression": compression,
    "multi-query": multi_query,
    "self-query": self_query,
    "indexing API": indexing_api,
    "streaming": streaming,
    "batch": batch,
    "async": at_the_same_time,
}


def ensemble_retriever(stack: Stack) -> BaseRetriever:
    from langchain_classic.retrievers import EnsembleRetriever

    fewer = stack.store.as_retriever(search_kwargs={"k": 2})
    return EnsembleRetriever(retrievers=[stack.retriever, fewer], weights=[0.5, 0.5])


def compression_retriever(stack: Stack) -> BaseRetriever:
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import LLMChainFilter

    def judge(messages: Sequence[BaseMessage]) -> AIMessage:
        return AIMessage(content="YES" if len(messages[-1].text) % 2 else "NO")

    keep_some = LLMChainFilter.from_llm(ScriptedModel(answer=judge))
    return ContextualCompressionRetriever(base_compressor=keep_some, base_retriever=stack.retriever)


def multi_query_retriever(stack: Stack) -> BaseRetriever:
    from langchain_classic.retrievers import MultiQueryRetriever

    rephrase = ScriptedModel(answer=lambda _: AIMessage(content="\n".join(QUESTIONS[:3])))
    return MultiQueryRetriever.from_llm(stack.retriever, rephrase)


def self_query_retriever(stack: Stack) -> BaseRetriever:
    from langchain_classic.retrievers import SelfQueryRetriever

    asked = StructuredQuery("the Moon", Comparison(Comparator.EQ, "source", "asteroids"), 2)
    return SelfQueryRetriever(
        query_constructor=RunnableLambda(lambda _: asked),
        vectorstore=stack.store,
        **stack.self_query,
    )


RETRIEVERS: dict[str, Callable[[Stack], BaseRetriever]] = {
    "ensemble": ensemble_retriever,
    "compression": compression_retriever,
    "multi-query": multi_query_retriever,
    "self-query": self_query_retriever,
}
"""The chains that are retrievers around another one."""


def outcome(chain: Chain, stack: Stack) -> list[str] | Exception:
    """Run a chain on a stack that may not be able to."""
    try:
        return list(chain(stack))
    except Exception as error:  # noqa: BLE001 - any failure of another package is what is asked for here
        return error


def question_answering(stack: Stack) -> Runnable[str, str]:
    """Retrieve, prompt, ask a model that repeats its prompt, read its text."""
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    return (
        {"context": stack.retriever | joined, "question": RunnablePassthrough()}
        | prompt
        | echo_model()
        | StrOutputParser()
    )


def joined(documents: list[Document]) -> str:
    return "\n\n".join(texts_of(documents))


def texts_of(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def passages(most: int) -> list[Document]:
    """Give paragraphs of the sample textbook, so many of all files in turn, each with its file's name."""
    folder = Path(__file__).parents[2] / "examples" / "data" / "astronomy"
    files = {path.stem: path.read_text("utf-8").split("\n\n") for path in sorted(folder.glob("*.md"))}
    each = -(-most // len(files))
    found = [
        Document(page_content=" ".join(paragraph.split()), metadata={"source": stem})
        for stem, paragraphs in files.items()
        for paragraph in [text for text in paragraphs if not text.startswith("#") and text.strip()][:each]
    ]
    return found[:most]
