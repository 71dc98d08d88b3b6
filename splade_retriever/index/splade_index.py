"""SpladeIndex: texts in, ranked hits out, over one collection of any store that speaks qdrant-client's
interface."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Self, TypeVar

from splade_retriever.encoding.model_loading import ModelArgument, check_model_argument, load_encoder
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InputError,
    UnknownModelError,
)
from splade_retriever.index import documents as docs
from splade_retriever.index.batcher import Batcher
from splade_retriever.index.collection import Collection, CreateOptions, check_client, open_client
from splade_retriever.index.collection_settings import CollectionSettings, check_encoder, differences
from splade_retriever.index.documents import BadInput, Branch, Hit, Layout
from splade_retriever.index.ingest import OnError, ingest
from splade_retriever.protocols import DenseEncoder, Encoder, NodeEncoder, as_dense
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import check_int, json_fault

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase

    from splade_retriever.explanation import Explanation
    from splade_retriever.filters import FilterLike
    from splade_retriever.index.search_request import Fusion, Mode, SearchRequest
    from splade_retriever.index.searcher import Searcher

__all__ = ["BadInput", "Branch", "DenseEncoder", "Encoder", "Hit", "SpladeIndex"]

T = TypeVar("T")
P = ParamSpec("P")

_IDS_PER_READ: Final = 256


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
        client: "QdrantBase | None" = None,
        vector_name: str = "splade",
        create: bool = True,
        adopt: bool = False,
        dense: DenseEncoder | NodeEncoder | None = None,
        dense_name: str = "dense",
        windows: Literal["truncate", "merge", "points"] | None = None,
        window_overlap: int | None = None,
        max_active_dims: int | None = None,
        query_max_active_dims: int | None = None,
        min_weight: float | None = None,
        datatype: Literal["float32", "float16", "uint8"] | None = None,
        indexed_fields: Mapping[str, str] | None = None,
        tenant_field: str | None = None,
        layout: Layout | None = None,
        api_key: str | None = None,
        prefer_grpc: bool = False,
        timeout: int | None = None,
        shard_number: int | None = None,
        replication_factor: int | None = None,
        on_disk: bool | None = None,
        engine_in_subprocess: bool = False,
    ) -> None:
        """Open a collection, or create it.

        Settings that shape the stored vectors (`model`, `dense`, `windows`, `window_overlap`,
        `max_active_dims`, `min_weight`) are remembered by the collection: leave them out when opening it
        again.

        Args:
            location: A folder (embedded engine on disk), ":memory:" (embedded engine in a temporary folder,
                gone on close), or the http(s) URL of a Qdrant server.
            collection: Name of the collection.
            model: An encoder, a model's name, or None: the model that the collection remembers, for a new one
                the bundled model.
            client: A ready client (`QdrantClient`, `EdgeClient`) in place of a location. The caller closes
                it.
            vector_name: The collection's sparse vector to use.
            create: False to raise where there is no such collection.
            adopt: True states that the vectors of a collection made by another program come from `model`,
                which the collection then remembers. Without it such a collection can be read and not written.
            dense: A dense encoder beside SPLADE, for hybrid search: LangChain's `Embeddings` or LlamaIndex's
                `BaseEmbedding`, as they are, or anything of the shape of one of them.
            dense_name: The collection's dense vector to use.
            windows: What happens to texts longer than the model reads. "truncate": the rest is left out, and
                counted. "merge": overlapping windows, merged by maximum into one vector. "points": each
                window is found by itself, the best window of a document counts. New collections: "truncate".
            window_overlap: Tokens that neighbouring windows share; 32 for a new collection.
            max_active_dims: Keep that many of a document's heaviest weights; None for all.
            query_max_active_dims: The same for queries; not remembered.
            min_weight: Leave out document weights below this.
            datatype: How a new collection stores weights: "float32", "float16" or "uint8".
            indexed_fields: Metadata key -> "keyword", "integer", "float", "bool", "datetime", "text" or
                "uuid": fields that filters use often get an index in the engine.
            tenant_field: Metadata key that splits a new collection into tenants.
            layout: Where the payload keeps text and metadata; recognised for collections of langchain-qdrant
                and LlamaIndex.
            api_key: Of the server.
            prefer_grpc: Talk gRPC to the server.
            timeout: Seconds until a request to the server is given up.
            shard_number: Shards of a new collection on a cluster.
            replication_factor: Copies of each shard of a new collection on a cluster.
            on_disk: Keep a new collection's sparse index on disk and not in memory.
            engine_in_subprocess: Open a large embedded index in a child process at once, see `run_in_thread`;
                without it the first async call moves it there.

        Raises:
            InputError: An argument makes no sense; nothing was opened.
            CollectionMismatchError: The collection was made by another model or with other settings.
            CollectionNotFoundError: There is none and `create` is False.
            IndexLockedError: Another process has the folder open.
            StorageError: The folder cannot be read or written.
            ServerError: The server cannot be reached.
        """
        _check_arguments(location, client, model, query_max_active_dims)
        creation = CreateOptions(datatype, on_disk, shard_number, replication_factor)
        self.collection = collection
        self._location = str(location)
        self._names = {"sparse": vector_name, "dense": dense_name}
        self._given_model = model
        self._encoder: Encoder | None = None
        self._checked = False
        self._dense = None if dense is None else as_dense(dense)
        self._query_max_active_dims = query_max_active_dims
        talk = {"prefer_grpc": prefer_grpc or None, "timeout": timeout}
        self._talk = {name: value for name, value in talk.items() if value is not None}
        self._lock = threading.RLock()
        self._batcher: Batcher[SearchRequest, list[Hit]] = Batcher(self._answer)
        opened = client or open_client(
            self._location, create=create, api_key=api_key, prefer_grpc=prefer_grpc, timeout_s=timeout
        )
        self._store = Collection(opened, collection, self._location, owned=client is None)
        asked = {
            "windows": windows,
            "window_overlap": window_overlap,
            "max_active_dims": max_active_dims,
            "min_weight": min_weight,
        }
        try:
            if engine_in_subprocess:
                self._store.engine_in_subprocess()
            if self._store.exists():
                needed = {"sparse": vector_name, "dense": dense_name if dense is not None else None}
                self._store.open(asked, needed, layout)
                if adopt and self._store.settings is None:
                    self._store.adopt(self._new_memory(asked, layout))
            elif create:
                self._store.create(self._new_memory(asked, layout), creation)
            else:
                raise CollectionNotFoundError(
                    f"there is no collection {collection!r} at {self._location!r}. Check both names, or pass "
                    "create=True."
                )
            if model is not None:
                self._check_model(self._raw_model())
            self._store.index_fields(indexed_fields or {}, tenant_field)
        except BaseException:
            self.close()
            raise

    def _new_memory(self, asked: Mapping[str, Any], layout: Layout | None) -> CollectionSettings:
        settings = {name: value for name, value in asked.items() if value is not None}
        memory = CollectionSettings(
            encoder=dict(self._raw_model().fingerprint),
            vector_name=self._names["sparse"],
            layout=layout or Layout(),
            dense_name=None if self._dense is None else self._names["dense"],
            dense_size=None if self._dense is None else len(self._dense.embed_query("how long is a vector?")),
            **settings,
        )
        memory.check()
        return memory

    # -- the model -------------------------------------------------------------------------------------------

    @property
    def model(self) -> Encoder:
        """The sparse encoder, opened when first used and checked against what the collection remembers.

        Raises:
            CollectionMismatchError: It is not the one that made the collection.
        """
        encoder = self._raw_model()
        if not self._checked:
            self._check_model(encoder)
        return encoder

    @property
    def client(self) -> "QdrantBase":
        """The store's client; of a large embedded index another one after the first async call."""
        return self._store.client

    @property
    def store(self) -> Collection:
        """The collection as the store has it; every request of the index passes there."""
        return self._store

    @property
    def dense(self) -> DenseEncoder | None:
        """The dense encoder, where one was given."""
        return self._dense

    @property
    def model_name(self) -> str | None:
        """The name of the model that made the collection; None where it does not remember one."""
        memory = self._store.settings
        return None if memory is None else str(memory.encoder.get("model"))

    @property
    def place(self) -> dict[str, Any] | None:
        """The arguments that open this index again, without a key and without the dense encoder.

        None for one that is gone on close (":memory:"), or that uses a caller's client.
        """
        if not self._store.owned or self._location == ":memory:":
            return None
        return {
            "location": self._location,
            "collection": self.collection,
            "vector_name": self._names["sparse"],
            "dense_name": self._names["dense"],
            "query_max_active_dims": self._query_max_active_dims,
            **self._talk,
        }

    @property
    def windows(self) -> str:
        """What happens to texts longer than the model reads: "truncate", "merge" or "points"."""
        memory = self._store.settings
        return "truncate" if memory is None else memory.windows

    @property
    def layout(self) -> Layout:
        """Where the payload keeps text, metadata and ids."""
        return self._store.layout

    def _raw_model(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                model, settings = self._given_model, self._store.settings
                if model is None and settings is not None:
                    self._encoder = self._recorded_model(settings)
                else:
                    self._encoder = load_encoder(model)
            return self._encoder

    def _recorded_model(self, memory: CollectionSettings) -> Encoder:
        """Open the model that made the collection."""
        bundled = load_encoder()
        if not differences(memory, bundled.fingerprint):
            return bundled
        made_by = {key: value for key, value in memory.encoder.items() if value is not None}
        settings: dict[str, Any] = {
            key: made_by[key] for key in ("precision", "max_length", "revision") if key in made_by
        }
        try:
            return load_encoder(str(made_by.get("model")), settings=settings)
        except UnknownModelError as error:
            raise CollectionMismatchError(
                f"collection {self.collection!r} was made by model {made_by.get('model')!r}, which cannot be "
                "opened by its name here. Pass model= with the encoder that made it."
            ) from error

    def _check_model(self, encoder: Encoder) -> None:
        if self._store.settings is not None:
            check_encoder(self._store.settings, encoder.fingerprint, self.collection)
        self._checked = True

    # -- writing ---------------------------------------------------------------------------------------------

    def add(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | None = None,
        *,
        extras: Iterable[Mapping[str, Any] | None] | None = None,
        encoded_texts: Iterable[str | None] | None = None,
        vectors: Iterable[SparseEmbedding | None] | None = None,
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: OnError = "raise",
        on_written: Callable[[list[str]], object] | None = None,
    ) -> list[str]:
        """Add documents, or replace those whose ids are there already.

        Everything may be a list or an iterator; a stream of any length runs in bounded memory. Encoding and
        writing overlap. A document whose text is stored already under its id, encoded by the same model with
        the same settings, is not encoded again; only its metadata is brought up to date. So an interrupted
        `add` that is started again with the same ids encodes only what is missing. Of an id that comes twice
        the last counts.

        Args:
            texts: The documents.
            metadatas: One dict (or None) a text, of what JSON has; given back equal.
            ids: One string (or None) a text, of any kind. Without one a document gets a random UUID4, and so
                is never taken for another.
            extras: One dict (or None) a text that is kept beside the metadata (`Hit.extra`); for adapters.
            encoded_texts: One string (or None) a text that is encoded in its place, such as the text under
                its title; what is stored and given back stays the text.
            vectors: One sparse vector (or None) a text, computed before by the collection's model and not
                pruned; such a text is not encoded again.
            batch_size: Documents to encode and write together.
            show_progress: Show a progress bar.
            on_error: "raise", or a function that is called with each `BadInput` (`a_list.append` collects
                them) while the rest is stored.
            on_written: Called with the ids of each batch when the store has acknowledged it, in order, from
                another thread.

        Returns:
            The ids of all stored documents, in the order of the input.

        Raises:
            InputError: Bad input, with its position. Nothing is written where all inputs are lists; of a
                stream, everything before that position is written and nothing after it.
            CollectionMismatchError: The model is not the collection's; nothing is written.
            StorageError: The store failed; what `on_written` was told of is kept.
            Exception: What an iterator of the caller's raised, as it is, after everything before it was
                written. After a KeyboardInterrupt the batch that was not yet full is not.
        """
        return self._add(
            (texts, metadatas, ids, extras, encoded_texts, vectors),
            batch_size=batch_size,
            show_progress=show_progress,
            on_error=on_error,
            on_written=on_written,
            stop=threading.Event(),
        )

    def _add(
        self,
        inputs: tuple[Any, ...],
        *,
        batch_size: int,
        show_progress: bool,
        on_error: OnError,
        on_written: Callable[[list[str]], object] | None,
        stop: threading.Event,
        engine_in_subprocess: bool = False,
    ) -> list[str]:
        self._store.check_open()
        docs.check_inputs(inputs)
        check_int("batch_size", batch_size, minimum=1)
        if on_error != "raise" and not callable(on_error):
            raise InputError(f"add got on_error={on_error!r}, expected 'raise' or a function.")
        texts = inputs[0]
        if on_error == "raise" and all(part is None or isinstance(part, Sequence) for part in inputs):
            # Lists can be read twice: find the fault before the first write.
            for read in docs.read_documents(inputs):
                if isinstance(read, BadInput):
                    raise InputError(f"input {read.position} of add: {read.reason}. Nothing was written.")
        memory = self._store.settings
        if memory is None:
            raise CollectionMismatchError(
                f"collection {self.collection!r} was made by another program and does not say by which "
                f"model. "
                "Nothing was written. Open it with adopt=True and the model that made its vectors, or add "
                "to a "
                "new collection."
            )
        encoder = self.model  # a mismatch is told before anything is read
        recipe = memory.recipe()
        if show_progress:
            from tqdm.auto import tqdm
        else:  # without its complaint about a notebook that cannot draw bars
            from tqdm import tqdm  # type: ignore[assignment]

        from splade_retriever.index.point_encoding import to_points

        total = len(texts) if isinstance(texts, Sequence) else None
        with tqdm(total=total, unit="text", disable=not show_progress) as bar:

            def written(ids: list[str]) -> None:
                if engine_in_subprocess:
                    self._store.engine_in_subprocess()
                bar.update(len(ids))
                if on_written is not None:
                    on_written(ids)

            return ingest(
                docs.read_documents(inputs),
                batch_size=batch_size,
                hash_of=lambda document: docs.content_hash(document, recipe),
                lookup=self._store.lookup,
                encode=lambda batch: to_points(batch, memory, self._store.layout, encoder, self._dense),
                write=self._store.write,
                on_error=on_error,
                on_written=written,
                stop=stop,
                overlap=not self._store.one_thread,
            )

    def update_metadata(self, id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace a document's metadata; its text and vector stay.

        Returns:
            False where there is no document of that id.

        Raises:
            InputError: If the metadata is not what JSON has.
        """
        fault = json_fault("metadata", metadata)
        if fault or not isinstance(metadata, Mapping):
            raise InputError(f"update_metadata of {id!r}: {fault or 'expected a dict'}. Nothing was written.")
        stored = self._store.stored([id]).get(id)
        if stored is None:
            return False
        self._store.set_metadata(id, dict(metadata), stored.windows)
        return True

    def index_payload(self, paths: Iterable[str]) -> None:
        """Give paths of the payload that hold strings an index in the engine, where they have none.

        For adapters, whose own fields lie outside the metadata; for metadata there is `indexed_fields`.
        """
        from qdrant_client import models

        self._store.index_paths(dict.fromkeys(paths, models.PayloadSchemaType.KEYWORD))

    def delete(self, ids: Iterable[str] | None = None, *, filter: "FilterLike | None" = None) -> None:
        """Delete documents by id, or all that a filter finds; ids that are not there are passed over.

        Raises:
            InputError: Without ids and filter, or with both; to delete everything use `clear`.
        """
        engine_filter = self._store.filter(filter)
        if (ids is None) == (engine_filter is None):
            raise InputError(
                "delete takes either ids or a filter that is not empty. To delete all use clear()."
            )
        if engine_filter is not None:
            self._store.delete_by(engine_filter)
            return
        for batch in _batched(_id_list(ids or ()), _IDS_PER_READ):
            self._store.delete_points(
                [
                    docs.point_id(id, self._store.layout, n)
                    for id, stored in self._store.stored(batch).items()
                    for n in reversed(range(stored.windows))  # the first last, by which the others are found
                ]
            )

    def clear(self) -> None:
        """Delete every document; the collection, its settings and what it remembers stay."""
        from qdrant_client import models

        self._store.delete_by(models.Filter())

    # -- reading ---------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | SparseEmbedding,
        k: int = 10,
        filter: "FilterLike | None" = None,
        *,
        offset: int = 0,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        mode: "Mode | None" = None,
        fusion: "Fusion | None" = None,
    ) -> list[Hit]:
        """Find the documents that fit a query best.

        A document is found if it shares at least one token of its vector with the query's. A query without
        tokens finds nothing.

        Args:
            query: The query, or its sparse vector.
            k: Most hits.
            filter: See `splade_retriever.filters`.
            offset: Hits to pass over, for the next pages.
            score_threshold: Lowest score that is given back.
            with_vectors: Give each hit its stored sparse vector.
            mode: "sparse", "dense" or "hybrid"; None for hybrid where the index has `dense=`, else sparse.
            fusion: How hybrid joins the two rankings; None for RRF with k = 60.

        Returns:
            Hits, best first; equal scores by id.

        Raises:
            InputError: Bad arguments.
            FilterError: Bad filter.
            CollectionMismatchError: The model is not the collection's.
        """
        ask = self._ask(
            query,
            filter,
            k=k,
            offset=offset,
            score_threshold=score_threshold,
            with_vectors=with_vectors,
            mode=mode,
            fusion=fusion,
        )
        return self._searcher.many([ask])[0]

    def search_batch(
        self,
        queries: Iterable[str | SparseEmbedding],
        k: int = 10,
        filter: "FilterLike | None" = None,
        *,
        offset: int = 0,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        mode: "Mode | None" = None,
        fusion: "Fusion | None" = None,
    ) -> list[list[Hit]]:
        """Search for several queries in one go: they are encoded as one batch, and the store is called once.

        Arguments and errors are those of `search`; the answers come in the order of the queries.
        """
        if isinstance(queries, str):
            raise InputError("queries is one str, expected several. Pass [query].")
        return self._searcher.many(
            [
                self._ask(
                    query,
                    filter,
                    k=k,
                    offset=offset,
                    score_threshold=score_threshold,
                    with_vectors=with_vectors,
                    mode=mode,
                    fusion=fusion,
                )
                for query in queries
            ]
        )

    def _ask(self, query: str | SparseEmbedding, filter: "FilterLike | None", **rest: Any) -> "SearchRequest":
        from splade_retriever.index.search_request import Fusion, SearchRequest

        rest["mode"] = rest["mode"] or ("sparse" if self._dense is None else "hybrid")
        rest["fusion"] = rest["fusion"] or Fusion()
        if rest["mode"] in ("dense", "hybrid") and self._dense is None:
            raise InputError(
                f"search got mode={rest['mode']!r}, but the index has no dense encoder. Open it with dense=."
            )
        return SearchRequest(query=query, filter=self._store.filter(filter), **rest)

    def _answer(self, asks: "Sequence[SearchRequest]") -> "list[list[Hit] | Exception]":
        try:
            self._store.engine_in_subprocess()
        except Exception as error:  # noqa: BLE001 - it is told to those who ask
            return [error] * len(asks)
        return self._searcher.each(asks)

    def explain(self, query: str, hit: Hit) -> "Explanation":
        """Say why a hit was found: the tokens that made its score, and the words of its text they stand for.

        Args:
            query: The one that found it.
            hit: Its stored vector is read again unless the search was made `with_vectors`.

        Returns:
            Contributions whose sum is the hit's score; of a hybrid search's hit, its sparse score. With the
            `datatype` "float16" or "uint8" engines may score with weights rounded so, but give them back as
            they came: then the sum is the score before rounding.

        Raises:
            InputError: If the hit is stored no more, or the model has no tokenizer that reads ids back.
        """
        return self._searcher.explain(query, [hit])[0]

    def explain_all(self, query: str, hits: Sequence[Hit]) -> "list[Explanation]":
        """Explain each hit of a search, in order, as `explain` does; the query is encoded once."""
        return self._searcher.explain(query, hits)

    @cached_property
    def _searcher(self) -> "Searcher":
        from splade_retriever.index.searcher import Searcher

        return Searcher(
            self._store,
            self._names,
            model=lambda: self.model,
            dense=self._dense,
            max_active_dims=self._query_max_active_dims,
        )

    def get(self, ids: Iterable[str], *, with_vectors: bool = False) -> list[Hit]:
        """Read documents by id, in the order asked for; ids that are not there are passed over."""
        hits: list[Hit] = []
        vectors = [self._names["sparse"]] if with_vectors else False
        for batch in _batched(_id_list(ids), _IDS_PER_READ):
            points = [docs.point_id(id, self._store.layout) for id in batch]
            records = self._store.call(
                "retrieve", ids=list(dict.fromkeys(points)), with_payload=True, with_vectors=vectors
            )
            found = {record.id: record for record in records}
            hits.extend(self._whole(found[point]) for point in points if point in found)
        return hits

    def _whole(self, record: "models.Record") -> Hit:
        """Read a document from its first point, together with its other windows."""
        first = docs.to_hit(record, self._store.layout, self._names["sparse"])
        if first.window is None:
            return first
        count = (record.payload or {})[docs.OWN_KEY]["window"]["of"]
        others = [docs.point_id(first.id, self._store.layout, n) for n in range(1, count)]
        found = {
            other.id: docs.to_hit(other, self._store.layout, self._names["sparse"])
            for other in self._store.call("retrieve", ids=others, with_payload=True)
        }
        return docs.whole_hit([first, *(found[point] for point in others if point in found)])

    def scroll(
        self, filter: "FilterLike | None" = None, *, batch_size: int = 256, with_vectors: bool = False
    ) -> Iterator[Hit]:
        """Walk over all documents that a filter finds, in the engine's order, reading as you go."""
        engine_filter = self._store.of_documents(self._store.filter(filter))
        vectors = [self._names["sparse"]] if with_vectors else False
        for record in self._store.scroll(engine_filter, batch_size=batch_size, with_vectors=vectors):
            yield self._whole(record)

    def count(self, filter: "FilterLike | None" = None) -> int:
        """Count documents, all or those that a filter finds."""
        engine_filter = self._store.of_documents(self._store.filter(filter))
        answer = self._store.call("count", count_filter=engine_filter, exact=True)
        return int(answer.count)

    # -- async -----------------------------------------------------------------------------------------------

    async def aadd(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | None = None,
        *,
        extras: Iterable[Mapping[str, Any] | None] | None = None,
        encoded_texts: Iterable[str | None] | None = None,
        vectors: Iterable[SparseEmbedding | None] | None = None,
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: OnError = "raise",
        on_written: Callable[[list[str]], object] | None = None,
    ) -> list[str]:
        """Do what `add` does, off the loop; when cancelled it ends after the batch at hand."""
        stop = threading.Event()
        work = self.run_in_thread(
            self._add,
            (texts, metadatas, ids, extras, encoded_texts, vectors),
            batch_size=batch_size,
            show_progress=show_progress,
            on_error=on_error,
            on_written=on_written,
            stop=stop,
            engine_in_subprocess=True,
        )
        try:
            return await work
        except asyncio.CancelledError:
            stop.set()
            raise

    async def asearch(
        self,
        query: str | SparseEmbedding,
        k: int = 10,
        filter: "FilterLike | None" = None,
        *,
        offset: int = 0,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        mode: "Mode | None" = None,
        fusion: "Fusion | None" = None,
    ) -> list[Hit]:
        """Do what `search` does, off the loop; searches that wait at the same time are answered together."""
        self._store.check_open()
        ask = self._ask(
            query,
            filter,
            k=k,
            offset=offset,
            score_threshold=score_threshold,
            with_vectors=with_vectors,
            mode=mode,
            fusion=fusion,
        )
        return await asyncio.wrap_future(self._batcher.submit(ask))

    async def aexplain(self, query: str, hit: Hit) -> "Explanation":
        """Do what `explain` does, off the loop."""
        return await self.run_in_thread(self.explain, query, hit)

    async def aexplain_all(self, query: str, hits: Sequence[Hit]) -> "list[Explanation]":
        """Do what `explain_all` does, off the loop."""
        return await self.run_in_thread(self.explain_all, query, hits)

    async def aget(self, ids: Iterable[str], *, with_vectors: bool = False) -> list[Hit]:
        """Do what `get` does, off the loop."""
        return await self.run_in_thread(self.get, ids, with_vectors=with_vectors)

    async def adelete(self, ids: Iterable[str] | None = None, *, filter: "FilterLike | None" = None) -> None:
        """Do what `delete` does, off the loop."""
        await self.run_in_thread(self.delete, ids, filter=filter)

    async def acount(self, filter: "FilterLike | None" = None) -> int:
        """Do what `count` does, off the loop."""
        return await self.run_in_thread(self.count, filter)

    async def run_in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that uses this index in a worker thread: `await ix.run_in_thread(ix.clear)`.

        The embedded engine keeps the interpreter's lock while it works, which stops an event loop in whatever
        thread it is called. So the first async call on a large embedded index moves its engine to a child
        process for good; the index stays the same, its `client` becomes an `EdgeProcess`. A client of the
        caller's own is left where it is: pass an `EdgeProcess` where there is a loop.
        """

        def work() -> T:
            self._store.engine_in_subprocess()
            return call(*args, **kwargs)

        return await asyncio.to_thread(work)

    @classmethod
    async def aopen(cls, location: str | Path = ":memory:", **settings: Any) -> Self:
        """Open a collection, or create it, off the loop; takes what the constructor takes."""
        return await asyncio.to_thread(cls, location, **{"engine_in_subprocess": True, **settings})

    async def aclose(self) -> None:
        """Do what `close` does, off the loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store, if this index opened it; a second call does nothing."""
        self._store.close()
        self._batcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        at = repr(self._location) if self._store.owned else f"client={type(self.client).__name__}"
        model = None if self._store.settings is None else self._store.settings.encoder.get("model")
        state = ", closed" if self._store.closed else ""
        return f"SpladeIndex({at}, collection={self.collection!r}, model={model!r}{state})"


def _check_arguments(
    location: object, client: object, model: object, query_max_active_dims: int | None
) -> None:
    if not isinstance(location, str | Path):
        raise InputError(
            f"location is a {type(location).__name__}, expected a folder, ':memory:', or an http(s) URL."
        )
    if client is not None:
        check_client(client)
        if str(location) != ":memory:":
            raise InputError(f"both client= and the location {str(location)!r} are given. Pass one of them.")
    check_model_argument(model)
    check_int("query_max_active_dims", query_max_active_dims, minimum=1, optional=True)


def _id_list(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str | bytes | Mapping):
        raise InputError(f"ids is one {type(ids).__name__}, expected several. Pass [id].")
    listed = list(ids)
    for position, id in enumerate(listed):
        if not isinstance(id, str):
            raise InputError(f"id {position} is {id!r}, a {type(id).__name__}, expected a string.")
    return listed


def _batched(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
