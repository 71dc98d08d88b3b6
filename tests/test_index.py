import asyncio
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.local.qdrant_local import QdrantLocal

from splade_retriever.documents import Branch, Layout
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    FilterError,
    IndexClosedError,
    InputError,
)
from splade_retriever.index import SpladeIndex
from splade_retriever.queries import Fusion
from splade_retriever.sparse import SparseEmbedding
from tests.rest_server import RestServer
from tests.words import LetterEncoder, WordEncoder

MOON = [
    "Chandrayaan-3 landed near the south pole of the Moon.",
    "The rover Pragyan left the lander Vikram.",
    "A rocket lifted the lander to a lunar orbit.",
]


def client_of(engine: str) -> Any:
    if engine == "local":
        return QdrantClient(":memory:")
    from splade_retriever.edge import EdgeClient

    return EdgeClient(":memory:")


@pytest.fixture(scope="module")
def rest() -> Iterator[QdrantClient]:
    """A client of a server's REST interface; opening one takes a quarter of a second."""
    with RestServer() as server:
        client = QdrantClient(url=server.url, check_compatibility=False)
        yield client
        client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantClient]:
    client = QdrantClient(url=os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"))
    found = [collection.name for collection in client.get_collections().collections]
    assert not found, f"these tests delete collections: use a server without any, this one has {found}"
    yield client
    client.close()


@pytest.fixture(params=["edge", "local", "rest", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every store an index runs on: "rest" is the way to a server, "server" a Qdrant server proper."""
    if request.param in ("edge", "local"):
        opened = client_of(request.param)
        yield opened
        opened.close()
        return
    client: QdrantClient = request.getfixturevalue(request.param)
    yield client
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)


@pytest.fixture
def index(client: Any) -> SpladeIndex:
    return SpladeIndex(client=client, model=WordEncoder())


# -- add -----------------------------------------------------------------------------------------------------


def test_what_is_added_is_found_with_its_text_metadata_and_score(index: SpladeIndex) -> None:
    index.add(MOON, [{"n": 0}, {"n": 1}, {"n": 2}], ["a", "b", "c"])

    hits = index.search("rover lander", k=2)

    assert [(hit.id, hit.text, hit.metadata, hit.score) for hit in hits] == [
        ("b", MOON[1], {"n": 1}, 2.0),
        ("c", MOON[2], {"n": 2}, 1.0),
    ]


def test_ids_come_back_in_order_and_are_made_where_none_are_given(index: SpladeIndex) -> None:
    ids = index.add(MOON)

    assert len(set(ids)) == 3
    assert [hit.text for hit in index.get(ids)] == MOON


def test_two_equal_texts_without_ids_are_two_documents(index: SpladeIndex) -> None:
    index.add(["the same", "the same"])

    assert index.count() == 2


def test_a_text_of_its_own_is_encoded_and_the_text_is_what_comes_back(index: SpladeIndex) -> None:
    index.add(["It landed."], ids=["a"], encoded_texts=["Chandrayaan-3: It landed."])

    assert [(hit.id, hit.text) for hit in index.search("chandrayaan")] == [("a", "It landed.")]


def test_another_encoded_text_is_encoded_again_and_the_same_is_not(client: Any) -> None:
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


@pytest.mark.parametrize(
    "given", [{"encoded_texts": ["title: text"]}, {"vectors": [SparseEmbedding(values=[1.0], indices=[1])]}]
)
def test_a_collection_of_windows_refuses_vectors_and_encoded_texts(client: Any, given: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), windows="points")

    with pytest.raises(InputError, match="windows='points'"):
        index.add(["text"], **given)
    assert index.count() == 0


def test_what_is_no_vector_is_bad_input(index: SpladeIndex) -> None:
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


def test_the_same_id_replaces(index: SpladeIndex) -> None:
    index.add(["first words"], [{"a": 1, "b": 2}], ["x"])
    index.add(["second words"], [{"a": 3}], ["x"])

    assert index.count() == 1
    (hit,) = index.get(["x"])
    assert (hit.text, hit.metadata) == ("second words", {"a": 3})
    assert index.search("first") == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_of_an_id_given_twice_in_one_call_the_last_wins(index: SpladeIndex, batch_size: int) -> None:
    ids = index.add(
        ["one", "two", "one", "other", "three"], ids=["x", "x", "x", "y", "x"], batch_size=batch_size
    )

    assert ids == ["x", "x", "x", "y", "x"]
    assert {hit.id: hit.text for hit in index.scroll()} == {"x": "three", "y": "other"}


def test_a_text_given_again_after_another_under_its_id_is_not_taken_for_unchanged(index: SpladeIndex) -> None:
    index.add(["one"], ids=["x"])

    index.add(["two", "one", "two", "one"], ids=["x"] * 4, batch_size=1)

    assert index.get(["x"])[0].text == "one"


def test_generators_are_read_in_step_and_once(index: SpladeIndex) -> None:
    ids = index.add(
        (f"text {n}" for n in range(700)), ({"n": n} for n in range(700)), (f"id {n}" for n in range(700))
    )

    assert ids == [f"id {n}" for n in range(700)]
    assert index.count() == 700
    assert index.get(["id 699"])[0].metadata == {"n": 699}


def test_unchanged_text_is_not_encoded_again_and_its_metadata_is_brought_up_to_date(client: Any) -> None:
    encoder = WordEncoder()
    index = SpladeIndex(client=client, model=encoder)
    index.add(MOON, [{"v": 1}] * 3, ["a", "b", "c"])
    assert encoder.encoded == 3

    index.add([*MOON[:2], "New text."], [{"v": 2}, {"v": 1}, {}], ["a", "b", "c"])

    assert encoder.encoded == 4
    assert [hit.metadata for hit in index.get(["a", "b", "c"])] == [{"v": 2}, {"v": 1}, {}]


def test_metadata_comes_back_equal(index: SpladeIndex) -> None:
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


def test_later_changes_of_the_callers_metadata_do_not_reach_the_index(index: SpladeIndex) -> None:
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


def test_written_batches_are_told_in_order(index: SpladeIndex) -> None:
    told: list[str] = []

    ids = index.add((f"text {n}" for n in range(25)), batch_size=10, on_written=told.extend)

    assert told == ids


@pytest.mark.parametrize(
    ("texts", "metadatas", "ids", "told"),
    [
        ("one string", None, None, "texts is one str"),
        (None, None, None, "texts is None"),
        ({"a": "b"}, None, None, "texts is a dict"),
        (["a", "b"], [{}], None, "2 texts, 1 metadatas"),
        (["a", 5], None, None, "input 1 of add: text is a int"),
        (["a", "\ud800"], None, None, "input 1 of add: text holds half a surrogate"),
        (["a", "b"], None, ["x", 7], "input 1 of add: id is a int"),
        (["a", "b"], None, ["x", ""], "input 1 of add: id is an empty string"),
        (["a", "b"], [{}, [1]], None, "input 1 of add: metadata is a list"),
        (["a"], [{"a": [{"b": float("nan")}]}], None, r"metadata\.a\[0\]\.b is nan"),
        (["a"], [{"a": {1: 2}}], None, "the key 1"),
        (["a"], [{"a": (1, 2)}], None, "metadata.a is a tuple"),
        (["a"], [{"a": 2**63}], None, "beyond 64 bits"),
    ],
)
def test_bad_input_in_lists_is_an_error_before_anything_is_written(
    index: SpladeIndex, texts: Any, metadatas: Any, ids: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        index.add(texts, metadatas, ids, batch_size=1)

    assert index.count() == 0


def test_bad_input_in_a_stream_is_told_with_its_position_and_all_before_it_is_written(
    index: SpladeIndex,
) -> None:
    stream: Any = ("text" if n != 37 else None for n in range(100))

    with pytest.raises(
        InputError, match=r"input 37 of add: text is a NoneType.* The 37 before it are written"
    ):
        index.add(stream, batch_size=10)

    assert index.count() == 37


def test_a_stream_that_ends_before_the_others_is_told(index: SpladeIndex) -> None:
    with pytest.raises(
        InputError, match=r"ids ended after 3, while texts goes on.*The 3 before it are written"
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


def test_an_error_of_the_stream_itself_passes_through_and_all_before_it_is_written(
    index: SpladeIndex,
) -> None:
    told: list[str] = []

    def texts() -> Iterator[str]:
        for n in range(25):
            yield f"text {n}"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        index.add(texts(), ids=(str(n) for n in range(25)), batch_size=10, on_written=told.extend)

    assert told == [str(n) for n in range(25)]
    assert index.count() == 25


def test_a_long_stream_runs_in_bounded_memory() -> None:
    index = SpladeIndex(client=client_of("edge"), model=WordEncoder())
    peaks = []
    for count in (2_000, 8_000):
        gc.collect()
        tracemalloc.start()
        index.add((f"text {n} " + "word " * 200 for n in range(count)), batch_size=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    index.client.close()

    # Four times the texts (about 1 kB each) may take the ids' memory more, not the texts'.
    assert peaks[1] - peaks[0] < 2_000_000


# -- search --------------------------------------------------------------------------------------------------


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_adding(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    names = [f"{n:03}" for n in range(60)]
    for name in [*names[1::2], *names[::2]]:
        index.add(["same words"], ids=[name])

    assert [hit.id for hit in index.search("same", k=10)] == names[:10]
    assert [hit.id for hit in index.search("same", k=10, offset=25)] == names[25:35]


def test_pages_join_into_the_whole_ranking(index: SpladeIndex) -> None:
    index.add(["moon " * (1 + n % 7) for n in range(40)])

    whole = [hit.id for hit in index.search("moon", k=40)]

    assert [hit.id for at in range(0, 40, 6) for hit in index.search("moon", k=6, offset=at)] == whole


def test_a_query_without_tokens_finds_nothing(index: SpladeIndex) -> None:
    index.add(MOON)

    assert index.search("") == []
    assert index.search("?!") == []
    assert index.search("zebra") == []


def test_a_text_without_tokens_is_kept_and_never_found(index: SpladeIndex) -> None:
    index.add(["", "moon"], ids=["empty", "moon"])

    assert [hit.text for hit in index.get(["empty"])] == [""]
    assert [hit.id for hit in index.search("moon")] == ["moon"]


def test_a_ready_vector_is_a_query(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])
    vector = next(WordEncoder().query_embed("rover lander"))

    assert index.search(vector) == index.search("rover lander")


def test_a_score_threshold_cuts_the_ranking(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    assert [(hit.id, hit.score) for hit in index.search("rover lander")] == [("b", 2.0), ("c", 1.0)]
    for threshold, found in ((1.0, "bc"), (1.000001, "b"), (2.0, "b"), (2.000001, "")):
        assert "".join(hit.id for hit in index.search("rover lander", score_threshold=threshold)) == found
    for threshold in ("high", float("nan")):
        with pytest.raises(InputError, match="score_threshold="):
            index.search("rover lander", score_threshold=threshold)  # type: ignore[arg-type]


def test_a_fusion_is_a_fusion(index: SpladeIndex) -> None:
    with pytest.raises(InputError, match="fusion='rrf', expected a Fusion"):
        index.search("rover", fusion="rrf")  # type: ignore[arg-type]


def test_only_the_text_of_a_query_can_be_explained(index: SpladeIndex) -> None:
    index.add(MOON)
    vector = next(iter(index.model.query_embed("rover")))
    (hit, *_) = index.search(vector)

    with pytest.raises(InputError, match="explain got a SparseEmbedding and a Hit"):
        index.explain(vector, hit)  # type: ignore[arg-type]


def test_hits_bring_their_vectors_on_request(index: SpladeIndex) -> None:
    index.add(MOON[:1], ids=["a"])
    expected = next(WordEncoder().passage_embed(MOON[:1]))

    assert index.search("moon")[0].vector is None
    assert index.search("moon", with_vectors=True)[0].vector == expected
    assert index.get(["a"], with_vectors=True)[0].vector == expected


def test_search_filters_by_metadata_or_by_the_engines_own_filter(index: SpladeIndex) -> None:
    index.add(["moon"] * 4, [{"year": 2019}, {"year": 2023}, {"year": 2024}, {}], list("abcd"))
    own = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2019))]
    )

    assert [hit.id for hit in index.search("moon", filter={"year": {"$gte": 2020}})] == ["b", "c"]
    assert [hit.id for hit in index.search("moon", filter=own)] == ["a"]
    assert index.count({"year": [2019, 2023]}) == 2
    with pytest.raises(FilterError, match=r"\$near"):
        index.search("moon", filter={"year": {"$near": 1}})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 2.0}, "k=2.0"),
        ({"offset": -1}, "offset=-1"),
        ({"query": 5}, "type int"),
        ({"query": "\ud800"}, "surrogate"),
        ({"mode": "fuzzy"}, "'fuzzy'"),
        ({"mode": "hybrid"}, "no dense encoder"),
    ],
)
def test_bad_arguments_of_a_search_are_named(index: SpladeIndex, arguments: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        index.search(**{"query": "moon", **arguments})


def test_several_queries_are_answered_in_one_go_as_each_alone(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])
    queries = ["moon", "", "rover lander", "zebra", next(WordEncoder().query_embed("lander"))]

    assert index.search_batch(queries, k=2) == [index.search(query, k=2) for query in queries]
    assert index.search_batch([]) == []


# -- get, scroll, count, delete, update ----------------------------------------------------------------------


def test_get_keeps_the_order_asked_for_and_passes_over_missing_ids(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    assert [hit.id for hit in index.get(["c", "nothing", "a", "c"])] == ["c", "a", "c"]
    with pytest.raises(InputError, match=r"Pass \[id\]"):
        index.get("a")


def test_delete_by_ids_and_by_filter(index: SpladeIndex) -> None:
    index.add(MOON, [{"n": 0}, {"n": 1}, {"n": 2}], ["a", "b", "c"])

    index.delete(["a", "nothing"])
    assert index.count() == 2
    index.delete(filter={"n": {"$gt": 1}})
    assert [hit.id for hit in index.scroll()] == ["b"]


@pytest.mark.parametrize("arguments", [{}, {"filter": {}}, {"ids": ["a"], "filter": {"n": 1}}])
def test_delete_without_a_clear_word_deletes_nothing(index: SpladeIndex, arguments: Any) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    with pytest.raises(InputError, match="clear"):
        index.delete(**arguments)
    assert index.count() == 3


def test_clear_empties_the_index_and_keeps_its_memory(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(MOON)
    index.clear()

    assert index.count() == 0
    with pytest.raises(CollectionMismatchError):
        SpladeIndex(client=client, model=WordEncoder("other"))


def test_scroll_walks_over_everything(index: SpladeIndex) -> None:
    index.add([f"text {n}" for n in range(30)], [{"even": n % 2 == 0} for n in range(30)])

    assert {hit.text for hit in index.scroll(batch_size=7)} == {f"text {n}" for n in range(30)}
    assert len(list(index.scroll({"even": True}, batch_size=7))) == 15


def test_metadata_is_replaced_without_encoding(client: Any) -> None:
    encoder = WordEncoder()
    index = SpladeIndex(client=client, model=encoder)
    index.add(["moon"], [{"a": 1, "b": 2}], ["x"])

    assert index.update_metadata("x", {"c": 3})
    assert not index.update_metadata("y", {"c": 3})

    assert encoder.encoded == 1
    (hit,) = index.search("moon")
    assert hit.metadata == {"c": 3}
    with pytest.raises(InputError, match=r"metadata\.c is a set"):
        index.update_metadata("x", {"c": {1}})


# -- opening -------------------------------------------------------------------------------------------------


def test_opening_counting_and_reading_do_not_open_the_model(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder("no-such-model")).add(MOON, ids=["a", "b", "c"])

    index = SpladeIndex(client=client)

    assert index.count() == 3
    assert len(index.get(["a"])) == 1
    index.delete(["a"])
    assert index.count() == 2


def test_the_wrong_model_is_refused_with_both_named_before_anything_is_written(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder("first", precision="fp32")).add(MOON)

    with pytest.raises(
        CollectionMismatchError, match=r"'first'.*'second'.*precision 'fp32' there, 'int8' here"
    ):
        SpladeIndex(client=client, model=WordEncoder("second", precision="int8"))

    assert SpladeIndex(client=client, model=WordEncoder("first", precision="fp32")).count() == 3


def test_settings_that_shape_vectors_are_remembered_and_compared(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder(), max_active_dims=3, min_weight=1.5)

    assert SpladeIndex(client=client, model=WordEncoder()).count() == 0
    with pytest.raises(CollectionMismatchError, match=r"max_active_dims=3.*max_active_dims=4"):
        SpladeIndex(client=client, model=WordEncoder(), max_active_dims=4)


@pytest.mark.parametrize(
    "settings",
    [{"windows": "all"}, {"window_overlap": -1}, {"max_active_dims": 0}, {"min_weight": float("nan")}],
)
def test_settings_that_make_no_sense_are_refused_and_nothing_is_created(client: Any, settings: Any) -> None:
    with pytest.raises(InputError):
        SpladeIndex(client=client, model=WordEncoder(), **settings)

    assert not client.collection_exists("splade")


def test_vectors_are_pruned_as_the_settings_say(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), max_active_dims=2, min_weight=2.0)
    index.add(["a", "b b c c c d d d d"], ids=["light", "heavy"])

    assert index.get(["light"], with_vectors=True)[0].vector is None
    (heavy,) = index.get(["heavy"], with_vectors=True)
    assert heavy.vector is not None
    assert sorted(heavy.vector.values.tolist()) == [3.0, 4.0]


def test_queries_are_pruned_by_their_own_setting(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), query_max_active_dims=1)
    index.add(["moon", "rover"], ids=["moon", "rover"])

    assert [hit.id for hit in index.search("rover rover moon")] == ["rover"]


def test_a_missing_collection_is_an_error_where_none_may_be_made(client: Any, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="'nothing'"):
        SpladeIndex(client=client, collection="nothing", create=False)
    with pytest.raises(CollectionNotFoundError, match="no index folder"):
        SpladeIndex(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()


def test_a_missing_vector_name_is_told_with_those_that_are_there(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder())

    with pytest.raises(CollectionMismatchError, match=r"no sparse vector named 'text' \(found: 'splade'\)"):
        SpladeIndex(client=client, model=WordEncoder(), vector_name="text")
    with pytest.raises(CollectionMismatchError, match="no dense vector named 'dense'"):
        SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())


def test_collections_of_one_store_are_apart(client: Any) -> None:
    first = SpladeIndex(client=client, collection="first", model=WordEncoder("a"))
    second = SpladeIndex(client=client, collection="second", model=WordEncoder("b"))
    first.add(["moon"])

    assert (first.count(), second.count()) == (1, 0)


def test_a_client_and_a_location_exclude_each_other(client: Any) -> None:
    with pytest.raises(InputError, match="both client="):
        SpladeIndex("./somewhere", client=client)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"location": None}, "location is a NoneType"),
        ({"location": ""}, "location is ''"),
        ({"location": "ftp://host"}, "location is 'ftp://host'"),
        ({"client": AsyncQdrantClient(":memory:")}, "client is a AsyncQdrantClient"),
        ({"client": 3}, "client is a int"),
        ({"model": 3}, "model is a int"),
        ({"datatype": "float8"}, "datatype is 'float8'"),
        ({"query_max_active_dims": 0}, "query_max_active_dims is 0"),
        ({"windows": "some"}, "windows is 'some'"),
        ({"window_overlap": "few"}, "window_overlap is 'few'"),
        ({"max_active_dims": 2.5}, r"max_active_dims is 2\.5"),
        ({"min_weight": float("nan")}, "min_weight is nan"),
        ({"min_weight": "light"}, "min_weight is 'light'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=told):
        SpladeIndex(**{"model": WordEncoder(), **argument})
    assert list(tmp_path.iterdir()) == []


def test_a_closed_index_says_so_and_closes_again_in_peace() -> None:
    with SpladeIndex(model=WordEncoder()) as index:
        index.add(MOON)
    index.close()

    for use in (index.count, lambda: index.add(["x"]), lambda: index.search("x"), lambda: index.get(["x"])):
        with pytest.raises(IndexClosedError, match="Open it again"):
            use()


def test_a_client_that_was_given_stays_open(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder()).close()

    assert SpladeIndex(client=client, model=WordEncoder()).count() == 0


def test_a_folder_keeps_everything(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        index.add(MOON, [{"n": n} for n in range(3)], ["a", "b", "c"])
        before = index.search("rover lander")

    with SpladeIndex(tmp_path / "index", model=WordEncoder(), create=False) as again:
        assert again.search("rover lander") == before
        assert again.count() == 3


def test_repr_tells_place_collection_and_model(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())

    assert repr(index) == f"SpladeIndex(client={type(client).__name__}, collection='splade', model='words')"


def test_a_tenant_field_gets_the_engines_index_for_tenants_and_parts_them(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), tenant_field="org.id")
    for org in ("a", "b"):
        index.add([f"moon {n}" for n in range(20)], [{"org": {"id": org}}] * 20)

    hits = index.search("moon", k=100, filter={"org.id": "b"})
    assert len(hits) == 20
    assert {hit.metadata["org"]["id"] for hit in hits} == {"b"}
    index.delete(filter={"org.id": "b"})
    assert index.count() == index.count({"org.id": "a"}) == 20
    if not is_local(client):  # which has no indexes
        (schema,) = client.get_collection("splade").payload_schema.items()
        assert schema[0] == "metadata.org.id"
        assert (schema[1].data_type, schema[1].params.is_tenant, schema[1].points) == ("keyword", True, 20)


def is_local(client: Any) -> bool:
    return isinstance(client, QdrantClient) and isinstance(client._client, QdrantLocal)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("keyword", "en"),
        ("integer", 3),
        ("float", 0.5),
        ("bool", True),
        ("datetime", "2023-08-23T12:33:00Z"),
        ("text", "lunar orbit"),
        ("uuid", "550e8400-e29b-41d4-a716-446655440000"),
    ],
)
def test_every_kind_of_index_finds_its_kind_of_value(client: Any, kind: str, value: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), indexed_fields={"field": kind})
    index.add(["moon", "rover"], [{"field": value}, {}], ids=["with", "without"])

    asked = {"$text": "orbit"} if kind == "text" else value
    assert [hit.id for hit in index.scroll({"field": asked})] == ["with"]
    if not is_local(client):
        (schema,) = client.get_collection("splade").payload_schema.values()
        assert (schema.data_type, schema.points) == (kind, 1)


def test_declared_fields_get_an_index(client: Any) -> None:
    index = SpladeIndex(
        client=client, model=WordEncoder(), indexed_fields={"year": "integer", "lang": "keyword"}
    )
    index.add(["moon"], [{"year": 2023, "lang": "en"}])

    assert index.count({"year": 2023, "lang": "en"}) == 1
    with pytest.raises(InputError, match="keyword"):
        SpladeIndex(client=client, model=WordEncoder(), indexed_fields={"year": "number"})


# -- collections of other programs --------------------------------------------------------------------------


def foreign(client: Any) -> None:
    client.create_collection(
        "theirs", vectors_config={}, sparse_vectors_config={"splade": models.SparseVectorParams()}
    )
    vector = next(WordEncoder().passage_embed(["moon"]))
    client.upsert(
        "theirs",
        points=[
            models.PointStruct(
                id="550e8400-e29b-41d4-a716-446655440000",
                vector={
                    "splade": models.SparseVector(
                        indices=vector.indices.tolist(), values=vector.values.tolist()
                    )
                },
                payload={"page_content": "moon", "metadata": {"a": 1}},
            )
        ],
    )


def test_a_collection_in_langchains_layout_is_read_as_it_is(client: Any) -> None:
    foreign(client)
    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder())

    (hit,) = index.search("moon", filter={"a": 1})

    assert (hit.id, hit.text, hit.metadata) == ("550e8400-e29b-41d4-a716-446655440000", "moon", {"a": 1})
    assert [found.text for found in index.get([hit.id])] == ["moon"]


def test_a_collection_of_unknown_origin_is_written_only_when_adopted(client: Any) -> None:
    foreign(client)
    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        SpladeIndex(client=client, collection="theirs", model=WordEncoder()).add(["more"])

    SpladeIndex(client=client, collection="theirs", model=WordEncoder(), adopt=True).add(["more"], ids=["m"])

    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder())
    assert index.count() == 2
    assert index.get(["m"])[0].text == "more"
    index.add(["new"], ids=["550e8400-e29b-41d4-a716-446655440000"])
    assert index.count() == 2
    with pytest.raises(CollectionMismatchError, match="'other'"):
        SpladeIndex(client=client, collection="theirs", model=WordEncoder("other"))


def test_a_collection_in_llama_indexs_layout_is_read_as_it_is(client: Any) -> None:
    client.create_collection(
        "nodes", vectors_config={}, sparse_vectors_config={"splade": models.SparseVectorParams()}
    )
    vector = models.SparseVector(indices=[1], values=[1.0])
    payload = {
        "lang": "en",
        "_node_type": "TextNode",
        "_node_content": '{"text": "moon", "metadata": {"lang": "en"}}',
    }
    client.upsert("nodes", points=[models.PointStruct(id=7, vector={"splade": vector}, payload=payload)])

    index = SpladeIndex(client=client, collection="nodes", model=WordEncoder())

    (hit,) = index.search(SparseEmbedding(values=[1.0], indices=[1]), filter={"lang": "en"})
    assert (hit.id, hit.text, hit.metadata) == ("7", "moon", {"lang": "en"})


def test_another_layout_can_be_named(client: Any) -> None:
    layout = Layout(content_key="text", metadata_key="about")
    index = SpladeIndex(client=client, model=WordEncoder(), layout=layout)
    index.add(["moon"], [{"a": 1}], ["x"])

    again = SpladeIndex(client=client, model=WordEncoder())
    assert again.search("moon", filter={"a": 1})[0].metadata == {"a": 1}


# -- hybrid --------------------------------------------------------------------------------------------------


@pytest.fixture
def hybrid(client: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add(["moon rover", "moan over", "lunar dust", "zzz"], ids=["both", "letters", "other", "none"])
    return index


def test_hybrid_tells_each_branchs_rank_and_score(hybrid: SpladeIndex) -> None:
    hits = hybrid.search("moon rover")

    assert hits[0].id == "both"
    assert hits[0].branches["sparse"] == Branch(rank=1, score=2.0)
    assert hits[0].branches["dense"].rank == 1
    assert hits[0].branches["dense"].score == pytest.approx(1.0, abs=1e-5)
    letters = next(hit for hit in hits if hit.id == "letters")
    assert set(letters.branches) == {"dense"}


def test_sparse_only_and_dense_only_need_no_second_index(hybrid: SpladeIndex) -> None:
    assert [hit.id for hit in hybrid.search("moon", mode="sparse")] == ["both"]
    assert len(hybrid.search("moon", mode="dense")) == 4
    assert hybrid.search("moon", mode="dense")[0].score <= 1.0 + 1e-6


def test_the_fused_score_is_reciprocal_rank_fusion_with_k_and_weights(hybrid: SpladeIndex) -> None:
    equal = hybrid.search("moon rover")[0]
    assert equal.score == pytest.approx(2 / 60, rel=0.02)

    sparse_only = hybrid.search("moon rover", fusion=Fusion(weights=(1.0, 0.0)))
    assert sparse_only[0].id == "both"
    assert sparse_only[0].score == pytest.approx(1 / 60, rel=0.02)


def test_the_dense_encoders_of_both_frameworks_fit_as_they_are(client: Any) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from llama_index.core.embeddings import BaseEmbedding

    class Letters(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return LetterEncoder().embed_query(text)

        def _get_query_embedding(self, query: str) -> list[float]:
            return LetterEncoder().embed_query(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return LetterEncoder().embed_query(query)

    for name, dense in (("lc", DeterministicFakeEmbedding(size=26)), ("li", Letters())):
        index = SpladeIndex(client=client, collection=name, model=WordEncoder(), dense=dense)
        index.add(["moon rover", "lunar dust"])
        (best, _) = index.search("moon rover")
        assert best.text == "moon rover"
        assert {side: branch.rank for side, branch in best.branches.items()} == {"sparse": 1, "dense": 1}
    with pytest.raises(InputError, match=r"dense is a str.*embed_documents.*get_text_embedding_batch"):
        SpladeIndex(client=client, model=WordEncoder(), dense="bge")  # type: ignore[arg-type]


def test_a_threshold_is_the_lowest_score_of_every_kind_of_search(hybrid: SpladeIndex) -> None:
    for asked in ({"mode": "sparse"}, {"mode": "dense"}, {"mode": "hybrid"}, {"fusion": Fusion("dbsf")}):
        whole = hybrid.search("moon over", **asked)  # type: ignore[arg-type]
        for hit in whole:
            found = hybrid.search("moon over", score_threshold=hit.score, **asked)  # type: ignore[arg-type]
            assert found == [other for other in whole if other.score >= hit.score], asked


def test_a_hybrid_query_without_tokens_is_ranked_by_the_dense_side_on_the_same_scale(
    hybrid: SpladeIndex,
) -> None:
    hits = hybrid.search("!?")

    assert [hit.branches["dense"].rank for hit in hits] == [1, 2, 3, 4]
    assert all(set(hit.branches) == {"dense"} for hit in hits)
    assert [hit.score for hit in hits] == pytest.approx([1 / 60, 1 / 61, 1 / 62, 1 / 63])


def test_dbsf_is_the_other_fusion(hybrid: SpladeIndex) -> None:
    assert hybrid.search("moon rover", fusion=Fusion("dbsf"))[0].id == "both"


def test_hybrid_pages_do_not_run_dry_beyond_k(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add([f"moon {n}" for n in range(50)])

    whole = [hit.id for hit in index.search("moon", k=50)]

    assert len(whole) == 50
    assert [hit.id for hit in index.search("moon", k=5, offset=10)] == whole[10:15]


def test_how_deep_the_sides_are_read_does_not_depend_on_the_page(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    # Every text has "moon"; letters and words rank them otherwise.
    index.add([f"moon {'o' * (n % 13)} {'x ' * (n % 7)}" for n in range(90)], ids=[str(n) for n in range(90)])
    for fusion in (Fusion(depth=20), Fusion(depth=20, weights=(1.0, 3.0)), Fusion("dbsf", depth=20)):
        whole = index.search("moon x", k=100, fusion=fusion)

        assert 20 <= len(whole) <= 40, "the first 20 of either side"
        for k, offset in ((1, 0), (7, 0), (7, 7), (5, 19), (50, 10)):
            page = index.search("moon x", k=k, offset=offset, fusion=fusion)
            # Local mode adds in another order each time, and so has other last digits.
            assert [(hit.id, pytest.approx(hit.score, rel=1e-4)) for hit in page] == [
                (hit.id, hit.score) for hit in whole[offset : offset + k]
            ]
        assert {branch.rank for hit in whole for branch in hit.branches.values()} == {*range(1, 21)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "max"},
        {"rrf_k": 0},
        {"depth": 0},
        {"weights": (1.0, -1.0)},
        {"weights": (0.0, 0.0)},
        {"method": "dbsf", "weights": (1.0, 1.0)},
    ],
)
def test_a_fusion_that_makes_no_sense_is_refused(arguments: Any) -> None:
    with pytest.raises(InputError):
        Fusion(**arguments)


def test_adding_to_a_hybrid_collection_without_its_dense_encoder_writes_nothing(hybrid: SpladeIndex) -> None:
    sparse_only = SpladeIndex(client=hybrid.client, model=WordEncoder())

    assert sparse_only.search("moon")[0].id == "both"
    with pytest.raises(CollectionMismatchError, match="no dense="):
        sparse_only.add(["more"])
    assert sparse_only.count() == 4


# -- threads and async --------------------------------------------------------------------------------------


def test_eight_threads_search_while_one_adds() -> None:
    index = SpladeIndex(model=WordEncoder())
    index.add([f"moon {n}" for n in range(200)])
    done = threading.Event()
    faults: list[BaseException] = []
    searches = [0] * 8

    def look(n: int) -> None:
        try:
            while not done.is_set():
                hits = index.search("moon", k=5)
                assert len(hits) == 5
                assert all(hit.text.startswith("moon") for hit in hits)
                searches[n] += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            faults.append(error)

    threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    try:
        index.add((f"moon {n}" for n in range(200, 1200)), batch_size=50)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    count = index.count()
    index.close()

    assert faults == []
    assert count == 1200
    assert min(searches) > 0


def test_the_async_methods_give_what_the_others_give() -> None:
    async def run() -> None:
        with SpladeIndex(model=WordEncoder()) as index:
            ids = await index.aadd(MOON, ids=["a", "b", "c"])
            assert ids == ["a", "b", "c"]
            assert await index.asearch("rover lander") == index.search("rover lander")
            assert await index.aget(["a"]) == index.get(["a"])
            assert await index.acount() == 3
            await index.adelete(["a"])
            assert await index.acount() == 2

    asyncio.run(run())


def test_a_cancelled_add_ends_soon_and_keeps_what_was_acknowledged() -> None:
    told: list[str] = []

    async def run(index: SpladeIndex) -> None:
        task = asyncio.create_task(
            index.aadd((f"text {n}" for n in range(1_000_000)), batch_size=10, on_written=told.extend)
        )
        while not told:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with SpladeIndex(model=WordEncoder()) as index:
        started = time.monotonic()
        asyncio.run(run(index))
        assert time.monotonic() - started < 20
        assert index.count() >= len(told)


def test_searches_that_wait_at_the_same_time_are_encoded_together() -> None:
    sizes: list[int] = []

    class Slow(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            sizes.append(len(query))
            time.sleep(0.02)
            return super().query_embed(query)

    async def run(index: SpladeIndex) -> None:
        hits = await asyncio.gather(*(index.asearch(text) for text in MOON * 10))
        assert [found[0].text for found in hits] == MOON * 10
        with pytest.raises(InputError):
            await index.asearch("moon", k=0)

    with SpladeIndex(client=QdrantClient(":memory:"), model=Slow()) as index:
        index.add(MOON)
        asyncio.run(run(index))

    assert sum(sizes) == 30
    assert len(sizes) <= 4


def test_a_search_that_fails_spoils_no_other_that_waits_with_it() -> None:
    class Picky(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            time.sleep(0.02)
            if "poison" in query:
                raise RuntimeError("poison")
            return super().query_embed(query)

    async def run(index: SpladeIndex) -> list[Any]:
        asked = ["moon", "poison", "rover", "lander"]
        return await asyncio.gather(*map(index.asearch, asked), return_exceptions=True)

    with SpladeIndex(client=QdrantClient(":memory:"), model=Picky()) as index:
        index.add(MOON)
        answers = asyncio.run(run(index))

    assert [type(answer) for answer in answers] == [list, RuntimeError, list, list]
