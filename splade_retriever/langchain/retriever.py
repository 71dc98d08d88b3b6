"""SpladeRetriever: an index as LangChain's retriever."""

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
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

from splade_retriever.explanation import Explanation
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.index.splade_index import Encoder, Hit, SpladeIndex
from splade_retriever.langchain.documents import SearchOptions, columns, to_documents
from splade_retriever.langchain.filters import LangChainFilter, filter_from_json, filter_to_json
from splade_retriever.validation import is_url

__all__ = ["SpladeRetriever"]

_OF_THE_PLACE: Final = {"index", "location", "collection", "model", "embedding", "api_key", "settings"}
"""Fields that say where the index is; the others say how it is searched."""


class SpladeRetriever(BaseRetriever):
    """Finds documents by SPLADE, as any LangChain retriever does.

    Made of an open index, `SpladeRetriever(index=index, k=4)`; of documents,
    `SpladeRetriever.from_documents(documents)`; or of a place, `SpladeRetriever(location="./index")`: that is
    opened when it is first asked, and is the form that `langchain_core.load.dumps` writes and `loads` reads.

    `invoke` takes `k`, `filter`, `offset`, `score_threshold`, `mode`, `fusion`, `with_scores` and
    `with_explanations`, each in place of the retriever's own for that call.
    """

    index: SpladeIndex | None = Field(default=None, exclude=True, repr=False)
    """An open index; the caller closes it. Give either this or a location."""
    location: str | Path | None = None
    """A folder or the URL of a server where there is an index already."""
    collection: str = "splade"
    """Its collection, with a location."""
    model: str | None = None
    """The model's name, with a location; None for the one that the collection remembers."""
    embedding: Embeddings | None = None
    """The dense side of a hybrid index, with a location."""
    api_key: SecretStr | None = None
    """Of the server; never written by `dumps`, which names the secret QDRANT_API_KEY in its place."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `SpladeIndex`, with a location: `vector_name`, `prefer_grpc`, `timeout`, ..."""
    k: int = Field(default=4, ge=1)
    """Most documents."""
    filter: SkipValidation[LangChainFilter | None] = None
    """A dict (`splade_retriever.filters`), a `qdrant_client.models.Filter` or a structured query's filter."""
    score_threshold: float | None = None
    """Lowest score, in the engine's own scale (sparse: a dot product, unbounded)."""
    mode: Mode | None = None
    """"sparse", "dense" or "hybrid"; None for hybrid where there is a dense encoder, else sparse."""
    fusion: Fusion | None = None
    """How hybrid joins its two rankings; None for RRF with k = 60."""
    with_scores: bool = False
    """Put the score into each document's metadata, under "_splade"."""
    with_explanations: bool = False
    """Put the score and why it is so there."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _opened: SpladeIndex | None = PrivateAttr(default=None)
    _opening: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @field_validator("location")
    @classmethod
    def _written_location(cls, location: str | Path | None) -> str | None:
        return None if location is None else str(location)

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, model: object) -> object:
        if model is None or isinstance(model, str):
            return model
        raise ValueError(
            f"model is a {type(model).__name__}, expected a name, as it is part of what `dumps` writes. With "
            "an open encoder pass index=SpladeIndex(location, model=...)."
        )

    @field_validator("filter", mode="before")
    @classmethod
    def _read_filter(cls, filter: object) -> object:
        return filter_from_json(filter)

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.index is None) == (self.location is None):
            raise ValueError(
                "SpladeRetriever takes either index= (an open SpladeIndex) or location= (a folder or URL). "
                "To make an index of documents use SpladeRetriever.from_documents(documents)."
            )
        own_fields = {"location", "collection", "model", "dense", "client", "api_key", "create"}
        if taken := sorted(own_fields & set(self.settings)):
            raise ValueError(
                f"settings has {', '.join(taken)}, which no settings may have: what is not a field of the "
                "retriever needs an open index. Pass index=SpladeIndex(...)."
            )
        # By value: `configurable_fields` gives every field, also those that nobody has set.
        changed = [
            name for name in sorted(_OF_THE_PLACE - {"index", "location"}) if not self._is_default(name)
        ]
        if self.index is not None and changed:
            raise ValueError(
                f"{', '.join(changed)} belongs to a location=, but index= is given, which has "
                "its own. Pass it to SpladeIndex."
            )
        return self

    def _is_default(self, name: str) -> bool:
        field = type(self).model_fields[name]
        return bool(getattr(self, name) == field.get_default(call_default_factory=True))

    # -- making one ------------------------------------------------------------------------------------------

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
        """Add documents to an index, new or not, and give its retriever.

        Args:
            documents: A list or a stream. Their ids are kept; those without one get a random one.
            ids: In place of the documents' own.
            location: A folder, ":memory:" or the URL of a server.
            embedding: A dense encoder beside SPLADE, for hybrid search.
            **settings: Fields of the retriever (`k`, `filter`, `with_scores`, ...) and arguments of
                `SpladeIndex` (`collection`, `model`, `client`, `windows`, ...).

        Raises:
            InputError: A document cannot be stored; of a list nothing is written.
            TypeError: A setting that neither the retriever nor the index has.
        """
        own, of_index = cls._split(settings)
        index = SpladeIndex(location, dense=embedding, **of_index)
        try:
            index.add(*columns(documents, ids))
            return cls(index=index, **own)
        except BaseException:
            index.close()
            raise

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
        """Do what `from_documents` does, off the event loop."""
        own, of_index = cls._split(settings)
        index = await SpladeIndex.aopen(location, dense=embedding, **of_index)
        try:
            await index.aadd(*columns(documents, ids))
            return cls(index=index, **own)
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
        **settings: Any,
    ) -> Self:
        """Read a collection that langchain-qdrant's `QdrantVectorStore` made.

        Nothing is written to it. The names of the arguments and their defaults are langchain-qdrant's.

        Args:
            collection_name: The collection.
            model: The encoder that made its sparse vectors, or that one's name: the collection does not say.
            location: The URL of its server; or pass `client=`.
            embedding: The dense encoder that made its dense vectors, for hybrid search.
            vector_name: Of the dense vectors.
            sparse_vector_name: Of the sparse vectors.
            **settings: As in `from_documents`.

        Raises:
            CollectionNotFoundError: There is no such collection.
            CollectionMismatchError: It has no vectors of these names.
        """
        own, of_index = cls._split(settings)
        index = SpladeIndex(
            location,
            collection=collection_name,
            model=model,
            dense=embedding,
            dense_name=vector_name,
            vector_name=sparse_vector_name,
            create=False,
            **of_index,
        )
        try:
            return cls(index=index, **own)
        except BaseException:
            index.close()
            raise

    @classmethod
    def _split(cls, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell the retriever's own fields from the arguments of the index."""
        own = set(cls.model_fields) - _OF_THE_PLACE
        return (
            {name: value for name, value in settings.items() if name in own},
            {name: value for name, value in settings.items() if name not in own},
        )

    # -- the index -------------------------------------------------------------------------------------------

    def open(self) -> SpladeIndex:
        """Give the index, opening the location when first asked.

        Raises:
            CollectionNotFoundError: There is none; a retriever never creates one.
            CollectionMismatchError: Model or settings are not the collection's.
            IndexLockedError: Another process has the folder open.
            ServerError: The server cannot be reached.
        """
        return self._open()

    def _open(self, **further: Any) -> SpladeIndex:
        if self.index is not None:
            return self.index
        with self._opening:
            if self._opened is None:
                self._opened = SpladeIndex(
                    str(self.location),
                    collection=self.collection,
                    model=self.model,
                    dense=self.embedding,
                    api_key=None if self.api_key is None else self.api_key.get_secret_value(),
                    create=False,
                    **{**further, **self.settings},
                )
            return self._opened

    def close(self) -> None:
        """Close the index, also one that was given; a second call does nothing."""
        if (index := self._live()) is not None:
            index.close()

    def _live(self) -> SpladeIndex | None:
        return self._opened if self.index is None else self.index

    # -- searching -------------------------------------------------------------------------------------------

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        **options: Any,
    ) -> list[Document]:
        index, wanted = self.open(), self._wanted(options)
        hits = index.search(query, self.k if k is None else k, **wanted.arguments())
        explained = index.explain_all(query, hits) if wanted.with_explanations else []
        return _documents(hits, wanted, explained)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        **options: Any,
    ) -> list[Document]:
        live = self._live()
        index = await asyncio.to_thread(self._open, engine_in_subprocess=True) if live is None else live
        wanted = self._wanted(options)
        hits = await index.asearch(query, self.k if k is None else k, **wanted.arguments())
        explained = await index.aexplain_all(query, hits) if wanted.with_explanations else []
        return _documents(hits, wanted, explained)

    def _wanted(self, options: Mapping[str, Any]) -> SearchOptions:
        own = {
            name: getattr(self, name)
            for name in ("filter", "score_threshold", "mode", "fusion", "with_scores", "with_explanations")
        }
        return SearchOptions.of({**own, **options})

    # -- traces and serialisation ----------------------------------------------------------------------------

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        """Name store and model in traces, opening neither."""
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "SpladeIndex"
        params["ls_embedding_provider"] = "splade-retriever"
        index = self._live()
        model = self.model if index is None else index.model_name
        if model is not None:
            params["ls_embedding_model"] = model
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Say that `dumps` writes its configuration."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Name the secret that stands for the key."""
        return {"api_key": "QDRANT_API_KEY"}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Write the configuration: where the index is, and how it is searched; no live object, no secret.

        An index in memory, or with a caller's own client, cannot be opened again from its configuration: it
        is written as "not implemented", which `loads` refuses.
        """
        if self.index is not None:
            same = self._at_location(self.index)
            return self.to_json_not_implemented() if same is None else same.to_json()
        written = super().to_json()
        if written["type"] == "constructor":
            if is_url(self.location):
                # An open index does not tell its key. Where nobody names the secret, it is read as None.
                written["kwargs"]["api_key"] = {"lc": 1, "type": "secret", "id": [self.lc_secrets["api_key"]]}
            if self.fusion is not None:
                written["kwargs"]["fusion"] = asdict(self.fusion)
            if self.filter is not None:
                written["kwargs"]["filter"] = filter_to_json(self.filter)
        return written

    def _at_location(self, index: SpladeIndex) -> Self | None:
        """Give the same retriever, made of the index's place, if it has one that LangChain can write."""
        place, dense = index.place, index.dense
        if place is None or not (dense is None or isinstance(dense, Embeddings)):
            return None
        own = {name: getattr(self, name) for name in set(type(self).model_fields) - _OF_THE_PLACE}
        return type(self)(
            location=place.pop("location"),
            collection=place.pop("collection"),
            embedding=dense,
            settings={name: value for name, value in place.items() if value is not None},
            **own,
        )


def _documents(
    hits: Sequence[Hit], wanted: SearchOptions, explained: Sequence[Explanation]
) -> list[Document]:
    return [document for document, _ in to_documents(hits, wanted, explained)]
