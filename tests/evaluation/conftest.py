"""Fixtures of the tests of evaluation."""

import pytest

from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.tune import collection_from_headings

WORDS = ["moon", "rover", "sun", "tide", "star", "dust", "crater", "orbit"]


@pytest.fixture
def collection() -> BeirCollection:
    """Eight documents of eight words, each with one word more often; its query is that word and another."""
    return collection_from_headings(
        "words",
        [(f"d{i}", " ".join([*WORDS, *[word] * 3]), f"Book > about {word}") for i, word in enumerate(WORDS)],
    )
