"""The reranker for LlamaIndex."""

import asyncio

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import NodeWithScore

from splade_retriever.errors import InputError
from splade_retriever.llama_index import SpladeRerank
from tests.llama_index.parts import NODES, ids_of
from tests.words import WordEncoder


def test_reranking_sorts_nodes_by_score(model: WordEncoder) -> None:
    scored_nodes = [NodeWithScore(node=node, score=0.5) for node in NODES]
    rerank = SpladeRerank(top_n=2, model=model)

    ranked = rerank.postprocess_nodes(scored_nodes, query_str="rover lander")

    assert [(scored.node_id, scored.score) for scored in ranked] == [("rover", 2.0), ("rocket", 1.0)]
    assert [scored.score for scored in scored_nodes] == [0.5] * 3
    assert asyncio.run(rerank.apostprocess_nodes(scored_nodes, query_str="rover lander")) == ranked


def test_nodes_with_equal_scores_keep_their_order(model: WordEncoder) -> None:
    scored_nodes = [NodeWithScore(node=node) for node in NODES]

    assert SpladeRerank(top_n=5, model=model).postprocess_nodes(scored_nodes, query_str="submarine") == [
        NodeWithScore(node=node, score=0.0) for node in NODES
    ]


def test_reranking_no_nodes_returns_none_and_without_a_query_is_an_error(model: WordEncoder) -> None:
    rerank = SpladeRerank(model=model)

    assert rerank.postprocess_nodes([], query_str="moon") == []
    with pytest.raises(InputError, match="query_str"):
        rerank.postprocess_nodes([NodeWithScore(node=NODES[0])])


def test_a_reranker_refuses_wrong_arguments(model: WordEncoder) -> None:
    with pytest.raises(InputError, match="top_n is 0"):
        SpladeRerank(top_n=0, model=model)
    with pytest.raises(TypeError, match="topn"):
        SpladeRerank(topn=3, model=model)  # type: ignore[call-arg]


def test_callbacks_receive_reranking_events(model: WordEncoder) -> None:
    heard = LlamaDebugHandler(print_trace_on_end=False)
    rerank = SpladeRerank(top_n=1, model=model, callback_manager=CallbackManager([heard]))

    rerank.postprocess_nodes([NodeWithScore(node=node) for node in NODES], query_str="rover")

    ((start, end),) = heard.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert end.payload is not None
    assert (start.payload["query_str"], start.payload["top_k"]) == ("rover", 1)
    assert ids_of(end.payload["nodes"]) == ["rover"]


def test_the_reranker_comes_back_from_its_dict() -> None:
    again = SpladeRerank.from_dict(SpladeRerank(top_n=7).to_dict())

    assert (again.top_n, again.class_name()) == (7, "SpladeRerank")
    assert again.postprocess_nodes([NodeWithScore(node=NODES[0])], query_str="moon")[0].score
