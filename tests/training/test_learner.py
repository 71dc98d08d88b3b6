"""The losses of a batch, and the pressure that holds the number of active dimensions."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

import torch

from splade_retriever.training.learner import LearningSettings, Pressure, losses

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_losses_are_their_formulas() -> None:
    queries = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    scores = queries @ texts.T  # [[2, 1], [0, 3]]
    settings = LearningSettings(
        flops_text=0.5, flops_query=0.25, l1_query=0.1, distillation=1.0, softened=1.0
    )

    found = losses(
        queries,
        texts,
        gain=torch.tensor([1.0, 2.0, 0.5]),
        teacher=scores,
        settings=settings,
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
            settings=LearningSettings(distillation=1.0, softened=1.0, temperature=3.0),
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


def test_pressure_rises_above_the_goal_and_falls_below_it() -> None:
    pressure = Pressure({"text": 100.0}, ramp=0.3)

    pressure.adjust({"text": 450.0}, done=0.0)  # five times the goal is allowed at the start
    assert pressure.factors["text"] < 1
    before = pressure.factors["text"]
    pressure.adjust({"text": 450.0}, done=0.5)
    assert pressure.factors["text"] > before
