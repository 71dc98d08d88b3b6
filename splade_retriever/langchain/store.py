"""SpladeVectorStore: an index as LangChain's vector store."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from splade_retriever.errors import InputError
from splade_retriever.index.mmr import diverse
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.index.splade_index import Hit, SpladeIndex
from splade_retriever.langchain.documents import (
    SearchOptions,
    columns,
    relevance,
    to_document,
    to_documents,
)
from splade_retriever.langchain.filters import LangChainFilter, to_index_filter
from splade_retriever.sparse import SparseEmbedding

__all__ = ["SpladeVectorStore"]


class SpladeVectorStore(VectorStore):
    """Keeps documents and finds them by SPLADE; with a dense encoder, by both.

    A document comes back equal: its text, its metadata and its id, which may be any string. Every search
    takes the keywords of `SearchOptions` (`filter`, `offset`, `score_threshold`, `mode`, `fusion`,
    `with_scores`, `with_explanations`).
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
            location: A folder, ":memory:" or the URL of a server; see `SpladeIndex`.
            index: An open index in place of a location. The caller closes it.
            embedding: A dense encoder beside SPLADE: searches are hybrid unless `mode` says otherwise.
            **settings: Further arguments of `SpladeIndex`: `collection`, `model`, `client`, `windows`, ...

        Raises:
            InputError: Both an index and what is for making one.
            TypeError: A setting that `SpladeIndex` does not have.
            SpladeError: What `SpladeIndex` raises.
        """
        if embedding is not None and not isinstance(embedding, Embeddings):
            raise InputError(
                f"embedding is a {type(embedding).__name__}, expected LangChain's Embeddings, a dense "
                "encoder, or None. A sparse encoder is passed as model=."
            )
        if index is None:
            index = SpladeIndex(location, dense=embedding, **settings)
        elif embedding is not None or settings or location != ":memory:":
            raise InputError(
                "index= is given together with location, embedding or settings, which it has itself. Pass "
                "them to SpladeIndex."
            )
        self.index = index

    @property
    def embeddings(self) -> Embeddings | None:
        """The dense encoder, where there is one."""
        return self.index.dense if isinstance(self.index.dense, Embeddings) else None

    def close(self) -> None:
        """Close the index; a second call does nothing."""
        self.index.close()

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
            texts: A list or a stream.
            embedding: A dense encoder beside SPLADE; None for a sparse store.
            metadatas: One a text.
            ids: One a text; None for a random one.
            **settings: Arguments of the constructor.

        Raises:
            InputError: A text cannot be stored; of lists nothing is written.
        """
        store = cls(embedding=embedding, **settings)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            if "index" not in settings:
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
        """Open a store and add documents, which keep their ids; the rest is as in `from_texts`."""
        texts, metadatas, own_ids = columns(documents, ids)
        return cls.from_texts(texts, embedding, metadatas, ids=own_ids, **settings)

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
        """Do what `from_texts` does, off the event loop."""
        given = "index" in settings
        opening = settings if given else {"engine_in_subprocess": True, **settings}
        store = await asyncio.to_thread(cls, embedding=embedding, **opening)
        try:
            await store.aadd_texts(texts, metadatas, ids=ids)
        except BaseException:
            if not given:
                await store.index.aclose()
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
        """Do what `from_documents` does, off the event loop."""
        texts, metadatas, own_ids = columns(documents, ids)
        return await cls.afrom_texts(texts, embedding, metadatas, ids=own_ids, **settings)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Add texts, or replace those whose ids are there already.

        Args:
            texts: A list or a stream of any length.
            metadatas: One a text, of what JSON has.
            ids: One a text, any string; None for a random one.
            **settings: Further arguments of `SpladeIndex.add`: `batch_size`, `show_progress`, `on_error`, ...

        Returns:
            The ids, in order.

        Raises:
            InputError: Bad input, with its position; of lists nothing is written.
        """
        return self.index.add(texts, metadatas, ids, **settings)

    def add_documents(
        self, documents: Iterable[Document], *, ids: Iterable[str | None] | None = None, **settings: Any
    ) -> list[str]:
        """Add documents, a list or a stream; `ids` in place of their own. The rest is as in `add_texts`."""
        return self.index.add(*columns(documents, ids), **settings)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Do what `add_texts` does, off the event loop."""
        return await self.index.aadd(texts, metadatas, ids, **settings)

    async def aadd_documents(
        self, documents: Iterable[Document], *, ids: Iterable[str | None] | None = None, **settings: Any
    ) -> list[str]:
        """Do what `add_documents` does, off the event loop."""
        return await self.index.aadd(*columns(documents, ids), **settings)

    def delete(  # type: ignore[override] # no **kwargs, which would swallow a misspelt filter=
        self, ids: Iterable[str] | None = None, *, filter: LangChainFilter | None = None
    ) -> bool:
        """Delete documents by id, or all that a filter finds; without either, as LangChain has it, all.

        Ids that are not there are passed over.

        Returns:
            True.

        Raises:
            InputError: Both ids and a filter, or a filter that is empty.
        """
        if ids is None and filter is None:
            self.index.clear()
        else:
            self.index.delete(ids, filter=to_index_filter(filter))
        return True

    async def adelete(  # type: ignore[override]
        self, ids: Iterable[str] | None = None, *, filter: LangChainFilter | None = None
    ) -> bool:
        """Do what `delete` does, off the event loop."""
        return await self.index.run_in_thread(self.delete, ids, filter=filter)

    # -- reading ---------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Read documents by id, in the order asked for; ids that are not there are passed over."""
        return [to_document(hit) for hit in self.index.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Do what `get_by_ids` does, in a worker thread."""
        return [to_document(hit) for hit in await self.index.aget(ids)]

    # -- searching -------------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Find the `k` documents that fit best; see `SearchOptions` for what else a search takes.

        A sparse search finds documents that share at least one token with the query: it may give fewer
        than `k`.

        Raises:
            InputError: Bad arguments.
            FilterError: Bad filter.
        """
        return _only_documents(self.similarity_search_with_score(query, k, **options))

    async def asimilarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Do what `similarity_search` does, off the event loop."""
        return _only_documents(await self.asimilarity_search_with_score(query, k, **options))

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Find documents with their scores: sparse, a dot product (unbounded); hybrid, the fused score."""
        wanted = SearchOptions.of(options)
        return self._read(query, self.index.search(query, k, **wanted.arguments()), wanted)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Do what `similarity_search_with_score` does, off the event loop."""
        wanted = SearchOptions.of(options)
        return await self._aread(query, await self.index.asearch(query, k, **wanted.arguments()), wanted)

    def similarity_search_by_vector(
        self, embedding: list[float] | SparseEmbedding, k: int = 4, **options: Any
    ) -> list[Document]:
        """Find documents by a ready sparse vector.

        Raises:
            InputError: The vector is not a `SparseEmbedding`.
        """
        return self.similarity_search(_sparse(embedding), k, **{"mode": "sparse", **options})  # type: ignore[arg-type]

    async def asimilarity_search_by_vector(
        self, embedding: list[float] | SparseEmbedding, k: int = 4, **options: Any
    ) -> list[Document]:
        """Do what `similarity_search_by_vector` does, off the event loop."""
        return await self.asimilarity_search(_sparse(embedding), k, **{"mode": "sparse", **options})  # type: ignore[arg-type]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Find documents with scores in 0..1; see `splade_retriever.langchain.documents.relevance`."""
        wanted = SearchOptions.of(options)
        vector = self._vector(query, wanted)
        hits = self.index.search(vector or query, k, **wanted.arguments())
        return self._relevant(self._read(query, hits, wanted), vector, wanted)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        wanted = SearchOptions.of(options)
        vector = await asyncio.to_thread(self._vector, query, wanted)
        hits = await self.index.asearch(vector or query, k, **wanted.arguments())
        return self._relevant(await self._aread(query, hits, wanted), vector, wanted)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Choose, among the `fetch_k` best, `k` that also differ from each other; see `index.mmr`.

        Args:
            query: The query.
            k: Most documents.
            fetch_k: How many to choose among.
            lambda_mult: 1 for relevance alone, 0 for diversity alone.
            **options: See `SearchOptions`.
        """
        wanted = SearchOptions.of(options)
        found = self.index.search(query, max(k, fetch_k), **_with_vectors(wanted))
        return _only_documents(self._read(query, diverse(found, k, lambda_mult=lambda_mult), wanted))

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Do what `max_marginal_relevance_search` does, off the event loop."""
        wanted = SearchOptions.of(options)
        found = await self.index.asearch(query, max(k, fetch_k), **_with_vectors(wanted))
        chosen = await asyncio.to_thread(diverse, found, k, lambda_mult=lambda_mult)
        return _only_documents(await self._aread(query, chosen, wanted))

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float] | SparseEmbedding,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Do what `max_marginal_relevance_search` does, by a ready sparse vector."""
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
        """Do what `max_marginal_relevance_search_by_vector` does, off the event loop."""
        return await self.amax_marginal_relevance_search(
            _sparse(embedding),  # type: ignore[arg-type]
            k,
            fetch_k,
            lambda_mult,
            **{"mode": "sparse", **options},
        )

    # -- reading hits ----------------------------------------------------------------------------------------

    def _read(self, query: str, hits: Sequence[Hit], wanted: SearchOptions) -> list[tuple[Document, float]]:
        explained = self.index.explain_all(query, hits) if wanted.with_explanations else []
        return to_documents(hits, wanted, explained)

    async def _aread(
        self, query: str, hits: Sequence[Hit], wanted: SearchOptions
    ) -> list[tuple[Document, float]]:
        if not wanted.with_explanations:
            return to_documents(hits, wanted, [])
        return to_documents(hits, wanted, await self.index.aexplain_all(query, hits))

    def _mode(self, wanted: SearchOptions) -> Mode:
        return wanted.mode or ("sparse" if self.index.dense is None else "hybrid")

    def _vector(self, query: str, wanted: SearchOptions) -> SparseEmbedding | None:
        """Encode the query, where relevance is measured by its weights; then it need not be encoded again."""
        if self._mode(wanted) != "sparse":
            return None
        (vector,) = self.index.model.query_embed([query])
        return vector

    def _relevant(
        self,
        found: Sequence[tuple[Document, float]],
        vector: SparseEmbedding | None,
        wanted: SearchOptions,
    ) -> list[tuple[Document, float]]:
        mode, fusion = self._mode(wanted), wanted.fusion or Fusion()
        return [
            (document, relevance(score, mode=mode, fusion=fusion, query=vector)) for document, score in found
        ]


def _only_documents(found: Sequence[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in found]


def _with_vectors(wanted: SearchOptions) -> dict[str, Any]:
    return {**wanted.arguments(), "with_vectors": True}


def _sparse(embedding: object) -> SparseEmbedding:
    if not isinstance(embedding, SparseEmbedding):
        raise InputError(
            f"a search by vector got a {type(embedding).__name__}, expected a SparseEmbedding, as "
            "`index.model.query_embed` gives it. Dense vectors are searched by their text, mode='dense'."
        )
    return embedding
