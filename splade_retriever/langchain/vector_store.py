# ruff: noqa: PLR0917 - the arguments and their order are langchain-qdrant's
"""SpladeVectorStore: an index as a vector store of LangChain."""

import asyncio
import copy
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from qdrant_client.client_base import QdrantBase

from splade_retriever.encoding.model_loading import ModelArgument
from splade_retriever.errors import InputError
from splade_retriever.index.async_input import as_iterator
from splade_retriever.index.mmr import diverse
from splade_retriever.index.search_request import Fusion
from splade_retriever.index.splade_index import Hit, SpladeIndex
from splade_retriever.langchain.documents import (
    columns,
    text_columns,
    to_document,
    to_documents,
)
from splade_retriever.langchain.filters import LangChainFilter, to_index_filter
from splade_retriever.langchain.qdrant_arguments import (
    dense_for_mode,
    existing_layout,
    location_of,
    model_of,
)
from splade_retriever.langchain.relevance import relevance
from splade_retriever.langchain.search_options import LangChainSearchOptions
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_int, type_name

__all__ = ["SpladeVectorStore"]

_MMR_OPTIONS: Final = frozenset({"fetch_k", "lambda_mult"})


class SpladeVectorStore(VectorStore):
    """Stores documents and finds them by SPLADE; with a second model or a dense encoder, by all of them.

    A document comes back equal: its text, its metadata and its id, which may be any string. Every search
    accepts the keyword arguments of `LangChainSearchOptions`: `filter`, `offset`, `score_threshold`, `mode`,
    `fusion`, `with_scores`, `with_explanations`, `with_origins`.
    """

    def __init__(
        self,
        location: str | Path = ":memory:",
        *,
        index: SpladeIndex | None = None,
        embedding: Embeddings | None = None,
        **settings: Any,
    ) -> None:
        """Open a store, or create it.

        Args:
            location: A folder, ":memory:" or the URL of a server; see `SpladeIndex`. A new collection has
                `windows="merge"`, so that chunks longer than the model reads are encoded completely.
            index: An open index instead of a location. The caller closes it.
            embedding: A dense encoder for hybrid search: searches are hybrid unless `mode` is set.
            **settings: Further arguments of `SpladeIndex`: `collection`, `model`, `second_model`, `client`,
                `windows`, ...

        Raises:
            InputError: If `index` is passed together with arguments for opening one.
            TypeError: If `SpladeIndex` does not have a setting.
            SpladeError: As raised by `SpladeIndex`.
        """
        if embedding is not None and not isinstance(embedding, Embeddings):
            raise InputError(
                f"embedding is {type_name(embedding)}, expected LangChain's Embeddings, a dense "
                "encoder, or None. Pass a sparse encoder as model=."
            )
        self._opened_here = index is None
        if index is None:
            index = SpladeIndex(location, dense=embedding, **{"default_windows": "merge", **settings})
        elif embedding is not None or settings or location != ":memory:":
            raise InputError(
                "index= is passed together with location, embedding or settings, which the index already "
                "has. Pass them to SpladeIndex."
            )
        self.index = index

    @property
    def embeddings(self) -> Embeddings | None:
        """The dense encoder; None for a sparse store."""
        return self.index.dense if isinstance(self.index.dense, Embeddings) else None

    # -- writing ---------------------------------------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> Self:
        """Open a store and add texts.

        Args:
            texts: A list or an iterator.
            embedding: A dense encoder for hybrid search; None for a sparse store.
            metadatas: One per text.
            ids: One per text; without `ids` they are made of text and metadata, so that the same call twice
                stores each text once. None among them for a random id.
            **settings: Arguments of the constructor.

        Raises:
            InputError: If a text cannot be stored; nothing of a list is written then.
        """
        texts, metadatas, ids = text_columns(texts, metadatas, ids)
        store = cls(embedding=embedding, **settings)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        embedding: Embeddings | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> Self:
        """Open a store and add documents, which keep their ids; otherwise like `from_texts`.

        A document without an id gets one that is made of its text and metadata, so that the same call twice
        stores it once.
        """
        texts, metadatas, document_ids = columns(documents, ids, ids_of_content=True)
        return cls.from_texts(texts, embedding, metadatas, ids=document_ids, **settings)

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_texts`."""
        texts, metadatas, ids = text_columns(texts, metadatas, ids)
        arguments = settings if "index" in settings else {"engine_in_subprocess": True, **settings}
        store = await asyncio.to_thread(cls, embedding=embedding, **arguments)
        try:
            await store.aadd_texts(texts, metadatas, ids=ids)
        except BaseException:
            await store.aclose()
            raise
        return store

    @classmethod
    async def afrom_documents(
        cls,
        documents: Iterable[Document],
        embedding: Embeddings | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_documents`."""
        texts, metadatas, document_ids = columns(documents, ids, ids_of_content=True)
        return await cls.afrom_texts(texts, embedding, metadatas, ids=document_ids, **settings)

    @classmethod
    def from_existing_collection(
        cls,
        collection_name: str,
        embedding: Embeddings | None = None,
        retrieval_mode: Any = None,
        location: str | None = None,
        url: str | None = None,
        port: int | None = 6333,
        grpc_port: int = 6334,
        prefer_grpc: bool = False,
        https: bool | None = None,
        api_key: str | None = None,
        prefix: str | None = None,
        timeout: int | None = None,
        host: str | None = None,
        path: str | None = None,
        distance: object = None,
        content_payload_key: str = "page_content",
        metadata_payload_key: str = "metadata",
        vector_name: str = "",
        sparse_vector_name: str = "langchain-sparse",
        sparse_embedding: object = None,
        validate_embeddings: bool = True,
        validate_collection_config: bool = True,
        *,
        model: ModelArgument = None,
        client: QdrantBase | None = None,
        **settings: Any,
    ) -> Self:
        """Open a collection of langchain-qdrant's `QdrantVectorStore`.

        Names, order and defaults of the arguments are those of its `from_existing_collection`. Nothing is
        written; pass `adopt=True` to add documents too, which both stores can then read.

        Args:
            collection_name: The collection.
            embedding: The dense encoder that made its dense vectors; with it searches are hybrid.
            retrieval_mode: "sparse" or "hybrid"; None for hybrid where `embedding` is passed.
            location: ":memory:" or the URL of the server.
            url: The URL of the server, instead.
            port: The port of a URL without one.
            grpc_port: The server's gRPC port, with `prefer_grpc`.
            prefer_grpc: Send requests over gRPC.
            https: Whether to use https with `host`.
            api_key: Key of the server.
            prefix: The path of the server behind its host.
            timeout: Seconds after which a request fails.
            host: The host of the server, instead of a URL.
            path: A folder of this package, instead of a server.
            distance: Not used: the collection has its distance.
            content_payload_key: Key of the payload that holds the text.
            metadata_payload_key: Key of the payload that holds the metadata.
            vector_name: Name of the dense vectors.
            sparse_vector_name: Name of the sparse vectors.
            sparse_embedding: `SpladeSparseEmbeddings`, whose model made the sparse vectors.
            validate_embeddings: Not used: vectors are always checked.
            validate_collection_config: Not used: the collection is always checked.
            model: The encoder that made the sparse vectors, or its name, instead of `sparse_embedding`.
            client: A client, instead of a location.
            **settings: Further arguments of `SpladeIndex`.

        Raises:
            InputError: If there is no model, or not exactly one place.
            CollectionNotFoundError: If the collection does not exist.
            CollectionMismatchError: If it does not have vectors of these names.
        """
        if client is None:
            settings["location"] = location_of(
                location=location,
                url=url,
                path=path,
                host=host,
                port=port,
                https=https,
                prefix=prefix,
                has_key=api_key is not None,
            )
            settings |= {"api_key": api_key, "timeout": timeout, "prefer_grpc": prefer_grpc}
            grpc_port = checked_int("grpc_port", grpc_port, minimum=1)
            settings["grpc_port"] = grpc_port if prefer_grpc else None
        else:
            settings["client"] = client
        return cls(
            collection=collection_name,
            model=model_of(model, sparse_embedding),
            embedding=dense_for_mode(embedding, retrieval_mode),
            dense_name=vector_name,
            vector_name=sparse_vector_name,
            **{"layout": existing_layout(content_payload_key, metadata_payload_key), **settings},
            create=False,
        )

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Add texts; a text whose id is already stored replaces the stored one.

        Args:
            texts: A list, or an iterator of any length.
            metadatas: One dict of JSON values per text.
            ids: One string per text; None for a random id.
            **settings: Further arguments of `SpladeIndex.add`: `batch_size`, `show_progress`, `on_error`, ...

        Returns:
            The ids, in order.

        Raises:
            InputError: If an input cannot be stored, with its position; nothing of a list is written then.
        """
        return self.index.add(texts, metadatas, ids, **settings)

    def add_documents(
        self, documents: Iterable[Document], *, ids: Iterable[str | None] | None = None, **settings: Any
    ) -> list[str]:
        """Add documents of a list or an iterator; `ids` replace their ids. Otherwise like `add_texts`."""
        return self.index.add(*columns(documents, ids), **settings)

    async def aadd_texts(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Async version of `add_texts`; the texts may be an async iterator."""
        return await self.index.aadd(texts, metadatas, ids, **settings)

    async def aadd_documents(
        self,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Async version of `add_documents`; the documents may be an async iterator."""
        if isinstance(documents, AsyncIterable):
            documents = as_iterator(documents)
        return await self.index.aadd(*columns(documents, ids), **settings)

    def delete(  # type: ignore[override] # no **kwargs, which would ignore a misspelt filter=
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: LangChainFilter | None = None,
        tenant: str | None = None,
    ) -> bool:
        """Delete documents by id or by filter; without either, as LangChain defines it, all documents.

        Ids that are not stored are skipped. Where the collection separates tenants, `tenant` says whose ids
        they are.

        Returns:
            True.

        Raises:
            InputError: If both ids and a filter are passed, or the filter is empty.
        """
        if ids is None and filter is None and tenant is None:
            self.index.clear()
        else:
            self.index.delete(ids, filter=to_index_filter(filter), tenant=tenant)
        return True

    async def adelete(  # type: ignore[override]
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: LangChainFilter | None = None,
        tenant: str | None = None,
    ) -> bool:
        """Async version of `delete`."""
        return await self.index.run_in_thread(self.delete, ids, filter=filter, tenant=tenant)

    # -- reading ---------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /, *, tenant: str | None = None) -> list[Document]:
        """Read documents by id, in the order of the ids; ids that are not stored are skipped.

        Where the collection separates tenants, `tenant` says whose ids they are.
        """
        return [to_document(hit) for hit in self.index.get(ids, tenant=tenant)]

    async def aget_by_ids(self, ids: Sequence[str], /, *, tenant: str | None = None) -> list[Document]:
        """Async version of `get_by_ids`."""
        return [to_document(hit) for hit in await self.index.aget(ids, tenant=tenant)]

    # -- searching -------------------------------------------------------------------------------------------

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """Return LangChain's retriever of this store, which stays open until the store is closed.

        Args:
            **kwargs: `search_type` ("similarity", "mmr" or "similarity_score_threshold"), `search_kwargs`
                (`k` and the options of a search, for "mmr" also `fetch_k` and `lambda_mult`), `tags`,
                `metadata`, `name`.

        Raises:
            InputError: If an argument is unknown, in `search_kwargs` too. LangChain would ignore it, and with
                it a filter.
        """
        _check_retriever_arguments(kwargs)
        return super().as_retriever(**kwargs)

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Find the `k` best documents.

        A sparse search finds documents that share at least one token with the query, so it may return fewer
        than `k`.

        Args:
            query: The query.
            k: Maximum number of documents.
            **options: Fields of `LangChainSearchOptions`.

        Raises:
            InputError: If an argument is not valid.
            FilterError: If the filter is not valid.
        """
        return _only_documents(self.similarity_search_with_score(query, k, **options))

    async def asimilarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Async version of `similarity_search`."""
        return _only_documents(await self.asimilarity_search_with_score(query, k, **options))

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Find documents with their scores: sparse, a dot product (unbounded); hybrid, the fused score."""
        search = LangChainSearchOptions.from_keywords(options)
        return self._documents(query, self.index.search(query, k, **search.index_arguments()), search)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Async version of `similarity_search_with_score`."""
        search = LangChainSearchOptions.from_keywords(options)
        hits = await self.index.asearch(query, k, **search.index_arguments())
        return await self._adocuments(query, hits, search)

    def similarity_search_by_vector(
        self, embedding: list[float] | SparseEmbedding, k: int = 4, **options: Any
    ) -> list[Document]:
        """Find documents by a sparse vector.

        Raises:
            InputError: If the vector is not a `SparseEmbedding`.
        """
        return self.similarity_search(_sparse(embedding), k, **{"mode": "sparse", **options})  # type: ignore[arg-type]

    async def asimilarity_search_by_vector(
        self, embedding: list[float] | SparseEmbedding, k: int = 4, **options: Any
    ) -> list[Document]:
        """Async version of `similarity_search_by_vector`."""
        return await self.asimilarity_search(_sparse(embedding), k, **{"mode": "sparse", **options})  # type: ignore[arg-type]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Find documents with scores in 0..1; see `splade_retriever.langchain.relevance`."""
        search = LangChainSearchOptions.from_keywords(options)
        scored = self._documents(query, self.index.search(query, k, **search.index_arguments()), search)
        return self._relevant(query, scored, search)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        search = LangChainSearchOptions.from_keywords(options)
        hits = await self.index.asearch(query, k, **search.index_arguments())
        scored = await self._adocuments(query, hits, search)
        return await asyncio.to_thread(self._relevant, query, scored, search)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Choose `k` of the `fetch_k` best documents that also differ from each other; see `index.mmr`.

        Args:
            query: The query.
            k: Maximum number of documents.
            fetch_k: Number of documents to choose from.
            lambda_mult: 1 for relevance only, 0 for diversity only.
            **options: Fields of `LangChainSearchOptions`.
        """
        search = LangChainSearchOptions.from_keywords(options)
        k, fetch_k = checked_int("k", k, minimum=1), checked_int("fetch_k", fetch_k, minimum=1)
        hits = self.index.search(query, max(k, fetch_k), **_with_vectors(search))
        return _only_documents(self._documents(query, diverse(hits, k, lambda_mult=lambda_mult), search))

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Async version of `max_marginal_relevance_search`."""
        search = LangChainSearchOptions.from_keywords(options)
        k, fetch_k = checked_int("k", k, minimum=1), checked_int("fetch_k", fetch_k, minimum=1)
        hits = await self.index.asearch(query, max(k, fetch_k), **_with_vectors(search))
        chosen = await asyncio.to_thread(diverse, hits, k, lambda_mult=lambda_mult)
        return _only_documents(await self._adocuments(query, chosen, search))

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float] | SparseEmbedding,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Like `max_marginal_relevance_search`, by a sparse vector."""
        return self.max_marginal_relevance_search(
            _sparse(embedding),  # type: ignore[arg-type]
            k,
            fetch_k,
            lambda_mult,
            **{"mode": "sparse", **options},
        )

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float] | SparseEmbedding,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Async version of `max_marginal_relevance_search_by_vector`."""
        return await self.amax_marginal_relevance_search(
            _sparse(embedding),  # type: ignore[arg-type]
            k,
            fetch_k,
            lambda_mult,
            **{"mode": "sparse", **options},
        )

    def _documents(
        self, query: str, hits: Sequence[Hit], search: LangChainSearchOptions
    ) -> list[tuple[Document, float]]:
        if not search.explained:
            return to_documents(hits, search, [])
        explanations = self.index.explain_all(query, hits, origins=search.with_origins)
        return to_documents(hits, search, explanations)

    async def _adocuments(
        self, query: str, hits: Sequence[Hit], search: LangChainSearchOptions
    ) -> list[tuple[Document, float]]:
        if not search.explained:
            return to_documents(hits, search, [])
        explanations = await self.index.aexplain_all(query, hits, origins=search.with_origins)
        return to_documents(hits, search, explanations)

    def _relevant(
        self, query: str, scored: Sequence[tuple[Document, float]], search: LangChainSearchOptions
    ) -> list[tuple[Document, float]]:
        if not scored:
            return []
        branches = len(self.index.branches)
        mode = search.mode or ("sparse" if branches == 1 else "hybrid")
        scale = partial(
            relevance,
            mode=mode,
            fusion=search.fusion or Fusion(),
            reference_score=self.index.reference_score(query, mode) if mode in ("sparse", "second") else 0.0,
            branches=branches,
        )
        return [(document, scale(score)) for document, score in scored]

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the index if the store opened it; the caller closes an index that was passed as `index=`.

        A second call does nothing.
        """
        if self._opened_here:
            self.index.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        if self._opened_here:
            await self.index.aclose()

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

    # -- copies ----------------------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened_here=True)  # reading the pickle has opened the index

    def __copy__(self) -> Self:
        return self._sharing(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self._sharing(copy.deepcopy(self.__dict__, memo))

    def _sharing(self, state: Mapping[str, Any]) -> Self:
        """Return a store that shares the index, which the original closes."""
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(state, _opened_here=False)
        return duplicate


def _only_documents(scored: Sequence[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in scored]


def _with_vectors(search: LangChainSearchOptions) -> dict[str, Any]:
    return {**search.index_arguments(), "with_vectors": True}


def _sparse(embedding: object) -> SparseEmbedding:
    if not isinstance(embedding, SparseEmbedding):
        raise InputError(
            f"The search by vector got {type_name(embedding)}, expected a SparseEmbedding, as "
            "`index.model.query_embed` returns it. For dense vectors search by text with mode='dense'."
        )
    return embedding


def _check_retriever_arguments(kwargs: Mapping[str, Any]) -> None:
    searches = {"k", *LangChainSearchOptions.__slots__}
    allowed = set(VectorStoreRetriever.model_fields) - {"vectorstore"}
    if unknown := [name for name in kwargs if name not in allowed]:
        options = [name for name in unknown if name in searches | _MMR_OPTIONS]
        hint = ", ".join(f"{name!r}: ..." for name in options)
        remedy = f" Pass search_kwargs={{{hint}}}." if options else ""
        raise InputError(
            f"as_retriever got the unknown argument {', '.join(unknown)}; allowed: "
            f"{', '.join(sorted(allowed))}.{remedy}"
        )
    if kwargs.get("search_type") == "mmr":
        searches |= _MMR_OPTIONS
    search_kwargs = kwargs.get("search_kwargs") or {}
    if unknown := [name for name in search_kwargs if name not in searches]:
        raise InputError(
            f"as_retriever got the unknown argument {', '.join(unknown)} in search_kwargs; allowed: "
            f"{', '.join(sorted(searches))}."
        )
