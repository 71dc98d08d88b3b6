"""SpladeRetriever: an index as a retriever of LlamaIndex."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
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
from splade_retriever.index.hit_report import METADATA_KEY, hit_report
from splade_retriever.index.keywords import refuse_unknown
from splade_retriever.index.options import INDEX_ARGUMENTS
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.index.splade_query import QueryControls, SpladeQuery, with_default_controls
from splade_retriever.llama_index.filters import combine, nothing
from splade_retriever.llama_index.nodes import checked_nodes, to_node
from splade_retriever.llama_index.vector_store import SpladeVectorStore, checked_alpha
from splade_retriever.validation import checked_int, type_name

__all__ = ["SpladeRetriever"]

logger = logging.getLogger(__name__)

_CHUNK_TOKENS: Final = 256
_CHUNK_OVERLAP: Final = 32
_SEARCH_ARGUMENTS: Final = (
    "similarity_top_k",
    "mode",
    "alpha",
    "filters",
    "explain",
    "origins",
    "controls",
    "transformations",
)
"""Arguments of `from_nodes` and `from_documents` that say how to search."""


class SpladeRetriever(BaseRetriever):
    """Finds nodes by SPLADE."""

    def __init__(
        self,
        vector_store: SpladeVectorStore | None = None,
        *,
        index: SpladeIndex | None = None,
        location: str | Path | None = None,
        similarity_top_k: int = 4,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        alpha: float | None = None,
        filters: MetadataFilters | None = None,
        filter: Mapping[str, Any] | models.Filter | None = None,
        doc_ids: Sequence[str] | None = None,
        node_ids: Sequence[str] | None = None,
        explain: bool = False,
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: Mapping[str, Any] | None = None,
        objects: Sequence[IndexNode] | None = None,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        """Search a vector store, an open index, or the index at a location.

        Args:
            vector_store: The store to search. The caller closes it.
            index: An open index instead. The caller closes it.
            location: The folder of an existing index, or the URL of a server, instead. It is opened here,
                never created, and closed by `close`.
            similarity_top_k: Maximum number of nodes.
            mode: "default" or "sparse" for SPLADE alone, "text_search", or "hybrid".
            alpha: Weight of the dense branch in mode "hybrid", 0 to 1; without one, of the second model.
            filters: Conditions on the metadata.
            filter: Further conditions, in the filter language of the index (`splade_retriever.filters`).
            doc_ids: Source documents to search in; with [] nothing is found.
            node_ids: Nodes to search in; with [] nothing is found.
            explain: Put the score and its explanation into each node's metadata, under "_splade".
            origins: Put the explanation there, and name in it the word that each token of an expansion comes
                from.
            controls: Words to boost, require or exclude, synonyms and `expand`, for each query that is not a
                `SpladeQuery`.
            callback_manager: LlamaIndex's callback manager.
            object_map: Objects of index nodes, by index id.
            objects: Index nodes with their objects.
            verbose: Print how LlamaIndex follows index nodes.
            **settings: With `location`, further arguments of `SpladeVectorStore`: `collection`, `model`,
                `second_model`, `dense`, `api_key`, ...

        Raises:
            InputError: If not exactly one of store, index and location is passed, one has the wrong type, the
                mode is unknown, or `alpha` is passed in another mode than "hybrid".
            SpladeError: As raised by `SpladeVectorStore`, with `location`.
        """
        self._mode = _checked_mode(mode, alpha)
        self._store = _vector_store(vector_store, index, location, settings)
        self._opened_here = vector_store is None
        self.similarity_top_k = similarity_top_k
        self._alpha = None if alpha is None else checked_alpha(alpha)
        self._filters, self._filter = filters, filter
        self._doc_ids = None if doc_ids is None else list(doc_ids)
        self._node_ids = None if node_ids is None else list(node_ids)
        self._explain, self._origins = explain or origins, origins
        self._controls = QueryControls.of(controls)
        super().__init__(
            callback_manager=callback_manager,
            object_map=None if object_map is None else dict(object_map),
            objects=None if objects is None else list(objects),
            verbose=verbose,
        )

    @classmethod
    def owning(cls, vector_store: SpladeVectorStore, **fields: Any) -> Self:
        """Return a retriever of a store that was opened for it, and which its `close` closes.

        Args:
            vector_store: The store. It is closed if an argument is not valid.
            **fields: Arguments of the retriever: `similarity_top_k`, `filter`, `explain`, ...

        Raises:
            InputError: If an argument is not valid.
        """
        try:
            retriever = cls(vector_store, **fields)
        except BaseException:
            vector_store.close()
            raise
        retriever._opened_here = True
        return retriever

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
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Add nodes to a new or an existing store, and return its retriever.

        A node whose id is stored replaces the stored one. LlamaIndex makes random ids, so the same documents
        added again are stored twice; a warning says that nodes were added to stored ones.

        Objects of index nodes (query engines, retrievers) are not stored; this retriever keeps them.

        Args:
            nodes: Nodes.
            location: A folder, ":memory:", or the URL of a Qdrant server.
            similarity_top_k: Maximum number of nodes per query.
            mode: As for the constructor; "hybrid" needs `second_model=` or `dense=`.
            alpha: Weight of the dense branch in mode "hybrid", 0 to 1; without one, of the second model.
            filters: Conditions on the metadata.
            explain: Put the score and its explanation into each node's metadata.
            origins: As for the constructor.
            controls: As for the constructor.
            **settings: Further arguments of `SpladeVectorStore`: `collection`, `model`,
                `second_model`, `dense`, ...

        Raises:
            InputError: If an input is not valid; nothing is written then.
            SpladeError: As raised by `SpladeVectorStore` and its `add`.
        """
        refuse_unknown(cls.__name__, settings, (*_SEARCH_ARGUMENTS, *INDEX_ARGUMENTS))
        stored_nodes, objects = _without_objects(nodes)
        store = SpladeVectorStore(location, **settings)
        try:
            retriever = cls.owning(
                store,
                similarity_top_k=similarity_top_k,
                mode=mode,
                alpha=alpha,
                filters=filters,
                explain=explain,
                origins=origins,
                controls=controls,
                object_map=objects,
            )
            before = store.index.count()
            store.add(stored_nodes)
            _warn_of_additions(store.index, before=before, added=len(stored_nodes))
        except BaseException:
            store.close()
            raise
        return retriever

    @classmethod
    async def afrom_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        location: str | Path = ":memory:",
        similarity_top_k: int = 4,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        alpha: float | None = None,
        filters: MetadataFilters | None = None,
        explain: bool = False,
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_nodes`."""
        refuse_unknown(cls.__name__, settings, (*_SEARCH_ARGUMENTS, *INDEX_ARGUMENTS))
        stored_nodes, objects = _without_objects(nodes)
        arguments = {"engine_in_subprocess": True, **settings}
        store = await asyncio.to_thread(SpladeVectorStore, location, **arguments)
        try:
            retriever = cls.owning(
                store,
                similarity_top_k=similarity_top_k,
                mode=mode,
                alpha=alpha,
                filters=filters,
                explain=explain,
                origins=origins,
                controls=controls,
                object_map=objects,
            )
            index = store.index
            before = await index.acount()
            await store.async_add(stored_nodes)
            await index.run_in_thread(_warn_of_additions, index, before=before, added=len(stored_nodes))
        except BaseException:
            await store.aclose()
            raise
        return retriever

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
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Split documents into nodes, add them to a new or an existing store, and return its retriever.

        Args:
            documents: Documents.
            transformations: Transformations into nodes; None for chunks of sentences of at most 256 tokens,
                which SPLADE models read completely.
            location: A folder, ":memory:", or the URL of a Qdrant server.
            similarity_top_k: Maximum number of nodes per query.
            mode: As for the constructor; "hybrid" needs `second_model=` or `dense=`.
            alpha: Weight of the dense branch in mode "hybrid", 0 to 1; without one, of the second model.
            filters: Conditions on the metadata.
            explain: Put the score and its explanation into each node's metadata.
            origins: As for the constructor.
            controls: As for the constructor.
            **settings: Further arguments of `SpladeVectorStore`: `collection`, `model`,
                `second_model`, `dense`, ...

        Raises:
            InputError: If an item is not a document, with its position; nothing is written then.
        """
        refuse_unknown(cls.__name__, settings, (*_SEARCH_ARGUMENTS, *INDEX_ARGUMENTS))
        return cls.from_nodes(
            _nodes_of(_checked_documents(documents), transformations),
            location=location,
            similarity_top_k=similarity_top_k,
            mode=mode,
            alpha=alpha,
            filters=filters,
            explain=explain,
            origins=origins,
            controls=controls,
            **settings,
        )

    @classmethod
    async def afrom_documents(
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
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_documents`; the transformations run in a thread."""
        refuse_unknown(cls.__name__, settings, (*_SEARCH_ARGUMENTS, *INDEX_ARGUMENTS))
        nodes = await asyncio.to_thread(_nodes_of, _checked_documents(documents), transformations)
        return await cls.afrom_nodes(
            nodes,
            location=location,
            similarity_top_k=similarity_top_k,
            mode=mode,
            alpha=alpha,
            filters=filters,
            explain=explain,
            origins=origins,
            controls=controls,
            **settings,
        )

    @property
    def vector_store(self) -> SpladeVectorStore:
        """The store that is searched."""
        return self._store

    @property
    def similarity_top_k(self) -> int:
        """Maximum number of nodes per query."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, similarity_top_k: int) -> None:
        self._similarity_top_k = checked_int("similarity_top_k", similarity_top_k, minimum=1)

    def close(self) -> None:
        """Close the index if the retriever opened it; the caller closes a store or index that was passed."""
        if self._opened_here:
            self._store.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        if self._opened_here:
            await self._store.aclose()

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

    # Copies share the open index, which the original closes.

    def __copy__(self) -> Self:
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(self.__dict__, _opened_here=False)
        return duplicate

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened_here=True)  # reading the pickle has opened the index

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = self._query(query_bundle)
        hits = self._store.search(query, with_vectors=self._explain, filter=self._further_filter())
        return _scored(hits, self._explanations(query, hits))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = self._query(query_bundle)
        hits = await self._store.asearch(query, with_vectors=self._explain, filter=self._further_filter())
        return _scored(hits, await self._store.index.run_in_thread(self._explanations, query, hits))

    def _query(self, query_bundle: QueryBundle) -> VectorStoreQuery:
        return VectorStoreQuery(
            # A query transform (HyDE) replaces the query by texts; SPLADE encodes them as one text.
            query_str=with_default_controls(_query_text(query_bundle), self._controls),
            similarity_top_k=self._similarity_top_k,
            mode=self._mode,
            alpha=self._alpha,
            filters=self._filters,
            doc_ids=self._doc_ids,
            node_ids=self._node_ids,
        )

    def _further_filter(self) -> dict[str, Any] | None:
        """Return the filter of the index, combined with one that matches nothing for an empty list of ids.

        Stores ignore an empty list of documents or nodes, because LlamaIndex's own retriever passes one.
        """
        return combine(self._filter, nothing() if [] in (self._doc_ids, self._node_ids) else None)

    def _explanations(self, query: VectorStoreQuery, hits: Sequence[Hit]) -> list[Explanation]:
        if not self._explain:
            return []
        return self._store.index.explain_all(query.query_str or "", hits, origins=self._origins)


