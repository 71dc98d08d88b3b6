"""EdgeClient: its interface, checks, folder, lock and errors, and the frameworks' stores on top of it."""

import gc
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.checksums import json_checksum
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
    NotSupportedError,
    StorageError,
)
from tests.edge.conftest import DENSE, ROOT, SPARSE, point, weights
from tests.python_process import PythonProcess
from tests.words import LetterEncoder, WordEncoder

# -- the interface -------------------------------------------------------------------------------------------


def interface_methods() -> list[str]:
    found = inspect.getmembers(QdrantBase, inspect.isfunction)
    return [name for name, _ in found if not name.startswith("_")]


@pytest.mark.parametrize("kind", [EdgeClient, EdgeProcess])
def test_every_method_of_the_interface_is_implemented(kind: type) -> None:
    inherited = [name for name in interface_methods() if getattr(kind, name) is getattr(QdrantBase, name)]

    assert inherited == []


def test_methods_that_need_a_server_are_refused_by_name(client: EdgeClient) -> None:
    refused = []
    for name in interface_methods():
        method = getattr(client, name)
        if (method.__doc__ or "").startswith("Raise NotSupportedError"):
            with pytest.raises(NotSupportedError, match=rf"{name}.*Qdrant server"):
                method("c")
            refused.append(name)

    assert {"get_aliases", "create_snapshot", "create_shard_key", "search_matrix_pairs"} <= set(refused)
    assert not {"upsert", "query_points", "scroll", "facet", "create_payload_index"} & set(refused)


@pytest.mark.parametrize("name", interface_methods())
@pytest.mark.parametrize("kind", [EdgeClient, EdgeProcess])
def test_arguments_bind_as_in_qdrant_client(kind: type, name: str) -> None:
    def parameters(method: Any) -> list[tuple[str, Any, Any]]:
        listed = inspect.signature(method).parameters.values()
        return [
            (one.name, one.default, one.kind)
            for one in listed
            if one.name != "self" and one.kind is not one.VAR_KEYWORD
        ]

    assert parameters(getattr(kind, name)) == parameters(getattr(QdrantClient, name))


@pytest.mark.parametrize("kind", [EdgeClient, EdgeProcess])
def test_positional_arguments_do_what_they_do_in_qdrant_client(kind: type[EdgeClient]) -> None:
    with kind() as client:
        assert client.create_collection("e", DENSE, SPARSE, 1)
        with pytest.raises(NotSupportedError, match="shard_number=2"):
            client.create_collection("f", DENSE, None, 2)
        client.upsert("e", [point(1), point(2), point(3)], True)
        client.upload_points("e", [point(4), point(5)], 64)
        client.delete("e", [1], True)
        client.set_payload("e", {"a": 1}, [2], None, True)
        assert client.count("e", None, True).count == 4
        assert client.update_collection("e", models.OptimizersConfigDiff(deleted_threshold=0.5))
        assert client.get_collection("e").config.optimizer_config.deleted_threshold == 0.5


def test_an_unknown_argument_is_refused_by_name(client: EdgeClient) -> None:
    with pytest.raises(InputError, match="wiat=True"):
        client.upsert("c", [point(1)], wiat=True)


def test_options_of_clusters_are_refused_with_a_remedy(client: EdgeClient) -> None:
    with pytest.raises(NotSupportedError, match=r"shard_number=3.*Qdrant server"):
        client.create_collection("d", DENSE, shard_number=3)
    with pytest.raises(NotSupportedError, match="shard_key_selector"):
        client.upsert("c", [point(1)], shard_key_selector="a")
    with pytest.raises(NotSupportedError, match="collection_params"):
        client.update_collection("c", collection_params=models.CollectionParamsDiff(replication_factor=2))
    assert client.create_collection("e", DENSE, shard_number=1, replication_factor=None)


# -- collections ---------------------------------------------------------------------------------------------


def test_the_error_of_a_missing_collection_lists_the_existing_ones(client: EdgeClient) -> None:
    with pytest.raises(CollectionNotFoundError, match=r"'d'.*found: 'c'"):
        client.count("d")
    assert not client.collection_exists("d")
    assert not client.delete_collection("d")


