"""The settings that a collection stores: how it was made, so that the wrong encoder is an error.

They are in the collection's metadata, under one key. Every engine has metadata (Qdrant server from 1.16,
qdrant-client's local mode, `EdgeClient`), and qdrant-client's `migrate` copies them. Unlike a reserved point
they are never counted, searched or deleted by a filter; unlike a file they exist on a server too.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from qdrant_client import models

from splade_retriever.errors import CollectionMismatchError, InputError, StorageError
from splade_retriever.index.payload import Layout
from splade_retriever.validation import checked_float, checked_int, type_name

__all__ = [
    "COMPARED_SETTINGS",
    "SECOND_NAME",
    "SETTINGS_KEY",
    "STAGING",
    "CollectionSettings",
    "check_encoder",
    "check_settings",
    "differences",
    "document_side",
    "modifier_of",
]

SETTINGS_KEY: Final = "splade_retriever"
COMPARED_SETTINGS: Final = ("windows", "window_overlap", "max_active_dims", "min_weight")
"""Fields of `CollectionSettings` that a caller may set, and that are compared on opening."""
SECOND_NAME: Final = "second"
"""Name of the second model's vectors in a new collection."""
STAGING: Final = "arriving"
"""Format of a collection that a command is still filling; nothing else may open it."""
_FORMAT: Final = 1
_FORMAT_OF_TWO: Final = 2
"""Format of a collection of two sparse encoders."""


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """How a collection's vectors and payloads were made."""

    encoder: Mapping[str, str | int | None]
    """Fingerprint of the sparse encoder."""
    vector_name: str
    layout: Layout = field(default_factory=Layout)
    max_active_dims: int | None = None
    min_weight: float = 0.0
    windows: str = "truncate"
    window_overlap: int = 32
    dense_name: str | None = None
    dense_size: int | None = None
    second_encoder: Mapping[str, str | int | None] | None = None
    """Fingerprint of the second sparse encoder; None where there is none."""
    second_name: str | None = None

    def check(self) -> None:
        """Raise InputError for a setting that is not valid."""
        if self.windows not in ("truncate", "merge", "points"):
            raise InputError(f"windows is {self.windows!r}, expected 'truncate', 'merge' or 'points'.")
        checked_int("window_overlap", self.window_overlap, minimum=0)
        checked_int("max_active_dims", self.max_active_dims, minimum=1, optional=True)
        checked_float("min_weight", self.min_weight, "a finite number of 0.0 or more", minimum=0.0)
        if self.second_name is not None and self.second_name in (self.vector_name, self.dense_name):
            raise InputError(
                f"second_name is {self.second_name!r}, which is the name of other vectors of the collection. "
                "Pass another name."
            )

    def to_metadata(self) -> dict[str, Any]:
        """Return the settings as metadata of a collection."""
        stored = {**asdict(self), "encoder": dict(self.encoder)}
        if self.second_encoder is None:
            return {SETTINGS_KEY: {"format": _FORMAT, **_without_second(stored)}}
        # Versions that know one encoder would add documents without the second vector.
        return {
            SETTINGS_KEY: {"format": _FORMAT_OF_TWO, **stored, "second_encoder": dict(self.second_encoder)}
        }

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any] | None, collection: str
    ) -> "CollectionSettings | None":
        """Read the settings; None for a collection that another program made.

        Raises:
            CollectionMismatchError: A newer version of this package wrote them, or the collection is not
                complete.
            StorageError: They are damaged.
        """
        stored = (metadata or {}).get(SETTINGS_KEY)
        if stored is None:
            return None
        if not isinstance(stored, Mapping):
            raise _damaged(collection, f"{type_name(stored)}, expected a dict")
        if stored.get("format") == STAGING:
            raise CollectionMismatchError(
                f"Collection {collection!r} is not complete: `splade {stored.get('command')}` is running or "
                "was interrupted. Run the same command again to continue it."
            )
        if stored.get("format") not in (_FORMAT, _FORMAT_OF_TWO):
            raise CollectionMismatchError(
                f"Collection {collection!r} has format {stored.get('format')!r}, this version reads "
                f"{_FORMAT} and {_FORMAT_OF_TWO}. Upgrade splade-retriever."
            )
        known = {name: stored[name] for name in cls.__slots__ if name in stored}
        try:
            settings = cls(**{**known, "layout": Layout(**stored["layout"])})
            settings._check_types()
            settings.check()
        except (KeyError, TypeError, InputError) as error:
            raise _damaged(collection, f"{type(error).__name__}: {error}") from error
        return settings

    def _check_types(self) -> None:
        """Raise TypeError for a value that no version of this package writes."""
        layout = self.layout
        strings = (self.vector_name, layout.content_key)
        optional_strings = (self.dense_name, self.second_name, layout.metadata_key, layout.tenant_field)
        right = (
            _is_fingerprint(self.encoder)
            and (self.second_encoder is None or _is_fingerprint(self.second_encoder))
            and (self.second_encoder is None) == (self.second_name is None)
            and all(isinstance(value, str) for value in strings)
            and all(value is None or isinstance(value, str) for value in optional_strings)
            and isinstance(layout.native_ids, bool)
            and isinstance(self.windows, str)
            and isinstance(self.dense_size, int | None)
        )
        if not right:
            raise TypeError("a setting has a value of the wrong type")

    @property
    def sparse_encoders(self) -> dict[str, Mapping[str, str | int | None]]:
        """The name of each sparse vector -> the fingerprint of its encoder."""
        encoders = {self.vector_name: self.encoder}
        if self.second_encoder is not None and self.second_name is not None:
            encoders[self.second_name] = self.second_encoder
        return encoders

    def recipe(self) -> str:
        """Return what decides a stored vector, as one string, for the content hash."""
        made_by = asdict(self)
        made_by["encoder"] = dict(self.encoder)
        del made_by["layout"], made_by["vector_name"], made_by["dense_name"], made_by["second_name"]
        if self.second_encoder is None:
            del made_by["second_encoder"]  # so that hashes of collections of one encoder stay as they were
        else:
            made_by["second_encoder"] = dict(self.second_encoder)
        return json.dumps(made_by, sort_keys=True)


