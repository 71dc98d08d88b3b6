import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import FilterError
from splade_retriever.filters import field_path, to_qdrant_filter
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

# -- the language, evaluated in plain Python -----------------------------------------------------------------


def holds(filter: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Say by the documented rules whether a document's metadata passes a filter."""
    for key, value in filter.items():
        if key == "$and":
            passed = all(holds(part, metadata) for part in value)
        elif key == "$or":
            passed = any(holds(part, metadata) for part in value)
        elif key == "$not":
            passed = not holds(value, metadata)
        else:
            passed = field_holds(value, values_at(key, metadata))
        if not passed:
            return False
    return True


def values_at(key: str, metadata: Mapping[str, Any]) -> list[Any]:
    value: Any = metadata
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return []
        value = value[part]
    if value == [None]:  # is there, unlike a null
        return [None, None]
    return value if isinstance(value, list) else [value]


def field_holds(condition: Any, values: list[Any]) -> bool:
    if isinstance(condition, list):
        condition = {"$in": condition}
    if not isinstance(condition, Mapping):
        condition = {"$eq": condition}
    ranges = {word: bound for word, bound in condition.items() if word in ORDER}
    if ranges and not any(all(ordered(v, word, bound) for word, bound in ranges.items()) for v in values):
        return False
    return all(word_holds(word, value, values) for word, value in condition.items() if word not in ORDER)


def word_holds(word: str, value: Any, values: list[Any]) -> bool:
    def has(choice: Any) -> bool:
        return any(same(stored, choice) for stored in values)

    rules: dict[str, Callable[[], bool]] = {
        "$eq": lambda: has(value),
        "$contains": lambda: has(value),
        "$ne": lambda: not has(value),
        "$in": lambda: any(map(has, value)),
        "$nin": lambda: not any(map(has, value)),
        "$all": lambda: all(map(has, value)),
        "$exists": lambda: bool(values and values != [None]) == value,
        "$not": lambda: not field_holds(value, values),
    }
    return rules[word]()


ORDER = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def ordered(value: Any, word: str, bound: Any) -> bool:
    if isinstance(bound, datetime):
        if not isinstance(value, str):
            return False
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return False
        return ORDER[word](moment if moment.tzinfo else moment.replace(tzinfo=UTC), bound)
    return isinstance(value, int | float) and not isinstance(value, bool) and ORDER[word](value, bound)


def same(value: Any, asked: Any) -> bool:
    if isinstance(asked, datetime):
        return ordered(value, "$gte", asked) and ordered(value, "$lte", asked)
    if isinstance(asked, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and value == asked
    return type(value) is type(asked) and value == asked


# -- generated documents and filters -------------------------------------------------------------------------

MOMENTS = [datetime(2023, 8, 23, 12, 33, tzinfo=UTC) + timedelta(days=d) for d in (-1, 0, 1)]
plain = st.sampled_from(
    ["en", "de", "EN", "2", "", True, False, 0, 1, 2, -3, 2.0, 0.5, 1e300, *map(str, MOMENTS)]
)
stored = st.one_of(plain, st.none(), st.lists(plain, max_size=3), st.just([]))
documents = st.dictionaries(st.sampled_from(["a", "b"]), stored) | st.fixed_dictionaries(
    {"n": st.dictionaries(st.sampled_from(["a", "b"]), stored)}
)
keys = st.sampled_from(["a", "b", "n.a", "n.b", "n"])
asked = plain | st.sampled_from(MOMENTS)
numbers = st.sampled_from([-3, 0, 1, 2, 0.5, 2.0, 1e300])
ranges = st.dictionaries(st.sampled_from(sorted(ORDER)), numbers, min_size=1) | st.dictionaries(
    st.sampled_from(sorted(ORDER)), st.sampled_from(MOMENTS), min_size=1
)
operators = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"$eq": asked, "$ne": asked, "$contains": asked, "$exists": st.booleans()}
    ),
    st.fixed_dictionaries(
        {}, optional={"$in": st.lists(asked, max_size=3), "$nin": st.lists(asked, max_size=3)}
    ),
    st.builds(lambda values: {"$all": values}, st.lists(asked, min_size=1, max_size=2)),
    ranges,
).filter(bool)
conditions = st.one_of(
    asked, st.lists(asked, max_size=3), operators, st.builds(lambda inner: {"$not": inner}, operators)
)
filters = st.recursive(
    st.dictionaries(keys, conditions, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module", params=["edge", "local"])
def index(request: pytest.FixtureRequest) -> Iterator[SpladeIndex]:
    if request.param == "edge":
        opened = SpladeIndex(model=WordEncoder())
    else:
        opened = SpladeIndex(client=QdrantClient(":memory:"), model=WordEncoder())
    yield opened
    opened.client.close()


@settings(max_examples=100)
@given(metadatas=st.lists(documents, min_size=1, max_size=6), asked=st.lists(filters, min_size=1, max_size=8))
def test_the_engine_finds_the_documents_that_match_in_plain_python(
    index: SpladeIndex, metadatas: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    index.clear()
    ids = index.add(["moon"] * len(metadatas), metadatas, [str(n) for n in range(len(metadatas))])

    for filter in asked:
        expected = [id for id, metadata in zip(ids, metadatas, strict=True) if holds(filter, metadata)]
        assert sorted(hit.id for hit in index.scroll(filter)) == expected, filter
        assert index.count(filter) == len(expected)


# -- the parts of the language -------------------------------------------------------------------------------


def ids_of(index: SpladeIndex, filter: Any, **metadatas: Mapping[str, Any]) -> list[str]:
    index.clear()
    index.add([str(metadata) for metadata in metadatas.values()], metadatas.values(), metadatas.keys())
    return sorted(hit.id for hit in index.scroll(filter))


def test_values_lists_and_ranges_match(index: SpladeIndex) -> None:
    documents: dict[str, Any] = {
        "a": {"year": 2019, "lang": "en"},
        "b": {"year": 2023, "lang": "de"},
        "c": {"year": 2024},
    }

    assert ids_of(index, {"year": 2023}, **documents) == ["b"]
    assert ids_of(index, {"lang": ["en", "de"]}, **documents) == ["a", "b"]
    assert ids_of(index, {"year": {"$gte": 2020, "$lt": 2024}}, **documents) == ["b"]
    assert ids_of(index, {"year": {"$gte": 2020}, "lang": "de"}, **documents) == ["b"]
    assert ids_of(index, {}, **documents) == ["a", "b", "c"]


def test_true_does_not_match_one_and_an_int_matches_ints_only(index: SpladeIndex) -> None:
    documents: dict[str, Any] = {
        "bool": {"v": True},
        "int": {"v": 1},
        "float": {"v": 1.0},
        "string": {"v": "1"},
    }

    assert ids_of(index, {"v": True}, **documents) == ["bool"]
    assert ids_of(index, {"v": 1}, **documents) == ["int"]
    assert ids_of(index, {"v": 1.0}, **documents) == ["float", "int"]
    assert ids_of(index, {"v": "1"}, **documents) == ["string"]


def test_datetimes_and_iso_strings_of_any_zone_are_points_in_time(index: SpladeIndex) -> None:
    documents: dict[str, Any] = {
        "utc": {"at": "2023-08-23T12:33:00+00:00"},
        "india": {"at": "2023-08-23T18:03:00+05:30"},
        "later": {"at": "2023-08-24T00:00:00Z"},
        "word": {"at": "soon"},
    }
    landing = datetime(2023, 8, 23, 14, 33, tzinfo=timezone(timedelta(hours=2)))

    assert ids_of(index, {"at": landing}, **documents) == ["india", "utc"]
    assert ids_of(index, {"at": {"$gt": landing}}, **documents) == ["later"]
    assert ids_of(index, {"at": {"$lt": date(2023, 8, 24)}}, **documents) == ["india", "utc"]
    assert ids_of(index, {"at": {"$gte": "2023-08-23T12:33:00", "$lt": "2023-08-24"}}, **documents) == [
        "india",
        "utc",
    ]


def test_nested_keys_are_written_with_dots_or_as_dicts(index: SpladeIndex) -> None:
    documents: dict[str, Any] = {
        "ada": {"author": {"name": "Ada", "born": 1815}},
        "bob": {"author": {"name": "Bob"}},
    }

    assert ids_of(index, {"author.name": "Ada"}, **documents) == ["ada"]
    assert ids_of(index, {"author": {"name": "Ada"}}, **documents) == ["ada"]
    assert ids_of(index, {"author": {"born": {"$gt": 1800}}}, **documents) == ["ada"]


@pytest.mark.parametrize("key", ["file name", "größe", "a-b", "a/b", "$5".replace("$", "€"), "x_1", "1"])
def test_keys_of_any_letters_work(index: SpladeIndex, key: str) -> None:
    assert ids_of(index, {key: 1}, a={key: 1}, b={key: 2}) == ["a"]


def test_a_key_that_contains_a_dot_is_written_in_quotes(index: SpladeIndex) -> None:
    assert ids_of(index, {'"a.b".c': 1}, dot={"a.b": {"c": 1}}, nested={"a": {"b": {"c": 1}}}) == ["dot"]


def test_text_matches_words_of_a_field_or_of_the_document(index: SpladeIndex) -> None:
    documents: dict[str, Any] = {"a": {"title": "The lunar orbit"}, "b": {"title": "An orbit of Mars"}}

    assert ids_of(index, {"title": {"$text": "orbit lunar"}}, **documents) == ["a"]
    assert ids_of(index, {"$text": "mars"}, **documents) == ["b"]


def test_both_bounds_of_a_range_hold_for_the_same_element(index: SpladeIndex) -> None:
    assert ids_of(index, {"v": {"$gt": 2, "$lt": 4}}, a={"v": [1, 5]}, b={"v": [1, 3]}) == ["b"]


def test_a_filter_of_the_engine_is_returned_unchanged() -> None:
    own = models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.a"))])

    assert to_qdrant_filter(own) is own
    assert to_qdrant_filter(None) is None


def test_metadata_can_be_at_the_top_level_of_the_payload() -> None:
    top = to_qdrant_filter({"a": 1}, metadata_key=None)

    assert top == models.Filter(must=[models.FieldCondition(key="a", match=models.MatchValue(value=1))])
    assert field_path("a b") == 'metadata."a b"'
    assert field_path("a", metadata_key=None) == "a"


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("year > 2020", "The filter is a str"),
        ([{"a": 1}], "The filter is a list"),
        ({1: 2}, "Filter key 1 is an int"),
        ({"$near": 1}, r"the operator '\$near' in place of a key; allowed there: \$and"),
        ({"$gt": 1}, "Put the operator of a field inside"),
        ({"a": {"$near": 1}}, r"'a' has the unknown operator '\$near'; allowed: \$all"),
        ({"a": {"$gt": 1, "b": 2}}, r"'a' mixes the operator '\$gt' with the key 'b'"),
        ({"a": {"gte": 1}}, r"'a' has 'gte' without \$\. Write the operator as '\$gte', or a nested"),
        ({"a": {}}, "'a' is an empty dict"),
        ({"a": None}, r"'a' is compared with None.*\$exists"),
        ({"a": {"b": object()}}, r"'a\.b' is compared with <object"),
        ({"a": {"$in": "en"}}, r"\$in of filter key 'a' is 'en', expected a list"),
        ({"a": {"$in": [None]}}, "compared with None"),
        ({"a": {"$all": []}}, "at least one"),
        ({"a": {"$exists": 1}}, "expected True or False"),
        ({"a": {"$text": "?"}}, "at least one word"),
        ({"a": {"$not": 1}}, r"use \$ne"),
        ({"a": {"$gt": "yesterday"}}, "does not order strings"),
        ({"a": {"$gt": True}}, "a bool; allowed: numbers"),
        ({"a": {"$gt": 1, "$lt": "2023-01-01"}}, "not both in one range"),
        ({"a": {"$gt": math.nan}}, "expected a finite number"),
        ({"a": math.inf}, "expected a finite number"),
        ({"a": {"$gte": 10**400}}, "expected a finite number"),
        ({"a": 2**63}, "64 bits"),
        ({"a": "\ud800"}, "half a surrogate"),
        ({"\ud800": 1}, "half a surrogate"),
        ({"$or": []}, r"\$or is \[\], expected a list of at least one filter"),
        ({"$and": {"a": 1}}, r"\$and is"),
        ({"$or": [{}]}, "not empty"),
        ({"$not": [1]}, r"\$not is"),
        ({"": 1}, "not a path"),
        ({"a..b": 1}, "not a path"),
        ({".a": 1}, "not a path"),
        ({"a.": 1}, "not a path"),
        ({'"a': 1}, "not a path"),
        ({'""': 1}, "not a path"),
        ({'"a"b': 1}, r"as json\.dumps returns it: .*a.*b"),
        ({'"\\x"': 1}, "not a path"),
        ({'"\\ud800"': 1}, "not a path"),
    ],
)
def test_a_filter_that_is_not_valid_is_refused(filter: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        to_qdrant_filter(filter)


def test_a_filter_that_engines_cannot_parse_is_refused() -> None:
    deep: Any = {"lang": "en"}
    raw: Any = models.Filter(must=[])
    for _ in range(10_000):
        deep = {"$and": [deep]}
    for _ in range(200):
        raw = models.Filter.model_construct(must=[raw])

    for filter in (deep, raw):
        with pytest.raises(FilterError, match="more than 32 levels deep"):
            to_qdrant_filter(filter)
    assert to_qdrant_filter({"lang": [str(n) for n in range(5000)]}) is not None


CITIES = {
    "berlin": {"lon": 13.405, "lat": 52.52},
    "potsdam": {"lon": 13.064, "lat": 52.396},
    "paris": {"lon": 2.352, "lat": 48.857},
}
BOX = {"top_left": {"lon": 13.0, "lat": 52.6}, "bottom_right": {"lon": 13.2, "lat": 52.3}}
TRIANGLE = [
    {"lon": 0.0, "lat": 45.0},
    {"lon": 5.0, "lat": 45.0},
    {"lon": 2.5, "lat": 52.0},
    {"lon": 0.0, "lat": 45.0},
]


@pytest.mark.parametrize("make", [EdgeClient, lambda: QdrantClient(":memory:")])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"$geo_radius": {"center": CITIES["berlin"], "radius": 1_000}}, {"berlin"}),
        ({"$geo_radius": {"center": CITIES["berlin"], "radius": np.int64(40_000)}}, {"berlin", "potsdam"}),
        ({"$geo_bounding_box": BOX}, {"potsdam"}),
        ({"$geo_polygon": {"exterior": {"points": TRIANGLE}}}, {"paris"}),
        ({"$not": {"$geo_polygon": {"exterior": {"points": TRIANGLE}}}}, {"berlin", "potsdam"}),
    ],
)
def test_places_are_found_by_geo_operators(make: Any, condition: Any, expected: set[str]) -> None:
    client = make()
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(["a city"] * 3, [{"place": place} for place in CITIES.values()], list(CITIES))
    assert {hit.id for hit in index.search("city", filter={"place": condition})} == expected
    client.close()


