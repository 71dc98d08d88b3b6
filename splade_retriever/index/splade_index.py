"""SpladeIndex: texts in, ranked hits out, over one collection of any store that speaks qdrant-client's
interface."""

import asyncio
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from splade_retriever.encoding.model_loading import ModelArgument, check_model_argument
from splade_retriever.errors import (
    InputError,
    NotSupportedError,
)
from splade_retriever.explanation import Explanation, WhyNot
from splade_retriever.filters import FilterLike, to_qdrant_filter
from splade_retriever.index.async_input import sync_input
from splade_retriever.index.batcher import Batcher, without_stop_iteration
from splade_retriever.index.branches import Branches
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.dense_queries import DenseQueries
from splade_retriever.index.documents import BadInput, Branch, Hit
from splade_retriever.index.explainer import Explainer
from splade_retriever.index.field_indexes import index_paths
from splade_retriever.index.opening import check_client, open_collection, open_store
from splade_retriever.index.options import (
    BRANCHES,
    BranchName,
    IndexKeywords,
    IndexOptions,
    SearchKeywords,
    SearchOptions,
)
from splade_retriever.index.payload import Layout
from splade_retriever.index.reader import Reader
from splade_retriever.index.search_request import SearchRequest
from splade_retriever.index.searcher import Searcher
from splade_retriever.index.splade_query import SpladeQuery
from splade_retriever.index.why_not import WhyNotFinder
from splade_retriever.index.writer import AddKeywords, AddOptions, Writer
from splade_retriever.protocols import DenseEncoder, Encoder, NodeEncoder, as_dense
from splade_retriever.sparse import SparseEmbedding, SparseLike
from splade_retriever.validation import checked_int, resolved_location, type_name

__all__ = ["BadInput", "Branch", "DenseEncoder", "Encoder", "Hit", "SpladeIndex"]

T = TypeVar("T")
P = ParamSpec("P")


