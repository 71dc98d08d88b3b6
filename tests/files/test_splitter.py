"""Texts to passages: where they are cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_retriever import SparseTextEmbedding
from splade_retriever.errors import InputError
from splade_retriever.files.splitter import Splitter
from tests.files.reading import WORDS, words
from tests.words import Words, WordTokenizer


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = " ".join(words(20, name) + "." for name in ("One", "Two", "Three", "Four"))

    spans = Splitter(WORDS, 45).split(text)

    assert [text[start:end] for start, end in spans] == [
        f"{words(20, 'One')}. {words(20, 'Two')}.",
        f"{words(20, 'Three')}. {words(20, 'Four')}.",
    ]


def test_passages_of_one_text_are_about_equally_long() -> None:
    text = "\n\n".join(words(10) for _ in range(7))

    spans = Splitter(WORDS, 64).split(text)

    assert Splitter(WORDS, 64).count([text[start:end] for start, end in spans]) == [40, 30]


@pytest.mark.parametrize(
    "text", [words(150_000), "x" * 1_000_000, "word," * 100_000], ids=["words", "one word", "commas"]
)
def test_a_megabyte_on_one_line_is_cut_within_the_limit(text: str) -> None:
    tokenizer = SparseTextEmbedding(lazy_load=True).tokenizer
    splitter = Splitter(tokenizer, 256)

    pieces = [text[start:end] for start, end in splitter.split(text)]

    assert max(splitter.count(pieces)) + splitter.special_tokens <= 256
    assert "".join("".join(pieces).split()) == "".join(text.split())


@settings(max_examples=60)
@given(st.text(alphabet="ab .!\n\t。é", max_size=400))
def test_no_text_is_lost_and_no_passage_exceeds_the_limit(text: str) -> None:
    splitter = Splitter(WORDS, 16)

    spans = splitter.split(text)

    pieces = [text[start:end] for start, end in spans]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == piece.strip() and piece for piece in pieces)
    assert max(splitter.count(pieces), default=0) <= 16


@pytest.mark.parametrize("tokens", [0, 15, 513])
def test_a_passage_size_beyond_the_limits_of_the_model_raises(tokens: int) -> None:
    with pytest.raises(InputError, match=r"expected 16\.\.512"):
        Splitter(WORDS, tokens)


def test_long_texts_are_tokenized_in_bounded_pieces() -> None:
    class Counting(WordTokenizer):
        longest = 0

        def encode_batch(self, texts: Sequence[str]) -> list[Words]:
            self.longest = max(self.longest, sum(map(len, texts)))
            return super().encode_batch(texts)

    tokenizer = Counting(512)
    splitter = Splitter(tokenizer, 256)
    for text in (words(50_000), "x" * 250_000, "short paragraph\n\n" * 15_000, "One. " * 50_000):
        assert "".join("".join(text[start:end] for start, end in splitter.split(text)).split()) == "".join(
            text.split()
        )
    assert tokenizer.longest < 200_000


def test_a_context_that_fills_the_model_loses_its_outer_headings() -> None:
    splitter = Splitter(WORDS, 64)

    assert splitter.context(["Book", "Chapter"]) == "Book > Chapter"
    assert splitter.context([words(300), "Chapter"]) == "Chapter"
    assert splitter.context([words(300)]) == ""
