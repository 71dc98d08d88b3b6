"""Documents as a collection keeps them: user input -> checked document -> point payload -> hit."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.errors import InputError, StorageError
from splade_retriever.index.llama_index_payload import read_node, write_node
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import json_fault, text_fault

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = [
    "INPUTS",
    "OWN_KEY",
    "BadInput",
    "Branch",
    "Document",
    "Hit",
    "Layout",
    "check_inputs",
    "content_hash",
    "point_id",
    "read_documents",
    "to_hit",
    "to_payload",
    "whole_hit",
]

OWN_KEY: Final = "_splade"
"""The one payload key that is ours: the user's id, the content hash, the window, an adapter's extra."""

INPUTS: Final = ("texts", "metadatas", "ids", "extras", "encoded_texts", "vectors")
"""What `add` takes of each document, each a list, an iterator or None, walked in step."""

_NAMESPACE: Final = uuid.UUID("6f5c1b8e-3d0a-5c6f-9f0b-5b1a0de5ada7")


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch's view of a hit of a hybrid search."""

    rank: int
    """Place in the branch's own ranking, from 1."""
    score: float
    """The branch's own score: a dot product (sparse) or a cosine (dense)."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A document as the index gives it back."""

    id: str
    text: str
    metadata: dict[str, Any]
    """Equal to what was added."""
    score: float = 0.0
    """Dot product of query and document for a sparse search (unbounded); 0.0 from `get` and `scroll`."""
    vector: SparseEmbedding | None = None
    """The stored sparse vector, on request."""
    branches: Mapping[str, Branch] = field(default_factory=dict)
    """"sparse" and "dense", where that branch of a hybrid search found the document."""
    window: tuple[int, int] | None = None
    """Where `text` lies in the whole document (characters, start and end), for a document kept as windows."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What was added with `extras`: an adapter's own data, kept out of the metadata."""


@dataclass(frozen=True, slots=True)
class Document:
    """One checked input of `add`."""

    position: int
    id: str
    text: str
    metadata: dict[str, Any]
    extra: dict[str, Any] | None = None
    encoded_text: str | None = None
    """What is encoded in place of the text, where that differs."""
    vector: SparseEmbedding | None = None
    """The sparse vector, where it was computed before."""


@dataclass(frozen=True, slots=True)
class BadInput:
    """An input of `add` that cannot be stored."""

    position: int
    """Place in the input, from 0."""
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a collection's payload keeps things.

    Our own collections and langchain-qdrant's keep `page_content` and `metadata`; LlamaIndex's Qdrant store
    keeps metadata at the top level and the text inside a JSON string (`_node_content`).
    """

    content_key: str = "page_content"
    metadata_key: str | None = "metadata"
    native_ids: bool = False
    """True where another program made the collection: its point ids are the documents' ids."""

    @classmethod
    def of_payload(cls, payload: Mapping[str, Any]) -> "Layout":
        """Recognise the layout of a collection that another program wrote, from one of its payloads."""
        if "_node_content" in payload:
            return cls("_node_content", None, native_ids=True)
        return cls(native_ids=True)


def point_id(id: str, layout: Layout, window: int = 0) -> str | int:
    """Give the engine's id of a document, or of one of its windows.

    Qdrant takes UUIDs and integers only; UUIDv5 in a namespace of this package makes one of any string, the
    same on every machine and in every run.
    """
    base: str | int
    if layout.native_ids and (native := _native_id(id)) is not None:
        base = native
    else:
        base = str(uuid.uuid5(_NAMESPACE, id))
    return base if window == 0 else str(uuid.uuid5(_NAMESPACE, f"{base}#{window}"))


def _native_id(id: str) -> str | int | None:
    if id.isascii() and id.isdigit():
        return int(id)
    try:
        return str(uuid.UUID(id))
    except ValueError:
        return None


def content_hash(document: Document, recipe: str) -> str:
    """Hash what decides a document's stored vectors and text.

    Args:
        document: The document; its extra counts, since it is rewritten together with the text.
        recipe: The encoders' fingerprints, pruning and windows, as one string.
    """
    text = document.text
    tail = "" if document.extra is None else json.dumps(document.extra, sort_keys=True)
    if document.encoded_text is not None:
        tail += f"{len(document.encoded_text)}:{document.encoded_text}"
    if document.vector is not None:
        tail += f"{document.vector.indices.tobytes().hex()}:{document.vector.values.tobytes().hex()}"
    # Lengths keep the parts apart.
    head = f"{len(recipe)}:{recipe}{len(text)}:{text}{tail}"
    return blake2b(head.encode("utf-8"), digest_size=16).hexdigest()


def to_payload(
    document: Document, layout: Layout, hash: str, window: tuple[int, int, int, int] | None = None
) -> dict[str, Any]:
    """Build a point's payload.

    Args:
        document: The document.
        layout: Where things go.
        hash: Its `content_hash`.
        window: For a document kept as windows: number, how many, start and end in characters.
    """
    own: dict[str, Any] = {"id": document.id, "hash": hash}
    text = document.text
    if window is not None:
        own["window"] = dict(zip(("n", "of", "start", "end"), window, strict=True))
        text = text[window[2] : window[3]]
    if document.extra is not None:
        own["extra"] = document.extra
    if layout.metadata_key is None:
        return {**write_node(document.id, text, document.metadata, document.extra), OWN_KEY: own}
    return {layout.content_key: text, layout.metadata_key: document.metadata, OWN_KEY: own}


