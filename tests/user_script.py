"""A user's program that runs and passes mypy --strict and pyright; `nox -s wheel` checks it so."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from llama_index.core.schema import NodeWithScore, TextNode

import splade_retriever.langchain as for_langchain
import splade_retriever.llama_index as for_llama_index
from splade_retriever import Hit, SparseEmbedding, SparseTextEmbedding, SpladeIndex
from splade_retriever.config import RetrieverConfig
from splade_retriever.errors import SpladeError
from splade_retriever.explanation import Explanation
from splade_retriever.maintenance.diagnosis import Diagnosis, diagnose

TEXTS = ["A supernova is the explosion of a massive star.", "Saturn's rings are made of ice and rock."]


def encode() -> float:
    model = SparseTextEmbedding()
    embeddings: list[SparseEmbedding] = list(model.embed(TEXTS))
    weights: dict[str, float] = model.tokens_and_weights(embeddings[0])
    return max(weights.values())


def index_and_search(folder: Path) -> Explanation:
    with SpladeIndex(folder) as index:
        ids: list[str] = index.add(TEXTS, metadatas=[{"page": 7}, {"page": 9}], ids=["star", "ring"])
        hits: list[Hit] = index.search("why do stars explode?", k=1, filter={"page": {"$lt": 8}})
        deleted: int = index.delete([ids[1]])
        assert deleted == 1
        return index.explain("why do stars explode?", hits[0])


async def search_async(folder: Path) -> list[str]:
    with SpladeIndex(folder, create=False) as index:
        return [hit.id for hit in await index.asearch("exploding stars")]


def in_langchain() -> list[Document]:
    documents = [Document(page_content=text, metadata={"source": "book"}) for text in TEXTS]
    retriever = for_langchain.SpladeRetriever.from_documents(documents, k=1)
    chain = retriever | RunnableLambda(lambda found: found)
    result: list[Document] = chain.invoke("planets with rings")
    return result


def in_llama_index() -> list[NodeWithScore]:
    store = for_llama_index.SpladeVectorStore()
    store.add([TextNode(text=text) for text in TEXTS])
    return for_llama_index.SpladeRetriever(store, similarity_top_k=1).retrieve("planets with rings")


def configured(folder: Path) -> tuple[Any, Diagnosis]:
    config = RetrieverConfig(location=str(folder), k=1)
    with config.open() as index:
        return index.count(), diagnose(folder)


def main(folder: Path) -> None:
    explanation = index_and_search(folder)
    shares: float = explanation.score
    assert encode() > 0 < shares
    assert asyncio.run(search_async(folder)) == ["star"]
    assert in_langchain()[0].page_content == TEXTS[1]
    assert in_llama_index()[0].node.get_content() == TEXTS[1]
    count, diagnosis = configured(folder)
    assert (count, diagnosis.ok) == (1, True)
    try:
        SpladeIndex(folder / "nowhere", create=False)
    except SpladeError as error:
        print(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
