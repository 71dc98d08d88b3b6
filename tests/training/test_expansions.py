"""Entries that may expand texts."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

from splade_retriever.training.expansions import says_nothing


def test_punctuation_and_single_letters_say_nothing_about_other_texts() -> None:
    vocabulary = {
        "moon": 0,
        "\u201d": 1,
        "##i": 2,
        "x": 3,
        "7": 4,
        "##ml": 5,
        "...": 6,
        "\u4e16": 7,
        "##\u00b0": 8,
    }

    marked = says_nothing(vocabulary)

    assert [token for token, entry in vocabulary.items() if not marked[entry]] == ["moon", "7", "##ml"]
