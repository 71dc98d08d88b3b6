"""The swap: ten chains run on langchain-qdrant's store with FastEmbed, and on ours, and give the same."""

from pathlib import Path

import pytest
from langchain_core.documents import Document

from splade_retriever.langchain import SpladeReranker
from tests.langchain_chains import CHAINS, QUESTIONS, Stack, ours, outcome, passages, texts_of, theirs
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
    return theirs(folder, documents)


@pytest.fixture(scope="module")
def our_stack(folder: Path, documents: list[Document]) -> Stack:
    return ours(folder, documents)


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset")
@pytest.mark.parametrize("name", list(CHAINS))
def test_a_chain_gives_the_same_after_the_swap(name: str, their_stack: Stack, our_stack: Stack) -> None:
    own, other = list(CHAINS[name](our_stack)), outcome(CHAINS[name], their_stack)

    assert own
    if isinstance(other, Exception):
        assert CANNOT[name] in str(other)
    else:
        assert own == other


def test_the_indexing_api_adds_skips_and_deletes(our_stack: Stack) -> None:
    before = our_stack.store.index.count()

    assert CHAINS["indexing API"](our_stack) == ["added 3", "skipped 2, deleted 1"]
    assert our_stack.store.index.count() == before


def test_a_filter_and_a_limit_reach_the_store_through_self_query(our_stack: Stack) -> None:
    found = CHAINS["self-query"](our_stack)

    of_file = [d.page_content for d in passages(30) if d.metadata["source"] == "asteroids"]
    assert len(found) == 2
    assert set(found) <= set(of_file)


def test_the_reranker_stands_in_contextual_compression(our_stack: Stack) -> None:
    model = our_stack.store.index.model
    retriever = classic.ContextualCompressionRetriever(
        base_compressor=SpladeReranker(model=model, top_n=2),
        base_retriever=our_stack.store.as_retriever(search_kwargs={"k": 6}),
    )

    # One model ranks and reranks: the best two stay the best two.
    assert texts_of(retriever.invoke(QUESTIONS[0])) == texts_of(
        our_stack.store.similarity_search(QUESTIONS[0], k=2)
    )
