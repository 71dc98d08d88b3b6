"""The steps themselves, in this process: the columns of a batch, the points that are written, the errors."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import CollectionNotFoundError, InputError, NotSupportedError
from tests.distributed.conftest import dataset, stored
from tests.qdrant_server import Cluster, ServerAddress

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `bulk`)")

from splade_retriever.distributed import Columns, EncodeStep, RayStep, WriteStep, spark_step  # noqa: E402


def table(rows: Sequence[object]) -> Any:
    return pa.Table.from_pylist(list(rows))


def test_the_encode_step_adds_the_vectors_of_one_process(tiny: SparseTextEmbedding) -> None:
    rows = dataset(20)
    result = RayStep(EncodeStep(tiny))(table(rows)).to_pylist()
    vectors = list(tiny.embed([row["text"] for row in rows]))
    assert [row["indices"] for row in result] == [vector.indices.tolist() for vector in vectors]
    assert [row["values"] for row in result] == [vector.values.tolist() for vector in vectors]
    assert [row["year"] for row in result] == [row["year"] for row in rows]


def test_a_batch_of_numpy_columns_is_encoded_like_an_arrow_table(tiny: SparseTextEmbedding) -> None:
    rows = dataset(5)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    step = EncodeStep(tiny)
    assert step.run(columns).equals(step.run(table(rows)))


def test_another_text_than_the_stored_one_is_encoded(tiny: SparseTextEmbedding) -> None:
    step = EncodeStep(tiny, Columns(encoded_text="title"))
    (row,) = step.run(table([{"text": "moon", "title": "rover"}])).to_pylist()
    assert row["indices"] == next(iter(tiny.embed("rover"))).indices.tolist()


def test_a_long_text_has_the_vector_of_all_its_windows(tiny: SparseTextEmbedding) -> None:
    long = "moon " * 2 * tiny.max_length + "rover"
    truncated = tiny.truncated

    (row,) = EncodeStep(tiny).run(table([{"text": long}])).to_pylist()

    (expected,) = embed_complete_texts([long], tiny)
    assert row["indices"] == expected.indices.tolist()
    assert row["values"] == expected.values.tolist()
    assert expected != next(tiny.embed("moon " * 2 * tiny.max_length))
    assert tiny.truncated == truncated + 1  # of the line above


def test_a_row_without_a_text_is_an_error_that_states_its_position(tiny: SparseTextEmbedding) -> None:
    with pytest.raises(InputError, match="position 1 is a NoneType"):
        EncodeStep(tiny).run(table([{"text": "moon"}, {"text": None}]))


def test_the_threads_of_a_worker_are_those_that_the_framework_reserves(
    tiny: SparseTextEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splade_retriever.distributed import steps

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert steps._with_threads(tiny, None)._threads == 3  # type: ignore[attr-defined]
    assert steps._with_threads(tiny, 5)._threads == 5  # type: ignore[attr-defined]
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    assert steps._with_threads(tiny, None) is tiny


def test_a_dataset_without_the_column_is_an_error_that_lists_its_columns(tiny: SparseTextEmbedding) -> None:
    with pytest.raises(InputError, match=r"no column 'text' \(found: body\)"):
        EncodeStep(tiny).run(table([{"body": "moon"}]))


def test_a_batch_of_another_kind_is_an_error_that_names_the_format(tiny: SparseTextEmbedding) -> None:
    with pytest.raises(InputError, match="batch_format='pyarrow'"):
        EncodeStep(tiny).run(["moon"])


def test_an_index_in_a_folder_cannot_be_written_by_several_workers(tmp_path: Path) -> None:
    with (
        SpladeIndex(tmp_path / "index") as index,
        pytest.raises(InputError, match="one process writes at a time"),
    ):
        WriteStep(index)


def test_an_index_in_memory_cannot_be_sent_to_workers() -> None:
    with SpladeIndex() as index, pytest.raises(NotSupportedError, match="in memory"):
        WriteStep(index)


def test_the_schema_for_spark_keeps_the_columns_of_the_data_frame() -> None:
    class Type:
        def __init__(self, name: str) -> None:
            self.simpleString = lambda: name

    class Field:
        def __init__(self, name: str, kind: str) -> None:
            self.name, self.dataType = name, Type(kind)

    class Schema:
        fields = [Field("id", "bigint"), Field("my text", "string")]  # noqa: RUF012

    expected = "`id` bigint, `my text` string, indices array<int>, values array<float>"
    assert EncodeStep().spark_schema(Schema()) == expected


@pytest.mark.server
def test_a_write_step_stores_what_add_stores(index: SpladeIndex, expected: dict[str, Any]) -> None:
    step = pickle.loads(pickle.dumps(WriteStep(index)))
    rows = dataset()
    results = [step.run(table(rows[start : start + 16])).to_pylist() for start in range(0, len(rows), 16)]
    assert [row["written"] for (row,) in results] == [16, 16, 16, 12]
    assert stored(index) == expected
    assert stored(index)["points"], "points are compared, and not their absence"


@pytest.mark.server
def test_a_batch_that_is_written_again_changes_nothing(index: SpladeIndex) -> None:
    step = WriteStep(index)
    step.run(table(dataset()[:40]))
    before = stored(index)
    assert step.run(table(dataset()[:40])).to_pylist() == [{"written": 40, "refused": []}]
    assert stored(index) == before


@pytest.mark.server
def test_a_filled_collection_opens_as_an_index_and_finds_its_documents(
    index: SpladeIndex, empty_server: ServerAddress, tiny: SparseTextEmbedding
) -> None:
    WriteStep(index).run(table(dataset()))
    with SpladeIndex(empty_server.url, collection="docs", create=False) as opened:
        assert opened.count() == 60
        assert opened.windows == "merge"
    with SpladeIndex(empty_server.url, collection="docs", model=tiny, create=False) as opened:
        (hit,) = opened.search("moon", k=1, filter={"year": 2008})
        assert (hit.id, hit.metadata) == ("8", {"year": 2008, "topic": "moon"})


@pytest.mark.server
def test_the_data_of_one_column_becomes_the_metadata(index: SpladeIndex) -> None:
    rows = [
        {"key": "a", "body": "the moon", "data": '{"year": 1969}'},
        {"key": "b", "body": "the rover", "data": None},
    ]
    WriteStep(index, Columns(id="key", text="body", metadata="data")).run(table(rows))
    assert {hit.id: hit.metadata for hit in index.get(["a", "b"])} == {"a": {"year": 1969}, "b": {}}


@pytest.mark.server
def test_only_the_named_columns_become_metadata(index: SpladeIndex) -> None:
    WriteStep(index, Columns(metadata=["topic"])).run(table(dataset(1)))
    assert index.get(["0"])[0].metadata == {"topic": "moon"}


@pytest.mark.server
def test_a_row_that_cannot_be_stored_stops_the_batch_or_is_returned(index: SpladeIndex) -> None:
    rows = [{"id": "a", "text": "moon"}, {"id": "b", "text": None}, {"id": "c", "text": "rover"}]
    with pytest.raises(InputError, match="Input 1 of add: text is a NoneType"):
        WriteStep(index).run(table(rows))
    assert index.count() == 0
    (row,) = WriteStep(index, on_error="collect").run(table(rows)).to_pylist()
    assert row["written"] == 2
    assert row["refused"] == [{"id": "b", "reason": "text is a NoneType, expected a string"}]
    with pytest.raises(InputError, match="expected 'raise' or 'collect'"):
        WriteStep(index, on_error="skip")  # type: ignore[arg-type]


@pytest.mark.server
def test_a_row_without_an_id_is_refused_because_it_would_be_stored_twice(index: SpladeIndex) -> None:
    rows = [{"id": None, "text": "moon"}, {"id": "b", "text": "rover"}]
    with pytest.raises(InputError, match="1 of 2 rows have no id in column 'id'"):
        WriteStep(index).run(table(rows))
    assert index.count() == 0
    (row,) = WriteStep(index, on_error="collect").run(table(rows)).to_pylist()
    assert row == {"written": 1, "refused": [{"id": None, "reason": "the row has no id"}]}


@pytest.mark.server
def test_a_column_of_texts_that_are_not_json_is_an_error_that_says_what_to_pass(index: SpladeIndex) -> None:
    with pytest.raises(InputError, match=r"not JSON.*metadata=\['topic'\]"):
        WriteStep(index, Columns(metadata="topic")).run(table(dataset(1)))


@pytest.mark.server
def test_a_worker_notices_a_collection_that_was_made_again(
    index: SpladeIndex, tiny: SparseTextEmbedding
) -> None:
    """Spark keeps its workers, and with them their open indexes, from one job to the next."""
    WriteStep(index).run(table(dataset(10)))
    index.client.delete_collection("docs")
    url = index.reopen_arguments["location"]
    with SpladeIndex(url, collection="docs", model=tiny, windows="merge", max_active_dims=2) as smaller:
        WriteStep(smaller).run(table(dataset(10)))
        assert max(len(hit.vector or ()) for hit in smaller.scroll(with_vectors=True)) == 2


@pytest.mark.server
def test_a_worker_never_creates_the_collection(index: SpladeIndex) -> None:
    step = WriteStep(index, threads=7)  # a step that this process has not opened yet
    index.client.delete_collection("docs")
    with pytest.raises(CollectionNotFoundError, match="no collection 'docs'"):
        step.run(table(dataset(1)))


@pytest.mark.server
def test_rows_of_spark_are_written_batch_by_batch(index: SpladeIndex) -> None:
    batches = table(dataset(20)).to_batches(max_chunksize=8)
    results = list(spark_step(WriteStep(index))(iter(batches)))
    assert [batch.to_pylist()[0]["written"] for batch in results] == [8, 8, 4]


@pytest.mark.own_server
def test_workers_fill_the_shards_of_a_cluster_in_parallel(
    cluster: Cluster, tiny: SparseTextEmbedding
) -> None:
    """Three nodes, six shards, two copies; each worker writes through another node."""
    rows = dataset(120)
    with SpladeIndex(
        cluster.url, collection="docs", model=tiny, shard_number=6, replication_factor=2, timeout=60
    ) as index:
        steps = []
        for node in cluster.nodes:
            with SpladeIndex(node.url, collection="docs", model=tiny, create=False, timeout=60) as opened:
                steps.append(WriteStep(opened))
        with ThreadPoolExecutor(3) as pool:
            results = pool.map(lambda job: job[1].run(table(rows[job[0] :: 3])), enumerate(steps))
        assert sum(result.to_pylist()[0]["written"] for result in results) == 120
        assert index.count() == 120
        assert {hit.id for hit in index.scroll()} == {str(row["id"]) for row in rows}
