"""SpladeRerank: nodes of any retriever, in the order of their SPLADE scores."""

import os
from collections.abc import Sequence
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.errors import InputError
from splade_retriever.llama_index.nodes import encoded_text
from splade_retriever.protocols import Encoder

__all__ = ["SpladeRerank"]

_dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported


class SpladeRerank(BaseNodePostprocessor):
    """Puts the nodes first that fit the query best by SPLADE, whatever retriever found them.

    It encodes the nodes for each query, so it is for tens of nodes, not for thousands.
    """

    top_n: int = Field(default=4, ge=1, description="Most nodes to keep.")
    model_name: str = Field(default="", description="Name or folder of the model; empty for the bundled one.")

    _encoder: Encoder = PrivateAttr()

    def __init__(
        self,
        *,
        top_n: int = 4,
        model: ModelArgument = None,
        model_name: str = "",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Choose the model; its weights are loaded when first used.

        Args:
            top_n: Most nodes to keep.
            model: A ready encoder, or a model's name.
            model_name: A model's name or folder, as it is serialised; empty for the bundled model.
            callback_manager: Of LlamaIndex.

        Raises:
            UnknownModelError: If there is no model of that name.
            InputError: If `top_n` is less than 1, or the model is neither a name nor an encoder.
        """
        if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1:
            raise InputError(f"SpladeRerank got top_n={top_n!r}, expected an int of 1 or more.")
        if isinstance(model, str | os.PathLike):
            model_name, model = os.fspath(model), None
        encoder = load_encoder(model_name or None if model is None else model)
        own_name = "" if model is None else str(encoder.fingerprint.get("model", ""))
        fields: dict[str, Any] = {"top_n": top_n, "model_name": model_name or own_name}
        if callback_manager is not None:
            fields["callback_manager"] = callback_manager
        super().__init__(**fields)
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "SpladeRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("SpladeRerank got no query to rank by. Pass query_str= or query_bundle=.")
        if not nodes:
            return []
        _dispatcher.event(
            ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model_name or "bundled"
            )
        )
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: self.model_name,
                EventPayload.QUERY_STR: query_bundle.query_str,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            ranked = self._ranked(nodes, query_bundle.query_str)
            event.on_end(payload={EventPayload.NODES: ranked})
        _dispatcher.event(ReRankEndEvent(nodes=ranked))
        return ranked

    def _ranked(self, nodes: Sequence[NodeWithScore], query: str) -> list[NodeWithScore]:
        """Score the nodes; equal scores stay in the order they came in."""
        (wanted,) = self._encoder.query_embed([query])
        vectors = self._encoder.passage_embed([encoded_text(scored.node) for scored in nodes])
        ranked = [
            NodeWithScore(node=scored.node, score=vector.dot(wanted))
            for scored, vector in zip(nodes, vectors, strict=True)
        ]
        ranked.sort(key=lambda scored: -scored.get_score())
        return ranked[: self.top_n]
