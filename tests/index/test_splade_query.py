"""Queries with controls: boosts, required and excluded words, synonyms, no expansion."""

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from splade_retriever import QueryControls, SparseEmbedding, SpladeIndex, SpladeQuery
from splade_retriever.errors import InputError
from splade_retriever.langchain import SpladeReranker
from splade_retriever.langchain import SpladeRetriever as LangChainRetriever
from splade_retriever.llama_index import SpladeRerank
from splade_retriever.llama_index import SpladeRetriever as LlamaIndexRetriever
from tests.index.parts import opened_store
from tests.words import LetterEncoder, WordEncoder

TEXTS = {
    "lander": "The moon lander of India reached the south pole.",
    "rover": "A rover drove over the moon.",
    "indiana": "Indiana has a moon festival; the pole is south of it.",
    "orbit": "The orbiter sees the moon.",
}


@pytest.fixture(params=["edge", "local", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened_store(request.param, request) as opened:
        yield opened


def filled(client: Any = None, **options: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder(), **options)
    index.add(list(TEXTS.values()), ids=list(TEXTS))
    return index


def ids(hits: Any) -> list[str]:
    return [hit.id for hit in hits]


def test_excluded_words_are_compared_as_whole_words_in_any_case(client: Any) -> None:
    found = filled(client).search(SpladeQuery("moon", exclude=["india"]))

    assert set(ids(found)) == {"rover", "indiana", "orbit"}


def test_required_words_must_be_in_the_text_all_of_several(client: Any) -> None:
    index = filled(client)

    assert ids(index.search(SpladeQuery("moon", require=["SOUTH pole", "india"]))) == ["lander"]
    assert ids(index.search(SpladeQuery("moon", require=["rover"]), filter={"year": 1})) == []
    assert index.search(SpladeQuery("moon", require=["nothing"])) == []


def test_accents_are_compared_however_unicode_writes_them(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    composed, decomposed = "\u00e9clair", "e\u0301clair"
    index.add([f"moon {composed}", f"moon {decomposed}", "moon eclair"], ids=["a", "b", "c"])

    for word in (composed, decomposed):
        assert ids(index.search(SpladeQuery("moon", exclude=[word]))) == ["c"]
        assert set(ids(index.search(SpladeQuery("moon", require=[word])))) == {"a", "b"}
        query = SpladeQuery("moon", require=[word])
        assert [query.controls.accepts(text) for text in (composed, decomposed, "eclair")] == [
            True,
            True,
            False,
        ]


def test_a_document_of_several_windows_counts_as_one_text_for_excluded_words(client: Any) -> None:
    index = filled(client, windows="points", window_overlap=0)
    long = SpladeIndex(client=client, collection="long", model=WordEncoder(max_length=2), windows="points")
    long.add(["moon rover in india now"], ids=["a"])

    assert "lander" not in ids(index.search(SpladeQuery("moon", exclude=["india"])))
    assert long.search(SpladeQuery("moon", exclude=["india"])) == []


def test_a_boost_multiplies_a_word_and_adds_one_that_the_query_does_not_have(client: Any) -> None:
    index = filled(client)

    boosted = index.search(SpladeQuery("moon orbiter", boost={"moon": 3}))
    added = index.search(SpladeQuery("moon", boost={"rover": 2}))
    removed = index.search(SpladeQuery("moon rover", boost={"moon": 0}))

    assert (boosted[0].id, boosted[0].score) == ("orbit", 4.0)
    assert (added[0].id, added[0].score) == ("rover", 3.0)
    assert [(hit.id, hit.score) for hit in removed] == [("rover", 1.0)]


def test_a_synonym_gets_the_weight_of_its_word(client: Any) -> None:
    found = filled(client).search(SpladeQuery("vehicle vehicle", synonyms={"vehicle": ["rover", "orbiter"]}))

    assert [(hit.id, hit.score) for hit in found] == [("orbit", 2.0), ("rover", 2.0)]


def test_without_text_the_boosted_words_are_the_query(client: Any) -> None:
    assert ids(filled(client).search(SpladeQuery("", boost={"rover": 1}))) == ["rover"]


def test_the_effects_are_in_the_explanation_and_in_its_sum(client: Any) -> None:
    index = filled(client)
    query = SpladeQuery("moon", boost={"rover": 2}, exclude=["india"], expand=False)
    hit = index.search(query)[0]

    found = index.explain(query, hit)

    assert found.score == hit.score == 3.0
    assert found.query == "moon rover"
    assert found.controls == ("boost rover x2", "exclude india", "no expansion")
    assert [(c.token, c.score, c.control, c.kind) for c in found.contributions] == [
        ("rover", 2.0, "boost x2", "literal"),
        ("moon", 1.0, None, "literal"),
    ]


def test_every_piece_of_a_word_is_boosted_and_without_expansion_only_the_words_are_left() -> None:
    index = SpladeIndex()
    index.add(["Chandrayaan-3 landed near the lunar south pole.", "Parse a YAML file."], ids=["a", "b"])
    plain, boosted = "chandrayaan lands", SpladeQuery("chandrayaan lands", boost={"chandrayaan": 2})
    literal = SpladeQuery(plain, expand=False)

    parts = [index.explain(query, index.search(query)[0]) for query in (plain, boosted)]
    words = index.explain(literal, index.search(literal)[0])

    before, after = (next(c for c in part.contributions if c.token == "chandrayaan") for part in parts)
    assert len(after.pieces) > 1
    assert after.score == pytest.approx(2 * before.score)
    assert {c.in_query for c in words.contributions} == {True}
    assert {token.in_query for token in words.unmatched} <= {True}
    assert any(not c.in_query for c in parts[0].contributions)


def test_async_and_batch_searches_take_the_same_queries() -> None:
    index = filled()
    query = SpladeQuery("moon", exclude=["india"], boost={"rover": 2})
    expected = index.search(query)

    assert index.search_batch([query, "moon"]) == [expected, index.search("moon")]
    assert asyncio.run(index.asearch(query)) == expected


def test_required_words_apply_to_both_branches_of_a_hybrid_search(client: Any) -> None:
    index = filled(client, dense=LetterEncoder())

    assert ids(index.search(SpladeQuery("moon", require=["rover"]))) == ["rover"]
    assert ids(index.search(SpladeQuery("moon", require=["rover"]), mode="dense")) == ["rover"]


def test_retrievers_of_both_frameworks_take_a_query_with_controls() -> None:
    index = filled()
    query = SpladeQuery("moon", exclude=["india"], boost={"rover": 2})
    expected = [hit.text for hit in index.search(query, 2)]

    langchain = LangChainRetriever(index=index, k=2, with_explanations=True).invoke(query)
    nodes = LlamaIndexRetriever(index=index, similarity_top_k=2, explain=True).retrieve(query)

    assert [document.page_content for document in langchain] == expected
    assert [node.text for node in nodes] == expected
    reports = [langchain[0].metadata["_splade"], nodes[0].metadata["_splade"]]
    assert [r["explanation"]["controls"] for r in reports] == [["boost rover x2", "exclude india"]] * 2


def test_rerankers_of_both_frameworks_take_a_query_with_controls() -> None:
    query = SpladeQuery("moon", exclude=["india"], boost={"rover": 2})
    documents = [Document(page_content=text) for text in TEXTS.values()]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS.values()]

    reranked = SpladeReranker(model=WordEncoder(), top_n=2).compress_documents(documents, query)
    scored = SpladeRerank(model=WordEncoder()).postprocess_nodes(nodes, query_str=query)

    assert reranked[0].page_content == TEXTS["rover"]
    assert scored[0].node.get_content() == TEXTS["rover"]
    assert len(scored) == 3


CONTROLS: dict[str, Any] = {"exclude": ["india"], "boost": {"rover": 2}}


def test_controls_of_a_retriever_apply_to_queries_without_controls() -> None:
    index = filled()
    expected = ids(index.search(SpladeQuery("moon", **CONTROLS)))
    own = SpladeQuery("moon", require=["orbiter"])
    langchain = LangChainRetriever(index=index, controls=CONTROLS)
    llama_index = LlamaIndexRetriever(index=index, controls=CONTROLS)

    assert [document.id for document in langchain.invoke("moon")] == expected
    assert [document.id for document in asyncio.run(langchain.ainvoke("moon"))] == expected
    assert [node.node_id for node in llama_index.retrieve("moon")] == expected
    assert [node.node_id for node in asyncio.run(llama_index.aretrieve("moon"))] == expected
    assert [document.id for document in langchain.invoke(own)] == ["orbit"]
    assert [node.node_id for node in llama_index.retrieve(own)] == ["orbit"]
    assert [document.id for document in langchain.invoke("moon", controls={"require": ["rover"]})] == [
        "rover"
    ]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_copies_of_retrievers_and_rerankers_keep_their_controls() -> None:
    reranker, rerank = SpladeReranker(controls=CONTROLS), SpladeRerank(controls=CONTROLS)
    retriever = LangChainRetriever(location="./index", controls=CONTROLS)
    loaded = loads(
        dumps(retriever), allowed_objects=[LangChainRetriever], valid_namespaces=["splade_retriever"]
    )

    for made in (reranker, retriever):
        for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert copied.controls == QueryControls(**CONTROLS)
    for copied in (pickle.loads(pickle.dumps(rerank)), copy.deepcopy(rerank)):
        assert QueryControls.of(copied.controls) == QueryControls(**CONTROLS)
    assert json.loads(rerank.to_json())["controls"]["boost"] == {"rover": 2}
    assert loaded.controls == QueryControls(**CONTROLS)


def test_controls_of_a_reranker_apply_to_queries_without_controls() -> None:
    documents = [Document(page_content=text) for text in TEXTS.values()]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS.values()]

    reranked = SpladeReranker(model=WordEncoder(), controls=CONTROLS).compress_documents(documents, "moon")
    scored = SpladeRerank(model=WordEncoder(), controls=CONTROLS).postprocess_nodes(nodes, query_str="moon")

    for texts in (
        [each.page_content for each in reranked],
        [each.node.get_content() for each in scored],
    ):
        assert texts[0] == TEXTS["rover"]
        assert len(texts) == 3


def test_controls_apply_to_the_texts_of_a_query_transform() -> None:
    bundle = QueryBundle(SpladeQuery("x", exclude=["india"]), custom_embedding_strs=["moon", "pole"])

    found = LlamaIndexRetriever(index=filled()).retrieve(bundle)

    assert found[0].node_id == "indiana"
    assert "lander" not in [node.node_id for node in found]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"bost": {}}, "unknown name bost; allowed: boost, require, exclude, expand, synonyms"),
        (["india"], "controls is a list, expected QueryControls, or a dict"),
        ({"exclude": "india"}, "exclude is 'india', expected a list of words"),
    ],
)
def test_wrong_controls_of_a_retriever_are_an_error(controls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LangChainRetriever(location="./index", controls=controls)
    with pytest.raises(InputError, match=message):
        LlamaIndexRetriever(index=filled(), controls=controls)


def test_a_query_is_shown_with_the_controls_that_it_has() -> None:
    query = SpladeQuery("moon", QueryControls(boost={"rover": 2}), expand=False)

    assert repr(query) == "SpladeQuery('moon', boost={'rover': 2.0}, expand=False)"
    assert eval(repr(query)) == query


def test_why_not_names_an_excluded_word() -> None:
    (reason, *_) = filled().why_not(SpladeQuery("moon", exclude=["india"]), "lander").reasons

    assert reason.message == "The filter {'$not': {'$text': 'india'}} does not match the document."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("moon", SpladeQuery("moon")),
        (
            "moon +lander -india rover^2.5",
            SpladeQuery("moon lander rover", boost={"rover": 2.5}, require=["lander"], exclude=["india"]),
        ),
        ('+"south pole" ice', SpladeQuery("south pole ice", require=["south pole"])),
        ('"south pole"^3', SpladeQuery("south pole", boost={"south pole": 3})),
        ("chandrayaan-3 - c++", SpladeQuery("chandrayaan-3 - c++")),
        ("", SpladeQuery("")),
    ],
)
def test_the_syntax_is_read_into_controls(text: str, expected: SpladeQuery) -> None:
    assert SpladeQuery.parse(text) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpladeQuery.parse("moon^fast"), "expected a number after"),
        (lambda: SpladeQuery.parse('"moon'), "unclosed quote"),
        (
            lambda: SpladeQuery("moon", boost={"rover": -1}),
            "boost of 'rover' is -1, expected a finite number",
        ),
        (lambda: SpladeQuery("moon", boost={"rover": float("nan")}), "boost of 'rover' is nan"),
        (lambda: SpladeQuery("moon", exclude="india"), r"exclude is 'india', expected a list of words"),
        (lambda: SpladeQuery("moon", require=["!"]), "expected a word with a letter or a digit"),
        (lambda: SpladeQuery("moon", synonyms={"a": "b"}), "expected a list of words"),
        (lambda: SpladeQuery("moon", expand=1), "expand is 1, expected True or False"),
        (lambda: SpladeQuery(5), "text of type int"),  # type: ignore[arg-type]
    ],
)
def test_a_control_that_is_not_valid_is_an_error_that_shows_it(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_control_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="boots"):
        SpladeQuery("moon", boots={"rover": 2})


def test_a_query_is_its_text_and_copies_keep_its_controls() -> None:
    query = SpladeQuery("moon", boost={"rover": 2})

    assert isinstance(query, str)
    assert query.upper() == "MOON"
    assert query != "moon"
    assert query != SpladeQuery("moon")
    assert pickle.loads(pickle.dumps(query)) == copy.deepcopy(query) == query
    assert hash(pickle.loads(pickle.dumps(query))) == hash(query)
    assert repr(query) == "SpladeQuery('moon', boost={'rover': 2.0})"


def test_an_encoder_without_a_tokenizer_cannot_boost_but_can_exclude(client: Any) -> None:
    class Bare:
        fingerprint = {"model": "bare"}  # noqa: RUF012
        passage_embed = query_embed = staticmethod(
            lambda texts: iter([SparseEmbedding.from_dict({7: 1.0}) for _ in texts])
        )

    index = SpladeIndex(client=client, model=Bare())
    index.add(list(TEXTS.values()), ids=list(TEXTS))

    assert len(index.search(SpladeQuery("moon", exclude=["india"]))) == 3
    with pytest.raises(InputError, match="Bare has no tokenizer that splits words into ids"):
        index.search(SpladeQuery("moon", boost={"rover": 2}))
