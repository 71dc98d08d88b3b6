"""The stream of `add` without an engine and without an encoder."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.documents import BadInput, Document, DocumentKey
from splade_retriever.index.ingest import Batch, Stored, ingest


class Store:
    """Keeps documents in a dict, as a collection would: one point per word of a text."""

    def __init__(self) -> None:
        self.documents: dict[DocumentKey, Stored] = {}
        self.batches: list[Batch] = []
        self.encoded: list[str] = []
        self.acknowledged: list[list[str]] = []
        self.fails_on: str | None = None
        self.waits_for: dict[str, threading.Event] = {}
        self.begun: dict[str, threading.Event] = defaultdict(threading.Event)
        self.refuses: str | None = None

    def lookup(self, documents: Sequence[Document]) -> dict[DocumentKey, Stored]:
        keys = [document.key for document in documents if document.key in self.documents]
        return {key: self.documents[key] for key in keys}

    def encode(self, documents: Sequence[Document]) -> list[list[models.PointStruct]]:
        self.encoded += [document.text for document in documents]
        return [self._points(document) for document in documents]

    @staticmethod
    def _points(document: Document) -> list[models.PointStruct]:
        payload = {"key": document.key, "hash": document.text, "metadata": document.metadata}
        words = document.text.split()
        return [models.PointStruct(id=n, vector={}, payload=payload) for n in range(len(words))]

    def write(self, batch: Batch) -> list[BadInput]:
        first = batch.ids[0]
        self.begun[first].set()
        if first in self.waits_for:
            assert self.waits_for[first].wait(10)
        if first == self.fails_on:
            raise OSError("disk full")
        self.batches.append(batch)
        for points in batch.points:
            payload: dict[str, Any] = points[0].payload or {}
            self.documents[payload["key"]] = Stored(payload["hash"], payload["metadata"], len(points))
        for document, stored in batch.metadata:
            self.documents[document.key] = Stored(stored.hash, document.metadata, stored.windows)
        return [BadInput(d.position, d.id, "is too large") for d in batch.documents if d.text == self.refuses]

    def add(
        self, *inputs: Document | BadInput, stream: Iterator[Document] | None = None, **options: Any
    ) -> list[str]:
        defaults = {"batch_size": 2, "on_error": "raise", "stop": threading.Event()}
        settings: dict[str, Any] = {**defaults, **options}
        return ingest(
            iter(inputs) if stream is None else stream,
            hash_of=lambda document: document.text,
            lookup=self.lookup,
            encode=self.encode,
            write=self.write,
            on_written=self.acknowledged.append,
            **settings,
        )


def document(id: str, text: str, **metadata: Any) -> Document:
    return Document(0, id, text, metadata)


@pytest.mark.parametrize("write_threads", [0, 1, 3])
def test_batches_are_acknowledged_in_order_with_all_their_ids(write_threads: int) -> None:
    store = Store()

    ids = store.add(*(document(str(n), f"text {n}") for n in range(5)), write_threads=write_threads)

    assert ids == ["0", "1", "2", "3", "4"]
    assert store.acknowledged == [["0", "1"], ["2", "3"], ["4"]]


def test_only_new_and_changed_texts_are_encoded_and_changed_metadata_is_replaced() -> None:
    store = Store()
    store.add(document("a", "one", n=1), document("b", "two", n=1), document("c", "three", n=1))
    store.encoded.clear()
    store.batches.clear()

    store.add(document("a", "one", n=1), document("b", "two", n=2), document("c", "other", n=1))

    assert store.encoded == ["other"]
    assert [[found.id for found, _ in batch.metadata] for batch in store.batches] == [["b"], []]
    assert store.documents[DocumentKey("b")].metadata == {"n": 2}


def test_windows_that_a_shorter_text_no_longer_needs_are_surplus() -> None:
    store = Store()
    store.add(document("a", "one two three"))

    store.add(document("a", "one"))

    assert [(found.id, first, end) for found, first, end in store.batches[-1].surplus] == [("a", 1, 3)]


def test_of_an_id_that_appears_twice_the_last_counts_within_a_batch_and_across_batches() -> None:
    store = Store()

    ids = store.add(document("a", "one"), document("a", "two"), document("b", "b"), document("a", "three"))

    assert ids == ["a", "a", "b", "a"]
    assert store.documents[DocumentKey("a")].hash == "three"
    assert "one" not in store.encoded


def test_everything_before_a_bad_input_is_written_and_nothing_after_it() -> None:
    store = Store()

    with pytest.raises(InputError, match=r"text is an int.*The 3 inputs before it were written"):
        store.add(
            *(document(str(n), f"text {n}") for n in range(3)),
            BadInput(3, None, "text is an int"),
            document("4", "after"),
        )

    assert [id for ids in store.acknowledged for id in ids] == ["0", "1", "2"]


def test_bad_inputs_are_skipped_where_a_function_collects_them() -> None:
    store, bad = Store(), BadInput(1, None, "text is an int")
    skipped: list[BadInput] = []

    ids = store.add(document("a", "one"), bad, document("b", "two"), on_error=skipped.append)

    assert (ids, skipped) == (["a", "b"], [bad])


def test_an_error_of_the_stream_is_raised_after_everything_before_it_is_written() -> None:
    def stream() -> Iterator[Document]:
        yield document("a", "one")
        raise KeyError("row 2")

    store = Store()
    with pytest.raises(KeyError, match="row 2"):
        store.add(stream=stream())
    assert store.acknowledged == [["a"]]


@pytest.mark.parametrize("write_threads", [0, 1, 3])
def test_after_a_failed_write_no_later_batch_is_written(write_threads: int) -> None:
    store = Store()
    store.fails_on = "2"

    with pytest.raises(OSError, match="disk full"):
        store.add(*(document(str(n), f"text {n}") for n in range(20)), write_threads=write_threads)

    assert store.acknowledged == [["0", "1"]]


def test_batches_that_are_written_at_once_are_acknowledged_in_order() -> None:
    store = Store()
    store.waits_for["0"] = store.begun["2"]  # the first write ends after the second one has begun

    ids = store.add(*(document(str(n), f"text {n}") for n in range(6)), write_threads=2)

    assert ids == ["0", "1", "2", "3", "4", "5"]
    assert store.acknowledged == [["0", "1"], ["2", "3"], ["4", "5"]]


def test_what_was_written_after_a_failed_write_is_not_acknowledged() -> None:
    store = Store()
    store.fails_on = "0"
    store.waits_for["0"] = store.begun["2"]

    with pytest.raises(OSError, match="disk full"):
        store.add(*(document(str(n), f"text {n}") for n in range(4)), write_threads=2)

    assert store.acknowledged == []


def test_an_error_for_a_refused_document_says_up_to_where_the_others_were_written() -> None:
    store = Store()
    store.refuses = "large"
    store.waits_for["0"] = store.begun["2"]
    inputs = [Document(n, str(n), "large" if n in {1, 3} else f"text {n}", {}) for n in range(12)]

    with pytest.raises(InputError) as caught:
        store.add(*inputs, write_threads=2)

    (last,) = re.findall(r"The other inputs up to (\d+) were written, nothing after them", str(caught.value))
    assert "Input 1 of add: is too large. Refused, too: 3." in str(caught.value)
    written = [str(n) for n in range(int(last) + 1) if n not in {1, 3}]
    assert [id for ids in store.acknowledged for id in ids] == written
    assert sorted(id for batch in store.batches for id in batch.ids if id not in {"1", "3"}) == sorted(
        written
    )


def test_a_stopped_stream_ends_after_the_current_batch() -> None:
    store, stop = Store(), threading.Event()

    def stream() -> Iterator[Document]:
        for n in range(100):
            if n == 5:
                stop.set()
            yield document(str(n), "text")

    ids = store.add(stream=stream(), stop=stop)

    assert ids == ["0", "1", "2", "3"]
    assert [id for batch in store.acknowledged for id in batch] == ids