def _query_text(query_bundle: QueryBundle) -> str:
    """Return the query, with its controls if it is a `SpladeQuery`."""
    query = query_bundle.query_str
    texts = query_bundle.custom_embedding_strs or [query]
    text = texts[0] if len(texts) == 1 else "\n".join(texts)
    return with_default_controls(text, query.controls if isinstance(query, SpladeQuery) else None)


def _warn_of_additions(index: SpladeIndex, *, before: int, added: int) -> None:
    """Warn if a collection had nodes, and none of them was replaced."""
    if before and added and index.count() == before + added:
        logger.warning(
            "%d nodes were added to the %d of the collection, and none was replaced. If they are the same "
            "documents, they are stored twice now: LlamaIndex makes random ids. Pass nodes with ids of your "
            "own (id_=...) to from_nodes, or open the stored index with SpladeRetriever(location=...).",
            added,
            before,
        )


def _checked_mode(mode: VectorStoreQueryMode | str, alpha: float | None) -> VectorStoreQueryMode:
    try:
        checked = VectorStoreQueryMode(mode)
    except ValueError as error:
        raise InputError(
            f"SpladeRetriever got mode={mode!r}, expected 'default', 'sparse', 'text_search' or 'hybrid'."
        ) from error
    if alpha is not None and checked is not VectorStoreQueryMode.HYBRID:
        raise InputError(
            f"SpladeRetriever got alpha={alpha!r} in mode {checked.value!r}, which has no dense branch to "
            "weigh. Pass mode='hybrid', or leave alpha out."
        )
    return checked


