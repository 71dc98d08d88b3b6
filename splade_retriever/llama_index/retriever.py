"""SpladeRetriever: nodes for a query, for every engine of LlamaIndex that takes a retriever."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.ingestion import run_transformations
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    Document,
    IndexNode,
    NodeWithScore,
    QueryBundle,
    TransformComponent,
)
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.llama_index.filters import combine, nothing
from splade_retriever.llama_index.nodes import checked_nodes, to_node
from splade_retriever.llama_index.store import SpladeVectorStore

__all__ = ["METADATA_KEY", "SpladeRetriever"]

METADATA_KEY: Final = "_splade"
"""The metadata key under which an explanation comes; hidden from encoders and language models."""

_CHUNK_TOKENS: Final = 256
_CHUNK_OVERLAP: Final = 32


class SpladeRetriever(BaseRetriever):
    """Finds nodes by SPLADE."""

    def __init__(
        self,
        vector_store: SpladeVectorStore | None = None,
        *,
        index: SpladeIndex | None = None,
        similarity_top_k: int = 4,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        alpha: float | None = None,
        filters: MetadataFilters | None = None,
        filter: Mapping[str, Any] | models.Filter | None = None,
        doc_ids: Sequence[str] | None = None,
        node_ids: Sequence[str] | None = None,
        explain: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: Mapping[str, Any] | None = None,
        objects: Sequence[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        """Search a vector store, or an index.

        Args:
            vector_store: Where the nodes are.
            index: An index in its place.
            similarity_top_k: Most nodes.
            mode: "default" or "sparse" for SPLADE alone, "text_search", or "hybrid".
            alpha: Weight of the dense side in mode "hybrid", 0 to 1.
            filters: What nodes must have in their metadata.
            filter: The same as a filter of the index (`splade_retriever.filters`); both must hold.
            doc_ids: Source documents to search in; of none ([]) nothing is found.
            node_ids: Nodes to search in; of none ([]) nothing is found.
            explain: Say in each node's metadata, under "_splade", why it was found.
            callback_manager: Of LlamaIndex.
            object_map: What index nodes stand for, by index id.
            objects: Index nodes with what they stand for.
            verbose: Print what LlamaIndex does on following index nodes.

        Raises:
            InputError: Without store and index, with both, or with what is neither; with an unknown mode, or
                with `alpha` in another mode than "hybrid".
        """
        if (vector_store is None) == (index is None):
            raise InputError("SpladeRetriever takes either vector_store= or index=. Pass one of them.")
        if index is not None and not isinstance(index, SpladeIndex):
            raise InputError(
                f"SpladeRetriever got an index of type {type(index).__name__}, expected a SpladeIndex. For a "
                "VectorStoreIndex pass vector_store=index.vector_store."
            )
        if vector_store is not None and not isinstance(vector_store, SpladeVectorStore):
            raise InputError(
                f"SpladeRetriever got a vector_store of type {type(vector_store).__name__}, expected a "
                "SpladeVectorStore. Pass a SpladeIndex as index=, and for another store ask its "
                "VectorStoreIndex for a retriever."
            )
        try:
            self._mode = VectorStoreQueryMode(mode)
        except ValueError as error:
            raise InputError(
                f"SpladeRetriever got mode={mode!r}, expected 'default', 'sparse', 'text_search' or 'hybrid'."
            ) from error
        if alpha is not None and self._mode is not VectorStoreQueryMode.HYBRID:
            raise InputError(
                f"SpladeRetriever got alpha={alpha!r} in mode {self._mode.value!r}, which has no dense side "
                "to weigh. Pass mode='hybrid', or leave alpha out."
            )
        self._store = SpladeVectorStore(index=index) if vector_store is None else vector_store
        self._similarity_top_k = similarity_top_k
        self._alpha = alpha
        self._filters, self._filter = filters, filter
        self._doc_ids = None if doc_ids is None else list(doc_ids)
        self._node_ids = None if node_ids is None else list(node_ids)
        self._explain = explain
        super().__init__(
            callback_manager=callback_manager,
            object_map=None if object_map is None else dict(object_map),
            objects=None if objects is None else list(objects),
            verbose=verbose,
        )

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        location: str | Path = ":memory:",
        similarity_top_k: int = 4,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        alpha: float | None = None,
        filters: MetadataFilters | None = None,
        explain: bool = False,
        **settings: Any,
    ) -> Self:
        """Put nodes into a new store, or one that is there already, and search it.

        What index nodes stand for (query engines, retrievers) is followed by this retriever, and not stored.

        Args:
            nodes: Nodes.
            location: A folder, ":memory:", or the URL of a Qdrant server.
            similarity_top_k: Most nodes a query gives.
            mode: As for the constructor; "hybrid" needs `dense=`.
            alpha: Weight of the dense side in mode "hybrid", 0 to 1.
            filters: What nodes must have in their metadata.
            explain: Say in each node's metadata why it was found.
            **settings: Further arguments of `SpladeVectorStore`: `collection`, `model`, `dense`, ...

        Raises:
            InputError: Bad input; nothing is written.
            SpladeError: What `SpladeVectorStore` and its `add` raise.
        """
        kept, objects = _without_objects(nodes)
        store = SpladeVectorStore(location, **settings)
        try:
            made = cls(
                store,
                similarity_top_k=similarity_top_k,
                mode=mode,
                alpha=alpha,
                filters=filters,
                explain=explain,
                object_map=objects,
            )
            store.add(kept)
        except BaseException:
            store.close()
            raise
        return made

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        transformations: Sequence[TransformComponent] | None = None,
        location: str | Path = ":memory:",
        similarity_top_k: int = 4,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        alpha: float | None = None,
        filters: MetadataFilters | None = None,
        explain: bool = False,
        **settings: Any,
    ) -> Self:
        """Cut documents into nodes, and do with them what `from_nodes` does.

        Args:
            documents: Documents.
            transformations: What makes nodes of them; None for sentences joined to at most 256 tokens, which
                SPLADE models read whole.
            location: A folder, ":memory:", or the URL of a Qdrant server.
            similarity_top_k: Most nodes a query gives.
            mode: As for the constructor; "hybrid" needs `dense=`.
            alpha: Weight of the dense side in mode "hybrid", 0 to 1.
            filters: What nodes must have in their metadata.
            explain: Say in each node's metadata why it was found.
            **settings: Further arguments of `SpladeVectorStore`: `collection`, `model`, `dense`, ...

        Raises:
            InputError: An item is no document, with its position; nothing is written.
        """
        listed = _documents(documents)
        if transformations is None:
            transformations = [SentenceSplitter(chunk_size=_CHUNK_TOKENS, chunk_overlap=_CHUNK_OVERLAP)]
        return cls.from_nodes(
            run_transformations(listed, transformations, in_place=False),
            location=location,
            similarity_top_k=similarity_top_k,
            mode=mode,
            alpha=alpha,
            filters=filters,
            explain=explain,
            **settings,
        )

    @property
    def vector_store(self) -> SpladeVectorStore:
        """Where the nodes are."""
        return self._store

    @property
    def similarity_top_k(self) -> int:
        """Most nodes that a query gives."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, similarity_top_k: int) -> None:
        self._similarity_top_k = similarity_top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = self._query(query_bundle)
        hits = self._store.search(query, with_vectors=self._explain, filter=self._further())
        return _scored(hits, self._explanations(query, hits))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = self._query(query_bundle)
        hits = await self._store.asearch(query, with_vectors=self._explain, filter=self._further())
        return _scored(hits, await self._store.index.run_in_thread(self._explanations, query, hits))

    def _query(self, query_bundle: QueryBundle) -> VectorStoreQuery:
        return VectorStoreQuery(
            # What a query transform (HyDE) wants encoded in place of the query; SPLADE takes it as one text.
            query_str="\n".join(query_bundle.custom_embedding_strs or [query_bundle.query_str]),
            similarity_top_k=self._similarity_top_k,
            mode=self._mode,
            alpha=self._alpha,
            filters=self._filters,
            doc_ids=self._doc_ids,
            node_ids=self._node_ids,
        )

    def _further(self) -> dict[str, Any] | None:
        """Give the filter of the index, and one that finds nothing where there is nothing to search in.

        Stores take an empty list of documents or nodes for none given: LlamaIndex's own retriever passes one.
        """
        return combine(self._filter, nothing() if [] in (self._doc_ids, self._node_ids) else None)

    def _explanations(self, query: VectorStoreQuery, hits: Sequence[Hit]) -> list[Explanation]:
        if not self._explain:
            return []
        return self._store.index.explain_all(query.query_str or "", hits)


