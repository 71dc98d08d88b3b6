"""SpladeRetriever: constructors, searches, traces, serialisation, and LangChain's standard suite."""

import asyncio
import copy
import json
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)
from langchain_core.structured_query import Comparator, Comparison
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from langchain_tests.integration_tests import RetrieversIntegrationTests
from qdrant_client import QdrantClient, models

from splade_retriever import SpladeIndex
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
)
from splade_retriever.index.search_request import Fusion
from splade_retriever.langchain import METADATA_KEY, SpladeRetriever, SpladeSparseEmbeddings
from tests.index.parts import opened_store
from tests.langchain.parts import LetterEmbeddings, echo_model, mark_async_tests
from tests.words import WordEncoder

MOON = [
    Document(
        id="south", page_content="Chandrayaan-3 landed near the south pole of the Moon.", metadata={"n": 0}
    ),
    Document(id="rover", page_content="The rover Pragyan left the lander Vikram.", metadata={"n": 1}),
    Document(id="orbit", page_content="A rocket lifted the lander to a lunar orbit.", metadata={"n": 2}),
    Document(id="cost", page_content="The mission cost about 35 million dollars.", metadata={"n": 3}),
]

NUMBER_1 = models.Filter(must=[models.FieldCondition(key="metadata.n", match=models.MatchValue(value=1))])


@pytest.fixture
def index(client: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(
        [document.page_content for document in MOON],
        [document.metadata for document in MOON],
        [document.id for document in MOON],
    )
    return index


def open_index() -> SpladeIndex:
    return SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder())


# -- making one ----------------------------------------------------------------------------------------------


def test_documents_of_an_index_come_back_equal(index: SpladeIndex) -> None:
    retriever = SpladeRetriever(index=index, k=4)

    assert retriever.invoke("rover lander") == [MOON[1], MOON[2]]


def test_documents_make_a_retriever_and_keep_their_ids(client: Any) -> None:
    retriever = SpladeRetriever.from_documents(MOON, k=1, client=client, model=WordEncoder())

    assert retriever.invoke("rover") == [MOON[1]]


def test_an_iterator_of_documents_makes_a_retriever(client: Any) -> None:
    retriever = SpladeRetriever.from_documents(
        (document for document in MOON), client=client, model=WordEncoder()
    )

    assert retriever.open().count() == 4


@pytest.mark.asyncio
async def test_afrom_documents_returns_the_same_as_from_documents(client: Any) -> None:
    retriever = await SpladeRetriever.afrom_documents(MOON, k=1, client=client, model=WordEncoder())

    assert await retriever.ainvoke("rover") == [MOON[1]]


def test_texts_make_a_retriever_and_the_same_call_stores_each_once(client: Any) -> None:
    texts = [document.page_content for document in MOON]
    metadatas = [document.metadata for document in MOON]
    for _ in range(2):
        retriever = SpladeRetriever.from_texts(texts, metadatas, k=1, client=client, model=WordEncoder())

    (found,) = retriever.invoke("rover")
    assert (found.page_content, found.metadata) == (texts[1], metadatas[1])
    assert retriever.open().count() == 4


@pytest.mark.asyncio
async def test_afrom_texts_keeps_ids(client: Any) -> None:
    retriever = await SpladeRetriever.afrom_texts(
        ["a rover", "a rocket"], ids=["one", "two"], k=1, client=client, model=WordEncoder()
    )

    assert [document.id for document in await retriever.ainvoke("rocket")] == ["two"]


def test_a_bad_document_is_an_error_with_its_position_and_nothing_is_written(client: Any) -> None:
    with pytest.raises(InputError, match=r"Document 1 is a str, expected a langchain_core Document"):
        SpladeRetriever.from_documents([MOON[0], cast(Document, "text")], client=client, model=WordEncoder())

    assert SpladeIndex(client=client, model=WordEncoder()).count() == 0


