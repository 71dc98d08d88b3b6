"""Pickles and deep copies hold the configuration; objects that cannot be opened elsewhere are errors."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever import langchain as for_langchain
from splade_retriever import llama_index as for_llama_index
from splade_retriever.errors import IndexClosedError, NotSupportedError
from tests.python_process import run_python
from tests.words import LetterEncoder

TEXT = "The rover left the lander."


@pytest.fixture
def folder(tmp_path: Path) -> str:
    with SpladeIndex(tmp_path / "index", dense=LetterEncoder()) as index:
        index.add([TEXT], ids=["rover"])
    return str(tmp_path / "index")


OPENED: dict[str, tuple[Callable[[str], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "index": (
        lambda folder: SpladeIndex(folder, dense=LetterEncoder(), query_max_active_dims=9),
        lambda index: index.search("rover")[0].text,
        lambda index: index.close(),
    ),
    "langchain retriever": (
        lambda folder: for_langchain.SpladeRetriever(location=folder, k=1, mode="sparse"),
        lambda retriever: retriever.invoke("rover")[0].page_content,
        lambda retriever: retriever.close(),
    ),
    "langchain retriever of an index": (
        lambda folder: for_langchain.SpladeRetriever(index=SpladeIndex(folder)),
        lambda retriever: retriever.invoke("rover")[0].page_content,
        lambda retriever: retriever.index.close(),
    ),
    "langchain store": (
        for_langchain.SpladeVectorStore,
        lambda store: store.similarity_search("rover")[0].page_content,
        lambda store: store.close(),
    ),
    "llama_index retriever": (
        lambda folder: for_llama_index.SpladeRetriever(location=folder),
        lambda retriever: retriever.retrieve("rover")[0].text,
        lambda retriever: retriever.close(),
    ),
    "llama_index store": (
        for_llama_index.SpladeVectorStore,
        lambda store: store.get_nodes()[0].get_content(),
        lambda store: store.close(),
    ),
}


@pytest.mark.parametrize("name", OPENED)
def test_an_object_over_a_folder_comes_back_from_its_pickle(folder: str, name: str) -> None:
    make, read, close = OPENED[name]
    original = make(folder)
    assert read(original) == TEXT
    written = pickle.dumps(original)
    close(original)

    copied = pickle.loads(written)

    assert read(copied) == TEXT
    close(copied)  # releases the folder, which opens again
    SpladeIndex(folder).close()


@pytest.mark.parametrize(
    "make",
    [
        lambda index: for_langchain.SpladeRetriever(index=index),
        lambda index: for_langchain.SpladeVectorStore(index=index),
        lambda index: for_llama_index.SpladeVectorStore(index=index),
        lambda index: for_llama_index.SpladeRetriever(for_llama_index.SpladeVectorStore(index=index)),
    ],
)
def test_an_object_of_a_pickle_closes_the_index_that_reading_it_has_opened(
    folder: str, make: Callable[[SpladeIndex], Any]
) -> None:
    with SpladeIndex(folder) as index:
        copied = pickle.loads(pickle.dumps(make(index)))
        opened = copied.vector_store.index if hasattr(copied, "vector_store") else copied.index

        copied.close()
        with pytest.raises(IndexClosedError):
            opened.count()
        assert index.count() == 1


@pytest.mark.parametrize("name", OPENED)
def test_a_deep_copy_shares_the_open_index(folder: str, name: str) -> None:
    make, read, close = OPENED[name]
    original = make(folder)
    assert read(original) == TEXT

    assert read(copy.deepcopy(original)) == TEXT
    close(original)


def test_a_pickle_is_read_in_another_process(folder: str, tmp_path: Path) -> None:
    retriever = for_langchain.SpladeRetriever(location=folder, k=1)
    (tmp_path / "retriever.pickle").write_bytes(pickle.dumps(retriever))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).invoke('rover')[0].page_content)"

    done = run_python(script, str(tmp_path / "retriever.pickle"))

    assert done.stdout.strip() == TEXT, done.stderr


def test_fields_of_a_retriever_come_back_equal() -> None:
    retriever = for_langchain.SpladeRetriever(
        location="./index", k=7, filter={"n": 1}, tags=["mine"], api_key="key", settings={"timeout": 3}
    )

    for again in (pickle.loads(pickle.dumps(retriever)), copy.deepcopy(retriever)):
        assert again.model_dump() == retriever.model_dump()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_encoders_and_rerankers_come_back(duplicate: Callable[[Any], Any]) -> None:
    encoder = SparseTextEmbedding(max_length=64, threads=1)
    (vector,) = encoder.query_embed(["rover"])

    again = duplicate(encoder)
    assert (again.max_length, again.precision, again.fingerprint) == (64, "int8", encoder.fingerprint)
    assert list(again.query_embed(["rover"])) == [vector]
    documents = [Document(page_content="bread"), Document(page_content="a rover")]
    reranker = duplicate(for_langchain.SpladeReranker(model=encoder, top_n=1))
    assert reranker.compress_documents(documents, "rover") == [documents[1]]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("bread", "a rover")]
    rerank = duplicate(for_llama_index.SpladeRerank(model=encoder, top_n=1))
    assert rerank.postprocess_nodes(nodes, query_str="rover")[0].text == "a rover"
    embeddings = duplicate(for_langchain.SpladeSparseEmbeddings(encoder))
    assert embeddings.embed_query("rover").indices == vector.indices.tolist()
    sparse = duplicate(for_llama_index.SpladeSparseEmbedding(model=encoder))
    assert sparse.get_query_embedding("rover") == vector.as_dict()


@pytest.mark.parametrize(
    "make",
    [
        SpladeIndex,
        for_langchain.SpladeVectorStore,
        for_llama_index.SpladeVectorStore,
        lambda: for_langchain.SpladeRetriever(index=SpladeIndex()),
        lambda: for_llama_index.SpladeRetriever(index=SpladeIndex()),
    ],
)
def test_pickling_an_index_in_memory_is_an_error_that_says_why(make: Callable[[], Any]) -> None:
    made = make()

    with pytest.raises(NotSupportedError, match=r"no other process could open it.*Use a folder or a server"):
        pickle.dumps(made)
    copy.deepcopy(made)