def test_collections_of_any_allowed_name_live_in_one_folder(tmp_path: Path) -> None:
    names = ["docs", "Docs", "größe ☾", "a b", "..a", "CON", "x" * 255]
    with EdgeClient(tmp_path) as client:
        for n, name in enumerate(names):
            client.create_collection(name, DENSE, sparse_vectors_config=SPARSE)
            client.upsert(name, [point(n)])

    with EdgeClient(tmp_path) as client:
        assert [found.name for found in client.get_collections().collections] == sorted(names)
        for n, name in enumerate(names):
            assert [record.id for record in client.scroll(name)[0]] == [n]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "x" * 256])
def test_names_that_a_server_refuses_are_refused(client: EdgeClient, name: str) -> None:
    with pytest.raises(InputError, match="Collection name"):
        client.create_collection(name, DENSE)


def test_settings_that_the_engine_cannot_change_are_an_input_error(client: EdgeClient) -> None:
    client.upsert("c", [point(1)])
    idf = {"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}

    with pytest.raises(InputError, match="Create a collection with the new settings"):
        client.update_collection("c", sparse_vectors_config=idf)
    assert client.count("c").count == 1
    params = client.get_collection("c").config.params
    assert params.sparse_vectors == SPARSE
    with pytest.raises(InputError, match="Pass vectors_config or sparse_vectors_config"):
        client.create_collection("d")


def test_a_missing_collection_is_a_value_error_as_in_local_mode(client: EdgeClient) -> None:
    local = QdrantClient(":memory:")
    for one in (client, local):
        with pytest.raises(ValueError, match="nowhere"):
            one.count("nowhere")
    local.close()


def test_a_random_sample_ignores_the_offset(client: EdgeClient) -> None:
    client.upsert("c", [point(n) for n in range(6)])
    sample = models.SampleQuery(sample=models.Sample.RANDOM)

    assert len(client.query_points("c", sample, limit=4, offset=4).points) == 4


def test_an_existing_name_is_refused_and_recreate_starts_empty(client: EdgeClient) -> None:
    client.upsert("c", [point(1)])
    with pytest.raises(InputError, match="already exists"):
        client.create_collection("c", DENSE)
    assert client.count("c").count == 1

    client.recreate_collection("c", DENSE, sparse_vectors_config=SPARSE)
    assert client.count("c").count == 0


def test_settings_and_metadata_are_kept_when_the_folder_is_reopened(tmp_path: Path) -> None:
    dense = {
        "a": models.VectorParams(
            size=3, distance=models.Distance.EUCLID, hnsw_config=models.HnswConfigDiff(m=8), on_disk=True
        ),
        "b": models.VectorParams(size=5, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16),
    }
    sparse = {
        "s": models.SparseVectorParams(
            modifier=models.Modifier.IDF, index=models.SparseIndexParams(datatype=models.Datatype.UINT8)
        )
    }
    with EdgeClient(tmp_path) as client:
        client.create_collection(
            "c", dense, sparse_vectors_config=sparse, metadata={"made": {"by": "us"}, "n": 1}
        )
        client.update_collection("c", metadata={"n": None, "more": [1, 2]})
        client.create_payload_index("c", "word", models.PayloadSchemaType.KEYWORD)
        client.create_payload_index(
            "c",
            "text",
            models.TextIndexParams(type=models.TextIndexType.TEXT, lowercase=True, min_token_len=2),
        )
        before = client.get_collection("c")

    with EdgeClient(tmp_path) as client:
        info = client.get_collection("c")
    assert info == before
    assert info.config.params.vectors == dense
    assert info.config.params.sparse_vectors == sparse
    assert info.config.metadata == {"made": {"by": "us"}, "more": [1, 2]}
    assert {name: index.data_type.value for name, index in info.payload_schema.items()} == {
        "word": "keyword",
        "text": "text",
    }
    params = info.payload_schema["text"].params
    assert isinstance(params, models.TextIndexParams)
    assert params.min_token_len == 2


def test_settings_can_be_changed_and_the_points_stay(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        client.create_collection("c", DENSE, sparse_vectors_config=SPARSE)
        client.upsert("c", [point(1, dense=[1.0, 2.0])])
        assert client.update_collection(
            "c",
            hnsw_config=models.HnswConfigDiff(m=4),
            vectors_config={"dense": models.VectorParamsDiff(on_disk=True)},
        )
        assert not client.update_collection("c")
        with pytest.raises(InputError, match="'zzz'"):
            client.update_collection("c", vectors_config={"zzz": models.VectorParamsDiff(on_disk=True)})

    with EdgeClient(tmp_path) as client:
        config = client.get_collection("c").config
        assert config.hnsw_config.m == 4
        assert isinstance(config.params.vectors, dict)
        assert config.params.vectors["dense"].on_disk
        assert client.query_points("c", [1.0, 1.0], using="dense").points[0].score == 3.0


def test_named_vectors_can_be_added_and_removed(client: EdgeClient) -> None:
    dense = models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=3, distance=models.Distance.DOT))
    client.create_vector_name("c", "more", dense)
    client.create_vector_name("c", "bm", models.SparseVectorNameConfig(sparse=models.SparseVectorConfig()))
    client.upsert("c", [point(1, more=[1.0, 0.0, 0.0], bm=weights(i3=2.0))])

    assert client.query_points("c", [1.0, 0.0, 0.0], using="more").points[0].id == 1
    assert client.query_points("c", weights(i3=1.0), using="bm").points[0].score == 2.0
    client.delete_vector_name("c", "bm")
    params = client.get_collection("c").config.params
    assert set(params.vectors or {}) == {"dense", "more"}
    assert set(params.sparse_vectors or {}) == {"sparse"}
    with pytest.raises(InputError, match="'bm'"):
        client.upsert("c", [point(2, bm=weights(i3=2.0))])


