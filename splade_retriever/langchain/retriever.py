"""SpladeRetriever: an index as a retriever of LangChain."""

import asyncio
import copy
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    field_validator,
    model_validator,
)

from splade_retriever.index.keywords import refuse_unknown
from splade_retriever.index.options import INDEX_ARGUMENTS
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.index.splade_index import Encoder, SpladeIndex
from splade_retriever.index.splade_query import QueryControls, with_default_controls
from splade_retriever.langchain.documents import Columns, columns, text_columns, to_documents
from splade_retriever.langchain.filters import LangChainFilter, filter_from_json, filter_to_json
from splade_retriever.langchain.qdrant_arguments import existing_layout
from splade_retriever.langchain.search_options import LangChainSearchOptions
from splade_retriever.validation import is_url, number_of_json, type_name

__all__ = ["SpladeRetriever"]

_INDEX_FIELDS: Final = {
    "index",
    "location",
    "collection",
    "model",
    "embedding",
    "api_key",
    "read_only",
    "settings",
}
"""Fields that describe the index; the others describe the search."""
_OPENING_ARGUMENTS: Final = {
    "location",
    "collection",
    "model",
    "dense",
    "client",
    "api_key",
    "create",
    "read_only",
}
"""Arguments of `SpladeIndex` that `settings` cannot have."""
_SEARCH_OPTIONS: Final = (
    "filter",
    "score_threshold",
    "mode",
    "fusion",
    "with_scores",
    "with_explanations",
    "with_origins",
)


