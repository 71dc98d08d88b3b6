"""EdgeClient and qdrant-client's local mode return the same answers to the same random requests.

Local mode is the oracle: qdrant-client's implementation of the server in plain Python. Where it differs from
the server's documented behaviour, the test says so and leaves it out. If there is a Qdrant server, it is
tested, too.
"""

import functools
import math
import random
import typing
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from splade_retriever.edge.client import EdgeClient
from tests.qdrant_server import emptied

SIZE = 4
IDS: list[Any] = [*range(1, 13), *(f"00000000-0000-4000-8000-0000000000{n:02}" for n in range(12))]
MOMENTS = [datetime(2023, 8, 23, 12, 33, tzinfo=UTC) + timedelta(days=d) for d in (-1, 0, 1)]
PLACES = [{"lon": 13.4, "lat": 52.5}, {"lon": 80.2, "lat": 13.7}, {"lon": -0.1, "lat": 51.5}]

Pair = tuple[Any, QdrantClient]
"""The client that is tested, and the oracle."""


@pytest.fixture(scope="module", params=["edge", pytest.param("server", marks=pytest.mark.server)])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    local = QdrantClient(":memory:")
    if request.param == "edge":
        with EdgeClient() as edge:
            yield edge, local
    else:
        address = request.getfixturevalue("server_address")
        server = request.getfixturevalue("server_client")
        with emptied(server, address.url):
            yield server, local
    local.close()


def fresh(pair: Pair, **config: Any) -> None:
    """Give both an empty collection "c"."""
    defaults: dict[str, Any] = {
        "vectors_config": {
            "cos": models.VectorParams(size=SIZE, distance=models.Distance.COSINE),
            "dot": models.VectorParams(size=SIZE, distance=models.Distance.DOT),
            "euclid": models.VectorParams(size=SIZE, distance=models.Distance.EUCLID),
            "manhattan": models.VectorParams(size=SIZE, distance=models.Distance.MANHATTAN),
        },
        "sparse_vectors_config": {
            "sparse": models.SparseVectorParams(),
            "idf": models.SparseVectorParams(modifier=models.Modifier.IDF),
        },
    }
    for client in pair:
        if client.collection_exists("c"):
            client.delete_collection("c")
        client.create_collection("c", **(config or defaults))


def cleared(pair: Pair) -> None:
    """Give both the collection "c" without points; cheaper than a fresh one."""
    if not pair[0].collection_exists("c"):
        fresh(pair)
    for client in pair:
        client.delete("c", points_selector=models.Filter())


# -- comparing -----------------------------------------------------------------------------------------------


def same_ranking(
    edge: list[models.ScoredPoint], local: list[models.ScoredPoint], *, has_offset: bool = False
) -> None:
    """Check for equal scores, and equal ids where the scores tell them apart."""
    assert len(edge) == len(local)
    for ours, theirs in zip(edge, local, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4, rel=1e-6)
    cut = [edge[-1].score] if edge else []
    if edge and has_offset:
        cut.append(edge[0].score)
    levels: dict[float, tuple[set[Any], set[Any]]] = {}
    for side, points in enumerate((edge, local)):
        for point in points:
            level = next(
                (s for s in levels if math.isclose(s, point.score, abs_tol=2e-4, rel_tol=2e-4)), None
            )
            levels.setdefault(point.score if level is None else level, (set(), set()))[side].add(point.id)
    for score, (ours_ids, theirs_ids) in levels.items():
        # Ties may be cut anywhere by the limit, and by the offset.
        if not any(math.isclose(score, end, abs_tol=2e-4, rel_tol=2e-4) for end in cut):
            assert ours_ids == theirs_ids, score


