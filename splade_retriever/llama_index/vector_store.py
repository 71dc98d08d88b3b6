"""SpladeVectorStore: an index as a vector store of LlamaIndex."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

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

from splade_retriever.encoding.model_loading import ModelArgument
from splade_retriever.errors import CollectionMismatchError, InputError, NotSupportedError
from splade_retriever.index.collection_settings import document_side
from splade_retriever.index.documents import Hit
from splade_retriever.index.payload import Layout
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.llama_index.filters import NodeFilters, any_word, combine, to_index_filter
from splade_retriever.llama_index.nodes import NodeDocument, to_documents, to_node
from splade_retriever.protocols import DenseEncoder, NodeEncoder
from splade_retriever.validation import checked_float, type_name

__all__ = ["SpladeVectorStore"]

_ENGINE_MODES: Final[dict[VectorStoreQueryMode, Mode]] = {
    VectorStoreQueryMode.DEFAULT: "sparse",
    VectorStoreQueryMode.SPARSE: "sparse",
    VectorStoreQueryMode.TEXT_SEARCH: "sparse",
    VectorStoreQueryMode.HYBRID: "hybrid",
}

SearchArguments: TypeAlias = dict[str, Any]
"""Arguments of `SpladeIndex.search`."""


class SpladeVectorStore(BasePydanticVectorStore):
    """Stores nodes in one collection and finds them by SPLADE, without a dense model.

    Modes: SPARSE and DEFAULT rank by SPLADE. TEXT_SEARCH ranks by SPLADE the nodes whose text has at least
    one of the query's words. HYBRID joins SPLADE with the store's second model, its dense encoder, or both.
    Other modes and unknown arguments are errors.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    """The store encodes queries itself, also for the dense branch."""
    flat_metadata: bool = False
    collection: str = "splade"

    _index: SpladeIndex = PrivateAttr()
    _opened_here: bool = PrivateAttr()
    _node_filters: NodeFilters = PrivateAttr()
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
            location: A folder, ":memory:", or the URL of a Qdrant server; see `SpladeIndex`. A new collection
                has `windows="merge"`, so that nodes longer than the model reads are encoded completely.
            index: An open index instead of a location. The caller closes it.
            dense: A LlamaIndex embedding for hybrid queries, or any object with `embed_documents` and
                `embed_query`.
            **settings: Further arguments of `SpladeIndex`: `collection`, `model`, `second_model`, `client`,
                `vector_name`
                ("text-sparse-new" for collections of LlamaIndex's Qdrant store, "langchain-sparse" for those
                of langchain-qdrant), `adopt`, ...

        Raises:
            InputError: If `index` is passed together with arguments for opening one, or `dense` is not a
                dense encoder.
            TypeError: If `SpladeIndex` does not have a setting.
            SpladeError: As raised by `SpladeIndex`.
        """
        opened_here = index is None
        if index is None:
            index = SpladeIndex(location, dense=dense, **{"default_windows": "merge", **settings})
        elif dense is not None or settings or str(location) != ":memory:":
            raise InputError(
                "index= is passed together with a location, a dense encoder or settings, which the index "
                "already has. Pass them to SpladeIndex."
            )
        fields: dict[str, Any] = {"stores_text": True, "collection": index.collection}
        super().__init__(**fields)
        self._index = index
        self._opened_here = opened_here
        self._node_filters = NodeFilters(index.layout, windows=index.windows == "points")

    @classmethod
    def from_existing_collection(
        cls,
        collection_name: str,
        *,
        model: ModelArgument,
        location: str | Path = ":memory:",
        dense: BaseEmbedding | DenseEncoder | NodeEncoder | None = None,
        dense_vector_name: str = "text-dense",
        sparse_vector_name: str = "text-sparse-new",
        text_key: str | None = None,
        metadata_key: str | None = None,
        **settings: Any,
    ) -> Self:
        """Open a collection of another program, such as LlamaIndex's `QdrantVectorStore`.

        Names and defaults of the arguments are those of that store. Nothing is written; pass `adopt=True` to
        add nodes too.

        Args:
            collection_name: The collection.
            model: The encoder that made its sparse vectors, or its name; the collection does not store it.
            location: The URL of its server, or a folder; or pass `client=`.
            dense: The dense encoder that made its dense vectors, for hybrid queries.
            dense_vector_name: Name of the dense vectors.
            sparse_vector_name: Name of the sparse vectors.
            text_key: Key of the payload that holds the text; None to recognise the layout.
            metadata_key: With `text_key`, key of the payload that holds the metadata; None for metadata
                beside the text.
            **settings: Further arguments of `SpladeIndex`.

        Raises:
            CollectionNotFoundError: If the collection does not exist.
            CollectionMismatchError: If it does not have vectors of these names.
        """
        layout = None if text_key is None else Layout(text_key, metadata_key, native_ids=True)
        return cls(
            location,
            collection=collection_name,
            model=model,
            dense=dense,
            dense_name=dense_vector_name,
            vector_name=sparse_vector_name,
            **{"layout": layout, **settings},
            create=False,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialised form."""
        return "SpladeVectorStore"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> "SpladeVectorStore":
        """Raise an error: the dict of a store has neither the location of the collection nor its key.

        Raises:
            NotSupportedError: Always.
        """
        raise NotSupportedError(
            "SpladeVectorStore cannot be made from its dict, which does not have the collection's location. "
            f"Open it: SpladeVectorStore(location, collection={data.get('collection', 'splade')!r})."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # LlamaIndex would leave out the index. A pickle holds the configuration; reading it opens the index.
        return _store, (type(self), self._index)

    def __copy__(self) -> Self:
        return type(self)(index=self._index)  # copies share the index, which the original closes

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return copy.copy(self)

    @property
    def client(self) -> Any:
        """The `QdrantClient` or `EdgeClient` of the collection."""
        return self._index.client

    @property
    def index(self) -> SpladeIndex:
        """The index that the store uses."""
        return self._index

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], *, batch_size: int = 256, **kwargs: Any) -> list[str]:
        """Add nodes; a node whose id is already stored replaces the stored one.

        The store encodes a node's content together with its metadata, without the excluded keys, as
        LlamaIndex does for dense embeddings. Unchanged nodes, and nodes that an `IngestionPipeline` has
        encoded, are not encoded again. Dense embeddings of nodes are not stored; the store's dense encoder
        makes them. With `windows="points"`, where a hit is a window of the text, only the text is encoded.

        The ids of source documents get an index in the engine, because `delete` and `doc_ids` filter by them.

        Args:
            nodes: Nodes of any class, whose metadata is JSON.
            batch_size: Number of nodes to encode and write together.
            kwargs: No others; an unknown argument is an error.

        Returns:
            The ids of the nodes, in order.

        Raises:
            InputError: If a node cannot be stored; nothing is written then.
            CollectionMismatchError: If a node has a vector of another model.
        """
        _check_no_more("add", kwargs, "batch_size")
        documents = self._prepared(nodes)
        return self._index.add(**self._columns(documents), batch_size=batch_size)

    async def async_add(
        self, nodes: Sequence[BaseNode], *, batch_size: int = 256, **kwargs: Any
    ) -> list[str]:
        """Async version of `add`."""
        _check_no_more("async_add", kwargs, "batch_size")
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
        """Check nodes, and index the payload paths by which nodes are found."""
        documents = to_documents(nodes)
        for document in documents:
            made_by = document.made_by
            if made_by is None:
                continue
            if document_side(made_by) != document_side(self._index.model.fingerprint):
                raise CollectionMismatchError(
                    f"Node {document.id!r} has a vector of the model {dict(made_by)}, expected "
                    f"{dict(self._index.model.fingerprint)}. Nothing was written. Use the store's model in "
                    "the pipeline's SpladeSparseEmbedding."
                )
        # A collection of another program that was not adopted is not changed; `add` raises an error for it.
        if not self._paths_indexed and self._index.model_name is not None:
            self._index.index_payload(self._node_filters.paths)
            self._paths_indexed = True
        return documents

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document, and the node that has this id.

        Raises:
            InputError: If the id is not a string.
        """
        self._index.delete(filter=self._of_source(ref_doc_id, delete_kwargs))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Async version of `delete`."""
        await self._index.adelete(filter=self._of_source(ref_doc_id, delete_kwargs))

    def _of_source(self, ref_doc_id: str, unknown: dict[str, Any]) -> models.Filter:
        _check_no_more("delete", unknown, "ref_doc_id")
        if not isinstance(ref_doc_id, str):
            raise InputError(
                f"delete got ref_doc_id={ref_doc_id!r}, expected the id of one source document as a string."
            )
        tenant_field = self._index.layout.tenant_field
        if tenant_field is not None:
            raise InputError(
                f"delete got ref_doc_id={ref_doc_id!r}, but the collection separates tenants by "
                f"{tenant_field!r}, and two tenants may use the same id. Use delete_nodes with filters that "
                "name the tenant."
            )
        return self._node_filters.sources([ref_doc_id])

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id, by filter, or by both.

        Raises:
            InputError: If neither is passed. To delete all nodes use `clear`.
        """
        self._index.delete(**self._delete_arguments(node_ids, filters, delete_kwargs))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Async version of `delete_nodes`."""
        await self._index.adelete(**self._delete_arguments(node_ids, filters, delete_kwargs))

    def _delete_arguments(
        self, node_ids: Sequence[str] | None, filters: MetadataFilters | None, unknown: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of `SpladeIndex.delete`."""
        _check_no_more("delete_nodes", unknown, "node_ids, filters")
        condition = to_index_filter(filters)
        if node_ids is not None and condition is not None:
            return {"filter": combine(condition, self._node_filters.nodes(node_ids))}
        return {"ids": node_ids, "filter": condition}

    def clear(self) -> None:
        """Delete all nodes; the collection stays."""
        self._index.clear()

    async def aclear(self) -> None:
        """Async version of `clear`."""
        await self._index.run_in_thread(self._index.clear)

    # -- reading ---------------------------------------------------------------------------------------------

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Read nodes: by id (in this order, missing ones are skipped), by filter, by both, or all nodes."""
        if node_ids is not None and filters is None:
            return [to_node(hit) for hit in self._index.get(node_ids)]
        by_id = None if node_ids is None else self._node_filters.nodes(node_ids)
        hits = self._index.scroll(combine(to_index_filter(filters), by_id))
        return [to_node(hit) for hit in hits]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Async version of `get_nodes`."""
        return await self._index.run_in_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes.

        Args:
            query: The store uses `query_str`, `mode`, `similarity_top_k` (or, if set, `hybrid_top_k` in
                hybrid mode and `sparse_top_k` in sparse modes), `filters`, `doc_ids`, `node_ids`, and in
                hybrid mode `alpha`, from 0 (sparse alone) to 1 (dense alone; in a store without a dense
                encoder, the second model alone), by default 0.5.
            kwargs: `filter`, a further filter in the language of the index, or a
                `qdrant_client.models.Filter`.

        Returns:
            Nodes, best first, with scores: in hybrid mode from 0 to 1, where 1 is the first place in every
            ranking with a weight; else SPLADE's dot products, unbounded.

        Raises:
            NotSupportedError: If the store does not have the mode; for "text_search" in a collection of
                LlamaIndex's Qdrant store, whose texts are inside JSON.
            InputError: If the query has no text, or hybrid mode has neither a dense encoder nor a second
                model.
            FilterError: If a filter is not valid.
        """
        return to_result(self.search(query, **kwargs))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Async version of `query`; concurrent queries are answered together."""
        return to_result(await self.asearch(query, **kwargs))

    def search(self, query: VectorStoreQuery, *, with_vectors: bool = False, **kwargs: Any) -> list[Hit]:
        """Like `query`, but return the hits of the index, on request with their vectors."""
        arguments = self._search_arguments(query, **kwargs)
        return _normalised(self._index.search(**arguments, with_vectors=with_vectors), arguments)

    async def asearch(
        self, query: VectorStoreQuery, *, with_vectors: bool = False, **kwargs: Any
    ) -> list[Hit]:
        """Async version of `search`."""
        arguments = self._search_arguments(query, **kwargs)
        return _normalised(await self._index.asearch(**arguments, with_vectors=with_vectors), arguments)

    def _search_arguments(self, query: VectorStoreQuery, **kwargs: Any) -> SearchArguments:
        return to_search_arguments(query, self._node_filters, branches=self._index.branches, **kwargs)

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the index if the store opened it; the caller closes an index that was passed as `index=`."""
        if self._opened_here:
            self._index.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        if self._opened_here:
            await self._index.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _store(kind: type[SpladeVectorStore], index: SpladeIndex) -> SpladeVectorStore:
    store = kind(index=index)
    store._opened_here = True  # reading the pickle has opened the index
    return store


def _check_no_more(method: str, unknown: dict[str, Any], allowed: str) -> None:
    if unknown:
        raise InputError(f"{method} got the unknown argument {', '.join(unknown)}; allowed: {allowed}.")


def to_search_arguments(
    query: VectorStoreQuery,
    node_filters: NodeFilters,
    *,
    branches: Sequence[str] = ("sparse", "dense"),
    filter: dict[str, Any] | models.Filter | None = None,
    **kwargs: Any,
) -> SearchArguments:
    """Translate a query into arguments of `SpladeIndex.search`.

    Raises:
        NotSupportedError: If the store, or the collection, does not have the mode.
        InputError: If the query has no text, or alpha is outside 0..1.
    """
    _check_no_more("query", kwargs, "filter")
    if not isinstance(query, VectorStoreQuery):
        raise InputError(
            f"query is {type_name(query)}, expected LlamaIndex's VectorStoreQuery. Pass "
            "VectorStoreQuery(query_str=..., similarity_top_k=...)."
        )
    mode = _ENGINE_MODES.get(query.mode)
    if mode is None:
        known = ", ".join(known.value for known in _ENGINE_MODES)
        raise NotSupportedError(
            f"SpladeVectorStore does not have mode {query.mode.value!r}; it has: {known}. Use one of them, "
            "or a store of dense vectors."
        )
    if query.query_str is None:
        raise InputError(
            "The query has no text (query_str is None). SPLADE encodes the text; an embedding is not enough. "
            "Set query_str."
        )
    words = None
    if query.mode is VectorStoreQueryMode.TEXT_SEARCH:
        if node_filters.layout.holds_nodes:
            raise NotSupportedError(
                "Mode 'text_search' filters texts, but this collection of LlamaIndex's Qdrant store has them "
                "in JSON. Use mode 'sparse', or add the nodes that get_nodes() returns to a new collection."
            )
        words = any_word(query.query_str)
    search: SearchArguments = {
        "query": query.query_str,
        "k": (query.hybrid_top_k if mode == "hybrid" else query.sparse_top_k) or query.similarity_top_k,
        "filter": combine(
            filter,
            to_index_filter(query.filters),
            node_filters.sources(query.doc_ids) if query.doc_ids else None,
            node_filters.nodes(query.node_ids) if query.node_ids else None,
            words,
        ),
        "mode": mode,
    }
    if mode == "hybrid":
        search["fusion"] = _fusion(query.alpha, branches, max(search["k"], query.sparse_top_k or 0))
    return search


def _fusion(alpha: float | None, branches: Sequence[str], min_depth: int) -> Fusion:
    """Return the fusion in which the last ranking, the dense one if there is one, has the weight alpha."""
    alpha = 0.5 if alpha is None else checked_alpha(alpha)
    depth = max(Fusion().depth, min_depth)
    has_both = "second" in branches and "dense" in branches
    sparse = 1.0 - alpha
    return Fusion(weights=(sparse, sparse, alpha) if has_both else (sparse, alpha), depth=depth)


def checked_alpha(alpha: float) -> float:
    """Return the weight of the dense branch, from 0 to 1.

    Raises:
        InputError: If it is not such a number.
    """
    expected = "a number from 0 (sparse alone) to 1 (dense alone)"
    return checked_float("alpha", alpha, expected, minimum=0.0, maximum=1.0)


def _normalised(hits: Sequence[Hit], arguments: SearchArguments) -> list[Hit]:
    """Normalise the scores of a hybrid search; leave out hits found only by a ranking without weight."""
    fusion: Fusion | None = arguments.get("fusion")
    if fusion is None:
        return list(hits)
    # Engines add in 32 bits, so a score can be slightly above the best score.
    return [replace(hit, score=min(1.0, hit.score / fusion.best_score())) for hit in hits if hit.score > 0.0]


def to_result(hits: Sequence[Hit]) -> VectorStoreQueryResult:
    """Return hits as a result of LlamaIndex."""
    return VectorStoreQueryResult(
        nodes=[to_node(hit) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.id for hit in hits],
    )
