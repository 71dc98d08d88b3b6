"""An index takes in documents: from lists and streams, and bad input is refused."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import fastembed
import numpy as np
import pytest

from splade_retriever.errors import InputError
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import MOON, client_of
from tests.words import WordEncoder


def test_an_added_document_is_found_with_its_text_metadata_and_score(index: SpladeIndex) -> None:
    index.add(MOON, [{"n": 0}, {"n": 1}, {"n": 2}], ["a", "b", "c"])

    hits = index.search("rover lander", k=2)

    assert [(hit.id, hit.text, hit.metadata, hit.score) for hit in hits] == [
        ("b", MOON[1], {"n": 1}, 2.0),
        ("c", MOON[2], {"n": 2}, 1.0),
    ]


def test_ids_are_returned_in_order_and_created_if_none_are_passed(index: SpladeIndex) -> None:
    ids = index.add(MOON)

    assert len(set(ids)) == 3
    assert [hit.text for hit in index.get(ids)] == MOON


def test_two_equal_texts_without_ids_are_two_documents(index: SpladeIndex) -> None:
    index.add(["the same", "the same"])

    assert index.count() == 2


def test_an_encoded_text_is_encoded_and_the_text_is_returned(index: SpladeIndex) -> None:
    index.add(["It landed."], ids=["a"], encoded_texts=["Chandrayaan-3: It landed."])

    assert [(hit.id, hit.text) for hit in index.search("chandrayaan")] == [("a", "It landed.")]


def test_a_changed_encoded_text_is_encoded_again_and_an_unchanged_one_is_not(client: Any) -> None:
    model = WordEncoder()
    index = SpladeIndex(client=client, model=model)
    for title in ("Moon", "Moon", "Mars"):
        index.add(["It landed."], ids=["a"], encoded_texts=[f"{title}: It landed."])

    assert model.encoded == 2
    assert [hit.id for hit in index.search("mars")] == ["a"]


def test_a_ready_vector_is_stored_and_its_text_not_encoded(client: Any) -> None:
    model = WordEncoder()
    index = SpladeIndex(client=client, model=model)
    (ready,) = model.query_embed("mars")

    index.add(["first", "second"], ids=["a", "b"], vectors=[ready, None])

    assert model.encoded == 1
    assert [hit.id for hit in index.search("mars")] == ["a"]
    assert index.get(["a"], with_vectors=True)[0].vector == ready


def test_a_document_that_came_with_a_vector_is_unchanged_without_it(client: Any) -> None:
    model = WordEncoder()
    index = SpladeIndex(client=client, model=model)
    (mars,), (venus,) = model.query_embed("mars"), model.query_embed("venus")
    index.add(["first", "second"], ids=["a", "b"], vectors=[mars, None])

    index.add(["first", "second"], [{"page": 1}, {}], ids=["a", "b"])

    assert model.encoded == 1
    assert [(hit.id, hit.metadata) for hit in index.search("mars")] == [("a", {"page": 1})]
    index.add(["first"], ids=["a"], vectors=[venus])
    assert [hit.id for hit in index.search("venus")] == ["a"]
    index.add(["changed"], ids=["a"])
    assert model.encoded == 2
    assert index.search("venus") == []


@pytest.mark.parametrize(
    "given", [{"encoded_texts": ["title: text"]}, {"vectors": [SparseEmbedding(values=[1.0], indices=[1])]}]
)
def test_a_collection_of_windows_refuses_vectors_and_encoded_texts(client: Any, given: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), windows="points")

    with pytest.raises(InputError, match="windows='points'"):
        index.add(["text"], **given)
    assert index.count() == 0


def test_a_value_that_is_not_a_vector_is_bad_input(index: SpladeIndex) -> None:
    with pytest.raises(InputError, match="vector is a list, expected a SparseEmbedding"):
        index.add(["text"], vectors=[[0.5]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "id",
    ["a", "with space", "ünïcode ☾", "550e8400-e29b-41d4-a716-446655440000", "17", "x" * 5000, "a#1", "\n"],
)
def test_any_string_is_an_id(index: SpladeIndex, id: str) -> None:
    index.add(["some text"], ids=[id])

    assert [hit.id for hit in index.get([id])] == [id]
    assert [hit.id for hit in index.search("text")] == [id]


def test_a_document_with_a_stored_id_replaces_the_old_one(index: SpladeIndex) -> None:
    index.add(["first words"], [{"a": 1, "b": 2}], ["x"])
    index.add(["second words"], [{"a": 3}], ["x"])

    assert index.count() == 1
    (hit,) = index.get(["x"])
    assert (hit.text, hit.metadata) == ("second words", {"a": 3})
    assert index.search("first") == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_the_last_document_with_an_id_in_one_call_is_kept(index: SpladeIndex, batch_size: int) -> None:
    ids = index.add(
        ["one", "two", "one", "other", "three"], ids=["x", "x", "x", "y", "x"], batch_size=batch_size
    )

    assert ids == ["x", "x", "x", "y", "x"]
    assert {hit.id: hit.text for hit in index.scroll()} == {"x": "three", "y": "other"}


def test_a_text_that_is_restored_after_another_in_one_call_is_written(index: SpladeIndex) -> None:
    index.add(["one"], ids=["x"])

    index.add(["two", "one", "two", "one"], ids=["x"] * 4, batch_size=1)

    assert index.get(["x"])[0].text == "one"


def test_generators_are_read_together_and_once(index: SpladeIndex) -> None:
    ids = index.add(
        (f"text {n}" for n in range(700)), ({"n": n} for n in range(700)), (f"id {n}" for n in range(700))
    )

    assert ids == [f"id {n}" for n in range(700)]
    assert index.count() == 700
    assert index.get(["id 699"])[0].metadata == {"n": 699}


def test_an_unchanged_text_is_not_encoded_again_and_its_metadata_is_updated(client: Any) -> None:
    encoder = WordEncoder()
    index = SpladeIndex(client=client, model=encoder)
    index.add(MOON, [{"v": 1}] * 3, ["a", "b", "c"])
    assert encoder.encoded == 3

    index.add([*MOON[:2], "New text."], [{"v": 2}, {"v": 1}, {}], ["a", "b", "c"])

    assert encoder.encoded == 4
    assert [hit.metadata for hit in index.get(["a", "b", "c"])] == [{"v": 2}, {"v": 1}, {}]


def test_metadata_is_returned_equal(index: SpladeIndex) -> None:
    metadata = {
        "": 1,
        "a.b": [1, 2.5, None, True, "x", {"deep": [[], {}]}],
        "id": "mine",
        "_splade": {"mine": 1},
        "page_content": "mine",
        "ünï code": -(2**63),
        "big": 2**63 - 1,
        "float": 1.0,
        "tiny": 5e-324,
        "none": None,
    }
    index.add(["text"], [metadata], ["x"])

    (hit,) = index.get(["x"])

    assert hit.metadata == metadata
    assert {key: type(value) for key, value in hit.metadata.items()} == {
        k: type(v) for k, v in metadata.items()
    }


def test_later_changes_of_the_callers_metadata_do_not_change_the_index(index: SpladeIndex) -> None:
    metadata = {"list": [1]}

    def texts() -> Iterator[str]:
        yield "text"
        metadata["list"].append(2)

    index.add(texts(), iter([metadata]), ["x"])

    assert index.get(["x"])[0].metadata == {"list": [1]}


def test_extras_stay_out_of_the_metadata(index: SpladeIndex) -> None:
    index.add(["text"], [{"a": 1}], ["x"], extras=[{"node": "json"}])

    (hit,) = index.search("text")

    assert (hit.metadata, hit.extra) == ({"a": 1}, {"node": "json"})


def test_on_written_is_called_with_the_ids_in_order(index: SpladeIndex) -> None:
    acknowledged: list[str] = []

    ids = index.add((f"text {n}" for n in range(25)), batch_size=10, on_written=acknowledged.extend)

    assert acknowledged == ids


@pytest.mark.parametrize(
    ("texts", "metadatas", "ids", "message"),
    [
        ("one string", None, None, "texts is one str"),
        (None, None, None, "texts is None"),
        ({"a": "b"}, None, None, "texts is a dict"),
        (["a", "b"], [{}], None, "2 texts, 1 metadatas"),
        (["a", 5], None, None, "Input 1 of add: text is an int"),
        (["a", "\ud800"], None, None, "Input 1 of add: text holds half a surrogate"),
        (["a", "b"], None, ["x", 7], "Input 1 of add: id is an int"),
        (["a", "b"], None, ["x", ""], "Input 1 of add: id is an empty string"),
        (["a", "b"], [{}, [1]], None, "Input 1 of add: metadata is a list"),
        (["a"], [{"a": [{"b": float("nan")}]}], None, r"metadata\.a\[0\]\.b is nan"),
        (["a"], [{"a": {1: 2}}], None, "the key 1"),
        (["a"], [{"a": (1, 2)}], None, "metadata.a is a tuple"),
        (["a"], [{"a": 2**63}], None, "beyond 64 bits"),
    ],
)
def test_bad_input_in_lists_is_an_error_before_anything_is_written(
    index: SpladeIndex, texts: Any, metadatas: Any, ids: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        index.add(texts, metadatas, ids, batch_size=1)

    assert index.count() == 0


def test_bad_input_in_a_stream_is_an_error_with_its_position_and_everything_before_it_is_written(
    index: SpladeIndex,
) -> None:
    stream: Any = ("text" if n != 37 else None for n in range(100))

    with pytest.raises(
        InputError, match=r"Input 37 of add: text is a NoneType.* The 37 inputs before it were written"
    ):
        index.add(stream, batch_size=10)

    assert index.count() == 37


def test_a_stream_that_ends_before_the_others_is_an_error(index: SpladeIndex) -> None:
    with pytest.raises(
        InputError, match=r"ids ended after 3, but texts has more.*The 3 inputs before it were written"
    ):
        index.add((f"text {n}" for n in range(5)), ids=iter("abc"))

    assert index.count() == 3


def test_bad_inputs_can_be_collected_while_the_rest_is_stored(index: SpladeIndex) -> None:
    bad: list[Any] = []
    texts: Any = ["a", None, "b", "\ud800", "c"]

    ids = index.add(texts, ids=["1", "2", "3", "4", "5"], on_error=bad.append)

    assert ids == ["1", "3", "5"]
    assert [(fault.position, fault.id) for fault in bad] == [(1, "2"), (3, "4")]
    assert index.count() == 3


@pytest.mark.parametrize("error", [OSError("disk gone"), InputError("disk gone")], ids=repr)
def test_an_error_of_the_stream_is_raised_unchanged_and_everything_before_it_is_written(
    index: SpladeIndex, error: Exception
) -> None:
    acknowledged: list[str] = []

    def texts() -> Iterator[str]:
        for n in range(25):
            yield f"text {n}"
        raise error

    with pytest.raises(type(error), match=r"^disk gone$"):
        index.add(texts(), ids=(str(n) for n in range(25)), batch_size=10, on_written=acknowledged.extend)

    assert acknowledged == [str(n) for n in range(25)]
    assert index.count() == 25


def test_a_long_stream_runs_in_bounded_memory() -> None:
    index = SpladeIndex(client=client_of("edge"), model=WordEncoder())
    peaks = []
    for count in (250, 1_000):
        gc.collect()
        tracemalloc.start()
        index.add((f"text {n} " + "x" * 8_000 for n in range(count)), batch_size=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    index.client.close()

    # Four times the texts (about 8 kB each, 6 MB more) may take the ids' memory more, not the texts'.
    assert peaks[1] - peaks[0] < 2_000_000


def test_vectors_of_fastembed_are_stored_and_searched() -> None:
    theirs = fastembed.SparseEmbedding(values=np.array([1.0, 2.0]), indices=np.array([3000, 2000]))
    with SpladeIndex(":memory:") as index:
        index.add(["the moon"], vectors=[theirs])

        assert [hit.score for hit in index.search(theirs)] == [5.0]
        negative = fastembed.SparseEmbedding(values=np.array([-1.0]), indices=np.array([1]))
        wrong: Any
        for wrong in ({2000: 1.0}, negative):
            with pytest.raises(InputError, match="Input 0 of add: vector is"):
                index.add(["the sun"], vectors=[wrong])
        assert index.count() == 1
