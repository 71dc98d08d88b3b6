"""Documents as they go into an index and come out of it: checked inputs of `add`, and hits."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, NamedTuple, Self, SupportsIndex, TypeVar, cast, overload

from splade_retriever.drawing.html import as_text, bar_of, paragraph, view
from splade_retriever.errors import InputError
from splade_retriever.sparse import SparseEmbedding, SparseLike
from splade_retriever.validation import copied_json, json_fault, plain, text_fault, type_name

__all__ = [
    "INPUTS",
    "BadInput",
    "BadStreamError",
    "Branch",
    "Document",
    "DocumentKey",
    "Hit",
    "Hits",
    "check_inputs",
    "checked_ids",
    "checked_metadata",
    "in_batches",
    "read_documents",
]

T = TypeVar("T")

INPUTS: Final = ("texts", "metadatas", "ids", "extras", "encoded_texts", "vectors")
"""What `add` takes of each document, each a list, an iterator or None, read in step."""
_IDS_PER_REQUEST: Final = 256
_ENDED: Final = object()
_TEXT_SHOWN: Final = 300
"""Characters of a text in a notebook's list of hits."""


class BadStreamError(InputError):
    """A fault of the inputs of `add`, found while they are read, and not an error of their iterator."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What one branch of a hybrid search found of a hit."""

    rank: int
    """Place in the ranking of the branch, from 1."""
    score: float
    """Score in the branch: a dot product (sparse, second) or a cosine (dense)."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A document as an index returns it."""

    id: str
    text: str
    metadata: dict[str, Any]
    """Equal to what was added."""
    score: float = 0.0
    """Dot product of query and document for a sparse search (unbounded); 0.0 from `get` and `scroll`."""
    vector: SparseEmbedding | None = None
    """The stored sparse vector, on request."""
    branches: Mapping[str, Branch] = field(default_factory=dict)
    """"sparse", "second" and "dense", where that branch of a hybrid search found the document."""
    window: tuple[int, int] | None = None
    """Where `text` lies in the document (characters, start and end), for a document stored as windows."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What was added with `extras`: an adapter's data, kept out of the metadata."""

    def _repr_html_(self) -> str:
        """Draw for a notebook: id, score, text and metadata, all as text."""
        return view([_head(self), f'<p class="text">{as_text(self.text)}</p>', _metadata(self)])


class Hits(list[Hit]):
    """The hits of a search, best first: a list, which a notebook draws."""

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Hit: ...

    @overload
    def __getitem__(self, place: slice, /) -> Self: ...

    def __getitem__(self, place: SupportsIndex | slice, /) -> Hit | Self:
        """Return one hit, or several as hits."""
        return (
            type(self)(super().__getitem__(place)) if isinstance(place, slice) else super().__getitem__(place)
        )

    def _repr_html_(self) -> str:
        """Draw for a notebook: rank, id, score, the start of the text and metadata of each hit, as text."""
        if not self:
            return view([paragraph("No hits.")])
        best = max(hit.score for hit in self)
        bars = [bar_of(hit.score / best if best > 0 else 0.0) for hit in self]
        items = [
            f"<li>{_head(hit)}{bar}{_shortened(hit.text)}{_metadata(hit)}</li>"
            for hit, bar in zip(self, bars, strict=True)
        ]
        return view([f"<ol>{''.join(items)}</ol>"])


def _head(hit: Hit) -> str:
    return paragraph(f"{hit.id} (score {hit.score:.3f})", "head")


def _shortened(text: str) -> str:
    """Draw the start of a text; the rest opens by a click."""
    if len(text) <= _TEXT_SHOWN:
        return f'<p class="text">{as_text(text)}</p>'
    return (
        f'<p class="text">{as_text(text[:_TEXT_SHOWN])}…</p><details><summary>complete text</summary>'
        f'<p class="text">{as_text(text)}</p></details>'
    )


def _metadata(hit: Hit) -> str:
    return paragraph(json.dumps(hit.metadata, ensure_ascii=False, default=str) if hit.metadata else "")


class DocumentKey(NamedTuple):
    """Which document of a collection: an id, and whose where the collection separates tenants."""

    id: str
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One checked input of `add`."""

    position: int
    id: str
    text: str
    metadata: dict[str, Any]
    extra: dict[str, Any] | None = None
    encoded_text: str | None = None
    """The text that is encoded instead, where it differs."""
    vector: SparseEmbedding | None = None
    """The sparse vector, where it was computed before."""
    tenant: str | None = None
    """Whose it is, where the collection separates tenants."""

    @property
    def key(self) -> DocumentKey:
        """Which document of the collection it is."""
        return DocumentKey(self.id, self.tenant)


@dataclass(frozen=True, slots=True)
class BadInput:
    """An input of `add` that cannot be stored."""

    position: int
    """Place in the input, from 0."""
    id: str | None
    reason: str


def check_inputs(inputs: Sequence[object]) -> None:
    """Check the arguments of `add` before anything is read.

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
            raise InputError(f"{name} is {type_name(value)}, expected a list or an iterator.")
    if named["texts"] is None:
        raise InputError("texts is None, expected a list or an iterator of strings.")
    sizes = {name: len(value) for name, value in named.items() if isinstance(value, Sequence)}
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(
            f"add got lists of different lengths: {listing}. Nothing was written. Pass lists of one length."
        )