@pytest.mark.asyncio
async def test_the_first_search_opens_the_folder_with_the_model_it_records(tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    made = SpladeRetriever.from_documents(MOON, location=folder, k=1)

    lazy = SpladeRetriever(location=folder, k=1)  # no error: the folder is still in use
    made.close()

    assert lazy.invoke("rover") == await lazy.ainvoke("rover") == [MOON[1]]
    assert lazy.open().model_name == made.open().model_name
    lazy.close()


@pytest.mark.asyncio
async def test_a_with_block_closes_the_retriever(tmp_path: Path) -> None:
    with SpladeRetriever.from_documents(MOON, location=tmp_path / "index", k=1) as made:
        assert made.invoke("rover") == [MOON[1]]
    async with SpladeRetriever(location=tmp_path / "index", k=1) as lazy:
        assert await lazy.ainvoke("rover") == [MOON[1]]
        index = lazy.open()
    with pytest.raises(IndexClosedError):
        index.count()


@pytest.mark.asyncio
async def test_a_retriever_closes_only_the_index_it_opened(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        with SpladeRetriever(index=index):
            pass
        await SpladeRetriever(index=index).aclose()
        assert index.count() == 0

    made = SpladeRetriever.from_documents(MOON, location=tmp_path / "index", model=WordEncoder())
    opened = SpladeRetriever(index=SpladeIndex(tmp_path / "index", model=WordEncoder()))
    for original in (made, opened):
        for duplicate in (copy.deepcopy(original), original.model_copy(update={"k": 1})):
            duplicate.close()
            assert len(original.invoke("lander")) == 2
    made.close()
    with pytest.raises(IndexClosedError):
        made.invoke("lander")
    assert opened.index is not None
    opened.index.close()


def test_a_retriever_does_not_create_an_index(tmp_path: Path) -> None:
    retriever = SpladeRetriever(location=str(tmp_path / "nothing"))

    with pytest.raises(CollectionNotFoundError, match="nothing"):
        retriever.invoke("rover")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either index="),
        ({"location": "./x", "settings": {"client": 1}}, "settings has client, which is not allowed"),
        ({"index": open_index(), "collection": "x"}, "collection applies to a location="),
        ({"location": "./x", "k": 0}, "greater than or equal to 1"),
        ({"location": "./x", "kk": 3}, "kk"),
        ({"location": "./x", "model": WordEncoder()}, r"model is a WordEncoder, expected a name.*index="),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpladeRetriever(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"location": "./x", "settings": {"api_key": "s3cret"}},
        {"location": "./x", "apikey": "s3cret"},
        {"location": "./x", "model": ["s3cret"]},
        {"location": "./x", "k": "s3cret"},
    ],
)
def test_errors_of_the_constructor_show_no_values(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="SpladeRetriever") as caught:
        SpladeRetriever(**arguments)

    assert "s3cret" not in str(caught.value)


def test_repr_shows_no_settings_and_no_key() -> None:
    retriever = SpladeRetriever(location="./x", api_key="s3cret", settings={"token": "s3cret"})

    assert "s3cret" not in repr(retriever)


def test_an_unknown_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"'with_score'\. Did you mean 'with_scores'"):
        SpladeRetriever.from_documents(MOON, with_score=True)
    with pytest.raises(TypeError, match=r"'top_k'\. Did you mean 'k'"):
        SpladeRetriever.from_documents(MOON, top_k=2)


# -- searching -----------------------------------------------------------------------------------------------


def test_k_of_a_call_overrides_k_of_the_retriever(index: SpladeIndex) -> None:
    retriever = SpladeRetriever(index=index, k=1)

    assert len(retriever.invoke("the lander")) == 1
    assert len(retriever.invoke("the lander", k=3)) == 3


def test_fields_can_be_configured_and_bound(index: SpladeIndex) -> None:
    retriever = SpladeRetriever(index=index, k=1)
    configurable = retriever.configurable_fields(
        k=ConfigurableField(id="k"), filter=ConfigurableField(id="filter")
    )

    assert len(configurable.invoke("the lander")) == 1
    assert len(configurable.invoke("the lander", config={"configurable": {"k": 3}})) == 3
    (found,) = configurable.invoke("lander", config={"configurable": {"k": 3, "filter": {"n": 2}}})
    assert found == MOON[2]
    assert len(retriever.bind(k=3).invoke("the lander")) == 3