def plain(record: Any) -> Any:
    """Reduce a point to what both must agree on; vectors to six digits, sparse ones by index."""

    def rounded(vector: Any) -> Any:
        if isinstance(vector, models.SparseVector):
            return {i: round(v, 5) for i, v in sorted(zip(vector.indices, vector.values, strict=True))}
        if isinstance(vector, dict):
            return {name: rounded(value) for name, value in sorted(vector.items())}
        if isinstance(vector, list):
            return [
                pytest.approx(value, abs=1e-5) if isinstance(value, float) else rounded(value)
                for value in vector
            ]
        return vector

    return record.id, close(record.payload), rounded(record.vector)


def close(payload: Any) -> Any:
    """Let payload floats differ in their last bit, as a server returns them."""
    if isinstance(payload, dict):
        return {key: close(value) for key, value in payload.items()}
    if isinstance(payload, list):
        return [close(value) for value in payload]
    return pytest.approx(payload, rel=1e-15, abs=0.0) if isinstance(payload, float) else payload


def same_contents(pair: Pair) -> None:
    edge, local = (client.scroll("c", limit=1000, with_vectors=True)[0] for client in pair)
    assert [plain(record) for record in edge] == [plain(record) for record in local]
    if isinstance(pair[0], EdgeClient):
        assert [record.payload for record in edge] == [record.payload for record in local]


def query_both(pair: Pair, **query: Any) -> None:
    edge, local = (client.query_points("c", **query).points for client in pair)
    same_ranking(edge, local, has_offset=bool(query.get("offset")))


# -- generated points ----------------------------------------------------------------------------------------

numbers = st.floats(min_value=-8, max_value=8, width=16)
dense = st.lists(numbers, min_size=SIZE, max_size=SIZE).filter(lambda v: math.hypot(*v) > 0.1)
sparse = st.dictionaries(st.integers(0, 20), numbers.filter(lambda v: v != 0), min_size=1, max_size=6).map(
    lambda weights: models.SparseVector(indices=list(weights), values=list(weights.values()))
)
vectors = st.fixed_dictionaries(
    {},
    optional={
        "cos": dense,
        "dot": dense,
        "euclid": dense,
        "manhattan": dense,
        "sparse": sparse,
        "idf": sparse,
    },
)
scalars = st.sampled_from(["en", "de", "a b c", "", True, False, 0, 1, 2, -3, 0.5, *map(str, MOMENTS)])
values = st.one_of(scalars, st.none(), st.lists(scalars, max_size=3), st.sampled_from(PLACES))
payloads = st.dictionaries(st.sampled_from(["a", "b", "c"]), values) | st.fixed_dictionaries(
    {"n": st.lists(st.dictionaries(st.sampled_from(["a", "b"]), scalars, max_size=2), max_size=3)}
)
ids = st.sampled_from(IDS)
points = st.builds(
    lambda id, vector, payload: models.PointStruct(id=id, vector=vector, payload=payload),
    ids,
    vectors,
    payloads,
)
many = st.lists(points, min_size=1, max_size=12, unique_by=lambda point: point.id)


