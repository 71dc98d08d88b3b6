"""SpladeVectorStore: a collection of an index as a vector store of LlamaIndex."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from qdrant_client import models

from splade_retriever.errors import CollectionMismatchError, InputError, NotSupportedError
from splade_retriever.index.documents import Hit
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.llama_index import filters as where
from splade_retriever.llama_index.nodes import NodeDocument, to_documents, to_node
from splade_retriever.protocols import DenseEncoder, NodeEncoder

__all__ = ["SpladeVectorStore"]

_ENGINE_MODES: Final[dict[VectorStoreQueryMode, Mode]] = {
    VectorStoreQueryMode.DEFAULT: "sparse",
    VectorStoreQueryMode.SPARSE: "sparse",
    VectorStoreQueryMode.TEXT_SEARCH: "sparse",
    VectorStoreQueryMode.HYBRID: "hybrid",
}

Search: TypeAlias = dict[str, Any]
"""Arguments of `SpladeIndex.search`."""


class SpladeVectorStore(BasePydanticVectorStore):
    """Keeps nodes in one collection and finds them by SPLADE, without any dense model.

    Modes: SPARSE and DEFAULT rank by SPLADE; TEXT_SEARCH ranks by SPLADE what has at least one of the query's
    words in its text; HYBRID joins SPLADE with the dense encoder that the store was given. Any other mode is
    an error, and so is an argument that the store does not know.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    """The store encodes queries itself, the dense side too."""
    flat_metadata: bool = False
    collection: str = "splade"

    _index: SpladeIndex = PrivateAttr()
    _owned: bool = PrivateAttr()
    _find: where.Finder = PrivateAttr()
    _paths_indexed: bool = PrivateAttr(default=False)

    def __init__(
        self,
        location: str | Path = ":memory:",
        *,
        index: SpladeIndex | None = None,
        dense: BaseEmbedding | DenseEncoder | NodeEncoder | None = None,
        **settings: Any,
    ) -> None:
        """Open a collection, or create it.

        Args:
            location: A folder, ":memory:", or the URL of a Qdrant server; see `SpladeIndex`.
            index: An open index in place of a location. The caller closes it.
            dense: A dense embedding of LlamaIndex beside SPLADE, for hybrid queries; or any object with
                `embed_documents` and `embed_query`.
            **settings: Further arguments of `SpladeIndex`: `collection`, `model`, `client`, `vector_name`
                (LlamaIndex's Qdrant store has "text-sparse-new", langchain-qdrant "langchain-sparse"),
                `adopt`, ...

        Raises:
            InputError: Both an index and what is for making one, or a dense encoder that is none.
            TypeError: A setting that `SpladeIndex` does not have.
            SpladeError: What `SpladeIndex` raises.
        """
        owned = index is None
        if index is None:
            index = SpladeIndex(location, dense=dense, **settings)
        elif dense is not None or settings or str(location) != ":memory:":
            raise InputError(
                "index= is given together with a location, a dense encoder or settings, which it has itself. "
                "Pass them to SpladeIndex."
            )
        fields: dict[str, Any] = {"stores_text": True, "collection": index.collection}
        super().__init__(**fields)
        self._index = index
        self._owned = owned
        self._find = where.Finder(index.layout, windows=index.windows == "points")

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "SpladeVectorStore"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> "SpladeVectorStore":
        """Refuse: a store's dict does not tell where its collection is, nor should it hold keys.

        Raises:
            NotSupportedError: Always.
        """
        raise NotSupportedError(
            "a SpladeVectorStore cannot be made from its dict, which does not tell where the collection is. "
            f"Open it: SpladeVectorStore(location, collection={data.get('collection', 'splade')!r})."
        )

    @property
    def client(self) -> Any:
        """The collection's qdrant-client, or `EdgeClient`."""
        return self._index.client

    @property
    def index(self) -> SpladeIndex:
        """The index below."""
        return self._index

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], *, batch_size: int = 256, **kwargs: Any) -> list[str]:
        """Add nodes, or replace those whose ids are there already.

        What is encoded is a node's content under its metadata, but for excluded keys, as LlamaIndex does for
        dense embeddings. Unchanged nodes, and nodes that an `IngestionPipeline` has encoded, are not encoded
        here. Dense embeddings that nodes bring are not kept: the store's dense encoder makes its own. In a
        collection with `windows="points"`, whose hits are windows of the text, the text alone is encoded.

        The source documents' ids get an index in the engine, since `delete` and `doc_ids` filter by them.

        Args:
            nodes: Nodes of any class; metadata is what JSON has.
            batch_size: Nodes to encode and write together.
            kwargs: None; a misspelt argument is an error.

        Returns:
            The nodes' ids, in order.

        Raises:
            InputError: Bad input; nothing is written.
            CollectionMismatchError: A node brings a vector of another model.
        """
        _refuse("add", kwargs, "batch_size")
        documents = self._prepared(nodes)
        return self._index.add(**self._columns(documents), batch_size=batch_size)

    async def async_add(
        self, nodes: Sequence[BaseNode], *, batch_size: int = 256, **kwargs: Any
    ) -> list[str]:
        """Do what `add` does, off the event loop."""
        _refuse("async_add", kwargs, "batch_size")
        documents = await self._index.run_in_thread(self._prepared, nodes)
        return await self._index.aadd(**self._columns(documents), batch_size=batch_size)

    def _columns(self, documents: Sequence[NodeDocument]) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "texts": [document.text for document in documents],
            "metadatas": [document.metadata for document in documents],
            "ids": [document.id for document in documents],
            "extras": [document.extra for document in documents],
        }
        if self._index.windows != "points":
            columns["encoded_texts"] = [document.encoded_text for document in documents]
            columns["vectors"] = [document.vector for document in documents]
        return columns

    def _prepared(self, nodes: Sequence[BaseNode]) -> list[NodeDocument]:
        """Check nodes, and make the collection ready to find them by their source."""
        documents = to_documents(nodes)
        for document in documents:
            made_by = document.made_by
            if made_by is not None and dict(made_by) != dict(self._index.model.fingerprint):
                raise CollectionMismatchError(
                    f"node {document.id!r} brings a vector of the model {dict(made_by)}, expected "
                    f"{dict(self._index.model.fingerprint)}. Nothing was written. Give the pipeline's "
                    "SpladeSparseEmbedding the store's model."
                )
        # A collection that another program made, and that was not adopted, is not touched; `add` will say so.
        if not self._paths_indexed and self._index.model_name is not None:
            self._index.index_payload(self._find.paths)
            self._paths_indexed = True
        return documents

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document, and the node of that id itself.

        Raises:
            InputError: If the id is no string.
        """
        self._index.delete(filter=self._of_source(ref_doc_id, delete_kwargs))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do what `delete` does, off the event loop."""
        await self._index.adelete(filter=self._of_source(ref_doc_id, delete_kwargs))

    def _of_source(self, ref_doc_id: str, unknown: dict[str, Any]) -> models.Filter:
        _refuse("delete", unknown, "ref_doc_id")
        if not isinstance(ref_doc_id, str):
            raise InputError(
                f"delete got ref_doc_id={ref_doc_id!r}, expected the id of one source document, a string."
            )
        return self._find.sources([ref_doc_id])

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id, or by filter, or those of these ids that the filter finds.

        Raises:
            InputError: Without ids and filter; to delete all use `clear`.
        """
        self._index.delete(**self._which(node_ids, filters, delete_kwargs))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Do what `delete_nodes` does, off the event loop."""
        await self._index.adelete(**self._which(node_ids, filters, delete_kwargs))

    def _which(
        self, node_ids: Sequence[str] | None, filters: MetadataFilters | None, unknown: dict[str, Any]
    ) -> dict[str, Any]:
        """Say what `SpladeIndex.delete` is to delete."""
        _refuse("delete_nodes", unknown, "node_ids, filters")
        asked = where.to_index_filter(filters)
        if node_ids is not None and asked is not None:
            return {"filter": where.combine(asked, self._find.nodes(node_ids))}
        return {"ids": node_ids, "filter": asked}

    def clear(self) -> None:
        """Delete all nodes; the collection stays."""
        self._index.clear()

    async def aclear(self) -> None:
        """Do what `clear` does, off the event loop."""
        await self._index.run_in_thread(self._index.clear)

    # -- reading ---------------------------------------------------------------------------------------------

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Read nodes: by id, in that order and without missing ones; by filter; by both; or all."""
        if node_ids is not None and filters is None:
            return [to_node(hit) for hit in self._index.get(node_ids)]
        chosen = None if node_ids is None else self._find.nodes(node_ids)
        hits = self._index.scroll(where.combine(where.to_index_filter(filters), chosen))
        return [to_node(hit) for hit in hits]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do what `get_nodes` does, off the event loop."""
        return await self._index.run_in_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes.

        Args:
            query: Read are `query_str`, `mode`, `similarity_top_k` (in hybrid mode `hybrid_top_k`, in sparse
                modes `sparse_top_k`, where given), `filters`, `doc_ids`, `node_ids`, and in hybrid mode
                `alpha`, from 0 (SPLADE alone decides) to 1 (the dense side alone), 0.5 where left out.
            kwargs: `filter` takes a filter of the index, or a `qdrant_client.models.Filter`, that must hold
                too.

        Returns:
            Nodes, best first, with scores: in hybrid mode from 0 to 1, where 1 is first place in every
            ranking that counts; else SPLADE's dot products, unbounded.

        Raises:
            NotSupportedError: For a mode that the store has not; for "text_search" in a collection of
                LlamaIndex's own Qdrant store, whose texts lie inside JSON.
            InputError: Without a query text, or for hybrid without a dense encoder.
            FilterError: Bad filter.
        """
        return to_result(self.search(query, **kwargs))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do what `query` does, off the event loop; queries that wait at one time are answered together."""
        return to_result(await self.asearch(query, **kwargs))

    def search(self, query: VectorStoreQuery, *, with_vectors: bool = False, **kwargs: Any) -> list[Hit]:
        """Do what `query` does, and give the hits of the index, on request with their vectors."""
        search = to_search(query, self._find, **kwargs)
        return _read(self._index.search(**search, with_vectors=with_vectors), search)

    async def asearch(
        self, query: VectorStoreQuery, *, with_vectors: bool = False, **kwargs: Any
    ) -> list[Hit]:
        """Do what `search` does, off the event loop."""
        search = to_search(query, self._find, **kwargs)
        return _read(await self._index.asearch(**search, with_vectors=with_vectors), search)

    def close(self) -> None:
        """Close the index, if the store opened it."""
        if self._owned:
            self._index.close()


