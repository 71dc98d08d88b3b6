"""Both frameworks on one collection, and on collections of the frameworks' Qdrant stores."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_qdrant import QdrantVectorStore as LangChainQdrantStore
from langchain_qdrant import RetrievalMode
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexQdrantStore
from qdrant_client import models

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever import langchain as for_langchain
from splade_retriever import llama_index as for_llama_index
from splade_retriever.encoding.model_files import bundled_names
from splade_retriever.errors import CollectionMismatchError, InputError, NotSupportedError
from tests.index.parts import opened_store
from tests.llama_index.suite import rich_nodes, uuid_of
from tests.words import LetterEncoder, WordEncoder

A, B, C = (uuid_of(n) for n in range(3))
TEXTS = {A: "The lander stood on the Moon.", B: "The rover left the lander.", C: "A rocket lifted off."}
YEARS = {A: 2023, B: 2023, C: 2019}
IN_2023 = MetadataFilters(filters=[MetadataFilter(key="year", value=2023)])


@pytest.fixture(params=["edge", "local", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened_store(request.param, request) as opened:
        yield opened


@pytest.fixture
def index(client: Any) -> SpladeIndex:
    return SpladeIndex(client=client, model=WordEncoder())


@pytest.fixture
def langchain(index: SpladeIndex) -> for_langchain.SpladeVectorStore:
    return for_langchain.SpladeVectorStore(index=index)


@pytest.fixture
def llama_index(index: SpladeIndex) -> for_llama_index.SpladeVectorStore:
    return for_llama_index.SpladeVectorStore(index=index)


def documents() -> list[LangChainDocument]:
    return [
        LangChainDocument(id=id, page_content=text, metadata={"year": YEARS[id]})
        for id, text in TEXTS.items()
    ]


def nodes() -> list[TextNode]:
    return [
        TextNode(
            id_=id,
            text=text,
            metadata={"year": YEARS[id]},
            excluded_embed_metadata_keys=["year"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book" if id != C else "letter")},
        )
        for id, text in TEXTS.items()
    ]


def query(text: str, **rest: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, similarity_top_k=10, **rest)


# -- documents written by one framework and read by the other ------------------------------------------------


def test_llama_index_reads_documents_that_langchain_wrote(langchain: Any, llama_index: Any) -> None:
    langchain.add_documents(documents())

    results = for_llama_index.SpladeRetriever(llama_index, filters=IN_2023).retrieve("lander rocket")

    assert sorted(scored.node_id for scored in results) == [A, B]
    assert llama_index.get_nodes([A]) == [TextNode(id_=A, text=TEXTS[A], metadata={"year": 2023})]
    assert llama_index.query(query("the", node_ids=[B])).ids == [B]
    llama_index.delete_nodes([A])
    llama_index.delete(B)
    assert [document.id for document in langchain.similarity_search("lander rocket")] == [C]


def test_langchain_reads_nodes_that_llama_index_wrote(langchain: Any, llama_index: Any) -> None:
    llama_index.add(nodes())

    results = langchain.similarity_search("lander rocket", filter={"year": 2023})

    assert sorted(document.id for document in results) == [A, B]
    assert langchain.get_by_ids([A]) == [
        LangChainDocument(id=A, page_content=TEXTS[A], metadata={"year": 2023})
    ]
    langchain.delete([A])
    assert [node.node_id for node in llama_index.get_nodes([A, B])] == [B]


@pytest.mark.parametrize("kind", rich_nodes())
def test_langchain_reads_text_and_metadata_of_every_class_of_node(
    langchain: Any, llama_index: Any, kind: str
) -> None:
    node = rich_nodes()[kind]
    llama_index.add([node])

    (document,) = langchain.similarity_search("lander")

    assert (document.id, document.page_content) == (node.node_id, node.get_content())
    assert document.metadata == node.metadata


def test_both_frameworks_find_the_same_documents_with_the_same_scores(
    langchain: Any, llama_index: Any
) -> None:
    langchain.add_documents(documents()[:2])
    llama_index.add(nodes()[2:])

    langchain_results = langchain.similarity_search_with_score("the rocket and the lander")
    llama_index_results = llama_index.query(query("the rocket and the lander"))

    assert [(document.id, score) for document, score in langchain_results] == list(
        zip(llama_index_results.ids, llama_index_results.similarities, strict=True)
    )
    assert len(langchain_results) == 3


def test_a_document_replaced_by_one_framework_is_read_by_the_other(langchain: Any, llama_index: Any) -> None:
    llama_index.add(nodes())

    langchain.add_documents([LangChainDocument(id=A, page_content="A comet came.", metadata={})])

    assert llama_index.get_nodes([A]) == [TextNode(id_=A, text="A comet came.")]
    assert llama_index.query(query("lander", doc_ids=["book"])).ids == [B]


def test_both_frameworks_read_updated_metadata_and_the_rest_of_a_node_stays(
    index: SpladeIndex, langchain: Any, llama_index: Any
) -> None:
    llama_index.add(nodes())

    index.update_metadata(A, {"year": 1969})

    (node,) = llama_index.get_nodes([A])
    assert node.metadata == langchain.get_by_ids([A])[0].metadata == {"year": 1969}
    assert node.relationships == nodes()[0].relationships


# -- collections of the frameworks' Qdrant stores ------------------------------------------------------------


@pytest.fixture
def of_langchain_qdrant(client: Any) -> Any:
    client.create_collection("docs", sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()})
    store = LangChainQdrantStore(
        client=client,
        collection_name="docs",
        retrieval_mode=RetrievalMode.SPARSE,
        sparse_embedding=for_langchain.SpladeSparseEmbeddings(model=WordEncoder()),
        sparse_vector_name="langchain-sparse",
    )
    store.add_texts([*TEXTS.values()], [{"year": YEARS[id]} for id in TEXTS], ids=[*TEXTS])
    return client


@pytest.fixture
def of_llama_index_qdrant(client: Any) -> Any:
    documents_fn, queries_fn = for_llama_index.sparse_encoders(WordEncoder())
    store = LlamaIndexQdrantStore(
        collection_name="docs",
        client=client,
        enable_hybrid=True,
        sparse_doc_fn=documents_fn,
        sparse_query_fn=queries_fn,
        index_doc_id=False,
    )
    store.add([node.model_copy(update={"embedding": [0.5, 0.5]}) for node in nodes()])
    return client


def opened(client: Any, vector_name: str, **settings: Any) -> SpladeIndex:
    return SpladeIndex(
        client=client, collection="docs", vector_name=vector_name, model=WordEncoder(), **settings
    )


def test_both_frameworks_read_a_collection_of_langchain_qdrant(of_langchain_qdrant: Any) -> None:
    index = opened(of_langchain_qdrant, "langchain-sparse")
    llama_index_store = for_llama_index.SpladeVectorStore(index=index)

    results = llama_index_store.query(query("lander rocket", filters=IN_2023)).nodes or []

    assert sorted(node.node_id for node in results) == [A, B]
    assert llama_index_store.get_nodes([A]) == [TextNode(id_=A, text=TEXTS[A], metadata={"year": 2023})]
    assert llama_index_store.query(query("the", node_ids=[B])).ids == [B]
    in_langchain = for_langchain.SpladeVectorStore(index=index)
    assert [document.page_content for document in in_langchain.similarity_search("rocket")] == [TEXTS[C]]
    llama_index_store.delete_nodes([A])
    assert llama_index_store.get_nodes([A]) == []


def test_both_frameworks_read_a_collection_of_llama_indexs_qdrant_store(
    of_llama_index_qdrant: Any,
) -> None:
    index = opened(of_llama_index_qdrant, "text-sparse-new")
    llama_index_store = for_llama_index.SpladeVectorStore(index=index)

    assert llama_index_store.get_nodes([*TEXTS]) == nodes()
    assert sorted(llama_index_store.query(query("lander rocket", filters=IN_2023)).ids or []) == [A, B]
    assert sorted(llama_index_store.query(query("lander rocket", doc_ids=["book"])).ids or []) == [A, B]
    assert llama_index_store.query(query("the", node_ids=[B])).ids == [B]
    in_langchain = for_langchain.SpladeVectorStore(index=index)
    (document,) = in_langchain.similarity_search("rocket")
    assert (document.id, document.page_content, document.metadata) == (C, TEXTS[C], {"year": 2019})
    llama_index_store.delete("book")
    assert [node.node_id for node in llama_index_store.get_nodes()] == [C]


def test_text_search_is_an_error_where_texts_are_inside_json(of_llama_index_qdrant: Any) -> None:
    llama_index_store = for_llama_index.SpladeVectorStore(
        index=opened(of_llama_index_qdrant, "text-sparse-new")
    )

    with pytest.raises(NotSupportedError, match="JSON"):
        llama_index_store.query(query("lander", mode=VectorStoreQueryMode.TEXT_SEARCH))


def test_text_search_works_in_a_collection_of_langchain_qdrant(of_langchain_qdrant: Any) -> None:
    llama_index_store = for_llama_index.SpladeVectorStore(
        index=opened(of_langchain_qdrant, "langchain-sparse")
    )

    results = llama_index_store.query(query("Lifted", mode=VectorStoreQueryMode.TEXT_SEARCH))

    assert results.ids == [C]


def test_a_collection_of_another_program_that_is_only_read_gets_no_payload_index(
    of_llama_index_qdrant: Any,
) -> None:
    llama_index_store = for_llama_index.SpladeVectorStore(
        index=opened(of_llama_index_qdrant, "text-sparse-new")
    )
    before = of_llama_index_qdrant.get_collection("docs").payload_schema

    with pytest.raises(CollectionMismatchError):
        llama_index_store.add(nodes())

    assert of_llama_index_qdrant.get_collection("docs").payload_schema == before


@pytest.mark.parametrize("kind", rich_nodes())
def test_every_class_of_node_of_llama_indexs_qdrant_store_is_read_equal(client: Any, kind: str) -> None:
    documents_fn, queries_fn = for_llama_index.sparse_encoders(WordEncoder())
    qdrant_store = LlamaIndexQdrantStore(
        collection_name="docs",
        client=client,
        enable_hybrid=True,
        sparse_doc_fn=documents_fn,
        sparse_query_fn=queries_fn,
        index_doc_id=False,
    )
    node = rich_nodes()[kind]
    qdrant_store.add([node.model_copy(update={"embedding": [0.5, 0.5]})])

    (read,) = for_llama_index.SpladeVectorStore(index=opened(client, "text-sparse-new")).get_nodes()

    assert type(read) is type(node)
    if kind == "multimodal":  # its JSON does not contain the bytes of media
        node.image_resource = node.image_resource.model_copy(update={"data": None})  # type: ignore[attr-defined]
    assert read == node


def test_writing_to_a_collection_of_another_program_needs_adopt(of_llama_index_qdrant: Any) -> None:
    llama_index_store = for_llama_index.SpladeVectorStore(
        index=opened(of_llama_index_qdrant, "text-sparse-new")
    )

    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        llama_index_store.add([TextNode(text="A comet came.")])


def test_llama_indexs_qdrant_store_reads_nodes_written_to_an_adopted_collection(
    of_llama_index_qdrant: Any,
) -> None:
    llama_index_store = for_llama_index.SpladeVectorStore(
        index=opened(of_llama_index_qdrant, "text-sparse-new", adopt=True)
    )
    comet = nodes()[0].model_copy(update={"id_": uuid_of(9), "text": "A comet came."})

    llama_index_store.add([comet])

    assert llama_index_store.get_nodes([comet.node_id]) == [comet]
    qdrant_store = LlamaIndexQdrantStore(
        collection_name="docs", client=of_llama_index_qdrant, enable_hybrid=False
    )
    (read,) = qdrant_store.get_nodes([comet.node_id])
    assert read == comet


def test_a_tenants_documents_are_read_and_deleted_by_id_and_tenant(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), tenant_field="org")
    index.add(["a moon", "a sun"], [{"org": "acme"}, {"org": "globex"}], [A, A])
    langchain = for_langchain.SpladeVectorStore(index=index)
    llama_index = for_llama_index.SpladeVectorStore(index=index)
    of_acme = MetadataFilters(filters=[MetadataFilter(key="org", value="acme")])

    assert [found.page_content for found in langchain.get_by_ids([A], tenant="acme")] == ["a moon"]
    (node,) = llama_index.get_nodes([A], of_acme)
    assert node.get_content() == "a moon"
    for refused in (
        lambda: langchain.get_by_ids([A]),
        lambda: langchain.delete([A]),
        lambda: langchain.delete(tenant="acme"),
        lambda: llama_index.delete(A),
        lambda: llama_index.delete_nodes([A]),
    ):
        with pytest.raises(InputError):
            refused()
    assert index.count() == 2
    langchain.delete([A], tenant="globex")
    assert [hit.text for hit in index.scroll()] == ["a moon"]
    llama_index.delete_nodes([A], of_acme)
    assert index.count() == 0


# -- explanations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", ["merge", "points"])
@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_both_frameworks_name_the_words_that_expansions_come_from(windows: Any, mode: Any) -> None:
    text = "Stars shine for long. " * 15 + "A supernova is the explosion of a star."
    model = SparseTextEmbedding(max_length=48)  # two windows
    with SpladeIndex(windows=windows, model=model, dense=LetterEncoder()) as index:
        index.add([text], ids=["a"])
        question = "explode"
        expected = index.explain(question, index.search(question, 1, mode=mode)[0], origins=True)
        retriever = for_langchain.SpladeRetriever(index=index, k=1, mode=mode, with_origins=True)
        store = for_langchain.SpladeVectorStore(index=index)
        reports = [
            document.metadata["_splade"]["explanation"]
            for document in (
                retriever.invoke(question)[0],
                asyncio.run(retriever.ainvoke(question))[0],
                store.similarity_search(question, 1, mode=mode, with_origins=True)[0],
            )
        ]
        engine = for_llama_index.SpladeRetriever(index=index, similarity_top_k=1, mode=mode, origins=True)
        (node,) = engine.retrieve(question)
        (same,) = asyncio.run(engine.aretrieve(question))

    (exploded,) = [c for c in expected.contributions if c.token == "explode"]
    assert exploded.text_origin is not None
    assert expected.text[slice(*exploded.text_origin)] == "explosion"
    assert reports == [expected.to_dict()] * 3
    assert node.metadata["_splade"]["explanation"] == expected.to_dict()
    assert same.metadata["_splade"]["explanation"] == expected.to_dict()


def test_both_frameworks_take_the_bundled_model_whose_queries_need_no_network(client: Any) -> None:
    first, doc = bundled_names()
    SpladeIndex(client=client, model=first).add(TEXTS.values(), ids=list(TEXTS))

    index = SpladeIndex(client=client, model=doc)
    langchain = for_langchain.SpladeRetriever(index=index, k=1)
    llama_index = for_llama_index.SpladeRetriever(index=index, similarity_top_k=1)

    (document,), (node,) = langchain.invoke("lunar rover"), llama_index.retrieve("lunar rover")
    assert document.page_content == node.text == TEXTS[B]


def test_a_node_with_a_vector_of_either_bundled_model_is_stored_by_the_other(client: Any) -> None:
    first, doc = bundled_names()
    store = for_llama_index.SpladeVectorStore(client=client, model=doc)
    encoder = for_llama_index.SpladeSparseEmbedding(first)

    nodes = encoder([TextNode(id_=id, text=text) for id, text in TEXTS.items()])

    assert store.add(list(nodes)) == list(TEXTS)
