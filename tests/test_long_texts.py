"""Chunks that are longer than the model reads: both adapters encode them completely."""

from langchain_core.documents import Document as LangChainDocument
from langchain_text_splitters import RecursiveCharacterTextSplitter
from llama_index.core import Document as LlamaIndexDocument
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode
from qdrant_client import QdrantClient

from splade_retriever import SpladeIndex
from splade_retriever import langchain as for_langchain
from splade_retriever import llama_index as for_llama_index
from tests.words import WordEncoder

LONG = " ".join(f"Sentence {n} says nothing about it." for n in range(120)) + " A zebra came at the end."


def test_llama_index_finds_the_end_of_a_chunk_of_its_default_size() -> None:
    store = for_llama_index.SpladeVectorStore()  # the bundled model, which reads 512 tokens
    index = VectorStoreIndex.from_documents(
        [LlamaIndexDocument(text=LONG)],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=for_llama_index.SparseOnly(),
    )

    (chunk,) = store.get_nodes()
    assert store.index.model.token_count([chunk.get_content()]) > 512  # type: ignore[attr-defined]
    found = index.as_retriever(similarity_top_k=1).retrieve("zebra")
    explained = for_llama_index.SpladeRetriever(store, explain=True).retrieve("zebra")
    store.close()
    assert [scored.text for scored in found] == [LONG]
    contributions = explained[0].node.metadata["_splade"]["explanation"]["contributions"]
    assert contributions[0]["token"] == "zebra"


def test_langchain_finds_the_end_of_a_chunk_of_its_default_size() -> None:
    chunks = RecursiveCharacterTextSplitter().create_documents([LONG])
    assert len(chunks[0].page_content) > 3_500

    with for_langchain.SpladeRetriever.from_documents(chunks, k=1, with_explanations=True) as retriever:
        (document,) = retriever.invoke("zebra")
    with for_langchain.SpladeVectorStore.from_documents(chunks) as store:
        assert "zebra" in store.similarity_search("zebra", k=1)[0].page_content
        assert store.index.windows == "merge"

    assert document.metadata["_splade"]["explanation"]["contributions"][0]["token"] == "zebra"


def test_a_pipeline_step_the_rerankers_and_the_sparse_encoders_read_complete_texts() -> None:
    model = WordEncoder(max_length=8)
    filler = "one two three four five six seven eight nine ten"
    (zebra,) = model.query_embed("zebra")
    id = int(zebra.indices[0])
    long = f"{filler} zebra"

    (node,) = for_llama_index.SpladeSparseEmbedding(model=model)([TextNode(text=long)])
    assert id in node.metadata["_splade_vector"]["indices"]
    encode_documents, _ = for_llama_index.sparse_encoders(model)
    assert id in encode_documents([long])[0][0]
    assert id in for_langchain.SpladeSparseEmbeddings(model).embed_documents([long])[0].indices
    documents = [LangChainDocument(page_content=text) for text in (filler, long)]
    assert for_langchain.SpladeReranker(model=model).compress_documents(documents, "zebra")[0] is documents[1]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in (filler, long)]
    (best,) = for_llama_index.SpladeRerank(model=model, top_n=1).postprocess_nodes(nodes, query_str="zebra")
    assert best.text == long


def test_the_adapters_keep_the_windows_of_an_existing_collection() -> None:
    client = QdrantClient(":memory:")
    SpladeIndex(client=client, model=WordEncoder())

    assert for_langchain.SpladeVectorStore(client=client, model=WordEncoder()).index.windows == "truncate"
    assert for_llama_index.SpladeVectorStore(client=client, model=WordEncoder()).index.windows == "truncate"
