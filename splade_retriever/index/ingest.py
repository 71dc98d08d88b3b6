"""The stream of `add`: read, compare with what is stored, encode, write; encoding and writing overlap.

It knows no engine and no encoder: `lookup`, `encode` and `write` are arguments.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Literal

from splade_retriever.errors import InputError
from splade_retriever.index.documents import BadInput, BadStreamError, Document, DocumentKey
from splade_retriever.key_paths import escaped_metadata
from splade_retriever.validation import is_same_json

__all__ = ["Batch", "OnError", "Stored", "ingest"]

OnError = Literal["raise"] | Callable[[BadInput], object]

_QUEUED_BATCHES: Final = 1
"""Encoded batches that may wait for a thread: enough to keep both sides busy, little memory."""
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
    last_position: int = 0
    """Position of its last input."""
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
    write_threads: int = 1,
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
        on_written: Called with the ids of each batch after the engine has acknowledged it and all before it,
            in order, one call at a time.
        stop: Set it from another thread to end after the current batch.
        write_threads: How many batches are written at once, each in a thread; 0 to write in the calling
            thread, for engines bound to the thread that made them.

    Returns:
        The ids of all stored inputs, in order.

    Raises:
        InputError: With `on_error="raise"`; everything before the bad input is written, nothing after it.
            Where the engine refuses a document, some batches after it may be written: the error says how far.
        Exception: What `documents` raised, after everything before it was written.
    """
    with _Writer(write, on_error, on_written, write_threads) as writer:
        for batch in _batches(documents, batch_size, on_error, writer):
            if stop.is_set():
                break
            # Of an id that appears twice the last counts: within a batch here, else by the order of writes.
            latest = _latest(batch)
            if any(document.id in writer.in_flight for document in latest):
                writer.drain()  # a lookup does not see documents that wait to be written
            writer.submit(_plan(latest, batch, hash_of, lookup, encode))
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
                raise BadStreamError(f"Input {document.position} of add: {document.reason}.")
            else:
                on_error(document)
    except Exception as error:
        # What came before the fault is written and nothing after it, for a bad input as for an error of the
        # caller's iterator. Only an interrupt does not wait for the encoder.
        if batch:
            yield batch
        writer.drain()
        if not isinstance(error, BadStreamError):
            raise
        raise InputError(
            f"{error} The {good} inputs before it were written, nothing after it. Fix the input and "
            "add the rest, or pass on_error=a_list.append to skip and collect what cannot be stored."
        ) from error
    if batch:
        yield batch


def _plan(
    documents: Sequence[Document],
    inputs: Sequence[Document],
    hash_of: Callable[[Document], str],
    lookup: Callable[[Sequence[Document]], Mapping[DocumentKey, Stored]],
    encode: Callable[[Sequence[Document]], Sequence[Sequence[Any]]],
) -> Batch:
    """Sort a batch into new documents, which are encoded, those with new metadata only, and known ones."""
    batch = Batch(ids=[document.id for document in inputs], last_position=inputs[-1].position)
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
    """Writes batches in threads, where a few may wait, and acknowledges them in order."""

    def __init__(
        self,
        write: Callable[[Batch], Sequence[BadInput]],
        on_error: OnError,
        on_written: Callable[[list[str]], object],
        threads: int,
    ) -> None:
        self._write, self._on_error, self._on_written = write, on_error, on_written
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="splade-write") if threads else None
        self._max_waiting = threads + _QUEUED_BATCHES
        self._waiting: deque[tuple[Future[None], list[str]]] = deque()
        self._numbers = count()
        self._failed = False
        self._lock = threading.Lock()
        self._written: dict[int, tuple[Batch, Sequence[BadInput]]] = {}
        """By their numbers, batches that are written while one before them is not."""
        self._acknowledged = 0
        """How many batches are acknowledged."""
        self._last_position = 0
        self._refused: list[BadInput] = []
        """What the engine does not take, where that is an error."""
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
        number = next(self._numbers)
        if self._pool is None:
            self._run(number, batch)
            self._check_refused()
            return
        self.in_flight.update(batch.ids)
        self._waiting.append((self._pool.submit(self._run, number, batch), batch.ids))
        while self._waiting and self._waiting[0][0].done():
            self._finish_one()
        if len(self._waiting) > self._max_waiting:
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
        self._check_refused()

    def _check_refused(self) -> None:
        """Raise an error for what the engine did not take, after the other writes have ended."""
        if not self._refused:
            return
        wait([future for future, _ in self._waiting])
        raise _refusal(self._refused, self._last_position)

    def _run(self, number: int, batch: Batch) -> None:
        if self._failed:  # a later batch must not overtake one that failed
            return
        try:
            refused = self._write(batch)
        except BaseException:
            self._failed = True
            raise
        if refused and not callable(self._on_error):
            self._failed = True
        with self._lock:
            self._written[number] = batch, refused
            while self._acknowledged in self._written:
                self._acknowledge(*self._written.pop(self._acknowledged))

    def _acknowledge(self, batch: Batch, refused: Sequence[BadInput]) -> None:
        self._acknowledged += 1
        self._last_position = batch.last_position
        for item in refused:
            if callable(self._on_error):
                self._on_error(item)
            else:
                self._refused.append(item)
        without = {item.id for item in refused}
        ids = [id for id in batch.ids if id not in without]
        self.stored += ids
        self._on_written(ids)


def _refusal(refused: Sequence[BadInput], last_position: int) -> InputError:
    first, *others = refused
    positions = ", ".join(str(item.position) for item in others)
    more = f" Refused, too: {positions}." if others else ""
    return InputError(
        f"Input {first.position} of add: {first.reason}.{more} The other inputs up to {last_position} were "
        "written, nothing after them. Fix the input and add the rest, or pass on_error=a_list.append to skip "
        "and collect what cannot be stored."
    )