def _without_objects(nodes: Iterable[BaseNode]) -> tuple[list[BaseNode], dict[str, Any]]:
    """Take from index nodes what they stand for, by index id; a node, which can be stored, stays."""
    kept: list[BaseNode] = []
    objects: dict[str, Any] = {}
    for node in checked_nodes(nodes):
        if isinstance(node, IndexNode) and node.obj is not None and not isinstance(node.obj, BaseNode):
            objects[node.index_id] = node.obj
            kept.append(node.model_copy(update={"obj": None}))
        else:
            kept.append(node)
    return kept, objects


def _documents(documents: Iterable[Document]) -> list[Document]:
    """Take documents, or refuse what is none before it reaches the framework's splitter."""
    if isinstance(documents, str):
        raise InputError("documents is one str, expected several. Pass [Document(text=...)].")
    listed = list(documents)
    for position, document in enumerate(listed):
        if not isinstance(document, BaseNode):
            raise InputError(
                f"document {position} is a {type(document).__name__}, expected a Document of LlamaIndex. "
                "Nothing was written. Wrap texts in Document(text=...)."
            )
    return listed


def _scored(hits: Sequence[Hit], explanations: Sequence[Explanation]) -> list[NodeWithScore]:
    """Give the nodes of hits with their scores, and with explanations where there are any."""
    nodes = [to_node(hit) for hit in hits]
    if explanations:
        for node, hit, explanation in zip(nodes, hits, explanations, strict=True):
            _tell(node, hit, explanation)
    return [NodeWithScore(node=node, score=hit.score) for node, hit in zip(nodes, hits, strict=True)]


def _tell(node: BaseNode, hit: Hit, explanation: Explanation) -> None:
    """Put into a node's metadata why it was found, where neither encoders nor language models read it."""
    report: dict[str, Any] = {"score": hit.score, "explanation": explanation.to_dict()}
    if hit.branches:
        report["branches"] = {name: asdict(branch) for name, branch in hit.branches.items()}
    if hit.window is not None:
        report["window"] = list(hit.window)
    node.metadata = {**node.metadata, METADATA_KEY: report}
    node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, METADATA_KEY]
    node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, METADATA_KEY]