# -- checks before writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (point(1, sparse=models.SparseVector(indices=[1, 1], values=[1.0, 2.0])), "repeats an index"),
        (point(1, sparse=models.SparseVector(indices=[1], values=[float("nan")])), "NaN"),
        (point(1, sparse=models.SparseVector(indices=[1], values=[float("inf")])), "infinity"),
        (point(1, sparse=models.SparseVector(indices=[1, 2], values=[1.0])), "2 indices and 1 values"),
        (point(1, sparse=models.SparseVector(indices=[], values=[])), "is empty"),
        (point(1, sparse=models.SparseVector(indices=[2**32], values=[1.0])), "4294967296"),
        (point(1, sparse=models.SparseVector(indices=[-1], values=[1.0])), "from -1"),
        (point(1, sparse=[1.0, 2.0]), "expected a SparseVector"),
        (point(1, dense=weights(i1=1.0)), "is sparse"),
        (point(1, dense=[1.0]), r"shape \(1,\), expected \(2,\)"),
        (point(1, dense=[]), "shape"),
        (point(1, dense=[1.0, float("nan")]), "NaN"),
        (point(1, other=[1.0, 2.0]), r"'other'.*found: 'dense', 'sparse'"),
        (models.PointStruct(id=1, vector=[1.0, 2.0]), "Vector '' of point 1"),
        (point("name"), "Point id 'name' is not valid"),
        (point(-1), "id -1 is not valid"),
        (point(2**64), "is not valid"),
        (models.PointStruct(id=1, vector={}, payload={"a": float("nan")}), "payload.a is nan"),
        (models.PointStruct(id=1, vector={}, payload={"a": 2**70}), "beyond 64 bits"),
        (models.PointStruct(id=1, vector={}, payload={"a": "\ud800"}), "payload"),
    ],
)
def test_invalid_points_are_refused_and_nothing_is_written(
    client: EdgeClient, bad: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        client.upsert("c", [*(point(n) for n in range(100, 300)), bad])

    assert client.count("c").count == 0


def test_invalid_queries_are_refused(client: EdgeClient) -> None:
    client.upsert("c", [point(1, dense=[1.0, 2.0])])
    fusion = models.FusionQuery(fusion=models.Fusion.RRF)
    bad: list[tuple[str, dict[str, Any]]] = [
        (
            "repeats an index",
            {"query": models.SparseVector(indices=[1, 1], values=[1, 1]), "using": "sparse"},
        ),
        ("Vector dimension", {"query": [1.0], "using": "dense"}),
        ("Name one", {"query": [1.0, 2.0], "using": "zzz"}),
        ("Name one", {"query": [1.0, 2.0]}),
        ("point 7", {"query": 7, "using": "dense"}),
        ("prefetches to fuse", {"query": fusion}),
        ("no query that joins", {"prefetch": models.Prefetch(query=[1.0, 2.0], using="dense")}),
        ("score_threshold", {"score_threshold": 1.0}),
        ("limit=0", {"query": [1.0, 2.0], "using": "dense", "limit": 0}),
        ("create_payload_index", {"query": models.OrderByQuery(order_by="n")}),
        (
            "JSON path",
            {
                "query_filter": models.Filter(
                    must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="a..b"))]
                )
            },
        ),
    ]
    for message, arguments in bad:
        with pytest.raises(InputError, match=message):
            client.query_points("c", **arguments)
    with pytest.raises(NotSupportedError, match="does not encode"):
        client.query_points("c", models.Document(text="moon", model="any"), using="dense")
    with pytest.raises(InputError, match="create_payload_index"):
        client.facet("c", "n")