def test_a_filter_of_a_call_overrides_the_filter_of_the_retriever(index: SpladeIndex) -> None:
    retriever = SpladeRetriever(index=index, filter={"n": {"$gte": 2}})

    assert [document.id for document in retriever.invoke("lander")] == ["orbit"]
    assert [document.id for document in retriever.invoke("lander", filter={"n": 1})] == ["rover"]


def test_a_qdrant_filter_is_accepted(index: SpladeIndex) -> None:
    assert [found.id for found in SpladeRetriever(index=index, filter=NUMBER_1).invoke("lander")] == ["rover"]


def test_documents_below_the_score_threshold_are_left_out(index: SpladeIndex) -> None:
    found = SpladeRetriever(index=index, score_threshold=1.5).invoke("rover lander")

    assert [document.id for document in found] == ["rover"]


def test_metadata_has_scores_only_on_request(index: SpladeIndex) -> None:
    plain = SpladeRetriever(index=index).invoke("rover")
    (scored,) = SpladeRetriever(index=index, with_scores=True).invoke("rover")

    assert plain == [MOON[1]]
    assert scored.metadata == {"n": 1, METADATA_KEY: {"score": 1.0}}


def test_explanations_name_the_tokens_of_the_score(index: SpladeIndex) -> None:
    (found,) = SpladeRetriever(index=index).invoke("rover Vikram", k=1, with_explanations=True)

    report = found.metadata[METADATA_KEY]
    assert report["score"] == report["explanation"]["score"] == 2.0
    assert {part["token"] for part in report["explanation"]["contributions"]} == {"rover", "vikram"}
    json.dumps(found.metadata)  # is JSON


def test_a_hybrid_search_reports_rank_and_score_of_each_branch(client: Any) -> None:
    retriever = SpladeRetriever.from_documents(
        MOON, client=client, model=WordEncoder(), embedding=LetterEmbeddings(), with_scores=True
    )

    first = retriever.invoke(MOON[1].page_content)[0]

    branches = first.metadata[METADATA_KEY]["branches"]
    assert (branches["sparse"]["rank"], branches["dense"]["rank"]) == (1, 1)


@pytest.mark.asyncio
async def test_async_search_returns_the_same_as_sync(index: SpladeIndex) -> None:
    retriever = SpladeRetriever(index=index, with_explanations=True)

    assert await retriever.ainvoke("rover lander") == retriever.invoke("rover lander")


@pytest.mark.asyncio
async def test_concurrent_searches_do_not_block_the_event_loop(index: SpladeIndex) -> None:
    inner = index.model
    entered = threading.Event()
    release = threading.Event()

    class Slow(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            entered.set()
            assert release.wait(10)
            return inner.query_embed(query)

    slow = SpladeRetriever(index=SpladeIndex(client=index.client, model=Slow()))
    work = [asyncio.create_task(slow.ainvoke("rover")) for _ in range(4)]
    await asyncio.to_thread(entered.wait, 10)
    release.set()  # only a loop that is free gets here

    assert await asyncio.gather(*work) == [[MOON[1]]] * 4


def test_an_unknown_argument_of_a_call_is_an_error_that_names_it(index: SpladeIndex) -> None:
    with pytest.raises(InputError, match=r"unknown argument fliter; allowed: k, filter"):
        SpladeRetriever(index=index).invoke("rover", fliter={"n": 1})


# -- in chains -----------------------------------------------------------------------------------------------


def test_it_works_in_a_chain_with_invoke_batch_and_stream(index: SpladeIndex) -> None:
    chain = (
        {"context": SpladeRetriever(index=index, k=1), "question": RunnablePassthrough()}
        | ChatPromptTemplate.from_template("{context} {question}")
        | echo_model()
        | StrOutputParser()
    )

    assert "Pragyan" in chain.invoke("rover")
    assert ["Pragyan" in answer for answer in chain.batch(["rover", "cost"])] == [True, False]
    assert "Pragyan" in "".join(chain.stream("rover"))


@pytest.mark.asyncio
async def test_it_works_in_a_chain_with_ainvoke_abatch_and_astream(index: SpladeIndex) -> None:
    chain = SpladeRetriever(index=index, k=1) | (lambda found: found[0].id)

    assert await chain.ainvoke("rover") == "rover"
    assert await chain.abatch(["rover", "cost", "orbit"]) == ["rover", "cost", "orbit"]
    assert [piece async for piece in chain.astream("rover")] == ["rover"]
    events = [event["event"] async for event in chain.astream_events("rover", version="v2")]
    assert {"on_retriever_start", "on_retriever_end"} <= set(events)


def test_traces_have_the_names_of_retriever_store_and_model(index: SpladeIndex) -> None:
    seen: list[dict[str, Any]] = []

    class Listener(BaseCallbackHandler):
        def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs)

    SpladeRetriever(index=index).invoke("rover", config={"callbacks": [Listener()]})

    report = {key: value for key, value in seen[0]["metadata"].items() if key.startswith("ls_")}
    assert report == {
        "ls_retriever_name": "splade",
        "ls_vector_store_provider": "SpladeIndex",
        "ls_embedding_provider": "splade-retriever",
        "ls_embedding_model": "words",
    }


