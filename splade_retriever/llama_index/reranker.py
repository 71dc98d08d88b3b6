"""SpladeRerank: sorts the nodes of any retriever by their SPLADE scores."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from splade_retriever.encoding.model_loading import ModelArgument, check_plain_weights, load_encoder
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import InputError
from splade_retriever.index.query_controls import encoded_query
from splade_retriever.index.splade_query import QueryControls, SpladeQuery, with_default_controls
from splade_retriever.llama_index.nodes import encoded_text
from splade_retriever.protocols import Encoder
from splade_retriever.validation import checked_int

__all__ = ["SpladeRerank"]

_dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported


class SpladeRerank(BaseNodePostprocessor):
    """Sorts nodes by their SPLADE score, from any retriever.

    All nodes are encoded for each query, so use it for tens of nodes, not for thousands.
    """

    top_n: int = Field(default=4, ge=1, description="Maximum number of nodes to keep.")
    model_name: str = Field(default="", description="Name or folder of the model; empty for the default.")

    controls: dict[str, Any] | None = Field(default=None, description="Controls of queries that have none.")

    _encoder: Encoder = PrivateAttr()

    def __init__(
        self,
        *,
        top_n: int = 4,
        model: ModelArgument = None,
        model_name: str = "",
        controls: QueryControls | Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Choose the model; its weights are loaded when the first text is encoded.

        Args:
            top_n: Maximum number of nodes to keep.
            model: An encoder, or a model's name.
            model_name: A model's name or folder, as in the serialised form; empty for the bundled model.
            controls: Words to boost, require or exclude, synonyms and `expand`, for each query that is not a
                `SpladeQuery`.
            callback_manager: LlamaIndex's callback manager.

        Raises:
            UnknownModelError: If no model has this name.
            InputError: If `top_n` is less than 1, or the model is neither a name nor an encoder.
        """
        top_n = checked_int("top_n", top_n, minimum=1)
        if isinstance(model, str | os.PathLike):
            model_name, model = os.fspath(model), None
        encoder = load_encoder(model_name or None if model is None else model)
        check_plain_weights(encoder, "A reranker")
        encoder_name = "" if model is None else str(encoder.fingerprint.get("model", ""))
        checked = QueryControls.of(controls)
        fields: dict[str, Any] = {
            "top_n": top_n,
            "model_name": model_name or encoder_name,
            "controls": None if checked is None else checked.to_dict(),
        }
        if callback_manager is not None:
            fields["callback_manager"] = callback_manager
        super().__init__(**fields)
        self._encoder = encoder

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the configuration, without callbacks.
        return _reranker, (type(self), self._arguments())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return type(self)(**self._arguments(), callback_manager=self.callback_manager)

    def _arguments(self) -> dict[str, Any]:
        return {"top_n": self.top_n, "model": self._encoder, "controls": self.controls}

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialised form."""
        return "SpladeRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("SpladeRerank got no query. Pass query_str= or query_bundle=.")
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
        """Sort the nodes by score; nodes with equal scores keep their order."""
        query = with_default_controls(query, QueryControls.of(self.controls))
        if isinstance(query, SpladeQuery):
            nodes = [each for each in nodes if query.controls.accepts(each.node.get_content())]
        query_vector = encoded_query(query, self._encoder, max_active_dims=None).vector
        vectors = embed_complete_texts([encoded_text(scored.node) for scored in nodes], self._encoder)
        ranked = [
            NodeWithScore(node=scored.node, score=vector.dot(query_vector))
            for scored, vector in zip(nodes, vectors, strict=True)
        ]
        ranked.sort(key=lambda scored: -scored.get_score())
        return ranked[: self.top_n]


def _reranker(kind: type[SpladeRerank], fields: Mapping[str, Any]) -> SpladeRerank:
    return kind(**fields)
