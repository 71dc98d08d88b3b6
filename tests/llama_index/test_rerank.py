"""The reranker for LlamaIndex."""

import asyncio

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import NodeWithScore

from splade_retriever.errors import InputError
from splade_retriever.llama_index import SpladeRerank
from tests.llama_index.parts import NODES, ids_of, word_model  # noqa: F401 - fixtures
from tests.words import WordEncoder


def test_reranking_puts_what_fits_first_and_scores_it(model: WordEncoder) -> None:
    given = [NodeWithScore(node=node, score=0.5) for node in NODES]
    rerank = SpladeRerank(top_n=2, model=model)

    ranked = rerank.postprocess_nodes(given, query_str="rover lander")

    assert [(scored.node_id, scored.score) for scored in ranked] == [("rover", 2.0), ("rocket", 1.0)]
    assert [scored.score for scored in given] == [0.5] * 3
    assert asyncio.run(rerank.apostprocess_nodes(given, query_str="rover lander")) == ranked


def test_equal_scores_stay_in_the_order_they_came_in(model: WordEncoder) -> None:
    given = [NodeWithScore(node=node) for node in NODES]

    assert SpladeRerank(top_n=5, model=model).postprocess_nodes(given, query_str="submarine") == [
        NodeWithScore(node=node, score=0.0) for node in NODES
    ]


def test_reranking_nothing_is_nothing_and_without_a_query_an_error(model: WordEncoder) -> None:
    rerank = SpladeRerank(model=model)

    assert rerank.postprocess_nodes([], query_str="moon") == []
    with pytest.raises(InputError, match="query_str"):
        rerank.postprocess_nodes([NodeWithScore(node=NODES[0])])


def test_a_reranker_refuses_what_it_does_not_know(model: WordEncoder) -> None:
    with pytest.raises(InputError, match="top_n=0"):
        SpladeRerank(top_n=0, model=model)
    with pytest.raises(TypeError, match="topn"):
        SpladeRerank(topn=3, model=model)  # type: ignore[call-arg]


def test_callbacks_hear_of_reranking(model: WordEncoder) -> None:
    heard = LlamaDebugHandler(print_trace_on_end=False)
    rerank = SpladeRerank(top_n=1, model=model, callback_manager=CallbackManager([heard]))

    rerank.postprocess_nodes([NodeWithScore(node=node) for node in NODES], query_str="rover")

    ((start, end),) = heard.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert end.payload is not None
    assert (start.payload["query_str"], start.payload["top_k"]) == ("rover", 1)
    assert ids_of(end.payload["nodes"]) == ["rover"]


def test_the_reranker_is_written_and_read_back() -> None:
    again = SpladeRerank.from_dict(SpladeRerank(top_n=7).to_dict())

    assert (again.top_n, again.class_name()) == (7, "SpladeRerank")
    assert again.postprocess_nodes([NodeWithScore(node=NODES[0])], query_str="moon")[0].score