def _without_second(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name not in ("second_encoder", "second_name")}


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(part, str | int | float | None) for part in value.values()
    )


def _damaged(collection: str, found: str) -> StorageError:
    return StorageError(
        f"The settings that collection {collection!r} stores are damaged ({found}). Restore the index from a "
        "backup, or index its sources again."
    )


def modifier_of(fingerprint: Mapping[str, str | int | None]) -> models.Modifier | None:
    """Return by what the engine multiplies the weights of an encoder: IDF for BM25, nothing for SPLADE."""
    return models.Modifier.IDF if fingerprint.get("modifier") == "idf" else None


def differences(
    stored_fingerprint: Mapping[str, str | int | None], fingerprint: Mapping[str, str | int | None]
) -> dict[str, tuple[str | int | None, str | int | None]]:
    """Compare what decides documents' vectors in two fingerprints: part that differs -> (stored, passed)."""
    stored, passed = document_side(stored_fingerprint), document_side(fingerprint)
    return {
        key: (stored.get(key), passed.get(key))
        for key in sorted({*stored, *passed})
        if stored.get(key) != passed.get(key)
    }


def document_side(fingerprint: Mapping[str, str | int | None]) -> dict[str, str | int | None]:
    """Return a fingerprint under the name of the model whose network encodes the documents.

    Two models that share it give a document the same vector, and each may search what the other stored.
    """
    parts = dict(fingerprint)
    shared, revision = parts.pop("documents_by", None), parts.pop("document_revision", None)
    if shared is None:
        return parts
    return parts | {"model": shared, "revision": revision, "query_side": "symmetric"}


def check_encoder(
    stored: Mapping[str, str | int | None],
    fingerprint: Mapping[str, str | int | None],
    collection: str,
    *,
    option: str = "model",
) -> None:
    """Check that an encoder's vectors can be compared with those of a collection.

    Args:
        stored: The fingerprint that the collection stores.
        fingerprint: That of the encoder.
        collection: Its name, for the message.
        option: The argument that names the encoder: "model" or "second_model".

    Raises:
        CollectionMismatchError: They cannot; the message names both models and what differs.
    """
    differing = differences(stored, fingerprint)
    if not differing:
        return
    listing = "; ".join(
        f"{key}: collection {stored!r}, index {passed!r}" for key, (stored, passed) in differing.items()
    )
    kind, flag = option.replace("_", " "), option.replace("_", "-")
    # A collection does not store the stop words of the caller, only that they are others.
    selects = "None selects it" if stored.get("stopwords") is None else "Bm25Embedding(stopwords=[...])"
    raise CollectionMismatchError(
        f"Collection {collection!r} was made by {kind} {stored.get('model')!r}, but this index uses {kind} "
        f"{fingerprint.get('model')!r} ({listing}). Their vectors cannot be compared. Nothing was written. "
        f"Open the collection with the model that made it ({option}={selects}), or encode its texts "
        f"again with `splade reindex --{flag}`."
    )


def check_settings(settings: CollectionSettings, requested: Mapping[str, Any], collection: str) -> None:
    """Check that requested settings are those with which a collection was made.

    Args:
        settings: The collection's settings.
        requested: Field of `CollectionSettings` -> requested value; None where the caller leaves it open.
        collection: Its name, for the message.

    Raises:
        CollectionMismatchError: One of them differs.
    """
    for name, value in requested.items():
        stored = getattr(settings, name)
        if value is not None and value != stored:
            raise CollectionMismatchError(
                f"Collection {collection!r} was made with {name}={stored!r}, but {name}={value!r} was "
                f"requested. Leave {name} out, or change the collection: "
                f"`splade reindex --{name.replace('_', '-')}`."
            )
