from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.windows import embed_complete_texts, merged, spans_of
from splade_retriever.errors import InputError
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from tests.words import WordEncoder

texts = st.text(st.sampled_from("ab ,\n"), max_size=200) | st.text(max_size=60)


@given(text=texts, length=st.integers(1, 8), overlap=st.integers(0, 10))
def test_windows_cover_the_text_in_order_and_fit_the_model(text: str, length: int, overlap: int) -> None:
    encoder = WordEncoder(max_length=length)

    (spans,) = spans_of([text], encoder, overlap=overlap)

    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(start < following <= end for (start, end), (following, _) in pairwise(spans))
    assert all(not encoder.tokenizer.encode_batch([text[start:end]])[0].truncated for start, end in spans)


def test_neighbours_share_the_overlap() -> None:
    text = " ".join(f"w{n}" for n in range(10))

    (spans,) = spans_of([text], WordEncoder(max_length=4), overlap=2)

    assert [text[start:end] for start, end in spans] == [
        "w0 w1 w2 w3",
        "w2 w3 w4 w5",
        "w4 w5 w6 w7",
        "w6 w7 w8 w9",
    ]


def test_a_text_that_fits_is_one_window_and_long_whitespace_is_skipped() -> None:
    encoder = WordEncoder(max_length=3)
    sparse = "a b" + " " * 1000 + "c d e f"

    assert spans_of(["", "a b c"], encoder, overlap=1) == [[(0, 0)], [(0, 5)]]
    (spans,) = spans_of([sparse], encoder, overlap=0)
    assert [sparse[start:end].split() for start, end in spans] == [["a", "b", "c"], ["d", "e", "f"]]


def test_merging_takes_the_maximum_of_each_weight() -> None:
    a = SparseEmbedding(values=[1.0, 2.0], indices=[1, 5])
    b = SparseEmbedding(values=[3.0, 1.0], indices=[5, 9])
    alone = SparseEmbedding(values=[4.0], indices=[2])

    both, one = merged([a, b, alone], [2, 1])

    assert both.as_dict() == {1: 1.0, 5: 3.0, 9: 1.0}
    assert one == alone


LONG = "moon " * 6 + "rover " * 6 + "vikram " * 6


def test_a_long_text_is_truncated_without_windows() -> None:
    with SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder(max_length=6)) as index:
        index.add([LONG], ids=["long"])

        assert len(index.search("moon")) == 1
        assert index.search("vikram") == []


@pytest.mark.parametrize(("windows", "cut"), [("truncate", 2), ("merge", 0), ("points", 0)])
def test_truncation_is_counted_and_logged_and_windows_do_not_truncate(
    caplog: pytest.LogCaptureFixture, windows: Literal["truncate", "merge", "points"], cut: int
) -> None:
    model = SparseTextEmbedding(max_length=16)
    with SpladeIndex(model=model, windows=windows, window_overlap=4) as index:
        index.add([LONG, "a short text", LONG + "again"], ids=["a", "b", "c"])

    assert model.truncated == cut
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == min(cut, 1)
    assert all("longer than the 16 tokens" in line and "windows='merge'" in line for line in messages)


def test_merged_windows_are_one_document_with_every_word() -> None:
    client = QdrantClient(":memory:")
    with SpladeIndex(client=client, model=WordEncoder(max_length=6), windows="merge") as index:
        index.add([LONG, "short moon"], ids=["long", "short"])

        assert client.count("splade").count == index.count() == 2
        assert [hit.text for hit in index.search("vikram")] == [LONG]
        assert index.search("vikram moon")[0].score == 12.0


@pytest.fixture
def windowed() -> SpladeIndex:
    model = WordEncoder(max_length=6)
    client = QdrantClient(":memory:")
    index = SpladeIndex(client=client, model=model, windows="points", window_overlap=0)
    index.add([LONG, "short moon"], [{"v": 1}, {"v": 1}], ids=["long", "short"])
    return index


def test_windows_as_points_are_found_separately_with_their_span(windowed: SpladeIndex) -> None:
    (hit,) = windowed.search("vikram")

    assert hit.id == "long"
    assert hit.window is not None
    assert hit.text == LONG[slice(*hit.window)]
    assert set(hit.text.split()) == {"vikram"}


def test_a_document_with_several_matching_windows_is_one_hit(windowed: SpladeIndex) -> None:
    assert [hit.id for hit in windowed.search("moon rover vikram", k=2)] == ["long", "short"]
    assert windowed.count() == 2
    assert windowed.count({"v": 1}) == 2
    assert windowed.client.count("splade").count == 4


def test_reading_returns_the_complete_document(windowed: SpladeIndex) -> None:
    assert [hit.text for hit in windowed.get(["long", "short"])] == [LONG, "short moon"]
    assert {hit.text for hit in windowed.scroll()} == {LONG, "short moon"}


def test_new_metadata_reaches_every_window(windowed: SpladeIndex) -> None:
    windowed.update_metadata("long", {"v": 2})

    assert {hit.metadata["v"] for hit in windowed.search("vikram")} == {2}
    assert [hit.metadata["v"] for hit in windowed.search("moon")] == [2, 1]


def test_a_shorter_text_removes_the_windows_of_the_longer_text(windowed: SpladeIndex) -> None:
    windowed.add(["rover now"], ids=["long"])

    assert windowed.search("vikram") == []
    assert windowed.client.count("splade").count == 2


def test_deleting_a_document_deletes_its_windows(windowed: SpladeIndex) -> None:
    windowed.delete(["long"])

    assert windowed.client.count("splade").count == 1


def test_an_unchanged_long_text_is_not_encoded_again(windowed: SpladeIndex) -> None:
    encoder = windowed.model
    assert isinstance(encoder, WordEncoder)
    before = encoder.encoded

    windowed.add([LONG], [{"v": 1}], ids=["long"])

    assert encoder.encoded == before


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a b", None], "position 1 is a NoneType"),
        ("a b", "The texts are a str, expected a list"),
        (5, "The texts are an int"),
    ],
)
def test_texts_to_encode_completely_must_be_a_list_of_texts(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed_complete_texts(texts, WordEncoder())


def test_an_encoder_without_a_tokenizer_cannot_have_windows() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        spans_of(["a"], object(), overlap=0)
