"""Explanations of hits for tools and pages, with a tokenizer and without."""

from typing import Any

import pytest

from splade_retriever import SpladeIndex
from splade_retriever.errors import InputError
from splade_retriever.index.hit_explanations import explain_hits
from tests.bare_encoder import BareEncoder
from tests.words import LetterEncoder, WordEncoder

TEXTS = ["moon rover", "moon"]


def test_hits_of_an_encoder_with_a_tokenizer_are_explained(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(TEXTS)
    hits, vector = index.search("moon rover"), index.query_vector("rover")

    assert explain_hits(index, "moon rover", hits) == index.explain_all("moon rover", hits)
    (first, _) = explain_hits(index, "moon rover", hits, query_vector=vector)
    assert [part.token for part in first.contributions] == ["rover"]


def test_of_an_encoder_without_a_tokenizer_the_sparse_score_is_known(client: Any) -> None:
    index = SpladeIndex(client=client, model=BareEncoder(), dense=LetterEncoder())
    index.add([*TEXTS, "zzz"], ids=["both", "one", "none"])
    sparse, hybrid = index.search("moon rover", mode="sparse"), index.search("moon rover")

    with pytest.raises(InputError, match="BareEncoder has no tokenizer"):
        index.explain_all("moon rover", sparse)
    explanations = explain_hits(index, "moon rover", sparse)
    assert [(made.query, made.text, made.score) for made in explanations] == [
        ("moon rover", hit.text, hit.score) for hit in sparse
    ]
    assert {made.contributions for made in explanations} == {()}
    scores = {hit.id: hit.score for hit in sparse} | {"none": 0.0}
    found = zip(hybrid, explain_hits(index, "moon rover", hybrid), strict=True)
    assert {hit.id: made.score for hit, made in found} == scores
