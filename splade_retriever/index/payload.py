"""Document -> payload of a point, and payload -> hit; ids and hashes that are stored with it."""

import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha1
from typing import Any, Final

from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.documents import Branch, Document, DocumentKey, Hit
from splade_retriever.index.llama_index_payload import read_node, write_node
from splade_retriever.key_paths import escaped_metadata, key_levels, quoted
from splade_retriever.sparse import SparseEmbedding

__all__ = [
    "ESCAPED_PATH",
    "ID_PATH",
    "PACKAGE_KEY",
    "WINDOW_NUMBER_PATH",
    "ContentHasher",
    "Layout",
    "content_hash",
    "document_key",
    "escaped_fields",
    "has_escaped_fields",
    "has_text",
    "joined_windows",
    "metadata_of",
    "package_fields",
    "point_id",
    "reserved_key",
    "text_checksum",
    "to_hit",
    "to_payload",
    "window_count",
    "with_metadata",
]

PACKAGE_KEY: Final = "_splade"
"""The payload key of this package: the user's id, the content hash, the window, an adapter's extra."""
_ESCAPED_KEY: Final = "escaped"
ESCAPED_PATH: Final = f"{PACKAGE_KEY}.{_ESCAPED_KEY}"
"""The path of metadata whose keys no path of the engine names, see `key_paths`."""
ID_PATH: Final = f"{PACKAGE_KEY}.id"
WINDOW_NUMBER_PATH: Final = f"{PACKAGE_KEY}.window.n"
_NODE_CONTENT: Final = "_node_content"
_CONTENT_KEYS: Final = ("page_content", "text", "document", "content", "chunk", "body", "passage")
"""Keys under which programs keep a text; the first that is found counts."""
_METADATA_KEYS: Final = ("metadata", "meta")
_MAX_DIGITS: Final = 20
"""Of an unsigned integer of 64 bits."""
_NAMESPACE: Final = uuid.UUID("6f5c1b8e-3d0a-5c6f-9f0b-5b1a0de5ada7")
_TENANTS_NAMESPACE: Final = uuid.uuid5(_NAMESPACE, "tenants")
_HASHED_AT_ONCE: Final = 2047
"""Bytes up to which hashlib holds the GIL. Giving it up costs more than hashing so few bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a collection's payload keeps text and metadata.

    Our own collections and langchain-qdrant's keep `page_content` and `metadata`. Other programs write flat
    payloads (`{"text": ..., "year": ...}`). LlamaIndex's Qdrant store keeps metadata at the top level and the
    text inside a JSON string (`_node_content`).
    """

    content_key: str = "page_content"
    metadata_key: str | None = "metadata"
    """None for metadata at the top level, beside the text."""
    native_ids: bool = False
    """True where another program made the collection: its point ids are the documents' ids."""
    tenant_field: str | None = None
    """Metadata key whose value says whose a document is: two tenants may use the same id."""

    @property
    def holds_nodes(self) -> bool:
        """Whether the payload is that of LlamaIndex's Qdrant store."""
        return self.metadata_key is None and self.content_key == _NODE_CONTENT

    @property
    def metadata_path(self) -> str | None:
        """The path of the metadata as engines read it."""
        return None if self.metadata_key is None else quoted(self.metadata_key)

    @property
    def escaped_path(self) -> str | None:
        """Where filters find metadata keys with quotes and backslashes; other programs keep no such copy."""
        return None if self.native_ids else ESCAPED_PATH

    def tenant_of(self, metadata: Mapping[str, Any]) -> str | None:
        """Return whose a document is; None where the collection does not separate tenants.

        Raises:
            InputError: The collection separates tenants, and the metadata has none.
        """
        if self.tenant_field is None:
            return None
        value: object = metadata
        for name in key_levels(self.tenant_field):
            value = value.get(name) if isinstance(value, Mapping) else None
        if not isinstance(value, str) or not value:
            raise InputError(
                f"metadata has {value!r} at {self.tenant_field!r}, expected the tenant as a string: the "
                "collection separates tenants by this key"
            )
        return value

    @classmethod
    def of_payload(cls, payload: Mapping[str, Any]) -> "Layout | None":
        """Recognise the layout of a collection that another program wrote, from one of its payloads.

        Returns:
            The layout; None for a payload without a text under a usual key.
        """
        if _NODE_CONTENT in payload:
            return cls(_NODE_CONTENT, None, native_ids=True)
        content_key = next((key for key in _CONTENT_KEYS if isinstance(payload.get(key), str)), None)
        if content_key is None:
            return None
        nested = next((key for key in _METADATA_KEYS if isinstance(payload.get(key), dict)), None)
        if nested is None and "metadata" in payload and payload["metadata"] is None:
            nested = "metadata"  # langchain-qdrant writes it for a document without metadata
        return cls(content_key, nested, native_ids=True)