def _vector_store(
    vector_store: SpladeVectorStore | None,
    index: SpladeIndex | None,
    location: str | Path | None,
    settings: Mapping[str, Any],
) -> SpladeVectorStore:
    """Return the store to search, after checking that exactly one source is passed."""
    if [vector_store, index, location].count(None) != 2:
        raise InputError(
            "SpladeRetriever takes one of vector_store=, index= and location=. Pass exactly one of them."
        )
    if location is not None:
        return SpladeVectorStore(location, **{"create": False, **settings})
    if settings:
        raise InputError(
            f"SpladeRetriever got {', '.join(settings)}, which applies to a location= only. Pass it to the "
            "store or the index."
        )
    if index is not None:
        if not isinstance(index, SpladeIndex):
            raise InputError(
                f"SpladeRetriever got an index of type {type(index).__name__}, expected a SpladeIndex. For a "
                "VectorStoreIndex pass vector_store=index.vector_store."
            )
        return SpladeVectorStore(index=index)
    if not isinstance(vector_store, SpladeVectorStore):
        raise InputError(
            f"SpladeRetriever got a vector_store of type {type(vector_store).__name__}, expected a "
            "SpladeVectorStore. Pass a SpladeIndex as index=. For another store use the retriever of its "
            "VectorStoreIndex."
        )
    return vector_store