def test_mmr_by_a_sparse_vector_is_refused_also_in_a_prefetch(client: EdgeClient) -> None:
    client.upsert("c", [point(1)])
    diverse = models.NearestQuery(nearest=weights(i1=1.0), mmr=models.Mmr(diversity=0.5))

    with pytest.raises(NotSupportedError, match="MMR by a sparse vector"):
        client.query_points("c", diverse, using="sparse")
    with pytest.raises(NotSupportedError, match="MMR by a sparse vector"):
        client.query_points(
            "c",
            models.FusionQuery(fusion=models.Fusion.RRF),
            prefetch=models.Prefetch(query=diverse, using="sparse"),
        )


def test_a_formula_that_has_no_value_is_an_input_error(client: EdgeClient) -> None:
    client.upsert("c", [point(1, n=-1, dense=[1.0, 2.0])])
    variable = models.SumExpression(sum=["missing", 1.0])
    for expression in (models.LnExpression(ln="n"), models.SqrtExpression(sqrt="n"), variable):
        with pytest.raises(InputError, match="Correct the formula"):
            client.query_points(
                "c",
                models.FormulaQuery(formula=expression),
                prefetch=models.Prefetch(query=[1.0, 1.0], using="dense"),
            )


def test_groups_over_a_prefetch_are_refused(client: EdgeClient) -> None:
    prefetch = models.Prefetch(query=[1.0, 0.0], using="dense", limit=2)

    with pytest.raises(NotSupportedError, match="query_points_groups has a prefetch"):
        client.query_points_groups("c", "n", [1.0, 0.0], "dense", prefetch)


def test_an_empty_query_vector_finds_nothing(client: EdgeClient) -> None:
    client.upsert("c", [point(1)])

    assert client.query_points("c", models.SparseVector(indices=[], values=[]), using="sparse").points == []


def test_payloads_are_stored_as_json_as_a_server_stores_them(client: EdgeClient) -> None:
    moment, id = datetime(2023, 8, 23, 12, 33, tzinfo=UTC), uuid.uuid4()
    given = {
        "moment": moment,
        "id": id,
        "pair": (1, 2),
        "big": 2**63 - 1,
        "deep": [[], {}, None, {"a.b": True}],
    }
    client.upsert("c", [models.PointStruct(id=id, vector={}, payload=given)])

    (record,) = client.retrieve("c", [id])
    assert record.id == str(id)
    assert record.payload is not None
    assert datetime.fromisoformat(str(record.payload.pop("moment"))) == moment
    assert record.payload == {
        "id": str(id),
        "pair": [1, 2],
        "big": 2**63 - 1,
        "deep": [[], {}, None, {"a.b": True}],
    }


