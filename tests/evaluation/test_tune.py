"""`tune`: quality, size and time of every setting, and the choice that does not take noise for a gain."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from splade_retriever import RetrieverConfig, SpladeIndex
from splade_retriever.cli.commands import app
from splade_retriever.errors import InputError, StorageError
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import ndcg_of_each, score_rankings
from splade_retriever.evaluation.tune import choose, choose_hybrid, collection_from_headings, tune
from splade_retriever.evaluation.tune_report import HybridRow, TuneRow, check_plot
from tests.evaluation.conftest import WORDS
from tests.words import WordEncoder

ONE: dict[str, Any] = {"document_dims": (None,), "query_dims": (None,), "datatypes": ("float32",)}
"""No pruning, in one datatype."""


def test_every_combination_is_measured_against_the_first(collection: BeirCollection) -> None:
    report = tune(
        collection, WordEncoder(), document_dims=(None, 1), query_dims=(None, 1), datatypes=("float32",)
    )

    assert [(row.max_active_dims, row.query_max_active_dims) for row in report.rows] == [
        (None, None),
        (None, 1),
        (1, None),
        (1, 1),
    ]
    first = report.rows[0]
    assert (first.difference, first.low, first.high) == (0.0, 0.0, 0.0)
    assert all(row.low <= row.difference <= row.high for row in report.rows)
    assert all(row.difference == pytest.approx(row.ndcg_at_10 - first.ndcg_at_10) for row in report.rows)
    assert all(row.search_ms > 0 for row in report.rows)
    assert report.choice in report.rows
    assert any(row.on_front for row in report.rows)


def test_ndcg_of_each_query_averages_to_the_score(collection: BeirCollection) -> None:
    rankings = {query: list(collection.documents)[:3] for query in collection.queries}

    each = ndcg_of_each(rankings, collection.judgements)

    assert each.mean() == pytest.approx(score_rankings(rankings, collection.judgements)["ndcg_at_10"])
    assert len(each) == len(collection.queries)


def row(low: float, size: int, ms: float = 1.0, **changed: Any) -> TuneRow:
    values: dict[str, Any] = {
        "max_active_dims": None,
        "query_max_active_dims": None,
        "datatype": "float32",
        "windows": "truncate",
        "ndcg_at_10": 0.5 + low,
        "difference": low,
        "high": low,
    }
    return TuneRow(**{**values, "low": low, "index_bytes": size, "search_ms": ms, **changed})


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([row(0.0, 100), row(-0.005, 50), row(-0.02, 10)], 1),  # the smallest that loses at most 0.01
        ([row(0.0, 100), row(0.05, 200)], 0),  # a higher nDCG@10 alone is no reason
        ([row(0.0, 100, 2.0), row(0.0, 100, 1.0)], 1),  # of equal size the fastest
        ([row(0.0, 100), row(-0.5, 1)], 0),
    ],
)
def test_the_smallest_setting_that_surely_loses_little_is_chosen(rows: list[TuneRow], chosen: int) -> None:
    assert choose(rows, max_loss=0.01) is rows[chosen]


def test_headings_of_two_words_are_queries_without_being_in_the_text() -> None:
    passages = [
        ("a", "text a", "Moon > The landing"),
        ("b", "text b", "Moon > The landing"),
        ("c", "text", "Moon"),
    ]

    found = collection_from_headings("notes", passages)

    assert found.queries == {"The landing": "The landing"}
    assert found.judgements == {"The landing": {"a": 1, "b": 1}}
    assert list(found.documents.values()) == ["text a", "text b", "text"]
    with pytest.raises(InputError, match="notes has 1 passages and no heading of 2 words or more"):
        collection_from_headings("notes", passages[2:])
    many = [(str(n), "text", f"heading {n}") for n in range(100)]
    assert len(collection_from_headings("notes", many, max_queries=10).queries) == 10


def test_long_texts_are_measured_complete_and_truncated(collection: BeirCollection) -> None:
    """The word that a query asks for is at the end of each document, where truncation loses it."""
    few = ONE
    assert {row.windows for row in tune(collection, WordEncoder(), **few).rows} == {"truncate"}

    report = tune(collection, WordEncoder(max_length=8), **few)

    merged, truncated = report.rows
    assert (merged.windows, truncated.windows) == ("merge", "truncate")
    assert merged.ndcg_at_10 == 1.0
    assert truncated.high < 0
    assert report.choice == merged
    assert report.index_settings() == {"windows": "merge"}
    assert "| merge | 1.0000 |" in report.to_markdown()
    alone = tune(collection, WordEncoder(max_length=8), windows=("truncate",), **few)
    assert [row.windows for row in alone.rows] == ["truncate"]


class WordPlaces:
    """A dense encoder that knows which of `WORDS` a text has most often; `noise` answers anything else."""

    def __init__(self, *, noise: bool = False) -> None:
        self.noise = noise

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        if self.noise:
            return [1.0, *[float(len(text) % 3)] * 7]
        return [float(text.count(word)) ** 3 + 0.01 for word in WORDS]


def test_hybrid_weights_are_chosen_where_the_gain_is_certain(collection: BeirCollection) -> None:
    few: dict[str, Any] = {**ONE, "windows": ("truncate",)}
    blind = WordEncoder(max_length=8)  # reads the words that all documents share

    gain = tune(collection, blind, dense=WordPlaces(), hybrid_weights=((1, 1), (1, 3)), **few)

    assert [row.label for row in gain.hybrid] == ["sparse", "dense", "1 : 1", "1 : 3"]
    assert gain.hybrid[0].difference == 0
    assert gain.hybrid_choice in gain.hybrid[1:]
    assert gain.hybrid_choice is not None
    assert gain.hybrid_choice.low > 0
    assert gain.search_settings()["mode"] in ("dense", "hybrid")
    assert "| 1 : 3 |" in gain.to_markdown()
    noise = tune(collection, WordEncoder(), dense=WordPlaces(noise=True), **few)
    assert noise.hybrid_choice == noise.hybrid[0]
    assert noise.search_settings() == {"mode": "sparse"}
    assert tune(collection, WordEncoder(), **few).search_settings() == {}


def test_a_hybrid_gain_that_may_be_noise_is_not_chosen() -> None:
    def row(mode: Any, low: float, high: float) -> HybridRow:
        weights = (1.0, 1.0) if mode == "hybrid" else None
        return HybridRow(mode, weights, 0.5, (low + high) / 2, low, high, 1.0)

    rows = [row("sparse", 0, 0), row("dense", -0.2, 0.3), row("hybrid", -0.001, 0.4)]
    assert choose_hybrid(rows) is rows[0]
    assert choose_hybrid([*rows, row("hybrid", 0.001, 0.01)]).low == 0.001


def test_wrong_arguments_are_refused(collection: BeirCollection) -> None:
    with pytest.raises(InputError, match="expected 'merge' and 'truncate'"):
        tune(collection, WordEncoder(), windows=("points",))
    empty: Any
    for empty in ({"document_dims": ()}, {"query_dims": []}, {"windows": ()}, {"windows": []}):
        with pytest.raises(InputError, match="empty list of values"):
            tune(collection, WordEncoder(), **empty)


def test_a_plot_that_cannot_be_written_is_an_error_that_names_the_file(
    collection: BeirCollection, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    report = tune(collection, WordEncoder(), **ONE)
    (tmp_path / "folder.svg").mkdir()

    with pytest.raises(StorageError, match=r"folder\.svg' cannot be written: .*Name a file"):
        report.plot(tmp_path / "folder.svg")
    with pytest.raises(StorageError, match=r"p\.svg' cannot be written: there is no folder '.*missing'"):
        check_plot(tmp_path / "missing" / "p.svg")


# -- the command ---------------------------------------------------------------------------------------------

MARKDOWN = "# Moon landing\n\nThe lander touched down.\n\n# Bread baking\n\nFlour, water and yeast.\n"
FEW = ["--max-active-dims", "all,32", "--query-max-active-dims", "all,8"]


def test_the_command_tunes_on_files_and_writes_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text(MARKDOWN, encoding="utf-8")
    written = ["--config", str(tmp_path / "c.yaml"), "--plot", str(tmp_path / "p.svg"), "--json"]

    result = CliRunner().invoke(app, ["tune", str(docs), *FEW, *written])

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["documents"], report["queries"], report["made_from_headings"]) == (2, 2, True)
    assert len(report["rows"]) == 8
    assert "<svg" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    settings = yaml.safe_load((tmp_path / "c.yaml").read_text(encoding="utf-8"))["index"]
    assert settings.get("max_active_dims") == report["choice"]["max_active_dims"]
    with RetrieverConfig.read(tmp_path / "c.yaml").open() as index:
        index.add(["The lander touched down."])
        assert index.count() == 1


def test_the_command_tunes_on_an_index_and_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with SpladeIndex(tmp_path / "index") as index:
        index.add(["The lander touched down.", "Flour."], [{"heading": "Moon landing"}, {}])

    result = CliRunner().invoke(app, ["tune", "~/index", *FEW])

    assert "made from headings, not judged by people" in " ".join(result.stdout.split())
    wrong = CliRunner().invoke(app, ["tune", str(tmp_path), "--max-active-dims", "some"])
    assert wrong.exit_code == 2
    assert "expected numbers or all" in " ".join(wrong.output.split())
    assert (
        "ends in .png or .svg" in CliRunner().invoke(app, ["tune", str(tmp_path), "--plot", "x.pdf"]).output
    )


def test_a_second_model_is_joined_with_several_weights(collection: BeirCollection) -> None:
    pytest.importorskip("py_rust_stemmers", reason="needs the extra `bm25`")
    report = tune(
        collection,
        WordEncoder(),
        **ONE,
        second_model="Qdrant/bm25",
        hybrid_weights=((1, 1), (1, 2)),
    )

    assert [(row.mode, row.weights) for row in report.hybrid] == [
        ("sparse", None),
        ("second", None),
        ("hybrid", (1.0, 1.0)),
        ("hybrid", (1.0, 2.0)),
    ]
    assert "| sparse : second | nDCG@10 |" in report.to_markdown()
