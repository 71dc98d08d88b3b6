"""The head in PyTorch: gradients, pooling, padding, counts."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

import torch

from splade_retriever.training.batches import padded
from splade_retriever.training.model import LexicalHead

pytestmark = pytest.mark.usefixtures("one_thread")


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

    complete, few = head(hidden, ids, mask), head(hidden, ids, mask, 4)

    for row, kept in zip(complete, few, strict=True):
        heaviest = row.topk(4).indices
        torch.testing.assert_close(kept[heaviest], row[heaviest])
        assert int((kept > 0).sum()) <= 4


def test_padding_never_changes_what_the_head_gives(head: LexicalHead) -> None:
    hidden, ids = torch.randn(1, 3, 16), torch.randint(3, 60, (1, 3))
    padded, more = torch.cat([hidden, 50 * torch.randn(1, 4, 16)], 1), torch.cat([ids, ids, ids[:, :1]], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])

    for keep in (None, 20):
        torch.testing.assert_close(head(hidden, ids, mask[:, :3], keep), head(padded, more, mask, keep))


def test_special_tokens_decide_nothing(head: LexicalHead) -> None:
    hidden, ids = torch.randn(1, 4, 16), torch.tensor([[1, 7, 9, 2]])  # 0 to 2 are barred
    mask = torch.ones(1, 4, dtype=torch.long)

    for keep in (None, 20):
        weights = head(hidden, ids, mask, keep)

        torch.testing.assert_close(weights, head(hidden[:, 1:3], ids[:, 1:3], mask[:, 1:3], keep))
        assert not head(hidden[:, :1], ids[:, :1], mask[:, :1], keep).any()


def test_an_entry_that_does_not_expand_weighs_where_it_stands() -> None:
    head = firing_head()
    hidden, ids, mask = torch.randn(2, 4, 16), torch.tensor([[5, 8, 9, 8], [4, 6, 11, 0]]), torch.ones(2, 4)
    mask[1, 3] = 0
    complete = head(hidden, ids, mask)
    alone = torch.stack([head(hidden[:, [n]], ids[:, [n]], mask[:, [n]]) for n in range(4)])
    head.expanding[:] = False
    head.expanding[[7, 9]] = True

    weights = head(hidden, ids, mask)

    torch.testing.assert_close(weights[:, [7, 9]], complete[:, [7, 9]])
    torch.testing.assert_close(weights[0, [5]], alone[0, 0, [5]])
    torch.testing.assert_close(weights[0, 8], torch.maximum(alone[1, 0, 8], alone[3, 0, 8]))
    torch.testing.assert_close(weights[1, [4, 6, 11]], alone[[0, 1, 2], 1, [4, 6, 11]])
    absent = weights.clone()
    absent[:, [7, 9]] = 0
    absent[0, [5, 8]] = absent[1, [4, 6, 11]] = 0
    assert not absent.any()
    assert (complete[:, 20:] > 0).any()


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
