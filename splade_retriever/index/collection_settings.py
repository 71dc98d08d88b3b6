"""What a collection remembers of how it was made, so that the wrong encoder is an error and not bad ranking.

It lies in the collection's own metadata, under one key. Every engine has that (Qdrant server from 1.16,
qdrant-client's local mode, `EdgeClient`), qdrant-client's `migrate` carries it along, and unlike a reserved
point it is never counted, searched or deleted by filter; unlike a side file it exists on a server too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Final

from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.index.documents import Layout
from splade_retriever.validation import check_int

__all__ = [
    "COMPARED_SETTINGS",
    "SETTINGS_KEY",
    "STAGING",
    "CollectionSettings",
    "check_encoder",
    "check_settings",
    "differences",
]

SETTINGS_KEY: Final = "splade_retriever"
COMPARED_SETTINGS: Final = ("windows", "window_overlap", "max_active_dims", "min_weight")
"""Fields of `CollectionSettings` that a caller sets and that an open compares."""
STAGING: Final = "arriving"
"""Format of the memory of a collection that a command is still filling; nothing else may open it."""
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """How a collection's vectors and payloads were made."""

    encoder: Mapping[str, str | int | None]
    """The sparse encoder's fingerprint."""
    vector_name: str
    layout: Layout = field(default_factory=Layout)
    max_active_dims: int | None = None
    min_weight: float = 0.0
    windows: str = "truncate"
    window_overlap: int = 32
    dense_name: str | None = None
    dense_size: int | None = None

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        if self.windows not in ("truncate", "merge", "points"):
            raise InputError(f"windows is {self.windows!r}, expected 'truncate', 'merge' or 'points'.")
        check_int("window_overlap", self.window_overlap, minimum=0)
        check_int("max_active_dims", self.max_active_dims, minimum=1, optional=True)
        if not isinstance(self.min_weight, Real) or not 0.0 <= self.min_weight < math.inf:
            raise InputError(f"min_weight is {self.min_weight!r}, expected a finite number of 0.0 or more.")

    def to_metadata(self) -> dict[str, Any]:
        """Write it for the collection's metadata."""
        return {SETTINGS_KEY: {"format": _FORMAT, **asdict(self), "encoder": dict(self.encoder)}}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any] | None, collection: str
    ) -> "CollectionSettings | None":
        """Read it back; None for a collection that another program made.

        Raises:
            CollectionMismatchError: If a newer version of this package wrote it, or the collection is not
                complete.
        """
        found = (metadata or {}).get(SETTINGS_KEY)
        if found is None:
            return None
        if found.get("format") == STAGING:
            raise CollectionMismatchError(
                f"collection {collection!r} is not complete: `splade {found.get('command')}` is at work "
                "on it or was interrupted, expected a finished one. Run the same command again; it goes on "
                "where it ended."
            )
        if found.get("format") != _FORMAT:
            raise CollectionMismatchError(
                f"collection {collection!r} has format {found.get('format')!r}, this version reads "
                f"{_FORMAT}. "
                "Upgrade splade-retriever."
            )
        known = {name: found[name] for name in cls.__slots__ if name in found}
        return cls(**{**known, "layout": Layout(**found["layout"])})

    def recipe(self) -> str:
        """Say in one string what decides a stored vector, for the content hash."""
        made_by = asdict(self)
        made_by["encoder"] = dict(self.encoder)
        del made_by["layout"], made_by["vector_name"], made_by["dense_name"]
        return json.dumps(made_by, sort_keys=True)


def differences(
    memory: CollectionSettings, encoder: Mapping[str, str | int | None]
) -> dict[str, tuple[str | int | None, str | int | None]]:
    """Compare fingerprints: what differs -> (remembered, given)."""
    return {
        key: (memory.encoder.get(key), encoder.get(key))
        for key in sorted({*memory.encoder, *encoder})
        if memory.encoder.get(key) != encoder.get(key)
    }


def check_encoder(
    memory: CollectionSettings, encoder: Mapping[str, str | int | None], collection: str
) -> None:
    """Refuse an encoder whose vectors do not fit those of the collection.

    Raises:
        CollectionMismatchError: Naming both sides, what differs, and the way out.
    """
    differing = differences(memory, encoder)
    if not differing:
        return
    told = "; ".join(f"{key} {theirs!r} there, {ours!r} here" for key, (theirs, ours) in differing.items())
    raise CollectionMismatchError(
        f"collection {collection!r} was made by model {memory.encoder.get('model')!r}, but this index has "
        f"model "
        f"{encoder.get('model')!r} ({told}). Their vectors cannot be compared. Nothing was written. Open "
        f"it with the "
        "model that made it (model=None takes that one), or encode its texts anew: `splade reindex --model`."
    )


def check_settings(memory: CollectionSettings, asked: Mapping[str, Any], collection: str) -> None:
    """Refuse settings that differ from those with which the collection was made.

    Args:
        memory: What the collection remembers.
        asked: Field of `CollectionSettings` -> the value asked for; None where the caller left it open.
        collection: Its name, for the message.

    Raises:
        CollectionMismatchError: Naming both sides.
    """
    for name, value in asked.items():
        if value is not None and value != getattr(memory, name):
            raise CollectionMismatchError(
                f"collection {collection!r} was made with {name}={getattr(memory, name)!r}, but "
                f"{name}={value!r} was "
                f"asked for. Leave {name} out, or use a new collection."
            )
