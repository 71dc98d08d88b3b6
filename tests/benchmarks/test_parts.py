"""What the benchmarks share: vectors to measure with, and the page that their reports go to."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import page
from benchmarks.vectors import VOCABULARY, VectorFile, expected_products, splade_like


def test_the_first_vectors_of_many_are_those_of_few() -> None:
    many = list(splade_like(1200, 40, spread=0.25))
    assert list(splade_like(300, 40, spread=0.25)) == many[:300]
    assert list(splade_like(300, 40, seed=1, spread=0.25)) != many[:300]


def test_vectors_have_the_dimensions_and_the_frequencies_asked_for() -> None:
    vectors = list(splade_like(1000, 120, spread=0.25))
    lengths = [len(vector) for vector in vectors]
    shares = np.bincount(np.concatenate([v.indices for v in vectors]), minlength=VOCABULARY) / len(vectors)
    assert abs(np.mean(lengths) - 120) < 3
    assert 20 < np.std(lengths) < 40
    head, middle, tail = shares[:10].mean(), shares[190:210].mean(), shares[4900:5100].mean()
    assert head > 2 * middle > 20 * tail > 0


def test_expected_products_are_the_mean_number_of_shared_tokens() -> None:
    documents, queries = list(splade_like(60, 50)), list(splade_like(40, 10, seed=1))
    shared = [len(np.intersect1d(d.indices, q.indices)) for d in documents for q in queries]
    assert np.isclose(expected_products(documents, queries), np.mean(shared))


def test_a_file_of_vectors_is_read_completely_and_in_parts(tmp_path: Path) -> None:
    vectors = list(splade_like(50, 30, spread=0.25))
    file = VectorFile.write(tmp_path / "vectors", iter(vectors))
    assert len(file) == 50
    assert file.read() == vectors
    assert file.read(7, 9) == vectors[7:9]
    assert [len(part) for part in file.parts(20, limit=45)] == [20, 20, 5]
    assert [vector for part in file.parts(20) for vector in part] == vectors


def test_a_report_replaces_the_one_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page.write("encode", "Encoding", "first")
    page.write("index", "The index", "another")
    path = tmp_path / "docs" / "benchmarks.md"
    path.write_text(f"before\n{path.read_text('utf-8')}after\n", encoding="utf-8")
    page.write("encode", "Encoding", "second")
    text = path.read_text("utf-8")
    assert "first" not in text
    assert text.startswith("before\n")
    assert "## Encoding\n\n<!-- encode: start -->\nsecond\n<!-- encode: end -->" in text
    assert "another" in text
    assert text.endswith("after\n")