# -- dumps and loads -----------------------------------------------------------------------------------------

OF_THE_CHAIN: list[Any] = [
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
]
reads = pytest.mark.filterwarnings("ignore:The function `loads` is in beta")


def loaded(text: str, **arguments: Any) -> Any:
    return loads(text, allowed_objects=[SpladeRetriever], valid_namespaces=["splade_retriever"], **arguments)


@reads
def test_a_configuration_comes_back_equal_from_dumps() -> None:
    retriever = SpladeRetriever(
        location="./index",
        collection="docs",
        k=7,
        filter={"lang": "en"},
        fusion=Fusion("rrf", weights=(1.0, 0.5)),
        score_threshold=1.5,
        with_scores=True,
        settings={"vector_name": "langchain-sparse"},
        tags=["mine"],
    )

    again = loaded(dumps(retriever))

    assert dumps(again) == dumps(retriever)
    assert (again.k, again.filter, again.fusion) == (7, {"lang": "en"}, retriever.fusion)


@reads
@pytest.mark.parametrize(
    ("filter", "read"),
    [
        (Comparison(Comparator.GTE, "n", 2), {"n": {"$gte": 2}}),
        ({"at": {"$lt": date(2023, 8, 23)}}, {"at": {"$lt": date(2023, 8, 23)}}),
        (NUMBER_1, NUMBER_1),
    ],
)
def test_filters_of_every_type_come_back_equal_from_dumps(filter: Any, read: Any) -> None:
    assert loaded(dumps(SpladeRetriever(location="./index", filter=filter))).filter == read


@reads
def test_a_chain_with_a_retriever_comes_back_from_dumps(tmp_path: Path) -> None:
    SpladeRetriever.from_documents(MOON, location=tmp_path / "index").close()
    retriever = SpladeRetriever(location=tmp_path / "index", k=1)
    prompt = ChatPromptTemplate.from_template("{context} {question}")
    text = dumps({"context": retriever, "question": RunnablePassthrough()} | prompt)

    again = loads(
        text, allowed_objects=[SpladeRetriever, *OF_THE_CHAIN], valid_namespaces=["splade_retriever"]
    )

    assert "Pragyan" in again.invoke("rover").to_string()
    again.first.steps__["context"].close()


@reads
def test_loads_names_a_dense_encoder_that_langchain_cannot_write() -> None:
    text = dumps(SpladeRetriever(location="./index", embedding=LetterEmbeddings()))

    with pytest.raises(NotImplementedError, match="LetterEmbeddings"):
        loaded(text)


@reads
def test_dumps_of_an_open_server_index_names_its_key_as_a_secret(
    index: SpladeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"location": "https://host:6333", "collection": "docs", "vector_name": "splade"}
    monkeypatch.setattr(SpladeIndex, "open_arguments", property(lambda _: dict(place)))

    text = dumps(SpladeRetriever(index=index))

    again = loaded(text, secrets_map={"QDRANT_API_KEY": "very secret"})
    assert (again.location, again.collection) == ("https://host:6333", "docs")
    assert again.api_key.get_secret_value() == "very secret"
    assert loaded(text).api_key is None


