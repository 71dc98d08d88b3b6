"""Maximal marginal relevance over the hits of a search."""

import pytest

from splade_retriever import Hit
from splade_retriever.errors import InputError
from splade_retriever.index.mmr import diverse
from splade_retriever.sparse import SparseEmbedding


def hit(id: str, score: float, **weights: float) -> Hit:
    vector = SparseEmbedding.from_dict({ord(token): weight for token, weight in weights.items()})
    return Hit(id=id, text=id, metadata={}, score=score, vector=vector)


HITS = [hit("first", 10.0, a=1.0, b=1.0), hit("copy", 9.0, a=2.0, b=2.0), hit("other", 5.0, c=1.0)]


@pytest.mark.parametrize(
    ("lambda_mult", "expected"),
    [
        (1.0, ["first", "copy", "other"]),
        # copy: 0.8 * 0.9 - 0.2 * 1.0 = 0.52, other: 0.8 * 0.5 = 0.4
        (0.8, ["first", "copy", "other"]),
        # copy: 0.5 * 0.9 - 0.5 * 1.0 = -0.05, other: 0.5 * 0.5 = 0.25
        (0.5, ["first", "other", "copy"]),
        (0.0, ["first", "other", "copy"]),
    ],
)
def test_mmr_weighs_score_against_similarity(lambda_mult: float, expected: list[str]) -> None:
    assert [chosen.id for chosen in diverse(HITS, 3, lambda_mult=lambda_mult)] == expected


def test_mmr_returns_at_most_k_hits() -> None:
    assert [chosen.id for chosen in diverse(HITS, 1)] == ["first"]
    assert len(diverse(HITS, 9)) == 3
    assert diverse([], 3) == []


def test_mmr_treats_a_hit_without_tokens_as_different_from_all_others() -> None:
    blank = Hit(id="blank", text="", metadata={}, score=1.0)

    assert [chosen.id for chosen in diverse([*HITS, blank], 3, lambda_mult=0.1)] == [
        "first",
        "other",
        "blank",
    ]


def test_a_lambda_outside_0_to_1_is_an_error() -> None:
    with pytest.raises(InputError, match=r"lambda_mult is 1.5, expected a number in 0..1"):
        diverse(HITS, 1, lambda_mult=1.5)
