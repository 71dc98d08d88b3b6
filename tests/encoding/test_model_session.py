"""Sessions: shared within a process, separate after a fork."""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from splade_retriever import SparseEmbedding, SparseTextEmbedding
from splade_retriever.errors import InputError, NotSupportedError
from tests.tiny import write_tiny_model

TEXTS = [f"the moon and mission number {number} " * 5 for number in range(60)]


def session(model: SparseTextEmbedding) -> object:
    list(model.embed("moon"))
    return model._opened_session()


def memory_mb() -> float:
    """Return the memory that this process alone has written, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1]) / 1000


def test_encoders_of_one_model_with_other_threads_and_lengths_share_a_session(tiny_folder: Path) -> None:
    models = [SparseTextEmbedding(tiny_folder, threads=threads, max_length=8) for threads in (None, 1, 2)]

    assert len({id(session(model)) for model in models}) == 1
    assert session(SparseTextEmbedding()) is session(SparseTextEmbedding(lazy_load=True))


def test_encoders_of_one_tokenizer_file_and_length_share_the_tokenizer(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    first, second = SparseTextEmbedding(folder), SparseTextEmbedding(folder, threads=2, precision="int8")
    copied = SparseTextEmbedding(shutil.copytree(folder, tmp_path / "copied"))

    assert first.tokenizer is second.tokenizer is copied.tokenizer
    assert SparseTextEmbedding(folder, max_length=8).tokenizer is not first.tokenizer
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=1), "utf-8")
    assert SparseTextEmbedding(folder).tokenizer is not first.tokenizer


def test_another_precision_or_another_model_has_its_own_session(tiny_folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "tiny", seed=1)
    models = [
        SparseTextEmbedding(tiny_folder),
        SparseTextEmbedding(tiny_folder, precision="int8"),
        SparseTextEmbedding(other),
    ]

    assert len({id(session(model)) for model in models}) == 3


def test_half_precision_returns_nearly_the_vectors_of_float32_and_is_part_of_the_fingerprint(
    tiny_folder: Path,
) -> None:
    exact, half = (SparseTextEmbedding(tiny_folder, precision=kind) for kind in ("fp32", "fp16"))
    for one, other in zip(exact.embed(TEXTS), half.embed(TEXTS), strict=True):
        found, expected = other.as_dict(), one.as_dict()
        for entry in expected.keys() | found.keys():
            assert abs(expected.get(entry, 0.0) - found.get(entry, 0.0)) <= 0.01
    assert (exact.fingerprint["precision"], half.fingerprint["precision"]) == ("fp32", "fp16")
    with pytest.raises(InputError, match=r"precision is 'fp16', and model .* exists only as int8"):
        SparseTextEmbedding(precision="fp16")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux's /proc")
def test_a_second_encoder_of_the_bundled_model_needs_almost_no_memory() -> None:
    first = SparseTextEmbedding()
    list(first.embed(TEXTS[:2]))
    before = memory_mb()

    others = [SparseTextEmbedding() for _ in range(3)]
    for model in others:
        list(model.embed(TEXTS[:2]))

    # Each of them would need 43 MB with its own session, and more with its own tokenizer.
    assert memory_mb() - before < 3 * 3


def test_a_session_is_closed_with_its_last_encoder(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    model = SparseTextEmbedding(folder)
    kept = SparseTextEmbedding(folder)
    opened = weakref.ref(kept._opened_session())

    del model
    gc.collect()
    assert opened() is not None
    del kept
    gc.collect()
    assert opened() is None


def test_threads_that_open_a_model_at_once_open_one_session(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    models = [SparseTextEmbedding(folder, lazy_load=True) for _ in range(8)]
    start, found = threading.Barrier(8), []

    def work(model: SparseTextEmbedding) -> None:
        start.wait()
        found.append(session(model))

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(one) for one in found}) == 1


# -- fork ----------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], bool]) -> int:
    """Run a function in a forked child; return 0 if it returned True within 20 seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 - reported by the exit status
            os._exit(2)
    return os.waitpid(child, 0)[1]


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_an_encoder_works_in_a_forked_child(bundled: SparseTextEmbedding) -> None:
    expected = list(bundled.embed(TEXTS))

    def work() -> bool:
        vectors = list(bundled.embed(TEXTS))
        return all(
            np.array_equal(one.indices, two.indices) and np.allclose(one.values, two.values, atol=1e-5)
            for one, two in zip(vectors, expected, strict=True)
        )

    assert in_child(work) == 0
    assert list(bundled.embed(TEXTS[0])) == [expected[0]]


@needs_fork
def test_an_encoder_works_in_children_forked_while_the_parent_encodes(tiny: SparseTextEmbedding) -> None:
    expected, done = next(tiny.embed("the moon")), threading.Event()

    def busy() -> None:
        while not done.is_set():
            list(tiny.embed(TEXTS))
            SparseTextEmbedding.list_supported_models()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert in_child(lambda: next(tiny.query_embed(["the moon", *TEXTS])) == expected) == 0
            time.sleep(0.01)
    finally:
        done.set()
        for thread in threads:
            thread.join()


@needs_fork
def test_a_lazily_opened_model_works_in_a_forked_child(tiny_folder: Path) -> None:
    model = SparseTextEmbedding(tiny_folder, lazy_load=True)

    assert in_child(lambda: len(next(model.embed("the moon"))) > 0) == 0
    assert len(next(model.embed("the moon"))) > 0


@needs_fork
def test_an_iterator_of_the_parent_cannot_be_continued_in_a_child(tiny: SparseTextEmbedding) -> None:
    vectors = tiny.embed("the moon" for _ in range(5000))
    next(vectors)

    def work() -> bool:
        try:
            list(vectors)
        except NotSupportedError as error:
            return "Call embed() in this process" in str(error)
        return False

    assert in_child(work) == 0
    assert len(list(vectors)) == 4999


def encode(text: str) -> list[int]:
    (vector,) = MODELS[0].embed(text)
    return [int(index) for index in vector.indices]


MODELS: list[SparseTextEmbedding] = []


@needs_fork
def test_a_multiprocessing_pool_with_fork_shares_an_encoder(tiny: SparseTextEmbedding) -> None:
    MODELS[:] = [tiny]
    expected: list[SparseEmbedding] = list(tiny.embed(TEXTS[:8]))

    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = pool.map(encode, TEXTS[:8])

    assert answers == [vector.indices.tolist() for vector in expected]