# -- generated filters ---------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", "n", "n[].a", "n[].b"])
bounds = st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from([-3, 0, 0.5, 1, 2]), min_size=1
)
moments = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(MOMENTS), min_size=1)
counts = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.integers(0, 3), min_size=1)
box = models.GeoBoundingBox(
    top_left=models.GeoPoint(lon=-10, lat=60), bottom_right=models.GeoPoint(lon=20, lat=40)
)
circle = models.GeoRadius(center=models.GeoPoint(lon=13.0, lat=52.0), radius=100_000)
triangle = models.GeoPolygon(
    exterior=models.GeoLineString(
        points=[models.GeoPoint(lon=lon, lat=lat) for lon, lat in [(70, 5), (95, 5), (80, 30), (70, 5)]]
    )
)
matches = st.one_of(
    st.sampled_from(list[bool | int | str](["en", "de", "a b c", "", True, False, 0, 1, 2])).map(
        lambda v: models.MatchValue(value=v)
    ),
    st.lists(st.sampled_from(["en", "de", ""]), max_size=2).map(lambda v: models.MatchAny(any=v)),
    st.lists(st.sampled_from([0, 1, 2]), max_size=2).map(lambda v: models.MatchAny(any=v)),
    st.lists(st.sampled_from(["en", "de"]), max_size=2).map(lambda v: models.MatchExcept(**{"except": v})),
    st.sampled_from(["en", "a b", "c a"]).map(lambda v: models.MatchText(text=v)),
    st.sampled_from(["en de", "b", "x a"]).map(lambda v: models.MatchTextAny(text_any=v)),
    st.sampled_from(["a b", "b a", "a c"]).map(lambda v: models.MatchPhrase(phrase=v)),
    st.sampled_from(["e", "a b", "b"]).map(lambda v: models.MatchPrefix(prefix=v)),
    st.sampled_from(["n", " b ", "ba"]).map(lambda v: models.MatchSubstring(substring=v)),
)
conditions = st.one_of(
    st.builds(lambda key, match: models.FieldCondition(key=key, match=match), keys, matches),
    st.builds(lambda key, b: models.FieldCondition(key=key, range=models.Range(**b)), keys, bounds),
    st.builds(lambda key, b: models.FieldCondition(key=key, range=models.DatetimeRange(**b)), keys, moments),
    st.builds(
        lambda key, b: models.FieldCondition(key=key, values_count=models.ValuesCount(**b)), keys, counts
    ),
    st.builds(lambda key: models.FieldCondition(key=key, geo_bounding_box=box), keys),
    st.builds(lambda key: models.FieldCondition(key=key, geo_radius=circle), keys),
    st.builds(lambda key: models.FieldCondition(key=key, geo_polygon=triangle), keys),
    st.builds(lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)), keys),
    st.builds(lambda key: models.IsNullCondition(is_null=models.PayloadField(key=key)), keys),
    st.builds(lambda key: models.FieldCondition(key=key, is_empty=True), keys),
    st.builds(lambda key: models.FieldCondition(key=key, is_null=True), keys),
    st.sampled_from([(1, 0), (2, 0), (2, 1), (3, 1)]).map(
        lambda part: models.SliceCondition(slice=models.Slice(total=part[0], index=part[1]))
    ),
    st.lists(ids, max_size=4).map(lambda some: models.HasIdCondition(has_id=some)),
    st.sampled_from(["cos", "sparse"]).map(lambda name: models.HasVectorCondition(has_vector=name)),
    st.builds(
        lambda key, match: models.NestedCondition(
            nested=models.Nested(
                key="n", filter=models.Filter(must=[models.FieldCondition(key=key, match=match)])
            )
        ),
        st.sampled_from(["a", "b"]),
        matches,
    ),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[models.Filter]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        some.map(lambda parts: models.Filter(must=parts)),
        some.map(lambda parts: models.Filter(should=parts)),
        some.map(lambda parts: models.Filter(must_not=parts)),
        st.builds(
            lambda parts, n: models.Filter(min_should=models.MinShould(conditions=parts, min_count=n)),
            some,
            st.integers(1, 3),
        ),
        st.builds(lambda a, b, c: models.Filter(must=a, should=b, must_not=c), some, some, inner),
    )


filters = st.one_of(grown(conditions), grown(st.one_of(conditions, grown(conditions))))


def is_understood(client: Any, filter: Any) -> bool:
    """Say whether this client's engine has what a filter uses, of which some came with Qdrant 1.19.

    Before 1.19 a server refuses a match by prefix or substring and a slice, and counts no values of a field
    that is missing.
    """
    if not is_before_1_19(client):
        return True
    newer = (models.MatchPrefix, models.MatchSubstring, models.SliceCondition, models.ValuesCount)
    return not any(isinstance(part, newer) for part in parts_of(filter))


@functools.cache
def is_before_1_19(client: Any) -> bool:
    if not isinstance(client, QdrantClient):
        return False
    major, minor, *_ = client.info().version.split(".")
    return (int(major), int(minor)) < (1, 19)


