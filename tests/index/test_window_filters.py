"""With windows="points" a filter matches documents: all points of one, or none."""

from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.errors import InputError
from splade_retriever.index.documents import DocumentKey
from splade_retriever.index.payload import point_id
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

TEXTS = {
    "long": "one two three four five six seven eight nine lander rover orbit",
    "short": "lander one",
    "other": "two three four five moon six seven eight nine ten eleven twelve rocket",
}
METADATA = {"long": {"n": 1}, "short": {"n": 2}, "other": {"n": 3}}


@pytest.fixture(name="windows")
def index_of_windows(client: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=4), windows="points", window_overlap=1)
    index.add([*TEXTS.values()], [*METADATA.values()], [*TEXTS])
    return index


def text(words: str) -> models.FieldCondition:
    return models.FieldCondition(key="page_content", match=models.MatchText(text=words))


FILTERS: list[tuple[Any, set[str]]] = [
    ({"$text": "lander"}, {"long", "short"}),
    ({"$not": {"$text": "lander"}}, {"other"}),
    ({"$text": "one orbit"}, {"long"}),  # words of two windows
    ({"$text": "nine", "n": {"$gte": 2}}, {"other"}),
    ({"$or": [{"$text": "rocket"}, {"n": 2}]}, {"other", "short"}),
    ({"$not": {"$or": [{"$text": "rocket"}, {"n": 2}]}}, {"long"}),
    (models.Filter(must_not=[text("rocket")]), {"long", "short"}),
    (models.Filter(must=[models.HasIdCondition(has_id=[1])]), set()),
    (
        models.Filter(
            min_should=models.MinShould(conditions=[text("one"), text("lander"), text("moon")], min_count=2)
        ),
        {"long", "short"},
    ),
]


@pytest.mark.parametrize(("filter", "ids"), FILTERS)
def test_search_scroll_and_count_agree_on_what_a_filter_matches(
    windows: SpladeIndex, filter: Any, ids: set[str]
) -> None:
    query = " ".join(TEXTS.values())

    assert {hit.id for hit in windows.search(query, filter=filter)} == ids
    assert {hit.id for hit in windows.scroll(filter)} == ids
    assert windows.count(filter) == len(ids)


@pytest.mark.parametrize(("filter", "ids"), FILTERS)
def test_a_filter_deletes_complete_documents(windows: SpladeIndex, filter: Any, ids: set[str]) -> None:
    windows.delete(filter=filter)

    assert {hit.id: hit.text for hit in windows.scroll()} == {
        id: words for id, words in TEXTS.items() if id not in ids
    }
    left = windows.store.scroll()
    assert {record.payload["_splade"]["id"] for record in left if record.payload} == TEXTS.keys() - ids


@pytest.mark.parametrize("window", [0, 1, 2])
def test_the_id_of_any_window_names_its_document(windows: SpladeIndex, window: int) -> None:
    point = models.HasIdCondition(has_id=[point_id(DocumentKey("long"), windows.layout, window)])

    assert windows.count(models.Filter(must=[point])) == 1
    assert windows.count(models.Filter(must_not=[point])) == 2
    windows.delete(filter=models.Filter(must=[point]))
    assert {hit.id for hit in windows.scroll()} == {"short", "other"}
    assert windows.add([TEXTS["long"]], ids=["long"]) == ["long"]
    assert windows.get(["long"])[0].text == TEXTS["long"]


def test_a_condition_on_the_window_matches_complete_documents(windows: SpladeIndex) -> None:
    third = models.FieldCondition(key="_splade.window.n", match=models.MatchValue(value=2))

    windows.delete(filter=models.Filter(must=[third]))

    assert [hit.text for hit in windows.scroll()] == [TEXTS["short"]]


def test_what_an_interrupted_deletion_left_is_deleted_by_a_filter(windows: SpladeIndex) -> None:
    windows.store.delete_points(
        [point_id(DocumentKey("long"), windows.layout)]
    )  # the first, by which others are found

    windows.delete(filter={"n": 1})

    records = windows.store.scroll()
    assert {record.payload["_splade"]["id"] for record in records if record.payload} == {"short", "other"}


def test_a_document_whose_deletion_was_interrupted_is_written_again(windows: SpladeIndex) -> None:
    delete_points = windows.store.delete_points

    def interrupted(points: Any) -> None:
        delete_points(points[:1])
        raise KeyboardInterrupt

    windows.store.delete_points = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        windows.delete(["long"])
    del windows.store.delete_points

    windows.add([TEXTS["long"]], [METADATA["long"]], ["long"])

    assert windows.get(["long"])[0].text == TEXTS["long"]


def test_documents_of_two_tenants_with_one_id_are_different_documents(client: Any) -> None:
    index = SpladeIndex(
        client=client, model=WordEncoder(max_length=4), windows="points", tenant_field="tenant"
    )
    owners = [{"tenant": "acme"}, {"tenant": "globex"}]
    index.add([TEXTS["long"], TEXTS["other"]], owners, ["1", "1"])

    assert [hit.metadata for hit in index.scroll({"$text": "lander"})] == [{"tenant": "acme"}]
    assert [hit.metadata for hit in index.scroll({"$not": {"$text": "lander"}})] == [{"tenant": "globex"}]
    index.delete(filter={"$text": "lander"})
    assert [hit.text for hit in index.scroll()] == [TEXTS["other"]]


EMPTY: list[Any] = [
    models.Filter(),
    models.Filter(must=[]),
    models.Filter(must=[models.Filter(should=[])]),
    models.Filter(should=[models.Filter(), models.FieldCondition(key="n", match=models.MatchValue(value=1))]),
    models.Filter(must_not=[models.Filter(must_not=[models.Filter()])]),
    models.Filter(must_not=[models.HasIdCondition(has_id=[])]),
    models.Filter(min_should=models.MinShould(conditions=[models.Filter()], min_count=1)),
    {"$and": [models.Filter()]},
    {"$or": [models.Filter(must=[]), {"n": 1}]},
    {"n": {"$nin": []}},
    {},
]


@pytest.mark.parametrize("filter", EMPTY)
def test_an_empty_filter_deletes_nothing(index: SpladeIndex, filter: Any) -> None:
    index.add(["moon"], ids=["a"])

    with pytest.raises(InputError, match=r"clear\(\)"):
        index.delete(filter=filter)

    assert index.count() == 1


def test_delete_returns_the_number_of_documents_not_of_windows(tmp_path: Path) -> None:
    encoder = WordEncoder(max_length=3)
    with SpladeIndex(tmp_path, model=encoder, windows="points", window_overlap=0) as index:
        index.add(["one two three four five six"] * 3, [{"n": n} for n in range(3)], ["a", "b", "c"])
        assert index.delete(["a", "nowhere"]) == 1
        assert index.delete(filter={"n": {"$gte": 1}}) == 2
        assert index.count() == 0