def test_filters_distinguish_true_from_one(client: EdgeClient) -> None:
    payloads: list[dict[str, Any]] = [{"v": True}, {"v": 1}, {"v": False}, {"v": 0}]
    client.upsert("c", models.Batch(ids=[0, 1, 2, 3], vectors={}, payloads=payloads))

    for id, value in enumerate([True, 1, False, 0]):
        matching = models.Filter(must=[models.FieldCondition(key="v", match=models.MatchValue(value=value))])
        assert [record.id for record in client.scroll("c", matching)[0]] == [id]


def test_a_write_to_a_missing_point_raises_after_the_others_are_written(client: EdgeClient) -> None:
    client.upsert("c", [point(1), point(2)])

    with pytest.raises(InputError, match="No point with id 99"):
        client.set_payload("c", {"seen": True}, [99, 1, 2])

    assert client.count("c", models.Filter(must=[models.HasIdCondition(has_id=[1, 2])])).count == 2
    assert [record.payload for record in client.scroll("c")[0]] == [{"n": 0, "seen": True}] * 2
    client.delete("c", [99, 1])
    assert client.count("c").count == 1


@pytest.mark.parametrize("selector", [[], "all", 1, None])
def test_a_write_without_a_valid_selector_is_refused(client: EdgeClient, selector: Any) -> None:
    client.upsert("c", [point(1)])

    with pytest.raises(InputError, match=r"select|names no points"):
        client.delete("c", selector)
    assert client.count("c").count == 1


def test_upserts_obey_update_mode_and_update_filter(client: EdgeClient) -> None:
    client.upsert("c", [point(1, n=1)])

    client.upsert("c", [point(1, n=2), point(2, n=2)], update_mode=models.UpdateMode.INSERT_ONLY)
    assert [record.payload for record in client.scroll("c")[0]] == [{"n": 1}, {"n": 2}]
    client.upsert("c", [point(1, n=3), point(3, n=3)], update_mode=models.UpdateMode.UPDATE_ONLY)
    assert [record.payload for record in client.scroll("c")[0]] == [{"n": 3}, {"n": 2}]
    low = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=3))])
    client.upsert("c", [point(1, n=9), point(2, n=9)], update_filter=low)
    assert [record.payload for record in client.scroll("c")[0]] == [{"n": 3}, {"n": 9}]


def test_uploads_take_streams_and_arrays(client: EdgeClient) -> None:
    client.upload_points("c", (point(n, n=n) for n in range(200)), batch_size=10, parallel=2)
    assert client.count("c").count == 200

    vectors = {"dense": np.arange(20.0).reshape(10, 2)}
    client.upload_collection("c", vectors, payload=({"n": -n} for n in range(10)), ids=range(500, 510))
    client.upload_collection("c", [{"dense": [1.0, 1.0]}, {"sparse": weights(i5=1.0)}])
    assert client.count("c").count == 212
    (found,) = client.retrieve("c", [509], with_vectors=True)
    assert (found.payload, found.vector) == ({"n": -9}, {"dense": [18.0, 19.0]})


def test_a_batch_of_writes_is_made_in_order(client: EdgeClient) -> None:
    operations: list[Any] = [
        models.UpsertOperation(upsert=models.PointsList(points=[point(1), point(2), point(3)])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, points=[1, 2])),
        models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"b": 2}, points=[2])),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["n"], points=[1])),
        models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[3])),
        models.UpdateVectorsOperation(
            update_vectors=models.UpdateVectors(
                points=[models.PointVectors(id=3, vector={"dense": [1.0, 2.0]})]
            )
        ),
        models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(points=[3], vector=["sparse"])),
        models.DeleteOperation(delete=models.PointIdsList(points=[1])),
    ]

    results = client.batch_update_points("c", operations)

    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 8
    records = client.scroll("c", with_vectors=True)[0]
    assert [(r.id, r.payload) for r in records] == [(2, {"b": 2}), (3, {})]
    assert records[1].vector == {"dense": [1.0, 2.0]}