@reads
def test_dumps_writes_an_open_index_as_its_location(tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    retriever = SpladeRetriever.from_documents(
        MOON, location=folder, collection="docs", k=2, query_max_active_dims=9, model=WordEncoder()
    )

    again = loaded(dumps(retriever))

    assert (again.location, again.collection, again.k, again.index) == (folder, "docs", 2, None)
    assert again.settings["query_max_active_dims"] == 9
    retriever.close()


@reads
def test_dumps_never_writes_a_key_and_loads_takes_it_from_the_secrets() -> None:
    text = dumps(SpladeRetriever(location="http://host:6333", api_key="very secret"))

    assert "very secret" not in text
    assert loaded(text).api_key is None
    assert (
        loaded(text, secrets_map={"QDRANT_API_KEY": "very secret"}).api_key.get_secret_value()
        == "very secret"
    )


@reads
def test_dumps_writes_an_index_in_memory_as_not_implemented(index: SpladeIndex) -> None:
    text = dumps(SpladeRetriever(index=index))

    assert json.loads(text)["type"] == "not_implemented"
    with pytest.raises(NotImplementedError):
        loaded(text)


# -- an existing collection of langchain-qdrant --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_an_existing_collection_of_langchain_qdrant_is_searched(mode: str) -> None:
    client = QdrantClient(":memory:")
    make_langchain_qdrant_collection(client, mode)
    dense = LetterEmbeddings() if mode == "hybrid" else None

    retriever = SpladeRetriever.from_existing_collection(
        "docs", client=client, model=WordEncoder(), embedding=dense, k=1, with_scores=True
    )

    (found,) = retriever.invoke("The rover Pragyan left the lander Vikram.")
    assert (found.page_content, found.metadata["n"]) == (MOON[1].page_content, 1)
    assert set(found.metadata[METADATA_KEY].get("branches", {})) == (
        {"sparse", "dense"} if mode == "hybrid" else set()
    )


def test_an_existing_collection_without_the_named_vectors_is_an_error() -> None:
    client = QdrantClient(":memory:")
    make_langchain_qdrant_collection(client, "sparse")

    with pytest.raises(CollectionMismatchError, match=r"no sparse vector named 'other' \(found: 'langchain"):
        SpladeRetriever.from_existing_collection(
            "docs", client=client, model=WordEncoder(), sparse_vector_name="other"
        )


def make_langchain_qdrant_collection(client: QdrantClient, mode: str) -> None:
    client.create_collection(
        "docs",
        vectors_config={}
        if mode == "sparse"
        else models.VectorParams(size=26, distance=models.Distance.COSINE),
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()},
    )
    store = QdrantVectorStore(
        client=client,
        collection_name="docs",
        embedding=LetterEmbeddings() if mode == "hybrid" else None,
        retrieval_mode=RetrievalMode(mode),
        sparse_embedding=SpladeSparseEmbeddings(WordEncoder()),
    )
    store.add_documents([Document(page_content=d.page_content, metadata=d.metadata) for d in MOON])


# -- LangChain's standard suite ------------------------------------------------------------------------------


mark_async_tests(RetrieversIntegrationTests)


class RetrieverSuite(RetrieversIntegrationTests):
    """The suite's five tests; made for each engine and each mode below."""

    engine: str
    dense: bool

    @pytest.fixture(autouse=True)
    def _index(self, request: pytest.FixtureRequest) -> Iterator[None]:
        dense = LetterEmbeddings() if self.dense else None
        with opened_store(self.engine, request) as client:
            index = SpladeIndex(client=client, model=WordEncoder(), dense=dense)
            index.add([document.page_content for document in MOON])
            self.index = index
            yield

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return SpladeRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "the lander of the mission"


class TestRetrieverOnEdgeSparse(RetrieverSuite):
    engine, dense = "edge", False


class TestRetrieverOnEdgeHybrid(RetrieverSuite):
    engine, dense = "edge", True


class TestRetrieverOnLocalModeSparse(RetrieverSuite):
    engine, dense = "local", False


class TestRetrieverOnLocalModeHybrid(RetrieverSuite):
    engine, dense = "local", True


@pytest.mark.server
class TestRetrieverOnServerSparse(RetrieverSuite):
    engine, dense = "server", False


@pytest.mark.server
class TestRetrieverOnServerHybrid(RetrieverSuite):
    engine, dense = "server", True
