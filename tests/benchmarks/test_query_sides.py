"""The benchmark of the two bundled models."""

from pathlib import Path

from benchmarks.query_sides import build, one_turn
from splade_retriever import SpladeIndex
from splade_retriever.encoding.model_files import bundled_names

TEXTS = ["A rover left the lander.", "The hottest stars are blue.", "Gluten harms the small intestine."]


def test_one_index_of_repeated_texts_serves_both_models(tmp_path: Path) -> None:
    build(tmp_path, TEXTS, 7)

    with SpladeIndex(tmp_path) as index:
        assert index.count() == 7
        assert [hit.text for hit in index.search("hot stars", k=3)][:2] == [TEXTS[1]] * 2
    for name in bundled_names():
        figures = one_turn(tmp_path, name, ["hot stars", "a lander"])
        assert figures.keys() == {"query_p50_ms", "search_p50_ms", "queries_per_s"}
        assert 0 < figures["query_p50_ms"] < 1e3 * 60