class SpladeIndex:
    """A collection of documents that is searched by SPLADE.

    Safe to use from several threads. The model is loaded when it is first needed: opening an index, counting,
    reading and deleting work without it.
    """

    def __init__(
        self,
        location: str | Path = ":memory:",
        *,
        collection: str = "splade",
        model: ModelArgument = None,
        second_model: ModelArgument = None,
        dense: DenseEncoder | NodeEncoder | None = None,
        client: QdrantBase | None = None,
        create: bool = True,
        adopt: bool = False,
        **options: Unpack[IndexKeywords],
    ) -> None:
        """Open a collection, or create it.

        The collection stores how its vectors are made: `model`, `second_model`, the dense vectors' name and
        size, and the options of the first group below. Leave these out when opening it again.

        Args:
            location: A folder (embedded engine on disk), ":memory:" (embedded engine in a temporary folder,
                deleted on close), or the http(s) URL of a Qdrant server. A URL without a port means port
                6333 for http, 443 for https.
            collection: Name of the collection.
            model: An encoder, a model's name or folder, or None: the model that the collection stores, for a
                new one the bundled model.
            second_model: A second sparse encoder for hybrid search, such as "Qdrant/bm25". None: the one that
                the collection stores, for a new one none.
            dense: A dense encoder beside SPLADE, for hybrid search: LangChain's `Embeddings` or LlamaIndex's
                `BaseEmbedding`, as they are, or any object with the methods of one of them.
            client: A `QdrantClient` or `EdgeClient` instead of a location. The caller closes it.
            create: False to raise where there is no such collection.
            adopt: True states that the vectors of a collection made by another program come from `model`,
                which the collection then stores. Without it such a collection can be read, and documents be
                deleted, but none is written.
            **options: How vectors are made:

                windows: What happens to texts longer than the model reads. "truncate" leaves out the rest,
                    and counts it. "merge" encodes overlapping windows and merges them by maximum into one
                    vector. "points" stores each window as a point; the best one of a document counts. New
                    collections: "truncate".
                default_windows: `windows` of a new collection if not passed; the adapters pass "merge".
                    It applies to models with a tokenizer.
                window_overlap: Tokens that neighbouring windows share; 32 for a new collection.
                max_active_dims: Number of a document's heaviest weights to keep; None for all. The vectors
                    of the second model keep all.
                min_weight: Leave out document weights below this; not those of the second model.

                metadata: "json" to refuse metadata that is not JSON, "coerce" to convert dates, Decimals,
                    UUIDs, paths, numpy values, tuples, sets and NaN, see `index.metadata_coercion`.

                How queries are encoded, and which vectors are used:

                query_max_active_dims: Number of a query's heaviest weights to keep; not stored.
                vector_name: The collection's sparse vector.
                dense_name: The collection's dense vector.
                second_name: The sparse vector of the second model; "second" for a new collection.
                layout: Where the payload keeps text and metadata; recognised for collections of
                    langchain-qdrant and LlamaIndex.

                How the engine stores a new collection, and its indexes:

                datatype: "float32", "float16" or "uint8" for weights.
                on_disk: Keep the sparse index on disk and not in memory.
                shard_number: Shards on a cluster.
                replication_factor: Copies of each shard on a cluster.
                indexed_fields: Metadata key -> "keyword", "integer", "float", "bool", "datetime", "text" or
                    "uuid": fields that filters use often get a payload index, which changes no filter's
                    meaning: "integer" creates one of kind float, "uuid" one of kind keyword.
                tenant_field: Metadata key whose values separate tenants. In a new collection every document
                    must have it, and two tenants may use the same id: pass `tenant=` with ids.

                How to connect:

                api_key: API key of the server.
                prefer_grpc: Send requests to the server over gRPC.
                grpc_port: The server's gRPC port. None for the port of the URL + 1; for a URL without a port
                    6334.
                timeout: Seconds after which one try of a request to the server fails; None for 10. A write
                    that is not answered in time is repeated in halves, each with twice the time.
                retry_for: Seconds for which a request is repeated while the server does not answer; 0 for
                    one try. None for 10, and 300 for the requests of `add`.
                ca: File (PEM) with the certificates of the authorities that are trusted instead of the
                    system's.
                verify: False to accept any certificate of the server, over REST only.
                allow_insecure_key: True to send the key over http, unencrypted, to another machine.
                engine_in_subprocess: Open a large embedded index in a child process at once, see
                    `run_in_thread`; without it the first async call moves it there.
                read_only: Refuse writes, and read a private copy of a folder. Works on a folder that cannot
                    be written, and in several processes at once. Writes of other processes show after
                    `refresh`; those of this process show at once.

        Raises:
            InputError: An argument is not valid; nothing was opened.
            TypeError: There is no such option.
            CollectionMismatchError: The collection was made by another model or with other settings.
            CollectionNotFoundError: There is no such collection, and `create` is False.
            IndexLockedError: Another process has the folder open; with `read_only`, to write.
            StorageError: The folder cannot be read or written.
            ServerError: The server cannot be reached.
        """
        self._options = IndexOptions.of(options)
        _check_location(location, client)
        read_only = self._options.read_only
        if read_only and adopt:
            raise InputError("adopt=True writes to the collection, but read_only=True is passed, too.")
        check_model_argument(model)
        check_model_argument(second_model)
        self.collection = collection
        self._location = resolved_location(location)
        self._dense_argument = dense
        self._dense_queries = None if dense is None else DenseQueries(dense)
        self._dense = None if dense is None else as_dense(dense)
        create = create and not read_only
        store = client or open_store(
            self._location, create=create, server=self._options.server, read_only=read_only
        )
        self._collection = Collection(
            store,
            collection,
            self._location,
            owned=client is None,
            read_only=read_only,
            server=self._options.server,
        )
        self._batcher: Batcher[SearchRequest, list[Hit]] = Batcher(self._search_each)
        try:
            self._model = CollectionModel(self._collection, model)
            self._second = CollectionModel(self._collection, second_model, option="second_model")
            if self._options.engine_in_subprocess:
                self._collection.engine_in_subprocess()
            open_collection(
                self._collection,
                self._options,
                model=self._model,
                second=self._second,
                dense=self._dense,
                create=create,
                adopt=adopt,
            )
        except BaseException:
            self.close()
            raise
        branches = self._branches = Branches.of(
            self._options,
            self._collection.settings,
            model=self._model,
            second=self._second,
            has_dense=self._dense is not None,
        )
        self._writer = Writer(
            self._collection,
            self._model,
            self._dense,
            second=self._second if "second" in branches.names else None,
            coerce=self._options.metadata == "coerce",
        )
        self._reader = Reader(self._collection, self._options.vector_name)
        self._searcher = Searcher(self._collection, branches.sparse, self._dense_queries, branches.names)
        self._explainer = Explainer(self._collection, branches.sparse)
        self._why_not = WhyNotFinder(
            self._collection,
            branches.sparse[0],
            (self._searcher, self._explainer, self._reader),
            branches.names,
            engine_filter=self._engine_filter,
        )

    # -- what it is made of ----------------------------------------------------------------------------------

    @property
    def model(self) -> Encoder:
        """The sparse encoder, opened when first used and checked against the collection's settings.

        Raises:
            CollectionMismatchError: It did not make the collection's vectors.
        """
        return self._model.encoder

    @property
    def model_name(self) -> str | None:
        """The name of the model that made the collection; None where the collection does not store it."""
        settings = self._collection.settings
        return None if settings is None else str(settings.encoder.get("model"))

    @property
    def second_model(self) -> Encoder | None:
        """The second sparse encoder, opened when first used; None where there is none.

        Raises:
            CollectionMismatchError: It did not make the collection's vectors.
        """
        return self._second.encoder if "second" in self._branches.names else None

    @property
    def second_model_name(self) -> str | None:
        """The name of the second model that the collection stores; None where it stores none."""
        settings = self._collection.settings
        stored = None if settings is None else settings.second_encoder
        return None if stored is None else str(stored.get("model"))

    @property
    def branches(self) -> tuple[BranchName, ...]:
        """The rankings that a hybrid search joins: "sparse", "second", "dense"; the order of its weights."""
        return tuple(name for name in BRANCHES if name in self._branches.names)

    @property
    def dense(self) -> DenseEncoder | None:
        """The dense encoder, if there is one."""
        return self._dense

    @property
    def client(self) -> QdrantBase:
        """The store's client; of a large embedded index another one after the first async call."""
        return self._collection.client

    @property
    def store(self) -> Collection:
        """The collection in its store; every request of the index is sent by it."""
        return self._collection

    @property
    def windows(self) -> str:
        """What happens to texts longer than the model reads: "truncate", "merge" or "points"."""
        settings = self._collection.settings
        return "truncate" if settings is None else settings.windows

    @property
    def layout(self) -> Layout:
        """Where the payload keeps text, metadata and ids."""
        return self._collection.layout

    @property
    def open_arguments(self) -> dict[str, Any] | None:
        """The arguments that open this index again, without the API key and the dense encoder.

        None for an index that is deleted on close (":memory:"), or that uses a caller's client.
        """
        if not self._collection.owned or self._location == ":memory:":
            return None
        return {
            "location": self._location,
            "collection": self.collection,
            "vector_name": self._options.vector_name,
            "dense_name": self._options.dense_name,
            "second_name": self._options.second_name,
            "query_max_active_dims": self._options.query_max_active_dims,
            "metadata": self._options.metadata,
            "read_only": self._options.read_only,
            **({} if self._options.layout is None else {"layout": asdict(self._options.layout)}),
            **self._options.server.without_key(),
        }

    @property
    def reopen_arguments(self) -> dict[str, Any]:
        """The arguments that open this index again in another process, with the API key and the encoders.

        Raises:
            NotSupportedError: No other process could open it.
        """
        arguments = self.open_arguments
        if arguments is None:
            raise NotSupportedError(
                "This index cannot be pickled, because no other process could open it: it is in memory, or "
                "has a client= that was passed. Use a folder or a server, or open the index where it is used."
            )
        return {
            **arguments,
            "model": self._model.argument,
            "second_model": self._second.argument,
            "dense": self._dense_argument,
            "api_key": self._options.server.api_key,
            "create": False,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the arguments, with the API key; the place that reads it opens the collection again.
        return _open_index, (type(self), self.reopen_arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # An index is a connection: copies of an object that holds one share it.
        return self

    # -- writing ---------------------------------------------------------------------------------------------

    def add(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | None = None,
        *,
        extras: Iterable[Mapping[str, Any] | None] | None = None,
        encoded_texts: Iterable[str | None] | None = None,
        vectors: Iterable[SparseLike | None] | None = None,
        **options: Unpack[AddKeywords],
    ) -> list[str]:
        """Add documents, or replace those with the same ids.

        Every input may be a list or an iterator; a stream of any length runs in bounded memory. Encoding and
        writing overlap. A document whose text is stored already under its id, encoded by the same model with
        the same settings, is not encoded again; only its metadata is updated. So an interrupted `add` that is
        started again with the same ids encodes only what is missing. Of an id that appears twice the last
        counts.

        Args:
            texts: The documents.
            metadatas: One dict (or None) per text, of JSON values; returned equal.
            ids: One string (or None) per text. A document without one gets a random UUID4.
            extras: One dict (or None) per text, stored beside the metadata (`Hit.extra`); for adapters.
            encoded_texts: One string (or None) per text that is encoded instead, such as the text under its
                title; the text itself is what is stored and returned.
            vectors: One sparse vector (or None) per text, computed before by the collection's model and not
                pruned; such a text is encoded only by the second model and the dense encoder.
            **options: `batch_size`: documents to encode and write together, 256 unless set.
                `show_progress`: show a progress bar.
                `on_error`: "raise", or a function that is called with each `BadInput` (`a_list.append`
                collects them) while the other documents are stored.
                `on_written`: a function that is called with the ids of each batch that the store has
                acknowledged, in order, from another thread.

        Returns:
            The ids of all stored documents, in the order of the input.

        Raises:
            InputError: Bad input, with its position. Nothing is written where all inputs are lists; of a
                stream, everything before that position is written and nothing after it. Where a server
                refuses a document, the error says up to which position the others are written.
            CollectionMismatchError: The model is not the collection's; nothing is written.
            StorageError: The store failed; what was passed to `on_written` is stored.
            Exception: What a caller's iterator raised, unchanged, after everything before it was written.
                After a KeyboardInterrupt the batch that was not yet full is not written.
        """
        inputs = (texts, metadatas, ids, extras, encoded_texts, vectors)
        return self._writer.add(inputs, AddOptions.of(options), stop=threading.Event())

    def update_metadata(self, id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace a document's metadata; its text and vector stay.

        Returns:
            False where there is no document of that id.

        Raises:
            InputError: The metadata are not JSON values.
        """
        return self._writer.update_metadata(id, metadata)

    def index_payload(self, paths: Iterable[str]) -> None:
        """Create payload indexes for paths that hold strings and have none.

        For adapters, whose fields are outside the metadata; for metadata there is `indexed_fields`.
        """
        index_paths(self._collection, dict.fromkeys(paths, models.PayloadSchemaType.KEYWORD))

    def delete(
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: FilterLike | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete documents by id, or all that match a filter; ids that are not stored are skipped.

        Args:
            ids: Their ids.
            filter: See `splade_retriever.filters`.
            tenant: Whose ids they are, where the collection has a `tenant_field`.

        Returns:
            How many documents were deleted.

        Raises:
            InputError: Without ids and filter, or with both; to delete everything use `clear`. Or the tenant
                is missing.
        """
        return self._writer.delete(ids, self._engine_filter(filter), tenant=tenant)

    def clear(self) -> None:
        """Delete every document; the collection and its settings stay."""
        self._writer.clear()

    def optimize(self) -> bool:
        """Merge and index what was written to a folder, so that it opens faster; see `EdgeClient.optimize`.

        Call it at the end of a large import. It blocks this process's threads while it runs, unless the
        engine is in a child process: `await index.run_in_thread(index.optimize)`.

        Returns:
            Whether there was anything to do. False for a server, which optimizes in the background.
        """
        return self._collection.optimize()

    # -- searching -------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | SparseLike,
        k: int = 10,
        filter: FilterLike | None = None,
        *,
        options: SearchOptions | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[Hit]:
        """Find the documents that match a query best.

        A document is found if it shares at least one token of its vector with the query's. A query without
        tokens finds nothing.

        Args:
            query: The query, a `SpladeQuery` with words to boost, to require or to exclude, or its sparse
                vector.
            k: Maximum number of hits.
            filter: See `splade_retriever.filters`.
            options: The options below as one value; keywords override its fields.
            **keywords: `offset`: hits to skip, for the next pages.
                `score_threshold`: the lowest score that is returned.
                `with_vectors`: return each hit's stored sparse vector.
                `mode`: "sparse", "second", "dense" or "hybrid"; None for hybrid where the index has a second
                model or `dense=`, else sparse.
                `fusion`: how hybrid joins the rankings; None for RRF with k = 60.

        Returns:
            Hits, best first; equal scores by id.

        Raises:
            InputError: Bad arguments.
            TypeError: There is no such option.
            FilterError: Bad filter.
            CollectionMismatchError: The model is not the collection's.
        """
        return self._searcher.search([self._request(query, k, filter, _changed(options, keywords))])[0]

    def search_batch(
        self,
        queries: Iterable[str | SparseLike],
        k: int = 10,
        filter: FilterLike | None = None,
        *,
        options: SearchOptions | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[list[Hit]]:
        """Search for several queries: they are encoded as one batch, and the store is called once.

        Arguments and errors are those of `search`; the answers have the order of the queries.
        """
        if isinstance(queries, str) or not isinstance(queries, Iterable):
            raise InputError(f"queries is {type_name(queries)}, expected several queries. Pass [query].")
        changed = _changed(options, keywords)
        return self._searcher.search([self._request(query, k, filter, changed) for query in queries])

    def _request(
        self, query: str | SparseLike, k: int, filter: FilterLike | None, options: SearchOptions
    ) -> SearchRequest:
        # Checked last, since a check of `SparseLike` reads all attributes.
        if not isinstance(query, str | SparseEmbedding) and isinstance(query, SparseLike):
            query = SparseEmbedding.from_like(query)
        mode = options.mode or self._branches.default_mode
        self._branches.check_mode(mode, options.fusion)
        engine_filter = self._engine_filter(filter)
        if isinstance(query, SpladeQuery) and query.controls.filter is not None:
            words = self._engine_filter(query.controls.filter)
            both = [part for part in (words, engine_filter) if part is not None]
            engine_filter = models.Filter(must=[*both])
        return SearchRequest(
            query, k, engine_filter, options if options.mode == mode else replace(options, mode=mode)
        )

    def _engine_filter(self, filter: FilterLike | None) -> models.Filter | None:
        layout = self._collection.layout
        return to_qdrant_filter(
            filter,
            metadata_key=layout.metadata_key,
            content_key=layout.content_key,
            escaped_path=layout.escaped_path,
        )

    def _search_each(self, requests: Sequence[SearchRequest]) -> list[list[Hit] | BaseException]:
        self._collection.engine_in_subprocess()
        return self._searcher.search_each(requests)

    def reference_score(self, query: str, mode: Literal["sparse", "second"] = "sparse") -> float:
        """Return the sparse score that a document with exactly the query's text would have.

        A score divided by it is a measure of relevance that can be compared between queries: 1 is as good as
        the query's own words, 0 is no token in common. 0.0 for a query without tokens.

        Args:
            query: The query.
            mode: Whose score: the model's, or that of the second model.
        """
        return self._searcher.reference_score(query, mode)

    def query_vector(self, query: str) -> SparseEmbedding:
        """Return the sparse vector that a search encodes a query to, with its controls if it has some."""
        return self._explainer.query_vector(query)

    def explain(self, query: str, hit: Hit, *, origins: bool = False) -> Explanation:
        """Explain why a hit was found: the tokens that made its score, and the words of its text they mark.

        Args:
            query: The query that found it.
            hit: Its stored vector is read again unless the search was made `with_vectors`.
            origins: Find the word of the query or the text that each token of an expansion comes from. The
                model reads both again, which takes as long as encoding them.

        Returns:
            Contributions whose sum is the hit's score; of a hybrid search's hit, its sparse score, and in
            `second` those of its score in the ranking of the second model. With the
            `datatype` "float16" or "uint8" engines may score with rounded weights, but return the weights as
            they were written: then the sum is the score before rounding.

        Raises:
            InputError: The hit is no longer stored, or the model has no tokenizer that turns ids into tokens.
        """
        return self._explainer.explain(query, [hit], origins=origins)[0]

    def explain_all(
        self,
        query: str,
        hits: Sequence[Hit],
        *,
        origins: bool = False,
        query_vector: SparseEmbedding | None = None,
    ) -> list[Explanation]:
        """Explain each hit of a search, in order, as `explain` does; the query is encoded once.

        Args:
            query: The query.
            hits: Hits of a search.
            origins: As for `explain`.
            query_vector: The vector that found the hits, where it is another than the query's; then the query
                is not encoded.
        """
        return self._explainer.explain(query, hits, origins=origins, query_vector=query_vector)

    def why_not(
        self,
        query: str,
        id: str,
        k: int = 10,
        filter: FilterLike | None = None,
        *,
        tenant: str | None = None,
        options: SearchOptions | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> WhyNot:
        """Explain why a search does not return a document.

        Args:
            query: The query.
            id: The document.
            k: As for `search`.
            filter: As for `search`.
            tenant: Whose id it is, where the collection has a `tenant_field`.
            options: As for `search`.
            **keywords: As for `search`.

        Returns:
            Its exact rank and score, what the last hit has that it lacks, and whether the filter, the score
            threshold, pruning or truncation kept it out.

        Raises:
            InputError: There is no such document, or as for `search` and `explain`.
        """
        request = self._request(query, k, filter, _changed(options, keywords))
        return self._why_not.why_not(request, id, filter=filter, tenant=tenant)

    # -- reading ---------------------------------------------------------------------------------------------

    def get(self, ids: Iterable[str], *, tenant: str | None = None, with_vectors: bool = False) -> list[Hit]:
        """Read documents by id, in the order of the ids; ids that are not stored are skipped.

        Args:
            ids: Their ids.
            tenant: Whose ids they are, where the collection has a `tenant_field`.
            with_vectors: Return each hit's stored sparse vector.

        Raises:
            InputError: The ids are not strings, or the tenant is missing.
        """
        return self._reader.get(ids, tenant=tenant, with_vectors=with_vectors)

    def scroll(
        self, filter: FilterLike | None = None, *, batch_size: int = 256, with_vectors: bool = False
    ) -> Iterator[Hit]:
        """Read all documents that match a filter, in the engine's order, `batch_size` at a time."""
        batch_size = checked_int("batch_size", batch_size, minimum=1)
        return self._reader.scroll(
            self._engine_filter(filter), batch_size=batch_size, with_vectors=with_vectors
        )

    def count(self, filter: FilterLike | None = None) -> int:
        """Count documents, all or those that match a filter."""
        return self._reader.count(self._engine_filter(filter))

    # -- async -----------------------------------------------------------------------------------------------

    async def aadd(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | AsyncIterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | AsyncIterable[str | None] | None = None,
        *,
        extras: Iterable[Mapping[str, Any] | None] | None = None,
        encoded_texts: Iterable[str | None] | None = None,
        vectors: Iterable[SparseLike | None] | None = None,
        **options: Unpack[AddKeywords],
    ) -> list[str]:
        """Run `add` in a thread; when cancelled it ends after the current batch.

        The inputs may be async iterators too; the event loop awaits their items.
        """
        stop = threading.Event()
        work = self.run_in_thread(
            self._writer.add,
            [sync_input(part) for part in (texts, metadatas, ids, extras, encoded_texts, vectors)],
            AddOptions.of(options),
            stop=stop,
            after_batch=self._collection.engine_in_subprocess,
        )
        try:
            return await work
        except asyncio.CancelledError:
            stop.set()
            raise

    async def asearch(
        self,
        query: str | SparseLike,
        k: int = 10,
        filter: FilterLike | None = None,
        *,
        options: SearchOptions | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[Hit]:
        """Search without stopping the event loop; searches that wait at the same time are answered together.

        Dense vectors of queries come from the dense encoder's async method where it has one
        (`aembed_query`, `aget_query_embedding`), else from a thread.
        """
        self._collection.check_open()
        request = self._request(query, k, filter, _changed(options, keywords))
        if self._dense_queries is not None and request.needs_dense and request.text is not None:
            vector = await self._dense_queries.aembed(request.text)
            request = replace(request, dense_vector=vector)
        return await asyncio.wrap_future(self._batcher.submit(request))

    async def aexplain(self, query: str, hit: Hit, *, origins: bool = False) -> Explanation:
        """Run `explain` in a thread."""
        return await self.run_in_thread(self.explain, query, hit, origins=origins)

    async def aexplain_all(
        self,
        query: str,
        hits: Sequence[Hit],
        *,
        origins: bool = False,
        query_vector: SparseEmbedding | None = None,
    ) -> list[Explanation]:
        """Run `explain_all` in a thread."""
        return await self.run_in_thread(
            self.explain_all, query, hits, origins=origins, query_vector=query_vector
        )

    async def awhy_not(
        self,
        query: str,
        id: str,
        k: int = 10,
        filter: FilterLike | None = None,
        *,
        tenant: str | None = None,
        options: SearchOptions | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> WhyNot:
        """Run `why_not` in a thread."""
        return await self.run_in_thread(
            self.why_not, query, id, k, filter, tenant=tenant, options=options, **keywords
        )

    async def aget(
        self, ids: Iterable[str], *, tenant: str | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """Run `get` in a thread."""
        return await self.run_in_thread(self.get, ids, tenant=tenant, with_vectors=with_vectors)

    async def adelete(
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: FilterLike | None = None,
        tenant: str | None = None,
    ) -> int:
        """Run `delete` in a thread."""
        return await self.run_in_thread(self.delete, ids, filter=filter, tenant=tenant)

    async def acount(self, filter: FilterLike | None = None) -> int:
        """Run `count` in a thread."""
        return await self.run_in_thread(self.count, filter)

    async def run_in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that uses this index in a worker thread: `await index.run_in_thread(index.clear)`.

        The embedded engine holds the interpreter's lock while it works, which stops an event loop in any
        thread. So the first async call on a large embedded index moves its engine to a child process for
        good; the index stays the same, its `client` becomes an `EdgeProcess`. A client that the caller passed
        is not moved: pass an `EdgeProcess` where there is an event loop.
        """

        def work() -> T:
            self._collection.engine_in_subprocess()
            return without_stop_iteration(call, *args, **kwargs)

        return await asyncio.to_thread(work)

    @classmethod
    async def aopen(cls, location: str | Path = ":memory:", **arguments: Any) -> Self:
        """Open a collection, or create it, in a thread; takes the arguments of the constructor."""
        return await asyncio.to_thread(cls, location, **{"engine_in_subprocess": True, **arguments})

    async def aclose(self) -> None:
        """Run `close` in a thread."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- closing ---------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what other processes have written since a read-only index was opened or refreshed.

        It reads a new copy of the folder: 0.17 s for 50,000 documents. An index that is not read-only, or
        that is on a server, always shows the present documents, and nothing is done.

        Raises:
            IndexLockedError: Another process has the folder open to write. The old copy stays in use.
            CollectionNotFoundError: The collection was deleted. The old copy stays in use.
            CollectionMismatchError: The collection was made again with another model or other settings. The
                old copy stays in use; open the index again.
        """
        self._collection.refresh()

    def close(self) -> None:
        """Close the store, if this index opened it; a second call does nothing."""
        self._collection.close()
        self._batcher.close()
        if self._dense_queries is not None:
            self._dense_queries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        store = repr(self._location) if self._collection.owned else f"client={type(self.client).__name__}"
        state = ", closed" if self._collection.closed else ""
        return f"SpladeIndex({store}, collection={self.collection!r}, model={self.model_name!r}{state})"


def _open_index(kind: type[SpladeIndex], arguments: Mapping[str, Any]) -> SpladeIndex:
    return kind(**arguments)


def _check_location(location: object, client: object) -> None:
    if not isinstance(location, str | Path):
        raise InputError(
            f"location is {type_name(location)}, expected a folder, ':memory:', or an http(s) URL."
        )
    if client is not None:
        check_client(client)
        if str(location) != ":memory:":
            raise InputError(f"Both client= and the location {str(location)!r} are passed. Pass one of them.")


def _changed(options: SearchOptions | None, keywords: SearchKeywords) -> SearchOptions:
    return (options or SearchOptions()).changed(**keywords)