def _without_objects(nodes: Iterable[BaseNode]) -> tuple[list[BaseNode], dict[str, Any]]:
    """Remove the objects of index nodes, except nodes, which can be stored; return them by index id."""
    stored_nodes: list[BaseNode] = []
    objects: dict[str, Any] = {}
    for node in checked_nodes(nodes):
        if isinstance(node, IndexNode) and node.obj is not None and not isinstance(node.obj, BaseNode):
            objects[node.index_id] = node.obj
            stored_nodes.append(node.model_copy(update={"obj": None}))
        else:
            stored_nodes.append(node)
    return stored_nodes, objects


def _checked_documents(documents: Iterable[Document]) -> list[Document]:
    """Return documents as a list, after checking their types before LlamaIndex's splitter gets them."""
    if isinstance(documents, str | BaseNode):
        raise InputError(
            f"documents is one {type(documents).__name__}, expected several. Pass [Document(text=...)]."
        )
    if not isinstance(documents, Iterable):
        raise InputError(f"documents is {type_name(documents)}, expected a list of LlamaIndex Documents.")
    checked = list(documents)
    for position, document in enumerate(checked):
        if not isinstance(document, BaseNode):
            raise InputError(
                f"Document {position} is {type_name(document)}, expected a LlamaIndex Document. "
                "Nothing was written. Wrap texts in Document(text=...)."
            )
    return checked


def _nodes_of(
    documents: Sequence[Document], transformations: Sequence[TransformComponent] | None
) -> Sequence[BaseNode]:
    """Transform documents into nodes; without transformations into chunks of sentences."""
    if transformations is None:
        transformations = [SentenceSplitter(chunk_size=_CHUNK_TOKENS, chunk_overlap=_CHUNK_OVERLAP)]
    return run_transformations(documents, transformations, in_place=False)


def _scored(hits: Sequence[Hit], explanations: Sequence[Explanation]) -> list[NodeWithScore]:
    """Return the nodes of hits with their scores, and with the explanations, if any, in their metadata."""
    nodes = [to_node(hit) for hit in hits]
    if explanations:
        for node, hit, explanation in zip(nodes, hits, explanations, strict=True):
            _add_report(node, hit, explanation)
    return [NodeWithScore(node=node, score=hit.score) for node, hit in zip(nodes, hits, strict=True)]


def _add_report(node: BaseNode, hit: Hit, explanation: Explanation) -> None:
    """Put the report on a hit into a node's metadata, hidden from encoders and language models."""
    node.metadata = {**node.metadata, METADATA_KEY: hit_report(hit, explanation)}
    node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, METADATA_KEY]
    node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, METADATA_KEY]