def _refuse(method: str, unknown: dict[str, Any], allowed: str) -> None:
    if unknown:
        raise InputError(
            f"{method} got {', '.join(unknown)}, which this store does not know; allowed: {allowed}."
        )


def to_search(
    query: VectorStoreQuery,
    find: where.Finder,
    *,
    filter: dict[str, Any] | models.Filter | None = None,
    **kwargs: Any,
) -> Search:
    """Translate a query into a search of the index.

    Raises:
        NotSupportedError: For a mode that the store, or the collection, has not.
        InputError: Without a query text, or for an alpha outside 0..1.
    """
    _refuse("query", kwargs, "filter")
    if not isinstance(query, VectorStoreQuery):
        raise InputError(
            f"query is a {type(query).__name__}, expected a VectorStoreQuery of LlamaIndex. Write "
            "VectorStoreQuery(query_str=..., similarity_top_k=...)."
        )
    mode = _ENGINE_MODES.get(query.mode)
    if mode is None:
        known = ", ".join(known.value for known in _ENGINE_MODES)
        raise NotSupportedError(
            f"SpladeVectorStore has no mode {query.mode.value!r}; it has: {known}. Choose one of them, or a "
            "store of dense vectors."
        )
    if query.query_str is None:
        raise InputError(
            "the query has no text (query_str is None), which SPLADE encodes; an embedding alone does not "
            "do. Set query_str."
        )
    words = None
    if query.mode is VectorStoreQueryMode.TEXT_SEARCH:
        if find.layout.metadata_key is None:
            raise NotSupportedError(
                "mode 'text_search' needs texts by themselves, but the collection keeps whole nodes as JSON, "
                "as LlamaIndex's own Qdrant store does. Use mode 'sparse', or add the nodes, which "
                "get_nodes() gives, to a new collection of this package."
            )
        words = where.any_word(query.query_str)
    search: Search = {
        "query": query.query_str,
        "k": (query.hybrid_top_k if mode == "hybrid" else query.sparse_top_k) or query.similarity_top_k,
        "filter": where.combine(
            filter,
            where.to_index_filter(query.filters),
            find.sources(query.doc_ids) if query.doc_ids else None,
            find.nodes(query.node_ids) if query.node_ids else None,
            words,
        ),
        "mode": mode,
    }
    if mode == "hybrid":
        search["fusion"] = _fusion(query.alpha, max(search["k"], query.sparse_top_k or 0))
    return search


def _fusion(alpha: float | None, least_depth: int) -> Fusion:
    alpha = 0.5 if alpha is None else alpha
    if not 0.0 <= alpha <= 1.0:
        raise InputError(
            f"the query has alpha={alpha}, expected 0 (SPLADE alone) to 1 (the dense side alone)."
        )
    depth = max(Fusion().depth, least_depth)
    return Fusion(weights=(1.0 - alpha, alpha), depth=depth)


def _read(hits: Sequence[Hit], search: Search) -> list[Hit]:
    """Normalise the scores of a hybrid search; what a ranking of no weight alone has found is left out."""
    fusion: Fusion | None = search.get("fusion")
    if fusion is None:
        return list(hits)
    # Engines add in 32 bits, and so may come out a hair above the best score.
    return [replace(hit, score=min(1.0, hit.score / fusion.best_score)) for hit in hits if hit.score > 0.0]


def to_result(hits: Sequence[Hit]) -> VectorStoreQueryResult:
    """Give hits as LlamaIndex takes them."""
    return VectorStoreQueryResult(
        nodes=[to_node(hit) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.id for hit in hits],
    )