class SpladeRetriever(BaseRetriever):
    """Finds documents by SPLADE.

    There are three ways to make one: from an open index, `SpladeRetriever(index=index, k=4)`; from documents,
    `SpladeRetriever.from_documents(documents)`; or from a location, `SpladeRetriever(location="./index")`,
    which is opened by the first search. `langchain_core.load.dumps` writes the last form and `loads` reads
    it.

    `invoke` takes `k`, `controls`, `filter`, `offset`, `score_threshold`, `mode`, `fusion`, `with_scores`,
    `with_explanations` and `with_origins`, which replace the fields of the retriever for one call.
    """

    index: SpladeIndex | None = Field(default=None, exclude=True, repr=False)
    """An open index, which the caller closes. Pass either this or a location."""
    location: str | Path | None = None
    """The folder of an existing index, or the URL of a server."""
    collection: str = "splade"
    """The collection at the location."""
    model: str | None = None
    """The model's name, for a location; None for the model that the collection records."""
    embedding: Embeddings | None = None
    """The dense encoder of a hybrid index, for a location."""
    api_key: SecretStr | None = None
    """The server's key; `dumps` never writes it, and writes the name of the secret, QDRANT_API_KEY."""
    read_only: bool = False
    """Read a private copy of the folder, for a location; see `SpladeIndex`."""
    settings: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Further arguments of `SpladeIndex`, for a location: `vector_name`, `prefer_grpc`, `timeout`, ..."""
    k: int = Field(default=4, ge=1)
    """Maximum number of documents."""
    filter: SkipValidation[LangChainFilter | None] = None
    """A dict (`splade_retriever.filters`), a `qdrant_client.models.Filter` or a structured query's filter."""
    score_threshold: float | None = None
    """Minimum score, in the engine's scale (sparse: a dot product, unbounded)."""
    mode: Mode | None = None
    """"sparse", "second", "dense" or "hybrid"; None for hybrid where there is a second model or a dense
    encoder, else sparse."""
    fusion: Fusion | None = None
    """How a hybrid search joins its rankings; None for RRF with k = 60."""
    with_scores: bool = False
    """Put the score into each document's metadata, under "_splade"."""
    with_explanations: bool = False
    """Put the score and its explanation there."""
    with_origins: bool = False
    """Put the explanation there, and name in it the word that each token of an expansion comes from."""
    controls: SkipValidation[QueryControls | None] = None
    """Words to boost, require or exclude, synonyms and `expand`, for each query that is not a `SpladeQuery`;
    also as a dict."""

    # Messages of pydantic would show the value of a misspelt field, which may be a key.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)

    _opened: SpladeIndex | None = PrivateAttr(default=None)
    _owned: SpladeIndex | None = PrivateAttr(default=None)
    """The index that `close` closes."""
    _opening: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @field_validator("k", "score_threshold", mode="before")
    @classmethod
    def _number_of_json(cls, value: object) -> object:
        return number_of_json(value)

    @field_validator("location")
    @classmethod
    def _location_as_text(cls, location: str | Path | None) -> str | None:
        return None if location is None else str(location)

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, model: object) -> object:
        if model is None or isinstance(model, str):
            return model
        raise ValueError(
            f"model is {type_name(model)}, expected a name, because `dumps` writes it. To use an open "
            "encoder pass index=SpladeIndex(location, model=...)."
        )

    @field_validator("filter", mode="before")
    @classmethod
    def _filter_from_json(cls, filter: object) -> object:
        return filter_from_json(filter)

    @field_validator("controls", mode="before")
    @classmethod
    def _controls_of_names(cls, controls: object) -> QueryControls | None:
        return QueryControls.of(controls)

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.index is None) == (self.location is None):
            raise ValueError(
                "SpladeRetriever takes either index= (an open SpladeIndex) or location= (a folder or URL). "
                "To index documents use SpladeRetriever.from_documents(documents)."
            )
        if misplaced := sorted(_OPENING_ARGUMENTS & set(self.settings)):
            raise ValueError(
                f"settings has {', '.join(misplaced)}, which is not allowed there. Pass it as a field of the "
                "retriever, or pass index=SpladeIndex(...)."
            )
        # Compared by value: `configurable_fields` passes every field, changed or not.
        changed = [
            name for name in sorted(_INDEX_FIELDS - {"index", "location"}) if not self._is_default(name)
        ]
        if self.index is not None and changed:
            raise ValueError(
                f"{', '.join(changed)} applies to a location=, but index= is passed, which already has one. "
                "Pass it to SpladeIndex."
            )
        return self

    def _is_default(self, name: str) -> bool:
        field = type(self).model_fields[name]
        return bool(getattr(self, name) == field.get_default(call_default_factory=True))

    # -- constructors ----------------------------------------------------------------------------------------

    @classmethod
    def owning(cls, index: SpladeIndex, **fields: Any) -> Self:
        """Return a retriever of an index that was opened for it, and which its `close` closes.

        Args:
            index: The index. It is closed if a field is not valid.
            **fields: Fields of the retriever: `k`, `filter`, `with_scores`, ...

        Raises:
            ValueError: If a field is not valid.
        """
        try:
            retriever = cls(index=index, **fields)
        except BaseException:
            index.close()
            raise
        retriever._owned = index
        return retriever

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        location: str | Path = ":memory:",
        embedding: Embeddings | None = None,
        **settings: Any,
    ) -> Self:
        """Add documents to a new or an existing index, and return its retriever.

        Args:
            documents: A list or an iterator. Their ids are kept; a document without one gets
                an id that is made of its text and metadata, so that the same call replaces what it stored.
            ids: Ids that replace those of the documents.
            location: A folder, ":memory:" or the URL of a server. A new collection has `windows="merge"`, so
                that chunks longer than the model reads are encoded completely.
            embedding: A dense encoder for hybrid search.
            **settings: Fields of the retriever (`k`, `filter`, `with_scores`, ...) and arguments of
                `SpladeIndex` (`collection`, `model`, `second_model`, `client`, `windows`, ...).

        Raises:
            InputError: If a document cannot be stored; nothing of a list is written then.
            TypeError: If neither the retriever nor the index has a setting.
        """
        inputs = columns(documents, ids, ids_of_content=True)
        return cls._from_columns(inputs, location, embedding, settings)

    @classmethod
    async def afrom_documents(
        cls,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        location: str | Path = ":memory:",
        embedding: Embeddings | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_documents`."""
        inputs = columns(documents, ids, ids_of_content=True)
        return await cls._afrom_columns(inputs, location, embedding, settings)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        location: str | Path = ":memory:",
        embedding: Embeddings | None = None,
        **settings: Any,
    ) -> Self:
        """Add texts, with metadata and ids or without; otherwise like `from_documents`."""
        return cls._from_columns(text_columns(texts, metadatas, ids), location, embedding, settings)

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        location: str | Path = ":memory:",
        embedding: Embeddings | None = None,
        **settings: Any,
    ) -> Self:
        """Async version of `from_texts`."""
        inputs = text_columns(texts, metadatas, ids)
        return await cls._afrom_columns(inputs, location, embedding, settings)

    @classmethod
    def _from_columns(
        cls,
        inputs: Columns,
        location: str | Path,
        embedding: Embeddings | None,
        settings: Mapping[str, Any],
    ) -> Self:
        fields, index_arguments = cls._split(settings)
        index = SpladeIndex(location, dense=embedding, **{"default_windows": "merge", **index_arguments})
        try:
            index.add(*inputs)
        except BaseException:
            index.close()
            raise
        return cls.owning(index, **fields)

    @classmethod
    async def _afrom_columns(
        cls,
        inputs: Columns,
        location: str | Path,
        embedding: Embeddings | None,
        settings: Mapping[str, Any],
    ) -> Self:
        fields, index_arguments = cls._split(settings)
        arguments = {"default_windows": "merge", **index_arguments}
        index = await SpladeIndex.aopen(location, dense=embedding, **arguments)
        try:
            await index.aadd(*inputs)
            return cls.owning(index, **fields)
        except BaseException:
            await index.aclose()
            raise

    @classmethod
    def from_existing_collection(
        cls,
        collection_name: str,
        *,
        model: Encoder | str,
        location: str | Path = ":memory:",
        embedding: Embeddings | None = None,
        vector_name: str = "",
        sparse_vector_name: str = "langchain-sparse",
        content_payload_key: str = "page_content",
        metadata_payload_key: str = "metadata",
        **settings: Any,
    ) -> Self:
        """Read a collection of langchain-qdrant's `QdrantVectorStore`.

        Nothing is written to it. Names and defaults of the arguments are those of langchain-qdrant.

        Args:
            collection_name: The collection.
            model: The encoder that made its sparse vectors, or its name; the collection does not store it.
            location: The URL of its server; or pass `client=`.
            embedding: The dense encoder that made its dense vectors, for hybrid search.
            vector_name: Name of the dense vectors.
            sparse_vector_name: Name of the sparse vectors.
            content_payload_key: Key of the payload that holds the text.
            metadata_payload_key: Key of the payload that holds the metadata.
            **settings: As in `from_documents`.

        Raises:
            CollectionNotFoundError: If the collection does not exist.
            CollectionMismatchError: If it does not have vectors of these names.
        """
        fields, index_arguments = cls._split(settings)
        layout = existing_layout(content_payload_key, metadata_payload_key)
        if layout is not None:
            index_arguments.setdefault("layout", layout)
        index = SpladeIndex(
            location,
            collection=collection_name,
            model=model,
            dense=embedding,
            dense_name=vector_name,
            vector_name=sparse_vector_name,
            create=False,
            **index_arguments,
        )
        return cls.owning(index, **fields)

    @classmethod
    def _split(cls, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Separate fields of the retriever from arguments of the index."""
        fields = set(cls.model_fields) - _INDEX_FIELDS
        refuse_unknown(cls.__name__, settings, [*sorted(fields), *INDEX_ARGUMENTS])
        return (
            {name: value for name, value in settings.items() if name in fields},
            {name: value for name, value in settings.items() if name not in fields},
        )

    # -- the index -------------------------------------------------------------------------------------------

    def open(self) -> SpladeIndex:
        """Return the index; the first call opens the location.

        Raises:
            CollectionNotFoundError: If the collection does not exist; a retriever never creates one.
            CollectionMismatchError: If the model or a setting differs from the collection's.
            IndexLockedError: If another process has the folder open.
            ServerError: If the server cannot be reached.
        """
        return self._open()

    async def _aopen(self) -> SpladeIndex:
        opened = self._opened_index()
        return await asyncio.to_thread(self._open, engine_in_subprocess=True) if opened is None else opened

    def _open(self, **defaults: Any) -> SpladeIndex:
        if self.index is not None:
            return self.index
        with self._opening:
            if self._opened is None:
                self._opened = self._owned = SpladeIndex(
                    str(self.location),
                    collection=self.collection,
                    model=self.model,
                    dense=self.embedding,
                    api_key=None if self.api_key is None else self.api_key.get_secret_value(),
                    create=False,
                    read_only=self.read_only,
                    **{**defaults, **self.settings},
                )
            return self._opened

    def close(self) -> None:
        """Close the index if the retriever opened it; the caller closes one that was passed as `index=`.

        A second call does nothing.
        """
        if self._owned is not None:
            self._owned.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        if self._owned is not None:
            await self._owned.aclose()

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

    def _opened_index(self) -> SpladeIndex | None:
        return self._opened if self.index is None else self.index

    # -- searching -------------------------------------------------------------------------------------------

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Document]:
        index, search = self.open(), self._search_options(options)
        query = self._controlled(query, controls)
        hits = index.search(query, self.k if k is None else k, **search.index_arguments())
        explanations = index.explain_all(query, hits, origins=search.with_origins) if search.explained else []
        return [document for document, _ in to_documents(hits, search, explanations)]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        controls: QueryControls | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Document]:
        index, search = await self._aopen(), self._search_options(options)
        query = self._controlled(query, controls)
        hits = await index.asearch(query, self.k if k is None else k, **search.index_arguments())
        explanations = (
            await index.aexplain_all(query, hits, origins=search.with_origins) if search.explained else []
        )
        return [document for document, _ in to_documents(hits, search, explanations)]

    def _controlled(self, query: str, controls: QueryControls | Mapping[str, Any] | None) -> str:
        return with_default_controls(query, self.controls if controls is None else QueryControls.of(controls))

    def _search_options(self, options: Mapping[str, Any]) -> LangChainSearchOptions:
        fields = {name: getattr(self, name) for name in _SEARCH_OPTIONS}
        return LangChainSearchOptions.from_keywords({**fields, **options})

    # -- copies ----------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the configuration: a location is opened by the first search, an index at once.
        return _retriever, (type(self), self._fields())

    # Copies share the open index, which the original closes.

    def __copy__(self) -> Self:
        duplicate = super().__copy__()
        duplicate._owned = None
        return duplicate

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        duplicate = type(self)(**copy.deepcopy(self._fields(), memo))
        duplicate._opened = self._opened
        return duplicate

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    # -- traces and serialisation ----------------------------------------------------------------------------

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        """Name the store and the model in traces without opening them."""
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "SpladeIndex"
        params["ls_embedding_provider"] = "splade-retriever"
        index = self._opened_index()
        model = self.model if index is None else index.model_name
        if model is not None:
            params["ls_embedding_model"] = model
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: `dumps` writes the configuration."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Name the secret that replaces the key."""
        return {"api_key": "QDRANT_API_KEY"}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return the configuration: where the index is and how it is searched, without objects and secrets.

        An index in memory, or with a client that was passed to it, cannot be opened again from a
        configuration. It is written as "not implemented", which `loads` refuses.
        """
        if self.index is not None:
            same = self._at_location(self.index)
            return self.to_json_not_implemented() if same is None else same.to_json()
        serialized = super().to_json()
        if serialized["type"] == "constructor":
            arguments = serialized["kwargs"]
            if is_url(self.location):
                # An open index does not return its key. `loads` reads a secret that it does not have as None.
                arguments["api_key"] = {"lc": 1, "type": "secret", "id": [self.lc_secrets["api_key"]]}
            if self.fusion is not None:
                arguments["fusion"] = asdict(self.fusion)
            if self.controls is not None:
                arguments["controls"] = self.controls.to_dict()
            if self.filter is not None:
                arguments["filter"] = filter_to_json(self.filter)
        return serialized

    def _at_location(self, index: SpladeIndex) -> Self | None:
        """Return the same retriever with the location of an index; None if the index cannot be reopened."""
        place, dense = index.open_arguments, index.dense
        if place is None or not (dense is None or isinstance(dense, Embeddings)):
            return None
        fields = {name: getattr(self, name) for name in set(type(self).model_fields) - _INDEX_FIELDS}
        return type(self)(
            location=place.pop("location"),
            collection=place.pop("collection"),
            read_only=place.pop("read_only", False),
            embedding=dense,
            settings={name: value for name, value in place.items() if value is not None},
            **fields,
        )


def _retriever(kind: type[SpladeRetriever], fields: Mapping[str, Any]) -> SpladeRetriever:
    retriever = kind(**fields)
    retriever._owned = retriever.index  # reading the pickle has opened it
    return retriever
