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
STAGING: Final = "arriving"
"""Format of a collection that a command is still filling; nothing else may open it."""
_FORMAT: Final = 1


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

    def check(self) -> None:
        """Raise InputError for a setting that is not valid."""
        if self.windows not in ("truncate", "merge", "points"):
            raise InputError(f"windows is {self.windows!r}, expected 'truncate', 'merge' or 'points'.")
        checked_int("window_overlap", self.window_overlap, minimum=0)
        checked_int("max_active_dims", self.max_active_dims, minimum=1, optional=True)
        checked_float("min_weight", self.min_weight, "a finite number of 0.0 or more", minimum=0.0)

    def to_metadata(self) -> dict[str, Any]:
        """Return the settings as metadata of a collection."""
        return {SETTINGS_KEY: {"format": _FORMAT, **asdict(self), "encoder": dict(self.encoder)}}

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
        if stored.get("format") != _FORMAT:
            raise CollectionMismatchError(
                f"Collection {collection!r} has format {stored.get('format')!r}, this version reads "
                f"{_FORMAT}. Upgrade splade-retriever."
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
        optional_strings = (self.dense_name, layout.metadata_key, layout.tenant_field)
        right = (
            isinstance(self.encoder, Mapping)
            and all(isinstance(value, str | int | float | None) for value in self.encoder.values())
            and all(isinstance(value, str) for value in strings)
            and all(value is None or isinstance(value, str) for value in optional_strings)
            and isinstance(layout.native_ids, bool)
            and isinstance(self.windows, str)
            and isinstance(self.dense_size, int | None)
        )
        if not right:
            raise TypeError("a setting has a value of the wrong type")

    def recipe(self) -> str:
        """Return what decides a stored vector, as one string, for the content hash."""
        made_by = asdict(self)
        made_by["encoder"] = dict(self.encoder)
        del made_by["layout"], made_by["vector_name"], made_by["dense_name"]
        return json.dumps(made_by, sort_keys=True)


def _damaged(collection: str, found: str) -> StorageError:
    return StorageError(
        f"The settings that collection {collection!r} stores are damaged ({found}). Restore the index from a "
        "backup, or index its sources again."
    )


def modifier_of(fingerprint: Mapping[str, str | int | None]) -> models.Modifier | None:
    """Return by what the engine multiplies the weights of an encoder: IDF for BM25, nothing for SPLADE."""
    return models.Modifier.IDF if fingerprint.get("modifier") == "idf" else None


def differences(
    settings: CollectionSettings, fingerprint: Mapping[str, str | int | None]
) -> dict[str, tuple[str | int | None, str | int | None]]:
    """Compare what decides documents' vectors in two fingerprints: part that differs -> (stored, passed)."""
    stored, passed = document_side(settings.encoder), document_side(fingerprint)
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
    settings: CollectionSettings, fingerprint: Mapping[str, str | int | None], collection: str
) -> None:
    """Check that an encoder's vectors can be compared with those of a collection.

    Raises:
        CollectionMismatchError: They cannot; the message names both models and what differs.
    """
    differing = differences(settings, fingerprint)
    if not differing:
        return
    listing = "; ".join(
        f"{key}: collection {stored!r}, index {passed!r}" for key, (stored, passed) in differing.items()
    )
    raise CollectionMismatchError(
        f"Collection {collection!r} was made by model {settings.encoder.get('model')!r}, but this index uses "
        f"model {fingerprint.get('model')!r} ({listing}). Their vectors cannot be compared. Nothing was "
        "written. Open the collection with the model that made it (model=None selects it), or encode its "
        "texts again with `splade reindex --model`."
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
