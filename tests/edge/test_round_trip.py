"""Points come back as they were written: ids, vectors and payloads, also after closing and opening."""

import json
import math
import struct
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.exact_floats import float_as_stored, stored_bounds
from splade_retriever.errors import InputError
from splade_retriever.validation import MAX_DEPTH
from tests.edge.conftest import DENSE, SPARSE, point
from tests.python_process import run_python

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
payloads = st.dictionaries(st.text(max_size=8), values, max_size=5)
ids = st.integers(0, 2**64 - 1) | st.uuids().map(str)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
sparse = st.dictionaries(st.integers(0, 2**32 - 1), float32, min_size=1, max_size=8)
often = settings(max_examples=40, suppress_health_check=list(HealthCheck))


def with_payload(id: Any, payload: Any) -> models.PointStruct:
    return models.PointStruct(id=id, vector={}, payload=payload)


def same(one: Any, other: Any) -> bool:
    """Compare JSON values by type, and floats by their bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@often
@given(
    stored=st.dictionaries(
        ids, st.tuples(payloads, sparse, st.lists(float32, min_size=2, max_size=2)), min_size=1, max_size=6
    )
)
@example(stored={0: ({"a": -0.0, "b": 5e-324, "c": 1.7976931348623157e308}, {0: 1.0}, [0.0, -0.0])})
@example(stored={2**64 - 1: ({"": {"": [[]]}, "\0": "\x7f", "a.b[0]": 1}, {2**32 - 1: 1e-45}, [3e38, 1e-45])})
def test_points_are_equal_after_writing_closing_and_opening(stored: dict[Any, Any]) -> None:
    points = [
        models.PointStruct(
            id=id,
            payload=payload,
            vector={
                "sparse": models.SparseVector(indices=list(weights), values=list(weights.values())),
                "dense": dense,
            },
        )
        for id, (payload, weights, dense) in stored.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        with EdgeClient(folder) as client:
            client.create_collection("c", DENSE, SPARSE)
            client.upsert("c", points)
            _check(client, stored)
        with EdgeClient(folder) as client:
            _check(client, stored)
            client.optimize("c")
            _check(client, stored)


def _check(client: EdgeClient, stored: dict[Any, Any]) -> None:
    records = {record.id: record for record in client.scroll("c", limit=100, with_vectors=True)[0]}
    assert records.keys() == stored.keys()
    for id, (payload, weights, dense) in stored.items():
        assert same(records[id].payload, payload), (records[id].payload, payload)
        vector: Any = records[id].vector
        found = dict(zip(vector["sparse"].indices, vector["sparse"].values, strict=True))
        assert found == {index: float(np.float32(value)) for index, value in weights.items()}
        assert vector["dense"] == [float(np.float32(value)) for value in dense]


@often
@given(numbers=st.lists(finite, min_size=1, max_size=200))
def test_the_engines_change_of_floats_is_predicted(numbers: list[float]) -> None:
    with EdgeClient() as client:
        client.create_collection("c", {}, sparse_vectors_config=SPARSE)
        client.upsert("c", [with_payload(n, {"f": f}) for n, f in enumerate(numbers)])
        folder = client._folder
        raw = folder.read(
            folder.get("c"), "read", lambda shard: shard.retrieve(list(range(len(numbers))), True, False)
        )
        read: dict[Any, Any] = {record.id: record.payload for record in raw}
        for n, number in enumerate(numbers):
            assert same(read[n]["f"], float_as_stored(number))


CHANGED = [value for n in range(1, 4000) if float_as_stored(value := n / 7) != value]


@pytest.mark.parametrize("indexed", [False, True])
def test_full_precision_floats_are_found_by_equality_and_compared(indexed: bool) -> None:
    numbers = CHANGED[:100]
    assert len(set(numbers)) == 100
    with tempfile.TemporaryDirectory() as folder:
        with EdgeClient(folder) as client:
            client.create_collection("c", {}, sparse_vectors_config=SPARSE)
            if indexed:
                client.create_payload_index("c", "m.t", "float")
            client.upsert(
                "c",
                [with_payload(n, {"m": {"t": t}}) for n, t in enumerate(numbers)],
            )
            _check_filters(client, numbers)
        with EdgeClient(folder) as client:
            for _ in range(5):  # each rewrites the payloads
                client.set_payload("c", {"other": 1}, list(range(100)))
            _check_filters(client, numbers)


def _check_filters(client: EdgeClient, numbers: list[float]) -> None:
    def matching(**bounds: float) -> list[Any]:
        condition = models.FieldCondition(key="m.t", range=models.Range(**bounds))
        return [record.id for record in client.scroll("c", models.Filter(must=[condition]), limit=200)[0]]

    for n in range(0, 100, 7):
        value = numbers[n]
        assert matching(gte=value, lte=value) == [n]
        assert matching(gt=value) == [m for m, other in enumerate(numbers) if other > value]
        assert matching(gte=value) == [m for m, other in enumerate(numbers) if other >= value]
        assert matching(lt=value) == [m for m, other in enumerate(numbers) if other < value]
        assert matching(lte=value) == [m for m, other in enumerate(numbers) if other <= value]


def test_floats_of_few_digits_are_compared_as_they_are() -> None:
    for value in (0.0, 0.1, 19.99, 2.0**52, -5.0, 1e22, 123456.789):
        assert stored_bounds(value) == (value, value)
    for value in CHANGED[:50]:
        low, high = stored_bounds(value)
        assert low <= value <= high
        assert high - low < 64 * math.ulp(value)


def test_exact_floats_survive_every_kind_of_write_and_selection() -> None:
    a, b, c = CHANGED[:3]
    with EdgeClient() as client:
        client.create_collection("c", {}, sparse_vectors_config=SPARSE)

        def payload(selector: Any = True) -> Any:
            return client.retrieve("c", [1], with_payload=selector)[0].payload

        client.upsert("c", [with_payload(1, {"x": a, "l": [a, {"y": b}, [c, 1.5]]})])
        assert payload() == {"x": a, "l": [a, {"y": b}, [c, 1.5]]}
        assert payload(["x"]) == {"x": a}
        client.upsert("c", [with_payload(2, {"l": [{"y": b}, {"y": 1, "z": a}]})])
        (record,) = client.retrieve("c", [2], with_payload=["l[].y"])
        assert record.payload == {"l": [{"y": b}, {"y": 1}]}
        client.delete("c", [2])
        assert payload(models.PayloadSelectorExclude(exclude=["l"])) == {"x": a}
        for _ in range(30):
            client.set_payload("c", {"n": 1}, [1])
        assert payload() == {"x": a, "l": [a, {"y": b}, [c, 1.5]], "n": 1}
        client.set_payload("c", {"x": float_as_stored(a)}, [1])  # a float beside the one before
        assert payload(["x"]) == {"x": float_as_stored(a)}
        client.set_payload("c", {"z": c, "deep": {"w": b}}, [1], key="m")
        assert payload(["m.z", "m.deep"]) == {"m": {"z": c, "deep": {"w": b}}}
        client.delete_payload("c", ["m.z"], [1])
        assert payload(["m"]) == {"m": {"deep": {"w": b}}}
        client.overwrite_payload("c", {"x": b}, [1])
        assert payload() == {"x": b}
        found = client.query_points("c", models.SampleQuery(sample=models.Sample.RANDOM)).points
        assert [hit.payload for hit in found] == [{"x": b}]


@pytest.mark.parametrize(
    "given",
    [
        {"x": 1.5, "x#exact": "a string", "y#exact": 3, "z": "f64:"},
        {"price#exact": "f64:1", "price": 1, "other#exact": "f64:", "more#exact": "f64:f64:2"},
        {"x": 1.5, "x#exact": "f64:2.5", "nested": {"y": [1.5], "y#exact": "f64:[2.5]"}},
        {"x": float_as_stored(0.1 + 0.2), "x#exact": 5},
    ],
)
def test_a_payload_that_looks_like_an_exact_float_is_kept(given: dict[str, Any]) -> None:
    with EdgeClient() as client:
        client.create_collection("c", {}, sparse_vectors_config=SPARSE)
        client.upsert("c", [with_payload(1, given), with_payload(2, {})])
        client.set_payload("c", given, [2])
        assert [record.payload for record in client.retrieve("c", [1, 2])] == [given, given]


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def test_payloads_nested_too_deeply_are_refused_before_anything_is_written() -> None:
    with EdgeClient() as client:
        client.create_collection("c", DENSE, SPARSE)
        client.upsert("c", [point(1)])
        client.upsert("c", [models.PointStruct(id=2, vector={}, payload={"m": nested(MAX_DEPTH - 1)})])
        for levels in (MAX_DEPTH, 125, 400, 100_000):
            deep = {"m": nested(levels)}
            for write in (
                lambda deep=deep: client.upsert("c", [point(3), _point_with(deep)]),
                lambda deep=deep: client.set_payload("c", deep, [1]),
                lambda deep=deep: client.overwrite_payload("c", deep, [1]),
                lambda deep=deep: client.update_collection("c", metadata=deep),
                lambda deep=deep: client.create_collection("d", DENSE, metadata=deep),
            ):
                with pytest.raises(InputError, match="levels deep"):
                    write()
        with pytest.raises(InputError, match="levels deep"):
            client.set_payload("c", {"x": nested(50)}, [1], key=".".join("a" * 60))
        assert client.count("c").count == 2
        assert client.retrieve("c", [1])[0].payload == {"n": 0}
        assert client.retrieve("c", [2])[0].payload == {"m": nested(MAX_DEPTH - 1)}


def _point_with(payload: Any) -> models.PointStruct:
    return models.PointStruct.model_construct(id=4, vector={}, payload=payload)


def deep_filter(levels: int) -> models.Filter:
    filter = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    for level in range(levels - 1):
        if level % 2:
            filter = models.Filter.model_construct(must=[filter])
        else:
            nested = models.NestedCondition.model_construct(
                nested=models.Nested.model_construct(key="n", filter=filter)
            )
            filter = models.Filter.model_construct(should=[nested])
    return filter


@pytest.mark.parametrize("levels", [1, 32, 33, 200, 3000])
def test_filters_of_too_many_levels_are_refused(levels: int) -> None:
    filter = deep_filter(levels)
    with EdgeClient() as client:
        client.create_collection("c", DENSE, SPARSE)
        client.upsert("c", [point(1), point(2)])
        if levels <= 32:
            client.count("c", filter)
        else:
            with pytest.raises(InputError, match="levels"):
                client.count("c", filter)
            with pytest.raises(InputError, match="levels"):
                client.delete("c", filter)
        assert client.count("c").count == 2


WRITE_AND_DIE = """
import os, sys
from qdrant_client import models
from splade_retriever.edge.client import EdgeClient
from splade_retriever.validation import MAX_DEPTH
from tests.edge.conftest import DENSE, ROOT, SPARSE, point
from tests.edge.test_round_trip import deep_filter, nested, with_payload
client = EdgeClient(sys.argv[1])
client.create_collection("c", DENSE, SPARSE)
client.upsert("c", [with_payload(1, {"m": nested(MAX_DEPTH - 1)}), point(2)])
client.set_payload("c", {"x": nested(MAX_DEPTH - 50)}, [2], key=".".join("a" * 49))
client.overwrite_payload("c", {"m": nested(MAX_DEPTH - 1)}, deep_filter(32))
client.upsert("c", [point(2)], update_filter=deep_filter(32))
client.delete("c", deep_filter(32))
os._exit(0)
"""


def test_the_deepest_payload_and_filter_are_read_back_from_the_log_after_a_kill(tmp_path: Path) -> None:
    done = run_python(WRITE_AND_DIE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        with EdgeClient(tmp_path) as client:
            records = client.scroll("c")[0]
            assert [record.id for record in records] == [1, 2]
            assert records[0].payload == {"m": nested(MAX_DEPTH - 1)}


def test_a_uuid_is_found_in_each_of_its_forms() -> None:
    id = uuid.uuid4()
    with EdgeClient() as client:
        client.create_collection("c", DENSE, SPARSE)
        client.upsert("c", [point(id)])
        for form in (id, str(id), id.hex, str(id).upper(), f"urn:uuid:{id}"):
            assert [record.id for record in client.retrieve("c", [form])] == [str(id)]
            json.dumps(client.retrieve("c", [form])[0].id)
