"""The commands with an index of two sparse models."""

import pytest

from tests.cli.conftest import MOON, Desk

pytest.importorskip("py_rust_stemmers", reason="needs the extra `bm25`")


def test_an_index_of_two_models_is_filled_searched_and_described(desk: Desk) -> None:
    desk.write("docs/moon.md", MOON)
    desk.run("index", "docs", "--to", "index", "--second-model", "Qdrant/bm25")
    again = desk.json("index", "docs", "--to", "index")
    shown = desk.run("search", "moon", "--index", "index").stdout
    found = desk.json("search", "moon", "--index", "index")["hits"]
    info = desk.run("info", "--index", "index").stdout

    assert again["new"] == 0
    assert "second model:" in shown
    assert set(found[0]["branches"]) == {"sparse", "second"}
    assert found[0]["second"]["score"] == pytest.approx(found[0]["branches"]["second"]["score"], rel=1e-4)
    assert "second model  Qdrant/bm25" in info


def test_reindexing_adds_and_removes_the_second_model(desk: Desk) -> None:
    desk.write("docs/moon.md", MOON)
    desk.run("index", "docs", "--to", "index")
    desk.run("reindex", "--index", "index", "--second-model", "Qdrant/bm25")
    added = desk.json("info", "--index", "index")
    desk.run("reindex", "--index", "index", "--second-model", "none")
    removed = desk.json("info", "--index", "index")

    assert (added["second_model"], removed["second_model"]) == ("Qdrant/bm25", None)
