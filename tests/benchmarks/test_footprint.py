from typing import Any

from benchmarks.footprint import measure, vectors


def test_the_vectors_have_the_active_dimensions_asked_for() -> None:
    for vector in vectors(20, 30):
        assert len(set(vector.indices)) == len(vector.values) == 30
        assert vector.indices == sorted(vector.indices)
        assert min(vector.values) > 0


def test_the_report_adds_up() -> None:
    found: Any = measure(300, 40, 2000, "float32")

    assert found["postings"] == 12_000
    for state in ("added", "optimised"):
        parts = found[state]["disk"]
        assert parts["all"] == sum(size for name, size in parts.items() if name != "all")
        # 8 bytes of id and weight a posting, and the text, in the log and in the storage.
        assert parts["all"] > 12_000 * 8 + 300 * 2000
        assert found[state]["memory"]["anonymous"] > 0
        assert found[state]["query_ms"]["p95"] >= found[state]["query_ms"]["p50"] > 0
