"""The benchmark of the search page: its documents, and its report."""

import os
from pathlib import Path

import pytest

from benchmarks.search_page import Figures, build, cpu_seconds, paragraphs, passages, table
from splade_retriever import SparseEmbedding, SpladeIndex

pytestmark = pytest.mark.benchmarks


def test_repeated_vectors_have_the_same_tokens_and_other_weights() -> None:
    vectors = [SparseEmbedding.from_dict({1: 1.0, 7: 2.0}), SparseEmbedding.from_dict({3: 1.0})]

    repeated = list(passages(["a", "b"], vectors, 5))

    assert [vector.indices.tolist() for vector in repeated] == [[1, 7], [3], [1, 7], [3], [1, 7]]
    assert len({vector.values.tobytes() for vector in repeated}) == 5
    assert all(0.8 <= weight <= 1.2 for vector in repeated[1::2] for weight in vector.values)


def test_the_index_has_as_many_documents_as_asked_for(tmp_path: Path) -> None:
    build(tmp_path / "index", paragraphs()[:3], 8)

    with SpladeIndex(tmp_path / "index", create=False) as index:
        assert index.count() == 8


def test_the_report_shows_the_ratio_of_explaining_to_encoding() -> None:
    content = table(Figures(1000, 75, 12.4, 20.6, 30.0, 9.6, 2.0, 3.0, 2.0, 2.4, 1.5))

    assert "| a keystroke, median of 75 | 12 ms |" in content
    assert "| processor time of the server and its engine for a keystroke | 10 ms |" in content
    assert "| explaining / encoding | 1.50x |" in content
    assert "| the same in processor time | 1.20x |" in content


def test_the_processor_time_of_a_process_and_its_children_is_read() -> None:
    used = cpu_seconds(os.getpid())

    assert used > 0.1
    assert cpu_seconds(os.getpid()) >= used
