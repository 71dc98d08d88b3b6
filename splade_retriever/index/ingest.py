"""The stream of `add`: read, compare with what is stored, encode, write; encoding and writing overlap.

It knows no engine and no encoder: `lookup`, `encode` and `write` are arguments.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from splade_retriever.errors import InputError
from splade_retriever.index.documents import BadInput, Document, DocumentKey
from splade_retriever.key_paths import escaped_metadata
from splade_retriever.validation import is_same_json

__all__ = ["Batch", "OnError", "Stored", "ingest"]

OnError = Literal["raise"] | Callable[[BadInput], object]

_WAITING_BATCHES: Final = 2
"""Encoded batches that may wait for the engine: enough to keep both sides busy, little memory."""
_HANDOVER_S: Final = 0.004
"""How long the next batch waits while the thread that writes sends its requests. That thread would get the
interpreter's lock only after 5 ms, in which the engine has nothing to do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the collection holds of a document."""

    hash: str | None
    metadata: Mapping[str, Any]
    windows: int
    """How many points it takes; 1 unless it is stored as windows."""
    text_hash: str | None = None
    """The hash that it would have without the vector that came with it; None where it came without."""
    has_escaped_fields: bool = False
    """Whether its payload has a copy of metadata whose keys no path names."""

    def has_content(self, hash: str) -> bool:
        """Return whether a document of a hash is stored already.

        A vector that came with a document is that of the collection's model: the same text without a vector
        is unchanged.
        """
        return self.hash is not None and hash in (self.hash, self.text_hash)

    def has_metadata(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a document's metadata is stored already, so that filters find all its keys."""
        needs_copy = escaped_metadata(metadata) is not None
        return needs_copy == self.has_escaped_fields and is_same_json(self.metadata, metadata)


@dataclass(slots=True)
class Batch:
    """One batch before it is written."""

    ids: list[str] = field(default_factory=list)
    """The users' ids of all inputs of the batch, in order: acknowledged when it is written."""
    documents: list[Document] = field(default_factory=list)
    """New or changed documents."""
    points: Sequence[Sequence[Any]] = field(default_factory=list)
    """The points of each of `documents`, as `write` takes them; they are written together."""
    metadata: list[tuple[Document, Stored]] = field(default_factory=list)
    """Documents of which only the metadata changed."""
    surplus: list[tuple[Document, int, int]] = field(default_factory=list)
    """Documents that now take fewer points: the windows in [first, end) are deleted."""


def ingest(
    documents: Iterable[Document | BadInput],
    *,
    batch_size: int,
    hash_of: Callable[[Document], str],
    lookup: Callable[[Sequence[Document]], Mapping[DocumentKey, Stored]],
    encode: Callable[[Sequence[Document]], Sequence[Sequence[Any]]],
    write: Callable[[Batch], Sequence[BadInput]],
    on_error: OnError,
    on_written: Callable[[list[str]], object],
    stop: threading.Event,
    overlap: bool = True,
) -> list[str]:
    """Run the stream to its end.

    Args:
        documents: Checked inputs, read as they are needed.
        batch_size: Documents to encode and write together.
        hash_of: Returns the content hash that a document would be stored with.
        lookup: Returns what the collection holds of these documents, by key.
        encode: Returns the points of each of these documents, in order, as `write` takes them.
        write: Writes a batch and returns when the engine has acknowledged it; returns the documents that the
            engine does not take.
        on_error: "raise", or a function that is called with each input that cannot be stored; for those that
            the engine does not take, in another thread.
        on_written: Called with the ids of each batch after the engine has acknowledged it, in order.
        stop: Set it from another thread to end after the current batch.
        overlap: False to write in the calling thread, for engines bound to the thread that made them.

    Returns:
        The ids of all stored inputs, in order.

    Raises:
        InputError: With `on_error="raise"`; everything before the bad input is written, nothing after it.
        Exception: What `documents` raised, after everything before it was written.
    """
    with _Writer(write, on_error, on_written, overlap) as writer:
        for batch in _batches(documents, batch_size, on_error, writer):
            if stop.is_set():
                break
            # Of an id that appears twice the last counts: within a batch here, else by the order of writes.
            latest = _latest(batch)
            if any(document.id in writer.in_flight for document in latest):
                writer.drain()  # a lookup does not see documents that wait to be written
            writer.submit(_plan(latest, [d.id for d in batch], hash_of, lookup, encode))
    return writer.stored


def _latest(batch: list[Document]) -> list[Document]:
    if len({document.id for document in batch}) == len(batch):
        return batch
    return list({document.key: document for document in batch}.values())


def _batches(
    documents: Iterable[Document | BadInput], size: int, on_error: OnError, writer: "_Writer"
) -> Iterator[list[Document]]:
    batch: list[Document] = []
    good = 0
    try:
        for document in documents:
            if isinstance(document, Document):
                batch.append(document)
                good += 1
                if len(batch) == size:
                    yield batch
                    batch = []
            elif on_error == "raise":
                raise InputError(f"Input {document.position} of add: {document.reason}.")
            else:
                on_error(document)
    except Exception as error:
        # What came before the fault is written and nothing after it, for a bad input as for an error of the
        # caller's iterator. Only an interrupt does not wait for the encoder.
        if batch:
            yield batch
        writer.drain()
        if not isinstance(error, InputError):
            raise
        raise InputError(
            f"{error} The {good} inputs before it were written, nothing after it. Fix the input and "
            "add the rest, or pass on_error=a_list.append to skip and collect what cannot be stored."
        ) from error
    if batch:
        yield batch


def _plan(
    documents: Sequence[Document],
    acknowledged: list[str],
    hash_of: Callable[[Document], str],
    lookup: Callable[[Sequence[Document]], Mapping[DocumentKey, Stored]],
    encode: Callable[[Sequence[Document]], Sequence[Sequence[Any]]],
) -> Batch:
    """Sort a batch into new documents, which are encoded, those with new metadata only, and known ones."""
    batch = Batch(ids=acknowledged)
    stored = lookup(documents)
    new = []
    for document in documents:
        known = stored.get(document.key) if stored else None
        if known is None or not known.has_content(hash_of(document)):
            new.append(document)
        elif not known.has_metadata(document.metadata):
            batch.metadata.append((document, known))
    batch.documents, batch.points = new, encode(new) if new else []
    for document, points in zip(new, batch.points, strict=True):
        known = stored.get(document.key) if stored else None
        if known is not None and known.windows > len(points):
            batch.surplus.append((document, len(points), known.windows))
    return batch


class _Writer:
    """Writes batches one after another in a thread; a few of them may wait."""

    def __init__(
        self,
        write: Callable[[Batch], Sequence[BadInput]],
        on_error: OnError,
        on_written: Callable[[list[str]], object],
        overlap: bool,
    ) -> None:
        self._write, self._on_error, self._on_written = write, on_error, on_written
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="splade-write") if overlap else None
        self._waiting: deque[tuple[Future[None], list[str]]] = deque()
        self._failed = False
        self.in_flight: Counter[str] = Counter()
        self.stored: list[str] = []
        """The ids of all inputs that are written, in order."""

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.drain()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True)

    def submit(self, batch: Batch) -> None:
        """Queue a batch; waits while too many are queued, and raises what an earlier write raised."""
        if self._pool is None:
            self._run(batch)
            return
        self.in_flight.update(batch.ids)
        self._waiting.append((self._pool.submit(self._run, batch), batch.ids))
        while self._waiting and self._waiting[0][0].done():
            self._finish_one()
        if len(self._waiting) > _WAITING_BATCHES:
            self._finish_one()
            time.sleep(_HANDOVER_S)

    def drain(self) -> None:
        """Wait until everything queued is written."""
        while self._waiting:
            self._finish_one()

    def _finish_one(self) -> None:
        future, ids = self._waiting.popleft()
        future.result()
        self.in_flight -= Counter(ids)

    def _run(self, batch: Batch) -> None:
        if self._failed:  # a later batch must not overtake one that failed
            return
        try:
            refused = self._write(batch)
            if refused and not callable(self._on_error):
                raise _refusal(refused[0])
        except BaseException:
            self._failed = True
            raise
        for item in refused:
            if callable(self._on_error):
                self._on_error(item)
        without = {item.id for item in refused}
        written = [id for id in batch.ids if id not in without]
        self.stored += written
        self._on_written(written)


def _refusal(item: BadInput) -> InputError:
    return InputError(
        f"Input {item.position} of add: {item.reason}. The inputs before it and the others of its batch were "
        "written, nothing after them. Fix the input and add the rest, or pass on_error=a_list.append to skip "
        "and collect what cannot be stored."
    )