def read_documents(
    inputs: Sequence[Iterable[Any] | None], *, first: int = 0
) -> Iterator[Document | BadInput]:
    """Read the inputs in step, each element once, and check them; nothing is read ahead.

    A document without an id gets a random UUID4.

    Args:
        inputs: In the order of `INPUTS`.
        first: Position of the first element, where inputs before it were read already.

    Raises:
        InputError: When one input ends before the others.
    """
    present = [(name, iter(value)) for name, value in zip(INPUTS, inputs, strict=True) if value is not None]
    names = [name for name, _ in present]
    arguments = [name[:-1] for name in names]
    rows = zip_longest(*(iterator for _, iterator in present), fillvalue=_ENDED)
    ended = id(_ENDED)
    for position, row in enumerate(rows, first):
        values = dict(zip(arguments, row, strict=True))
        if ended in map(id, row):
            _raise_unequal_lengths(names, row, position)
        yield _document(position, **values)


def _raise_unequal_lengths(names: Sequence[str], row: Sequence[object], position: int) -> None:
    ended = [name for name, value in zip(names, row, strict=True) if value is _ENDED]
    longer = [name for name, value in zip(names, row, strict=True) if value is not _ENDED]
    raise BadStreamError(
        f"{' and '.join(ended)} ended after {position}, but {' and '.join(longer)} has more. "
        "Pass one per text."
    )


def checked_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        InputError: They are one string, or one of them is not a string, or holds half a
            surrogate pair.
    """
    if isinstance(ids, str | bytes | Mapping):
        raise InputError(f"ids is one {type(ids).__name__}, expected several. Pass [id].")
    if not isinstance(ids, Iterable):
        raise InputError(f"ids is {type_name(ids)}, expected several strings. Pass [id].")
    listed = list(ids)
    for position, id in enumerate(listed):
        if not isinstance(id, str):
            raise InputError(f"id {position} is {id!r}, {type_name(id)}, expected a string.")
        if fault := text_fault(f"id {position}", id):
            raise InputError(f"{fault}.")
    return listed


def checked_metadata(metadata: object) -> dict[str, Any]:
    """Return a copy of metadata, as `add` would store it.

    Raises:
        ValueError: It is no dict of JSON values; the message has no full stop.
    """
    checked, fault = _checked_dict("metadata", metadata)
    if checked is None:
        raise ValueError(fault or "metadata is None, expected a dict")
    return checked


def in_batches(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list of ids or keys into as many as one request reads."""
    for start in range(0, len(ids), _IDS_PER_REQUEST):
        yield ids[start : start + _IDS_PER_REQUEST]


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
    metadata, metadata_fault = _checked_dict("metadata", metadata)
    extra, extra_fault = _checked_dict("extra", extra)
    fault = (
        _document_text_fault(text)
        or (None if id is None else _id_fault(id))
        or (None if encoded_text is None else text_fault("encoded_text", encoded_text))
        or (None if vector is None else _vector_fault(vector))
        or metadata_fault
        or extra_fault
    )
    if fault is not None:
        return BadInput(position, known_id, fault)
    assert isinstance(text, str)
    return Document(
        position=position,
        id=known_id if known_id is not None else str(uuid.uuid4()),
        text=text,
        metadata=metadata or {},
        extra=extra,
        encoded_text=encoded_text if isinstance(encoded_text, str) and encoded_text != text else None,
        vector=None if vector is None else SparseEmbedding.from_like(cast(SparseLike, vector)),
    )


def _document_text_fault(text: object) -> str | None:
    fault = text_fault("text", text)
    if fault is None or isinstance(text, str):
        return fault
    if isinstance(text, Mapping):
        return f"{fault}; pass texts, metadatas and ids as three lists"
    if hasattr(text, "page_content") or hasattr(text, "get_content"):
        return f"{fault}; for documents of a framework use splade_retriever.langchain or .llama_index"
    return fault


def _id_fault(id: object) -> str | None:
    return text_fault("id", id) or ("id is an empty string" if id == "" else None)


def _vector_fault(vector: object) -> str | None:
    if isinstance(vector, SparseEmbedding):
        return None
    # A dict has `values` too, which is a method.
    if not isinstance(vector, SparseLike) or callable(vector.values):
        return f"vector is {type_name(vector)}, expected a SparseEmbedding"
    try:
        SparseEmbedding.from_like(vector)
    except InputError as error:
        return f"vector is not valid: {str(error).removesuffix('.')}"
    return None


def _checked_dict(name: str, value: object) -> tuple[dict[str, Any] | None, str | None]:
    """Return a copy of metadata or an extra, which later changes do not reach, and its fault."""
    if value is None:
        return None, None
    if type(value) is dict and (copied := copied_json(value)) is not None:
        return copied, None
    fault = _dict_fault(name, value)
    if fault and name == "metadata":
        value = _plain_metadata(value)  # numpy's numbers are no JSON
        fault = _dict_fault(name, value)
    return (None, fault) if fault else (json.loads(json.dumps(dict(cast(Mapping[str, Any], value)))), None)


def _plain_metadata(value: object) -> object:
    try:
        return plain(value)
    except RecursionError:
        return value


def _dict_fault(name: str, value: object) -> str | None:
    if not isinstance(value, Mapping):
        return f"{name} is {type_name(value)}, expected a dict"
    return json_fault(name, value)