def parts_of(condition: Any) -> Iterator[Any]:
    """Walk over a filter and everything in it."""
    yield condition
    if isinstance(condition, list):
        inner: Iterable[Any] = condition
    else:
        inner = vars(condition).values() if isinstance(condition, BaseModel) else ()
    for part in inner:
        yield from parts_of(part)


# -- the tests -----------------------------------------------------------------------------------------------

often = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def test_every_kind_of_condition_and_match_is_generated() -> None:
    kinds = {*typing.get_args(models.Condition), *typing.get_args(models.Match)} - {models.Filter}
    seen: set[type] = set()

    @settings(
        max_examples=3000,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(condition=conditions)
    def look(condition: Any) -> None:
        seen.update({type(condition), type(getattr(condition, "match", None))})

    look()
    assert kinds <= seen


@often
@given(stored=many, asked=st.lists(filters, min_size=1, max_size=12))
def test_filters_find_the_same(
    pair: Pair, stored: list[models.PointStruct], asked: list[models.Filter]
) -> None:
    cleared(pair)
    for client in pair:
        client.upsert("c", points=stored)

    for filter in asked:
        if not is_understood(pair[0], filter):
            continue
        edge, local = ([r.id for r in client.scroll("c", filter, limit=100)[0]] for client in pair)
        assert edge == local, filter
        assert pair[0].count("c", filter).count == len(local)


OF_KIND: dict[str, tuple[Any, list[Any]]] = {
    "keyword": (
        st.sampled_from(["en", "de", ""]),
        [
            models.FieldCondition(key="keyword", match=models.MatchValue(value="en")),
            models.FieldCondition(key="keyword", match=models.MatchAny(any=["de", ""])),
            models.FieldCondition(key="keyword", match=models.MatchExcept(**{"except": ["en"]})),
        ],
    ),
    "integer": (
        st.integers(-3, 3),
        [
            models.FieldCondition(key="integer", match=models.MatchValue(value=2)),
            models.FieldCondition(key="integer", range=models.Range(gte=-1, lt=2)),
        ],
    ),
    "float": (
        st.sampled_from([-0.5, 0.5, 2.0]),
        [models.FieldCondition(key="float", range=models.Range(gt=0))],
    ),
    "bool": (st.booleans(), [models.FieldCondition(key="bool", match=models.MatchValue(value=True))]),
    "datetime": (
        st.sampled_from([moment.isoformat() for moment in MOMENTS]),
        [models.FieldCondition(key="datetime", range=models.DatetimeRange(gte=MOMENTS[1]))],
    ),
    "geo": (
        st.sampled_from(PLACES),
        [
            models.FieldCondition(key="geo", geo_radius=circle),
            models.FieldCondition(key="geo", geo_bounding_box=box),
            models.FieldCondition(key="geo", geo_polygon=triangle),
        ],
    ),
    "text": (
        st.sampled_from(["a lunar orbit", "orbit lunar", "a rover"]),
        [
            models.FieldCondition(key="text", match=models.MatchText(text="lunar orbit")),
            models.FieldCondition(key="text", match=models.MatchTextAny(text_any="rover orbit")),
        ],
    ),
    "uuid": (
        st.sampled_from(IDS[-2:]),
        [models.FieldCondition(key="uuid", match=models.MatchValue(value=IDS[-1]))],
    ),
}
"""Kind of payload index -> values of it (a field may also have a list of them), and filters."""


@settings(parent=often, max_examples=20)
@given(
    payloads=st.lists(
        st.fixed_dictionaries(
            {},
            optional={kind: values | st.lists(values, max_size=2) for kind, (values, _) in OF_KIND.items()},
        ),
        min_size=1,
        max_size=12,
    )
)
def test_filters_find_the_same_through_payload_indexes(pair: Pair, payloads: list[dict[str, Any]]) -> None:
    cleared(pair)
    indexed = pair[0].get_collection("c").payload_schema
    for kind in {*OF_KIND} - {*indexed}:
        pair[0].create_payload_index("c", kind, kind)
    for client in pair:
        client.upsert(
            "c", points=[models.PointStruct(id=n, vector={}, payload=p) for n, p in enumerate(payloads)]
        )

    for kind, (_, asked) in OF_KIND.items():
        others = models.IsEmptyCondition(is_empty=models.PayloadField(key=kind))
        for filter in (*(models.Filter(must=[c]) for c in asked), models.Filter(must_not=[*asked, others])):
            edge, local = ([r.id for r in client.scroll("c", filter, limit=100)[0]] for client in pair)
            assert edge == local, filter


selectors = st.lists(ids, min_size=1, max_size=4, unique=True) | filters
operations = st.one_of(
    st.tuples(st.just("upsert"), many),
    st.tuples(st.just("delete"), selectors),
    st.tuples(
        st.just("set_payload"), st.dictionaries(st.sampled_from(["a", "d"]), scalars, min_size=1), selectors
    ),
    st.tuples(st.just("overwrite_payload"), payloads, selectors),
    st.tuples(
        st.just("delete_payload"), st.lists(st.sampled_from(["a", "b", "n[].a"]), min_size=1), selectors
    ),
    st.tuples(st.just("clear_payload"), selectors),
    st.tuples(st.just("delete_vectors"), st.lists(st.sampled_from(["cos", "sparse"]), min_size=1), selectors),
    st.tuples(st.just("update_vectors"), st.lists(st.tuples(ids, vectors), min_size=1, max_size=3)),
)


def operate(client: Any, operation: tuple[Any, ...], existing: set[Any]) -> None:
    """Make a write without ids that do not exist, which both refuse with different messages."""
    name, *arguments = operation
    if name == "upsert":
        client.upsert("c", points=arguments[0])
        return
    if name == "update_vectors":
        found = [
            models.PointVectors(id=i, vector=v) for i, v in dict(arguments[0]).items() if i in existing and v
        ]
        if found:
            client.update_vectors("c", points=found)
        return
    *before, selector = arguments
    if isinstance(selector, list):
        selector = [id for id in selector if id in existing]
        if not selector:
            return
    getattr(client, name)("c", *before, selector)


@often
@given(steps=st.lists(operations, min_size=1, max_size=10))
def test_writes_leave_the_same_contents(pair: Pair, steps: list[tuple[Any, ...]]) -> None:
    cleared(pair)

    for step in steps:
        if not is_understood(pair[0], step[-1]):
            continue
        existing = {record.id for record in pair[1].scroll("c", limit=100)[0]}
        for client in pair:
            operate(client, step, existing)
        same_contents(pair)


usings = st.sampled_from(["cos", "dot", "euclid", "manhattan", "sparse", "idf"])


@st.composite
def searches(draw: st.DrawFn) -> dict[str, Any]:
    using = draw(usings)
    vector = draw(sparse if using in ("sparse", "idf") else dense)
    return {"query": vector, "using": using}


@often
@given(
    stored=many,
    asked=st.lists(st.tuples(searches(), st.none() | filters), min_size=1, max_size=6),
    limit=st.integers(1, 15),
    offset=st.integers(0, 4),
)
def test_searches_rank_the_same(
    pair: Pair,
    stored: list[models.PointStruct],
    asked: list[tuple[dict[str, Any], models.Filter | None]],
    limit: int,
    offset: int,
) -> None:
    cleared(pair)
    for client in pair:
        client.upsert("c", points=stored)
    asked = [(search, filter) for search, filter in asked if is_understood(pair[0], filter)]

    for search, filter in asked:
        if search["using"] == "idf":
            continue  # see test_idf_ranks_the_same
        query_both(pair, **search, query_filter=filter, limit=limit, offset=offset)
    requests = [
        models.QueryRequest(**{**search, "using": search["using"]}, filter=filter, limit=limit)
        for search, filter in asked
        if search["using"] != "idf"
    ]
    for edge, local in zip(*(client.query_batch_points("c", requests) for client in pair), strict=True):
        same_ranking(edge.points, local.points)


def seeded(pair: Pair, count: int = 60) -> random.Random:
    """Fill both with the same random points; every point has every vector."""
    fresh(pair)
    chance = random.Random(11)
    stored = [
        models.PointStruct(
            id=n,
            vector={
                **{
                    name: [chance.gauss(0, 1) for _ in range(SIZE)]
                    for name in ("cos", "dot", "euclid", "manhattan")
                },
                "sparse": random_sparse(chance),
                "idf": random_sparse(chance),
            },
            payload={
                "n": n,
                "group": n % 7,
                "word": chance.choice(["red", "green", "blue"]),
                "x": chance.random(),
            },
        )
        for n in range(count)
    ]
    for client in pair:
        client.upsert("c", points=stored)
    return chance


def random_sparse(chance: random.Random) -> models.SparseVector:
    indices = chance.sample(range(30), 8)
    return models.SparseVector(indices=indices, values=[chance.uniform(0.1, 3.0) for _ in indices])


def random_dense(chance: random.Random) -> list[float]:
    return [chance.gauss(0, 1) for _ in range(SIZE)]


def test_idf_ranks_the_same(pair: Pair) -> None:
    chance = seeded(pair)

    for _ in range(10):
        query_both(pair, query=random_sparse(chance), using="idf", limit=20)


def prefetch(chance: random.Random, *, depth: int = 20) -> list[models.Prefetch]:
    return [
        models.Prefetch(query=random_sparse(chance), using="sparse", limit=depth),
        models.Prefetch(query=random_dense(chance), using="cos", limit=depth),
    ]


@pytest.mark.parametrize(
    "fusion",
    [
        models.FusionQuery(fusion=models.Fusion.RRF),
        models.FusionQuery(fusion=models.Fusion.DBSF),
        models.RrfQuery(rrf=models.Rrf(k=60)),
        models.RrfQuery(rrf=models.Rrf(k=5, weights=[3.0, 1.0])),
    ],
    ids=["rrf", "dbsf", "rrf-60", "rrf-weights"],
)
def test_fusions_rank_the_same(pair: Pair, fusion: Any) -> None:
    chance = seeded(pair)
    red = models.Filter(must=[models.FieldCondition(key="word", match=models.MatchValue(value="red"))])

    for filter in (None, red):
        for offset in (0, 5):
            query_both(
                pair, query=fusion, prefetch=prefetch(chance), query_filter=filter, limit=12, offset=offset
            )


def test_nested_prefetches_rank_the_same(pair: Pair) -> None:
    chance = seeded(pair)
    for _ in range(5):
        # Uneven weights leave no ties, whose order, free in both, would count as ranks one level up.
        uneven = models.RrfQuery(rrf=models.Rrf(k=2, weights=[1.0, 0.7]))
        inner = models.Prefetch(prefetch=prefetch(chance), query=uneven, limit=15)
        rescored = models.Prefetch(
            prefetch=prefetch(chance), query=random_dense(chance), using="dot", limit=15
        )

        query_both(pair, prefetch=[inner], query=random_dense(chance), using="euclid", limit=10)
        query_both(pair, prefetch=[inner, rescored], query=models.RrfQuery(rrf=models.Rrf(k=10)), limit=10)


@pytest.mark.parametrize("using", ["cos", "dot"])
def test_mmr_picks_the_same(pair: Pair, using: str) -> None:
    chance = seeded(pair)
    for diversity in (0.0, 0.3, 0.5, 0.9):
        query = models.NearestQuery(
            nearest=random_dense(chance), mmr=models.Mmr(diversity=diversity, candidates_limit=30)
        )
        edge, local = (c.query_points("c", query=query, using=using, limit=8).points for c in pair)
        assert [point.id for point in edge] == [point.id for point in local]
        assert all(point.vector is None for point in edge)


@pytest.mark.parametrize("using", ["cos", "dot", "euclid", "sparse"])
@pytest.mark.parametrize("strategy", [None, *models.RecommendStrategy])
def test_recommendations_rank_the_same(pair: Pair, using: str, strategy: Any) -> None:
    chance = seeded(pair)
    vector: Any = random_sparse(chance) if using == "sparse" else random_dense(chance)
    examples: list[tuple[Any, Any]] = [([1, vector], [5]), ([2], []), ([3, 4], [6, 7])]
    for positive, negative in examples:
        asked = models.RecommendInput(positive=positive, negative=negative, strategy=strategy)
        query_both(pair, query=models.RecommendQuery(recommend=asked), using=using, limit=10)


@pytest.mark.parametrize("using", ["cos", "dot", "sparse"])
def test_discovery_and_context_rank_the_same(pair: Pair, using: str) -> None:
    seeded(pair)
    pairs = [models.ContextPair(positive=1, negative=2), models.ContextPair(positive=3, negative=4)]

    discover = models.DiscoverInput(target=5, context=pairs)
    query_both(pair, query=models.DiscoverQuery(discover=discover), using=using, limit=10)
    query_both(pair, query=models.ContextQuery(context=pairs), using=using, limit=60)


def test_a_point_as_query_finds_its_neighbours_and_not_itself(pair: Pair) -> None:
    seeded(pair)

    query_both(pair, query=7, using="cos", limit=10)
    assert 7 not in [p.id for p in pair[0].query_points("c", query=7, using="cos", limit=60).points]


def test_formulas_score_the_same(pair: Pair) -> None:
    chance = seeded(pair)
    red = models.FieldCondition(key="word", match=models.MatchValue(value="red"))
    formulas: list[Any] = [
        models.SumExpression(sum=["$score", models.MultExpression(mult=[0.5, red])]),
        models.MultExpression(mult=["$score", models.ExpExpression(exp=models.NegExpression(neg="x"))]),
        models.DivExpression(div=models.DivParams(left="x", right="group", by_zero_default=1.0)),
        models.PowExpression(pow=models.PowParams(base=2.0, exponent="x")),
        models.GaussDecayExpression(
            gauss_decay=models.DecayParamsExpression(x="x", target=0.5, scale=0.25, midpoint=0.5)
        ),
    ]
    for formula in formulas:
        query_both(
            pair,
            prefetch=models.Prefetch(query=random_dense(chance), using="dot", limit=30),
            query=models.FormulaQuery(formula=formula),
            limit=10,
        )


def test_thresholds_cut_the_same(pair: Pair) -> None:
    chance = seeded(pair)
    for threshold in (0.0, 0.5, 2.0):
        query_both(pair, query=random_sparse(chance), using="sparse", score_threshold=threshold, limit=60)
        query_both(pair, query=random_dense(chance), using="euclid", score_threshold=threshold, limit=60)


def test_scrolling_pages_the_same(pair: Pair) -> None:
    seeded(pair)
    green = models.Filter(must=[models.FieldCondition(key="word", match=models.MatchValue(value="green"))])

    for filter in (None, green):
        offsets: list[Any] = [None, None]
        while True:
            pages = [
                client.scroll("c", filter, limit=7, offset=offset)
                for client, offset in zip(pair, offsets, strict=True)
            ]
            assert [p.id for p in pages[0][0]] == [p.id for p in pages[1][0]]
            assert pages[0][1] == pages[1][1]
            offsets = [page[1] for page in pages]
            if offsets[0] is None:
                break


@pytest.mark.parametrize("direction", list(models.Direction))
@pytest.mark.parametrize("start_from", [None, 20])
def test_ordering_by_a_field_is_the_same(pair: Pair, direction: Any, start_from: Any) -> None:
    seeded(pair)
    # A server, and so Edge, orders by indexed fields only; local mode by any.
    pair[0].create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
    order = models.OrderBy(key="n", direction=direction, start_from=start_from)

    edge, local = (client.scroll("c", order_by=order, limit=9) for client in pair)
    assert [(p.id, p.order_value) for p in edge[0]] == [(p.id, p.order_value) for p in local[0]]
    assert edge[1] is local[1] is None
    asked = models.OrderByQuery(order_by=order)
    edge_points, local_points = (client.query_points("c", query=asked, limit=9).points for client in pair)
    assert [p.id for p in edge_points] == [p.id for p in local_points]


def test_facets_count_the_same(pair: Pair) -> None:
    seeded(pair)
    # A server, and so Edge, counts indexed fields only; local mode any.
    pair[0].create_payload_index("c", "word", models.PayloadSchemaType.KEYWORD)
    pair[0].create_payload_index("c", "group", models.PayloadSchemaType.INTEGER)
    low = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=20))])

    for key in ("word", "group"):
        for filter in (None, low):
            edge, local = (client.facet("c", key, filter, limit=5, exact=True) for client in pair)
            assert edge == local