def to_payload(
    document: Document,
    layout: Layout,
    hash: str,
    window: tuple[int, int, int, int] | None = None,
    *,
    text_hash: str | None = None,
) -> dict[str, Any]:
    """Build a point's payload.

    Args:
        document: The document.
        layout: Where text and metadata go.
        hash: Its `content_hash`.
        window: For a document stored as windows: number, count, start and end in characters.
        text_hash: For a document that came with a vector: its `content_hash` without it.
    """
    package: dict[str, Any] = {"id": document.id, "hash": hash}
    escaped = escaped_metadata(document.metadata)
    if escaped is not None:
        package[_ESCAPED_KEY] = escaped
    if text_hash is not None:
        package["text_hash"] = text_hash
    text = document.text
    if window is not None:
        package["window"] = dict(zip(("n", "of", "start", "end"), window, strict=True))
        text = text[window[2] : window[3]]
    package["checksum"] = text_checksum(text)
    if document.extra is not None:
        package["extra"] = document.extra
    return {**_content(document.id, text, document.metadata, document.extra, layout), PACKAGE_KEY: package}


def with_metadata(point: models.Record, metadata: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return a point's payload with other metadata, for layouts with metadata at the top level."""
    hit = to_hit(point, layout, "")
    return {
        **_content(hit.id, hit.text, metadata, hit.extra, layout),
        PACKAGE_KEY: {**package_fields(point), _ESCAPED_KEY: escaped_metadata(metadata)},
    }


def escaped_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields under the package's key by which filters find keys that no path names."""
    return {_ESCAPED_KEY: escaped_metadata(metadata)}


def has_escaped_fields(point: models.ScoredPoint | models.Record) -> bool:
    """Return whether filters find keys of a point that no path names."""
    return package_fields(point).get(_ESCAPED_KEY) is not None


def _content(
    id: str, text: str, metadata: Mapping[str, Any], extra: Mapping[str, Any] | None, layout: Layout
) -> dict[str, Any]:
    if layout.holds_nodes:
        return write_node(id, text, metadata, extra)
    if layout.metadata_key is None:
        return {**metadata, layout.content_key: text}
    return {layout.content_key: text, layout.metadata_key: dict(metadata)}


def reserved_key(metadata: Mapping[str, Any], layout: Layout) -> str | None:
    """Return a key of the metadata that the payload needs for something else; None if there is none."""
    if layout.metadata_key is not None or layout.holds_nodes:
        return None
    return next((key for key in (layout.content_key, PACKAGE_KEY) if key in metadata), None)


def to_hit(
    point: models.ScoredPoint | models.Record,
    layout: Layout,
    vector_name: str,
    branches: Mapping[str, Branch] | None = None,
) -> Hit:
    """Read a point into a hit.

    A point that another program wrote may have no text, or metadata that are no dict. Then the hit has an
    empty text or no metadata, so that one such point does not fail every search that finds it.
    """
    package = package_fields(point)
    metadata, text, extra = _read_content(point.payload or {}, layout)
    window = package.get("window")
    return Hit(
        id=str(package.get("id", point.id)),
        text=text or "",
        metadata=metadata,
        score=float(getattr(point, "score", 0.0)),
        vector=_sparse_vector(point.vector, vector_name),
        branches={} if branches is None else branches,
        window=None if window is None else (window["start"], window["end"]),
        extra=package.get("extra", extra),
    )


def has_text(point: models.ScoredPoint | models.Record, layout: Layout) -> bool:
    """Return whether a point has a text where its layout keeps it."""
    return _read_content(point.payload or {}, layout)[1] is not None


def metadata_of(payload: Mapping[str, Any] | None, layout: Layout) -> dict[str, Any]:
    """Return the metadata in a payload."""
    return _read_content(payload or {}, layout)[0]


def _read_content(
    payload: Mapping[str, Any], layout: Layout
) -> tuple[dict[str, Any], str | None, dict[str, Any]]:
    """Read metadata, text (None where there is none) and extra."""
    others = {key: value for key, value in payload.items() if key not in (PACKAGE_KEY, layout.content_key)}
    text = payload.get(layout.content_key)
    extra: dict[str, Any] = {}
    if layout.holds_nodes:
        metadata, text, extra = read_node(others, text)
    else:
        metadata = others if layout.metadata_key is None else others.get(layout.metadata_key) or {}
    return (
        metadata if isinstance(metadata, dict) else {},
        text if isinstance(text, str) else None,
        extra,
    )


def _sparse_vector(vectors: object, name: str) -> SparseEmbedding | None:
    vector = vectors.get(name) if isinstance(vectors, dict) else None
    if vector is None:
        return None
    return SparseEmbedding(values=vector.values, indices=vector.indices)


def joined_windows(windows: Sequence[Hit]) -> Hit:
    """Join a document's windows, in order, into one hit with the complete text."""
    first = windows[0]
    text = ""
    for part in windows:
        start, _ = part.window or (0, 0)
        text = text[:start] + part.text
    return Hit(id=first.id, text=text, metadata=first.metadata, extra=first.extra, vector=None)


def package_fields(point: models.ScoredPoint | models.Record) -> dict[str, Any]:
    """Return what this package keeps in a point's payload; empty for a point of another program."""
    fields = (point.payload or {}).get(PACKAGE_KEY)
    return fields if isinstance(fields, dict) else {}


def window_count(point: models.ScoredPoint | models.Record) -> int:
    """Return how many points the document of a point takes."""
    return int((package_fields(point).get("window") or {}).get("of", 1))


def document_key(point: models.ScoredPoint | models.Record, layout: Layout) -> DocumentKey:
    """Return which document a point belongs to."""
    hit = to_hit(point, layout, "")
    return DocumentKey(hit.id, layout.tenant_of(hit.metadata))


def point_id(key: DocumentKey, layout: Layout, window: int = 0) -> str | int:
    """Return the engine's id of a document, or of one of its windows.

    Qdrant takes UUIDs and integers only; UUIDv5 in a namespace of this package makes one of any string, the
    same on every machine and in every run. Each tenant has a namespace.
    """
    id, tenant = key
    base: str | int
    if tenant is not None:
        base = _uuid5(uuid.uuid5(_TENANTS_NAMESPACE, tenant), id)
    elif layout.native_ids and (native := _native_id(id)) is not None:
        base = native
    else:
        base = _uuid5(_NAMESPACE, id)
    return base if window == 0 else _uuid5(_NAMESPACE, f"{base}#{window}")


def _uuid5(namespace: uuid.UUID, name: str) -> str:
    """Return `str(uuid.uuid5(namespace, name))`, in a third of the time."""
    digits = sha1(namespace.bytes + name.encode("utf-8"), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def _native_id(id: str) -> str | int | None:
    """Return the engine's form of a number such as "7" (not "007") or of a UUID; None for other ids."""
    if id.isascii() and id.isdigit():
        number = int(id) if len(id) <= _MAX_DIGITS else -1
        return number if str(number) == id and number < 2**64 else None
    try:
        return str(uuid.UUID(id))
    except ValueError:
        return None


def text_checksum(text: str) -> int:
    """Return the CRC-32 of a point's text.

    The content hash cannot verify a stored text alone: it also covers the text that was encoded, which may
    differ and is not stored.
    """
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


class ContentHasher:
    """Hashes what decides a document's stored vectors and text.

    Args:
        recipe: The encoders' fingerprints, pruning and windows, as one string.
    """

    def __init__(self, recipe: str) -> None:
        # Lengths keep the parts apart.
        self._start = blake2b(f"{len(recipe)}:{recipe}".encode(), digest_size=16)

    def hash(self, document: Document) -> str:
        """Return the hash of a document; its extra counts, since it is rewritten together with the text."""
        with_vector, without = self.hashes(document)
        return with_vector or without

    def hashes(self, document: Document) -> tuple[str | None, str]:
        """Return the hash with the vector that came with a document, None where none did, and without it."""
        state = self._start.copy()
        parts = [f"{len(document.text)}:{document.text}"]
        if document.extra is not None:
            parts.append(json.dumps(document.extra, sort_keys=True))
        if document.encoded_text is not None:
            parts.append(f"{len(document.encoded_text)}:{document.encoded_text}")
        _update(state, "".join(parts))
        without = state.hexdigest()
        if document.vector is None:
            return None, without
        _update(state, f"{document.vector.indices.tobytes().hex()}:")
        _update(state, document.vector.values.tobytes().hex())
        return state.hexdigest(), without


def content_hash(document: Document, recipe: str) -> str:
    """Return the hash of one document by a recipe, see `ContentHasher`."""
    return ContentHasher(recipe).hash(document)


def _update(state: blake2b, text: str) -> None:
    data = text.encode("utf-8")
    if len(data) > 16 * _HASHED_AT_ONCE:
        state.update(data)
        return
    for start in range(0, len(data), _HASHED_AT_ONCE):
        state.update(data[start : start + _HASHED_AT_ONCE])
