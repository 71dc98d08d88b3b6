"""A stream of texts: bounded reading, all threads in use, order, errors after the items before them."""

import threading
import time
from collections.abc import Generator, Iterator

import pytest

from splade_retriever.encoding.batching import TokenBatch
from splade_retriever.encoding.encode_stream import encode_stream
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError
from splade_retriever.sparse import SparseEmbedding
from tests.tiny import VOCABULARY, tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer(), max_length=32)
WINDOW = 512


class Counter:
    """Counts the texts read from an endless stream, and those encoded."""

    def __init__(self, *, wait: threading.Event | None = None) -> None:
        self.read = self.encoded = self.running = self.max_running = 0
        self.wait = wait
        self.lock = threading.Lock()

    def texts(self, limit: int | None = None) -> Iterator[str]:
        while limit is None or self.read < limit:
            self.read += 1
            yield "moon " * (self.read % 7 + 1)

    def encode(self, batch: TokenBatch) -> list[SparseEmbedding]:
        with self.lock:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        if self.wait is not None:
            self.wait.wait(10)
        with self.lock:
            self.running -= 1
            self.encoded += len(batch.rows)
        return [length_of(row) for row in batch.attention_mask.sum(axis=1).tolist()]


def length_of(tokens: int) -> SparseEmbedding:
    return SparseEmbedding.from_dict({tokens: 1.0})


def stream(counter: Counter, texts: object, *, workers: int = 2) -> Generator[SparseEmbedding, None, None]:
    return encode_stream(
        texts,  # type: ignore[arg-type]
        counter.encode,
        tokenizer=TOKENIZER,
        workers=workers,
        max_tokens=512,
        min_tokens=192,
        max_texts=None,
        on_window=lambda window: None,
    )


def encode_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("splade-encode")]


def test_at_most_two_windows_are_read_ahead() -> None:
    counter = Counter()
    vectors = stream(counter, counter.texts())

    for taken in range(1, 4 * WINDOW):
        next(vectors)
        assert counter.read - taken <= 2 * WINDOW
    vectors.close()


def test_more_workers_read_more_texts_ahead() -> None:
    counter = Counter()
    vectors = stream(counter, counter.texts(), workers=8)
    next(vectors)

    assert counter.read == 2 * 8 * WINDOW // 2
    vectors.close()


def test_a_window_of_long_texts_holds_fewer_texts() -> None:
    counter = Counter()
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "moon " * 40_000

    vectors = stream(counter, texts())
    next(vectors)

    assert read <= 10
    vectors.close()


def test_the_next_window_is_computed_while_the_current_one_is_consumed() -> None:
    counter = Counter()
    vectors = stream(counter, counter.texts())
    next(vectors)

    end = time.monotonic() + 10
    while counter.encoded < 2 * WINDOW:
        assert time.monotonic() < end
        time.sleep(0.001)
    vectors.close()


def test_one_batch_per_worker_runs_at_once() -> None:
    go = threading.Event()
    counter = Counter(wait=go)
    vectors = stream(counter, counter.texts(400), workers=3)
    taker = threading.Thread(target=lambda: list(vectors))
    taker.start()
    end = time.monotonic() + 10
    while counter.running < 3:
        assert time.monotonic() < end
        time.sleep(0.001)
    go.set()
    taker.join()

    assert counter.max_running == 3


def test_closing_early_ends_the_threads_and_drops_queued_batches() -> None:
    counter = Counter()
    vectors = stream(counter, counter.texts())
    next(vectors)
    assert encode_threads()

    vectors.close()

    assert not encode_threads()


def test_a_single_text_starts_no_thread() -> None:
    counter = Counter()
    vectors = stream(counter, ["moon"])
    next(vectors)

    assert not encode_threads()


def test_vectors_keep_the_order_of_the_texts_across_windows() -> None:
    texts = ["moon " * (number * 13 % 29 + 1) for number in range(2 * WINDOW + 77)]

    lengths = [vector.indices[0] for vector in stream(Counter(), texts)]

    assert lengths == [number * 13 % 29 + 3 for number in range(2 * WINDOW + 77)]


@pytest.mark.parametrize("position", [0, 3, WINDOW - 1, WINDOW, 2 * WINDOW + 5])
@pytest.mark.parametrize("bad", [None, 7, b"moon", "moon \ud83d"])
def test_an_item_that_is_not_text_raises_after_the_items_before_it(position: int, bad: object) -> None:
    texts: list[object] = ["moon"] * (2 * WINDOW + 50)
    texts[position] = bad
    vectors = stream(Counter(), texts)

    assert [vector.indices[0] for _, vector in zip(range(position), vectors, strict=False)] == [3] * position
    with pytest.raises(InputError, match=f"position {position} "):
        next(vectors)


def test_an_error_of_the_callers_iterator_keeps_its_position_and_type() -> None:
    def texts() -> Iterator[str]:
        yield "moon"
        yield "moon"
        raise ZeroDivisionError("of the caller")

    vectors = stream(Counter(), texts())

    assert len([next(vectors), next(vectors)]) == 2
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        next(vectors)


def test_an_error_of_the_model_ends_the_stream_and_its_threads() -> None:
    def broken(batch: TokenBatch) -> list[SparseEmbedding]:
        raise RuntimeError("no memory")

    vectors = encode_stream(
        ["moon"] * 2000,
        broken,
        tokenizer=TOKENIZER,
        workers=2,
        max_tokens=512,
        min_tokens=192,
        max_texts=8,
        on_window=lambda window: None,
    )

    with pytest.raises(RuntimeError, match="no memory"):
        next(vectors)
    assert not encode_threads()


def test_a_text_without_tokens_has_an_empty_vector_if_the_model_adds_none() -> None:
    plain = tiny_tokenizer()
    plain.post_processor = None
    vectors = encode_stream(
        ["", "moon", " "],
        Counter().encode,
        tokenizer=Tokenizer(plain, max_length=8),
        workers=1,
        max_tokens=512,
        min_tokens=192,
        max_texts=None,
        on_window=lambda window: None,
    )

    assert [len(vector) for vector in vectors] == [0, 1, 0]
    assert "moon" in VOCABULARY
