"""The index benchmark at a tiny size: its steps run, its stores agree, its report says what was found."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import index, stores
from benchmarks.index import BM25, EDGE, LOCAL, OPTIMISED, Row
from benchmarks.stores import STORES, Document
from benchmarks.vectors import VectorFile, splade_like


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    VectorFile.write(tmp_path / "vectors" / "documents", splade_like(120, 40, spread=0.25))
    VectorFile.write(tmp_path / "vectors" / "queries", splade_like(8, 12, seed=1))
    return tmp_path / "vectors"


@pytest.mark.parametrize("store", ["edge", "local", "bm25s"])
def test_a_store_is_built_and_searched(store: str, vectors: Path, tmp_path: Path) -> None:
    folder = tmp_path / store
    built = index.step("build", store, folder, vectors, 100)
    searched = index.step("search", store, folder, vectors, 100)
    found = index.row(100, store, built, searched, folder)
    assert found.build_s > 0
    assert found.open_s > 0
    assert found.p95_ms >= found.p50_ms > 0
    assert found.queries == 5
    assert min(found.build_mb, found.search_mb) > 20
    assert found.disk_mb > 0


def test_edge_and_local_mode_find_the_same_before_and_after_optimising(vectors: Path, tmp_path: Path) -> None:
    queries = VectorFile(vectors / "queries").read()
    answers = []
    for store in ("local", "edge", "edge"):
        folder = tmp_path / store
        if folder.exists():
            assert index.step("optimise", store, folder, vectors, 100)["seconds"] > 0
        else:
            index.step("build", store, folder, vectors, 100)
        opened: Any = STORES[store].open(folder)
        answers.append([opened.search(STORES[store].query(query)).points for query in queries])
        opened.client.close()
    for local, *edge in zip(*answers, strict=True):
        assert len(local) == stores.K
        for points in edge:
            assert [point.id for point in points] == [point.id for point in local]
            assert np.allclose([point.score for point in points], [point.score for point in local], atol=1e-4)
            assert points[0].payload == local[0].payload


def test_bm25s_searches_the_tokens_of_the_vectors(tmp_path: Path) -> None:
    documents = [Document.of(n, vector) for n, vector in enumerate(splade_like(60, 30))]
    STORES["bm25s"].build(tmp_path / "index", [documents])
    opened = STORES["bm25s"].open(tmp_path / "index")
    (first, *_), _ = (row[0].tolist() for row in opened.search(STORES["bm25s"].query(documents[17].vector)))
    assert first["text"] == documents[17].text


def test_our_layers_are_timed_beside_the_bare_call(vectors: Path, tmp_path: Path) -> None:
    index.step("build", "edge", tmp_path / "edge", vectors, 100)
    found = index.step("overhead", "edge", tmp_path / "edge", vectors, 100)
    bare, client, complete = found.values()
    assert list(found) == ["EdgeShard.query", "EdgeClient.query_points", "SpladeIndex.search"]
    assert bare["over_ms"] == 0
    assert complete["p50_ms"] > client["p50_ms"] > bare["p50_ms"] > 0
    lines = list(index.layers({**found, "SpladeIndex.search": {"p50_ms": 0.6, "over_ms": 0.5}}, 100))
    assert "`SpladeIndex.search` takes 0.50 ms more than the bare `qdrant_edge.EdgeShard.query`" in lines[1]
    assert lines[1].endswith("(goal: under 0.3 ms: missed)")


def test_more_documents_than_there_are_vectors_are_refused(vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has 120 documents, expected 500"):
        index.main(["--documents", "500", "--vectors", str(vectors), "--folder", str(tmp_path)])


def rows() -> Any:
    one = Row(20_000, EDGE, 2.0, 1.5, 0.5, 0.9, 1000, 200, 150, 60)
    return [
        one,
        replace(one, store=OPTIMISED, open_s=0.1),
        replace(one, store=LOCAL, p50_ms=1500.0, queries=20),
        replace(one, store=BM25, p50_ms=0.25),
        replace(one, documents=300_000, open_s=30.0),
        replace(one, documents=300_000, store=OPTIMISED, open_s=2.5, p95_ms=4.0),
    ]


def test_the_table_has_ratios_and_the_goals_say_what_was_reached() -> None:
    lines = list(index.table(rows()))
    assert (
        "| 20,000 | EdgeClient, optimised | 2.0 s | 10,000 | 0.10 s | 0.50 ms | 0.90 ms | 3,000x | 0.50x |"
        in (lines[3])
    )
    assert lines[-1].endswith("no time for all: local mode with 20,000: 20.")
    ends = [line.rpartition("(")[2] for line in index.goals(rows())]
    assert ends == ["goal: 500x: reached)", "goal: under 5 ms: reached)", "goal: under 2 s: missed)"]
    assert not list(index.goals(rows()[:2]))


def test_the_curve_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    index.draw(rows(), tmp_path / "img" / "one.svg")
    index.draw(rows(), tmp_path / "two.svg")
    drawn = (tmp_path / "two.svg").read_text("utf-8")
    assert drawn == (tmp_path / "img" / "one.svg").read_text("utf-8")
    assert len(drawn) < 100_000
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert all(name in drawn for name in (EDGE, OPTIMISED, LOCAL, BM25))


@pytest.mark.slow
def test_the_whole_benchmark_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("benchmarks.page.PAGE", tmp_path / "docs" / "benchmarks.md")
    arguments = ["--documents", "60", "--without", "local", "--folder", str(tmp_path), "--write"]
    index.main(arguments)
    page = (tmp_path / "docs" / "benchmarks.md").read_text("utf-8")
    assert "`python -m benchmarks.index --documents 60 --without local`" in page
    assert page.count("| 60 | ") == 2, "60 documents are too few to optimise"
    assert "](img/index_cost.svg)" in page
    assert (tmp_path / "docs" / "img" / "index_cost.svg").is_file()
    assert capsys.readouterr().out.strip() in page
    assert not list(tmp_path.glob("index-*"))


def test_a_step_that_dies_is_reported(
    vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(index.StepDiedError, match="search of edge with 100 documents died"):
        index.run_step("search", "edge", tmp_path / "nothing", vectors, 100)
    assert "Collection 'docs' does not exist" in capfd.readouterr().err
