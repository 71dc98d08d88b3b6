"""SpladeReranker: order, scores, and the model it takes."""

import pytest
from langchain_core.documents import Document

from splade_retriever.langchain import (
    METADATA_KEY,
    SpladeReranker,
)
from tests.words import WordEncoder

FOUND = [Document(page_content=text) for text in ("bread", "a rover", "a rover on the Moon", "the Moon")]


def test_documents_are_sorted_by_score() -> None:
    ranked = SpladeReranker(model=WordEncoder()).compress_documents(FOUND, "rover on the moon")

    assert ranked == [FOUND[2], FOUND[3], FOUND[1], FOUND[0]]


def test_documents_with_equal_scores_keep_their_order() -> None:
    same = [Document(page_content="moon", metadata={"n": n}) for n in range(5)]

    assert SpladeReranker(model=WordEncoder()).compress_documents(same, "moon") == same


def test_the_reranker_keeps_top_n_and_writes_scores_into_copies_on_request() -> None:
    reranker = SpladeReranker(model=WordEncoder(), top_n=1, with_scores=True)

    (best,) = reranker.compress_documents(FOUND, "rover moon")

    assert best.metadata == {METADATA_KEY: {"score": 2.0}}
    assert FOUND[2].metadata == {}


@pytest.mark.asyncio
async def test_async_reranking_returns_the_same_as_sync() -> None:
    reranker = SpladeReranker(model=WordEncoder())

    assert await reranker.acompress_documents(FOUND, "moon") == reranker.compress_documents(FOUND, "moon")
    assert await reranker.acompress_documents([], "moon") == []


def test_a_setting_that_the_reranker_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="top_k"):
        SpladeReranker(model=WordEncoder(), top_k=3)  # type: ignore[call-arg]