def test_groups_are_the_same(pair: Pair) -> None:
    chance = seeded(pair)
    for group_by, size in (("group", 2), ("word", 30), ("n", 1)):
        edge, local = (
            client.query_points_groups(
                "c", group_by, query=random_dense(random.Random(5)), using="dot", limit=4, group_size=size
            ).groups
            for client in pair
        )
        assert [group.id for group in edge] == [group.id for group in local]
        for ours, theirs in zip(edge, local, strict=True):
            assert [plain(hit) for hit in ours.hits] == [plain(hit) for hit in theirs.hits]
            same_ranking(ours.hits, theirs.hits)
    assert chance


def test_an_unnamed_vector_is_stored_and_found_the_same(pair: Pair) -> None:
    fresh(pair, vectors_config=models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    chance = random.Random(3)
    batch = models.Batch(
        ids=list(range(20)),
        vectors=[random_dense(chance) for _ in range(20)],
        payloads=[{"n": n} for n in range(20)],
    )
    for client in pair:
        client.upsert("c", points=batch)

    same_contents(pair)
    query_both(pair, query=random_dense(chance), limit=10)
    query_both(pair, query=3, limit=10)
    fresh(pair)


def test_multivectors_are_stored_and_found_the_same(pair: Pair) -> None:
    many_rows = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    params = models.VectorParams(size=SIZE, distance=models.Distance.DOT, multivector_config=many_rows)
    fresh(pair, vectors_config={"multi": params})
    chance = random.Random(3)
    stored = [
        models.PointStruct(id=n, vector={"multi": [random_dense(chance) for _ in range(1 + n % 3)]})
        for n in range(20)
    ]
    for client in pair:
        client.upsert("c", points=stored)

    same_contents(pair)
    query_both(pair, query=[random_dense(chance) for _ in range(2)], using="multi", limit=10)
    fresh(pair)


@pytest.mark.parametrize(
    "selector",
    [
        ["a"],
        ["a.b", "l[].c"],
        [],
        False,
        models.PayloadSelectorExclude(exclude=["a", "l[].c"]),
        models.PayloadSelectorInclude(include=["l"]),
    ],
    ids=str,
)
def test_payloads_are_selected_the_same(pair: Pair, selector: Any) -> None:
    cleared(pair)
    payload = {"a": {"b": 1, "c": 2}, "l": [{"c": 1, "d": 2}, {"d": 3}], "z": None}
    for client in pair:
        client.upsert("c", points=[models.PointStruct(id=1, vector={}, payload=payload)])

    edge, local = (client.retrieve("c", [1], with_payload=selector)[0].payload for client in pair)
    assert edge == local