@pytest.mark.parametrize(
    "condition",
    [
        {"$geo_radius": {"center": {"lon": 13.4, "lat": 152.5}, "radius": 1}},
        {"$geo_radius": {"center": {"lon": 13.4, "lat": 52.5}, "radius": -1}},
        {"$geo_radius": {"center": {"lon": 13.4, "lat": 52.5}, "radius": float("nan")}},
        {"$geo_radius": 5},
        {"$geo_bounding_box": {"top_left": {"lon": 1, "lat": 1}}},
        {"$geo_polygon": {"points": []}},
    ],
)
def test_a_geo_operator_says_which_shape_it_expects(condition: dict[str, Any]) -> None:
    with pytest.raises(FilterError, match="where a point is"):
        to_qdrant_filter({"place": condition})


def test_numbers_of_numpy_are_numbers() -> None:
    index = SpladeIndex(model=WordEncoder())
    values = {
        "n": np.int64(3),
        "f": np.float64(1.5),
        "b": np.bool_(True),
        "l": [np.int32(1)],
        "s": np.str_("x"),
    }
    index.add(["moon"], [values], ["a"])
    assert index.get(["a"])[0].metadata == {"n": 3, "f": 1.5, "b": True, "l": [1], "s": "x"}
    for condition in (
        {"n": np.int64(3)},
        {"n": [np.int64(3), 4]},
        {"n": {"$in": [np.int32(3)]}},
        {"n": {"$gte": np.int64(3), "$lt": np.float32(4)}},
        {"b": np.bool_(True)},
        {"f": np.float32(1.5)},
        {"l": {"$all": [np.int8(1)]}},
    ):
        assert index.count(condition) == 1, condition
    assert len(index.search("moon", np.int64(1), offset=np.int64(0))) == 1  # type: ignore[arg-type]
    assert index.update_metadata("a", {"n": np.int64(4)})
    assert index.get(["a"])[0].metadata == {"n": 4}
    index.close()


@pytest.mark.parametrize(
    ("key", "path"), [("file name", "file name"), ("a.b", '"a.b"'), ("a[0]", '"a[0]"'), ("é", "é")]
)
def test_keys_with_blanks_dots_and_brackets_can_be_filtered(key: str, path: str) -> None:
    with SpladeIndex(model=WordEncoder()) as index:
        index.add(["moon"], [{key: 7}], ["a"])
        assert index.count({path: 7}) == 1


@pytest.mark.parametrize("key", ['say "hi"', "a\\b"])
def test_keys_that_the_engine_cannot_name_are_an_error_without_a_copy_of_their_values(key: str) -> None:
    with pytest.raises(FilterError, match="Qdrant's paths cannot name"):
        to_qdrant_filter({key: 7})