def test_vectors_can_be_looked_up_in_another_collection(client: EdgeClient) -> None:
    client.create_collection("other", {"there": DENSE["dense"]})
    client.upsert("other", [models.PointStruct(id=1, vector={"there": [0.0, 1.0]})])
    client.upsert("c", [point(1, dense=[1.0, 0.0]), point(2, dense=[0.0, 5.0])])

    lookup = models.LookupLocation(collection="other", vector="there")
    points = client.query_points("c", 1, using="dense", lookup_from=lookup).points

    assert [(p.id, p.score) for p in points] == [(2, 5.0), (1, 0.0)]
    groups = client.query_points_groups("c", "n", [1.0, 1.0], using="dense", with_lookup="other").groups
    assert [(group.id, [hit.id for hit in group.hits]) for group in groups] == [(0, [2, 1])]


# -- the folder ----------------------------------------------------------------------------------------------


def test_an_in_memory_client_removes_its_folder() -> None:
    client = EdgeClient()
    folder = client._folder._open.path
    client.create_collection("c", DENSE)
    assert folder.is_dir()
    client.close()
    client.close()
    assert not folder.exists()

    forgotten = EdgeClient()
    folder = forgotten._folder._open.path
    del forgotten
    gc.collect()
    assert not folder.exists()


def test_the_end_of_the_interpreter_closes_open_clients(tmp_path: Path) -> None:
    script = (
        "import sys; from splade_retriever.edge.client import EdgeClient\n"
        "a = EdgeClient(); print(a._folder._open.path)\n"
        "b = EdgeClient(sys.argv[1]); from qdrant_client import models\n"
        "b.create_collection('c', {}, sparse_vectors_config={'s': models.SparseVectorParams()})\n"
    )
    done = run(script, str(tmp_path / "kept"))

    assert not Path(done.strip()).exists()
    with EdgeClient(tmp_path / "kept") as client:
        assert client.collection_exists("c")


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_closed_client_raises(client: EdgeClient) -> None:
    client.close()

    for use in (client.get_collections, lambda: client.count("c"), lambda: client.upsert("c", [point(1)])):
        with pytest.raises(IndexClosedError, match="Open the folder again"):
            use()
    assert repr(client) == "EdgeClient(':memory:', closed)"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("meta.json", "local mode"),
        ("edge_config.json", "bare Qdrant Edge shard"),
        ("raft_state.json", "server"),
        ("thesis.tex", "'thesis.tex'"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_stays_unchanged(
    tmp_path: Path, file: str, message: str
) -> None:
    (tmp_path / file).write_text("{}")

    with pytest.raises(StorageError, match=message):
        EdgeClient(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir() if not item.name.startswith(".")) == [file]


def test_a_folder_of_a_newer_format_or_with_damage_is_refused(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        client.create_collection("c", DENSE)
    (settings,) = tmp_path.glob("collections/*/collection.json")
    before = settings.read_text()

    settings.write_text(before[:40])
    with pytest.raises(StorageError, match="damaged"):
        EdgeClient(tmp_path)
    settings.write_text(before.replace('"name": "c"', '"name": "d"'))
    with pytest.raises(StorageError, match=r"damaged.*its checksum does not match"):
        EdgeClient(tmp_path)
    newer = {**json.loads(before), "format": 2}
    del newer["checksum"]
    settings.write_text(json.dumps({**newer, "checksum": json_checksum(newer)}))
    with pytest.raises(StorageError, match="Upgrade"):
        EdgeClient(tmp_path)
    settings.write_text(before)
    (tmp_path / "edge.json").write_text('{"format": 2}')
    with pytest.raises(StorageError, match="Upgrade"):
        EdgeClient(tmp_path)
    (tmp_path / "edge.json").write_text('{"format": 1}')
    with EdgeClient(tmp_path) as client:
        assert client.count("c").count == 0


def test_a_damaged_shard_raises_and_the_other_collections_are_served(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        for name in ("good", "bad"):
            client.create_collection(name, DENSE)
    for file in tmp_path.glob("collections/bad-*/shard/segments/*/segment.json"):
        file.write_text("nonsense")

    with EdgeClient(tmp_path) as client:
        assert client.count("good").count == 0
        with pytest.raises(StorageError, match="'bad'"):
            client.count("bad")


CREATING = """
import sys
from qdrant_client import models
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess

client = EdgeClient(sys.argv[1])
print("open", flush=True)
for n in range(10_000):
    client.create_collection(f"c{n}", {}, sparse_vectors_config={"s": models.SparseVectorParams()})
    print(n, flush=True)
    if n % 2:
        client.delete_collection(f"c{n - 1}")
"""


@pytest.mark.faults
def test_a_folder_opens_with_complete_collections_after_a_kill_during_create_and_delete(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "index"
    for pause in (0.0, 0.07):
        with PythonProcess(CREATING, str(folder)) as process:
            assert process.stdout.readline() == "open\n"
            made = [process.stdout.readline() for _ in range(2)]
            time.sleep(pause)
            process.kill()
            output = process.stdout.read()
        assert made == ["0\n", "1\n"]
        last = [int(line) for line in output.splitlines() if line.isdigit()]

        with EdgeClient(folder) as client:
            names = [found.name for found in client.get_collections().collections]
            assert f"c{max([1, *last])}" in names
            for name in names:
                client.upsert(name, [models.PointStruct(id=1, vector={"s": weights(i1=1.0)})])
                assert client.count(name).count == 1
            assert not list((folder / "collections").glob(".*"))
            for name in names:
                client.delete_collection(name)


def test_a_write_to_a_nearly_full_disk_is_refused(
    client: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 2**20})
    monkeypatch.setattr("splade_retriever.edge.storage.shutil.disk_usage", lambda path: usage)

    with pytest.raises(StorageError, match="1 MiB are free"):
        client.upsert("c", [point(1)])
    assert client.count("c").count == 0


def test_eight_threads_search_while_another_adds_points_and_creates_collections(client: EdgeClient) -> None:
    client.upsert("c", [point(n) for n in range(64)])
    done = threading.Event()
    faults: list[BaseException] = []
    searched = [0] * 8

    def search(n: int) -> None:
        try:
            while not done.is_set():
                assert len(client.query_points("c", weights(i1=1.0), using="sparse", limit=20).points) == 20
                searched[n] += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            faults.append(error)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for n in range(20):
        client.upsert("c", [point(1000 + 100 * n + m) for m in range(100)])
        client.create_collection(f"d{n}", DENSE)
    done.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert min(searched) > 0
    assert client.count("c").count == 2064


def test_the_log_is_flushed_every_few_writes(client: EdgeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splade_retriever.edge.storage._WRITES_PER_FLUSH", 3)
    collection = client._folder.get("c")

    for n in range(7):
        client.upsert("c", [point(n)])
        assert collection.unflushed == (n + 1) % 3
    assert client.count("c").count == 7


def test_optimising_and_flushing_change_no_answer(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        client.create_collection("c", DENSE, sparse_vectors_config=SPARSE)
        client.upsert("c", [point(n, sparse=weights(i1=1.0 + n)) for n in range(300)])
        before = client.query_points("c", weights(i1=1.0), using="sparse").points
        client.optimize("c")
        client.flush("c")
        after = client.query_points("c", weights(i1=1.0), using="sparse").points

    assert [(p.id, p.score) for p in after] == [(p.id, p.score) for p in before]


def test_collections_can_be_migrated_to_another_client(client: EdgeClient) -> None:
    client.upsert("c", [point(n, n=n, dense=[float(n), 1.0], sparse=weights(i2=1.0)) for n in range(150)])
    local = QdrantClient(":memory:")

    client.migrate(local)

    assert local.count("c").count == 150
    assert local.retrieve("c", [7])[0].payload == {"n": 7}
    local.close()


# -- the Qdrant stores of the frameworks ---------------------------------------------------------------------


def test_the_store_of_langchain_qdrant_works_dense_sparse_and_hybrid() -> None:
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings, SparseVector

    class Sparse(SparseEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[SparseVector]:
            return [
                SparseVector(indices=v.indices.tolist(), values=v.values.tolist())
                for v in WordEncoder().passage_embed(texts)
            ]

        def embed_query(self, text: str) -> SparseVector:
            return self.embed_documents([text])[0]

    class Dense(LetterEncoder, Embeddings):
        pass

    with EdgeClient() as client:
        client.create_collection("sparse", {}, sparse_vectors_config=SPARSE)
        size = len(Dense().embed_query("a"))
        dense = {"dense": models.VectorParams(size=size, distance=models.Distance.COSINE)}
        client.create_collection("hybrid", dense, sparse_vectors_config=SPARSE)
        client.create_collection("dense", dense["dense"])
        for mode in RetrievalMode:
            name = mode.value
            store = QdrantVectorStore(
                client,  # type: ignore[arg-type]
                name,
                embedding=None if mode == RetrievalMode.SPARSE else Dense(),
                sparse_embedding=Sparse(),
                retrieval_mode=mode,
                vector_name="dense" if mode == RetrievalMode.HYBRID else "",
                sparse_vector_name="sparse",
            )
            ids = store.add_texts(["the moon rover", "a rocket"], [{"n": 1}, {"n": 2}])
            only = models.Filter(
                must=[models.FieldCondition(key="metadata.n", match=models.MatchValue(value=2))]
            )

            assert store.similarity_search("rover", k=1)[0].page_content == "the moon rover"
            assert [d.metadata["n"] for d in store.similarity_search("a rocket rover", filter=only)] == [2]
            assert store.get_by_ids([ids[1]])[0].page_content == "a rocket"
            (found, score), *_ = store.similarity_search_with_score("rover moon", k=2)
            assert (found.page_content, score > 0) == ("the moon rover", True)
            if mode == RetrievalMode.DENSE:
                diverse = store.max_marginal_relevance_search("the moon rover", k=2, lambda_mult=0.1)
                assert [d.metadata["n"] for d in diverse] == [1, 2]
            page = store.as_retriever(search_kwargs={"k": 1}).invoke("a rocket")
            assert [d.page_content for d in page] == ["a rocket"]
            store.delete([ids[0]])
            assert client.count(name).count == 1


def test_the_qdrant_store_of_llama_index_works_dense_and_hybrid() -> None:
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores.types import (
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
    )
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    def sparse(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        found = list(WordEncoder().passage_embed(texts))
        return [v.indices.tolist() for v in found], [v.values.tolist() for v in found]

    letters = LetterEncoder()
    texts = ["the moon rover", "a rocket", "a lander"]
    with EdgeClient() as client:
        for hybrid in (False, True):
            store = QdrantVectorStore(
                f"nodes {hybrid}",
                client=client,  # type: ignore[arg-type]
                enable_hybrid=hybrid,
                sparse_doc_fn=sparse,
                sparse_query_fn=sparse,
            )
            nodes = [
                TextNode(
                    text=text,
                    embedding=letters.embed_query(text),
                    metadata={"n": n},
                    relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc {n}")},
                )
                for n, text in enumerate(texts)
            ]
            store.add(nodes)  # type: ignore[arg-type]
            mode = VectorStoreQueryMode.HYBRID if hybrid else VectorStoreQueryMode.DEFAULT
            low = MetadataFilters(filters=[MetadataFilter(key="n", value=1, operator=FilterOperator.GTE)])

            def ask(text: str, filters: Any = None, mode: Any = mode, store: Any = store) -> list[str]:
                query = VectorStoreQuery(
                    query_embedding=letters.embed_query(text),
                    query_str=text,
                    similarity_top_k=3,
                    sparse_top_k=3,
                    mode=mode,
                    filters=filters,
                )
                return [node.get_content() for node in store.query(query).nodes]

            assert ask("the moon rover")[0] == "the moon rover"
            assert set(ask("a rocket", low)) == {"a rocket", "a lander"}
            if hybrid:
                assert ask("a rocket", None, VectorStoreQueryMode.SPARSE)[0] == "a rocket"
            store.delete("doc 1")
            assert len(store.get_nodes(node_ids=[node.node_id for node in nodes])) == 2
            store.delete_nodes([nodes[0].node_id])
            assert ask("the moon rover") == ["a lander"]
            store.clear()
            assert not client.collection_exists(f"nodes {hybrid}")
