"""The sparse encoder of a collection: opened when it is first needed, and checked against the settings."""

import threading
from collections.abc import Mapping
from typing import Any, Final, Literal

from splade_retriever.encoding.bm25 import BM25_MODEL, Bm25Embedding
from splade_retriever.encoding.model_files import bundled_names
from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.errors import CollectionMismatchError, UnknownModelError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import check_encoder
from splade_retriever.index.per_process import PerProcess
from splade_retriever.protocols import Encoder

__all__ = ["CollectionModel"]

_LOADED_BY: Final = ("precision", "max_length", "revision")
"""Parts of a fingerprint that are arguments of `SparseTextEmbedding`."""


class CollectionModel:
    """Resolves the `model` or the `second_model` argument of an index to an encoder, once."""

    def __init__(
        self,
        collection: Collection,
        model: ModelArgument,
        *,
        local_files_only: bool = False,
        option: Literal["model", "second_model"] = "model",
    ) -> None:
        """Keep the argument; nothing is opened.

        Args:
            collection: Its settings name the model where the argument does not.
            model: An encoder, a model's name or folder, or None: the model that the collection's settings
                name, for a new collection the bundled one.
            local_files_only: Never download the model that the settings name.
            option: Which of the two it is.
        """
        self._option = option
        self._collection = collection
        self._argument = model
        self._local_files_only = local_files_only
        self._encoder: Encoder | None = None
        self._checked = False
        self._lock = PerProcess(threading.RLock)

    @property
    def argument(self) -> ModelArgument:
        """The argument, as it was passed."""
        return self._argument

    @property
    def is_passed(self) -> bool:
        """Whether the caller names the model."""
        return self._argument is not None

    @property
    def encoder(self) -> Encoder:
        """The encoder.

        Raises:
            CollectionMismatchError: It did not make the collection's vectors.
        """
        encoder = self.unchecked
        if not self._checked:
            stored = self._stored_fingerprint()
            if stored is not None:
                check_encoder(stored, encoder.fingerprint, self._collection.name, option=self._option)
            self._checked = True
        return encoder

    @property
    def unchecked(self) -> Encoder:
        """The encoder, without a check against the collection's settings."""
        with self._lock.get():
            if self._encoder is None:
                self._encoder = (
                    self._stored_model() if self._argument is None else load_encoder(self._argument)
                )
            return self._encoder

    def _stored_fingerprint(self) -> Mapping[str, str | int | None] | None:
        settings = self._collection.settings
        if settings is None:
            return None
        return settings.encoder if self._option == "model" else settings.second_encoder

    def _stored_model(self) -> Encoder:
        stored = self._stored_fingerprint()
        bundled = load_encoder(None)
        if stored is None or dict(stored) == dict(bundled.fingerprint):
            return bundled
        arguments: dict[str, Any] = {name: stored.get(name) for name in _LOADED_BY}
        model = stored.get("model")
        if model == BM25_MODEL:
            return Bm25Embedding.of_fingerprint(stored)
        if self._local_files_only:
            arguments["local_files_only"] = True
        try:
            return load_encoder(str(model), settings=arguments)
        except UnknownModelError as error:
            if model in bundled_names():
                installed = load_encoder(str(model)).fingerprint.get("revision")
                raise CollectionMismatchError(
                    f"Collection {self._collection.name!r} was made by another revision of the bundled model "
                    f"{model!r} ({arguments['revision']}, installed: {installed}). "
                    f"Their vectors cannot be compared. Encode its texts again with `splade reindex "
                    f"--{self._option.replace('_', '-')} {model}`."
                ) from error
            raise CollectionMismatchError(
                f"Collection {self._collection.name!r} was made by model {model!r}, which cannot be opened "
                f"by its name here. Pass {self._option}= with the encoder that made it, or encode its texts "
                f"again with `splade reindex --{self._option.replace('_', '-')}`."
            ) from error
