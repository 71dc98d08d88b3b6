"""Texts to ids and back: truncation and counting."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import splade_retriever
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError, ModelFilesError
from tests.tiny import VOCABULARY, tiny_tokenizer

BUNDLED = Path(splade_retriever.__file__).parent / "bundled" / "tokenizer.json"
texts = st.text(st.sampled_from("ab é\u0301漢.,\n#"), max_size=400) | st.text(max_size=100)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(BUNDLED, max_length=16)


@pytest.fixture(scope="module")
def of_8_tokens() -> Tokenizer:
    return Tokenizer.from_file(BUNDLED, max_length=8)


@given(st.lists(texts, max_size=6))
def test_truncated_ids_equal_the_start_of_the_complete_tokenisation(
    of_8_tokens: Tokenizer, texts: list[str]
) -> None:
    read = of_8_tokens.encode_truncated(texts)
    complete = of_8_tokens.encode_batch(texts)

    assert [text.ids for text in read] == [encoding.ids for encoding in complete]
    assert [text.truncated for text in read] == [encoding.truncated > 0 for encoding in complete]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        " " * 100_000 + "moon",
        "moon " * 20_000,
        "moon" + "\u0301" * 5_000 + " " * 5_000 + "rover" * 3 + " pole",
        "漢字" * 50_000,
    ],
    ids=["one word", "blanks", "words", "accents", "ideographs"],
)
def test_truncated_ids_of_a_very_long_text_are_exact_too(tokenizer: Tokenizer, text: str) -> None:
    (read,) = tokenizer.encode_truncated([text])
    (complete,) = tokenizer.encode_batch([text])

    assert read.ids == complete.ids
    assert read.truncated == (complete.truncated > 0)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The \ufb01re", [("the", "The"), ("fire", "\ufb01re")]),
        ("\uff2d\uff2f\uff2f\uff2e now", [("moon", "\uff2d\uff2f\uff2f\uff2e"), ("now", "now")]),
        ("Windows\u2122 10", [("windows", "Windows"), ("10", "10")]),
        ("a caf\u0065\u0301 moon", [("a", "a"), ("cafe", "cafe"), ("moon", "moon")]),
        ("e\ufb03cient moon", [("efficient", "e\ufb03cient"), ("moon", "moon")]),
    ],
    ids=["ligature", "full width", "trademark", "combining accent", "ligature of three"],
)
def test_compatibility_forms_are_read_as_plain_letters_at_their_place(
    tokenizer: Tokenizer, text: str, pieces: list[tuple[str, str]]
) -> None:
    (encoding,) = tokenizer.encode_batch([text])

    spans = [
        (tokenizer.token(id), text[start:end])
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    assert spans[1:-1] == pieces


def test_truncation_keeps_special_tokens_and_counts_the_rest(tokenizer: Tokenizer) -> None:
    (encoding,) = tokenizer.encode_batch(["moon " * 20])

    assert len(encoding.ids) == 16
    assert tokenizer.tokens(encoding.ids) == ["[CLS]", *["moon"] * 14, "[SEP]"]
    assert encoding.truncated == 6


def test_offsets_point_into_the_text(tokenizer: Tokenizer) -> None:
    text = "Chandrayaan lands"
    (encoding,) = tokenizer.encode_batch([text])

    pieces = [text[start:end] for start, end in encoding.offsets]
    assert pieces == ["", "Chandra", "ya", "an", "lands", ""]


def test_ids_are_decoded_one_by_one_and_together(tokenizer: Tokenizer) -> None:
    (encoding,) = tokenizer.encode_batch(["Chandrayaan lands"])
    ids = encoding.ids[1:-1]

    assert [tokenizer.token(token_id) for token_id in ids] == ["chandra", "##ya", "##an", "lands"]
    assert [tokenizer.decode([token_id]) for token_id in ids] == ["chandra", "##ya", "##an", "lands"]
    assert tokenizer.decode(ids) == "chandrayaan lands"


def test_an_unknown_id_is_refused_with_the_size_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="id 40000; the vocabulary has 30522 entries"):
        tokenizer.token(40_000)
    with pytest.raises(InputError, match="id 40000"):
        tokenizer.decode([40_000])


@pytest.mark.parametrize(
    ("id", "message"),
    [
        (-1, "No token has the id -1"),
        (2**40, "No token has the id 1099511627776"),
        (1.5, "The token id 1.5 is a float, expected an int"),
        (None, "The token id None is a NoneType"),
        (True, "is a bool"),
    ],
)
def test_what_is_no_id_is_refused(tokenizer: Tokenizer, id: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer.token(id)
    with pytest.raises(InputError, match=message):
        tokenizer.tokens([id])
    with pytest.raises(InputError, match=message):
        tokenizer.decode([id])
    with pytest.raises(InputError, match="The token ids are an int, expected a list"):
        tokenizer.decode(5)  # type: ignore[arg-type]


def test_texts_must_be_a_list(tokenizer: Tokenizer) -> None:
    for wrong in (5, "moon", b"moon"):
        with pytest.raises(InputError, match=r"The texts are an? \w+, expected a list of str"):
            tokenizer.encode_batch(wrong)  # type: ignore[arg-type]
    assert tokenizer.encode_batch(iter(["moon"])) == tokenizer.encode_batch(["moon"])  # type: ignore[arg-type]


def test_special_and_padding_ids_come_from_the_tokenizer_file() -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), max_length=8)

    assert [VOCABULARY[token_id] for token_id in tokenizer.special_ids] == VOCABULARY[:5]
    assert tokenizer.pad_id == 0

    other = tiny_tokenizer()
    other.enable_padding(pad_id=4, pad_token="[MASK]")
    assert Tokenizer(other, max_length=8).pad_id == 4


def test_a_max_length_too_small_for_a_token_is_refused() -> None:
    with pytest.raises(InputError, match="max_length is 2, expected at least 3"):
        Tokenizer(tiny_tokenizer(), max_length=2)


def test_a_file_that_is_not_a_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")

    with pytest.raises(ModelFilesError, match=r"tokenizer\.json"):
        Tokenizer.from_file(path, max_length=8)


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"position 1 has a lone surrogate \(U\+D83D at character 5\)"):
        tokenizer.encode_batch(["fine", "moon \ud83d"])


MEASURE = """
import resource, sys
from splade_retriever import SparseTextEmbedding
model = SparseTextEmbedding()
next(model.query_embed("warm up"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = sys.argv[1] * 20_000_000
next(model.query_embed(text[:20_000_000]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
@pytest.mark.parametrize("unit", ["x", "a.b", " "])
def test_a_text_of_20_million_characters_without_words_needs_bounded_memory(unit: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, unit], capture_output=True, text=True, check=True, timeout=120
    )

    # The whole text at once would need 60 to 300 bytes for each character: 1,200 to 6,000 MB.
    assert int(printed.stdout) < 400


@pytest.mark.parametrize("unit", ["the moon rover. ", "...", "moon\n\n", "é中 "])
def test_a_text_of_several_pieces_has_the_tokens_of_the_complete_text(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    backend = tiny_tokenizer()
    text = unit * 60
    texts = ["the moon", text, "", text[:50], " "]
    complete = Tokenizer(backend, max_length=40).encode_batch(texts)

    monkeypatch.setattr("splade_retriever.encoding.tokenizer._MAX_PIECE", 48)
    assert Tokenizer(backend, max_length=40).encode_batch(texts) == complete
    assert Tokenizer(backend, max_length=10_000).encode_batch(texts)[1].truncated == 0


def test_a_million_characters_are_counted_in_bounded_memory() -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), max_length=40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    (encoding,) = tokenizer.encode_batch(["moon. " * 200_000])

    assert encoding.truncated == 400_000 - 38
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_a_text_of_many_pieces_with_few_tokens_is_encoded_in_time() -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), max_length=512)
    text = f"{chr(0x200B) * 1000} moon" * 400
    moon = tokenizer.encode_truncated(["moon"])[0].ids[1]

    (encoded,) = tokenizer.encode_truncated([text])

    assert encoded.ids.count(moon) == 400
    assert tokenizer.encode_batch([text])[0].ids == encoded.ids