def to_hit(
    point: "models.ScoredPoint | models.Record",
    layout: Layout,
    vector_name: str,
    branches: Mapping[str, Branch] | None = None,
) -> Hit:
    """Read a point of the engine back into a hit.

    Raises:
        StorageError: If the payload is not of this layout.
    """
    payload = dict(point.payload or {})
    own = payload.pop(OWN_KEY, None) or {}
    metadata: object
    extra: dict[str, Any] = {}
    text = payload.pop(layout.content_key, None)
    if layout.metadata_key is None:
        metadata, text, extra = read_node(payload, text)
    else:
        metadata = payload.get(layout.metadata_key) or {}
    if not isinstance(text, str) or not isinstance(metadata, dict):
        raise StorageError(
            f"point {point.id} holds the payload keys {sorted(point.payload or {})}, expected the text in "
            f"{layout.content_key!r} and a dict in {layout.metadata_key!r}. Pass layout=Layout(...) for a "
            "collection that another program wrote."
        )
    window = own.get("window")
    return Hit(
        id=str(own.get("id", point.id)),
        text=text,
        metadata=metadata,
        score=float(getattr(point, "score", 0.0)),
        vector=_sparse(point.vector, vector_name),
        branches={} if branches is None else branches,
        window=None if window is None else (window["start"], window["end"]),
        extra=own.get("extra", extra),
    )


def _sparse(vector: object, name: str) -> SparseEmbedding | None:
    found = vector.get(name) if isinstance(vector, dict) else None
    if found is None:
        return None
    return SparseEmbedding(values=found.values, indices=found.indices)


def whole_hit(windows: Sequence[Hit]) -> Hit:
    """Put a document's windows, in order, back together into one hit with the whole text."""
    first = windows[0]
    text = ""
    for part in windows:
        start, _ = part.window or (0, 0)
        text = text[:start] + part.text
    return Hit(id=first.id, text=text, metadata=first.metadata, extra=first.extra, vector=None)


def check_inputs(inputs: Sequence[object]) -> None:
    """Check what can be known of `add`'s arguments as a whole, before anything is read.

    Args:
        inputs: In the order of `INPUTS`.

    Raises:
        InputError: A single string where many are expected, or lists of different lengths.
    """
    named = dict(zip(INPUTS, inputs, strict=True))
    for name in ("texts", "ids", "encoded_texts"):
        if isinstance(named[name], str | bytes):
            kind = type(named[name]).__name__
            raise InputError(f"{name} is one {kind}, expected several. Pass [{name[:-1]}].")
    for name, value in named.items():
        if isinstance(value, Mapping) or not (value is None or isinstance(value, Iterable)):
            raise InputError(f"{name} is a {type(value).__name__}, expected a list or an iterator.")
    if named["texts"] is None:
        raise InputError("texts is None, expected a list or an iterator of strings.")
    sizes = {name: len(value) for name, value in named.items() if isinstance(value, Sequence)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(f"add got lists of different lengths: {told}. Nothing was written; make them equal.")


def read_documents(inputs: Sequence[Iterable[Any] | None]) -> Iterator[Document | BadInput]:
    """Walk the inputs in step, each element once, and check it; nothing is read ahead.

    An id that is None, or an `ids` that is None, gives a random UUID4.

    Args:
        inputs: In the order of `INPUTS`.

    Raises:
        InputError: When one input ends before the others.
    """
    walks = [(name, iter(value)) for name, value in zip(INPUTS, inputs, strict=True) if value is not None]
    position = 0
    while True:
        row: dict[str, Any] = {}
        ended = []
        for name, walk in walks:
            try:
                row[name] = next(walk)
            except StopIteration:
                ended.append(name)
        if ended:
            if row:
                raise InputError(
                    f"{' and '.join(ended)} ended after {position}, while {' and '.join(row)} goes on. "
                    "Pass one for each text."
                )
            return
        yield _document(position, **{name[:-1]: value for name, value in row.items()})
        position += 1


def _document(
    position: int,
    text: object,
    *,
    metadata: object = None,
    id: object = None,
    extra: object = None,
    encoded_text: object = None,
    vector: object = None,
) -> Document | BadInput:
    known_id = id if isinstance(id, str) else None
    reason = text_fault("text", text)
    if reason is None and id is not None:
        reason = text_fault("id", id) or ("id is an empty string" if id == "" else None)
    if reason is None and encoded_text is not None:
        reason = text_fault("encoded_text", encoded_text)
    if reason is None and vector is not None and not isinstance(vector, SparseEmbedding):
        reason = f"vector is a {type(vector).__name__}, expected a SparseEmbedding"
    for name, value in (("metadata", metadata), ("extra", extra)):
        if reason is None and value is not None:
            reason = (
                f"{name} is a {type(value).__name__}, expected a dict"
                if not isinstance(value, Mapping)
                else None
            )
            reason = reason or json_fault(name, value)
    if reason is not None:
        return BadInput(position, known_id, reason)
    assert isinstance(text, str)
    return Document(
        position=position,
        id=known_id if known_id is not None else str(uuid.uuid4()),
        text=text,
        # A copy that the caller's later changes cannot reach while it waits for its turn.
        metadata=_copied(metadata) or {},
        extra=_copied(extra),
        encoded_text=encoded_text if isinstance(encoded_text, str) and encoded_text != text else None,
        vector=vector if isinstance(vector, SparseEmbedding) else None,
    )


def _copied(value: object) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    copied: dict[str, Any] = json.loads(json.dumps(dict(value)))
    return copied
