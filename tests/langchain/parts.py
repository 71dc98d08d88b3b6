"""Parts that the tests of the LangChain adapter share: engines, a dense encoder, fake chat models."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from splade_retriever.sparse import SparseEmbedding
from tests.words import LetterEncoder, WordEncoder

ENGINES = ["edge", "local", pytest.param("server", marks=pytest.mark.server)]


def mark_async_tests(suite: type) -> None:
    """Mark the async tests of one of LangChain's suites, which leaves that to those who use it."""
    for name in dir(suite):
        test = getattr(suite, name)
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            pytest.mark.asyncio(test)


class LetterEmbeddings(LetterEncoder, Embeddings):
    """`LetterEncoder` as LangChain's `Embeddings`."""


class BackgroundEncoder(WordEncoder):
    """`WordEncoder` whose vectors all share one faint dimension, so that every document is found at last.

    LangChain's suite for vector stores asks for two documents and expects one that has no word in common
    with the query, as dense vectors would give it.
    """

    def _vector(self, text: str) -> SparseEmbedding:
        return SparseEmbedding.from_dict({**super()._vector(text).as_dict(), 30_000: 0.01})


class ScriptedModel(BaseChatModel):
    """A chat model that answers by a function of the messages; it takes tools and streams by words."""

    answer: Callable[[Sequence[BaseMessage]], AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> "ScriptedModel":
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for word in str(self.answer(messages).content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))


def echo_model() -> ScriptedModel:
    """A model that says what it was report, so that a test sees what context came to it."""
    return ScriptedModel(answer=lambda messages: AIMessage(content=str(messages[-1].content)))
