"""Pairs and questions made from a folder of texts."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

from splade_retriever.errors import InputError
from splade_retriever.training import Corpus
from splade_retriever.training.adaptation import draw_batch


def test_a_heading_asks_for_its_passages_and_a_first_sentence_for_the_rest(corpus: Corpus) -> None:
    pairs = {pair.query: pair.text for pairs in corpus.sections() for pair in pairs}

    learned = {"ice", "dust", "rock", "gas"} - {name.removesuffix(".md") for name in corpus.held_out}
    for what in learned:
        assert pairs[f"How {what} is weighed"].startswith(f"No scale has weighed {what} in space. Its")
        assert pairs[f"No scale has weighed {what} in space."].startswith("Its mass is known")
    # A text without headings has sentences all the same.
    assert pairs["Stars twinkle because of the air."].startswith("It bends their light")


def test_nothing_of_a_held_out_file_is_learned_and_nothing_else_is_asked(corpus: Corpus) -> None:
    learned = " ".join(f"{pair.query} {pair.text}" for pairs in corpus.sections() for pair in pairs)
    held_out = {name.removesuffix(".md") for name in corpus.held_out}

    assert len(held_out) == 2
    assert not any(f"{what} in space" in learned for what in held_out)
    assert set(corpus.questions()) == {
        question for what in held_out for question in (f"Where {what} is found", f"How {what} is weighed")
    }


def test_a_heading_of_several_files_asks_nothing(corpus: Corpus) -> None:
    asked = [pair.query for pairs in corpus.sections() for pair in pairs] + list(corpus.questions())

    assert "Summary" not in asked
    assert any(query.startswith("This was a page on") for query in asked)


def test_a_batch_takes_one_pair_of_a_section(corpus: Corpus) -> None:
    sections = corpus.sections()
    section_of = {pair: place for place, pairs in enumerate(sections) for pair in pairs}
    random = np.random.default_rng(0)

    for _ in range(20):
        for size in (3, 50):
            places = [section_of[pair] for pair in draw_batch(sections, size, random)]
            assert len(places) == len(set(places)) == min(size, len(sections))


def test_a_folder_without_headings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# One\n\nOnly one file has a heading.\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("This one has none.\n", encoding="utf-8")

    with pytest.raises(InputError, match=r"has 1 files with headings .*, expected at least two"):
        Corpus.read(tmp_path)
