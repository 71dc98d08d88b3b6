"""Local Ray and Spark against a real Qdrant server: equal to one process, also where a worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from tests.distributed.conftest import ROOT, dataset, stored
from tests.qdrant_server import ServerAddress

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `bulk`)")

from splade_retriever.distributed import EncodeStep, RayStep, WriteStep, spark_step  # noqa: E402
from splade_retriever.distributed.steps import Step  # noqa: E402

pytestmark = [
    pytest.mark.cluster_frameworks,
    pytest.mark.slow,
    # Both frameworks use deprecated parts of themselves, and leave sockets and processes to the end.
    pytest.mark.filterwarnings("ignore"),
]

BATCH = 10
HALF = BATCH // 2
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home folder
}


class KilledOnce:
    """A step whose process is killed after it has written half of its second batch, once."""

    def __init__(self, step: Step, folder: Path) -> None:
        self._step, self._folder = step, folder

    def open(self) -> None:
        self._step.open()
        (self._folder / f"opened-{os.getpid()}").touch()

    def run(self, batch: Any) -> Any:
        rows = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if rows.column("id")[0].as_py() == BATCH and not (self._folder / "killed").exists():
            self._step.run(rows.slice(0, HALF))
            (self._folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._step.run(rows)

    def spark_schema(self, schema: Any) -> str:
        return self._step.spark_schema(schema)


@pytest.fixture(scope="module")
def ray_data() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        for name, value in RAY_SETTINGS.items():
            patch.setenv(name, value)
        ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
        data = pytest.importorskip("ray.data", reason="Ray Data is not installed (extra `ray`)")
        ray.init(
            num_cpus=4,  # two for the actors, and others for what reads the dataset
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
            _node_ip_address="127.0.0.1",
        )
        data.DataContext.get_current().enable_progress_bars = False
        yield data
        ray.shutdown()


def ray_rows(ray_data: Any, step: Step) -> list[dict[str, Any]]:
    items = ray_data.from_items(dataset(), override_num_blocks=6)
    result = items.map_batches(
        RayStep,
        fn_constructor_args=(step,),
        batch_format="pyarrow",
        batch_size=BATCH,
        compute=ray_data.ActorPoolStrategy(size=2),
    )
    rows: list[dict[str, Any]] = result.take_all()
    return rows


def test_ray_returns_the_vectors_of_one_process(ray_data: Any, tiny: SparseTextEmbedding) -> None:
    rows = sorted(ray_rows(ray_data, EncodeStep(tiny)), key=lambda row: row["id"])
    vectors = list(tiny.embed([row["text"] for row in dataset()]))
    assert [list(row["indices"]) for row in rows] == [vector.indices.tolist() for vector in vectors]
    assert [list(row["values"]) for row in rows] == [vector.values.tolist() for vector in vectors]


@pytest.mark.server
def test_ray_stores_what_one_process_stores(
    ray_data: Any, index: SpladeIndex, expected: dict[str, Any]
) -> None:
    rows = ray_rows(ray_data, WriteStep(index))
    assert sum(row["written"] for row in rows) == 60
    assert stored(index) == expected


@pytest.mark.server
@pytest.mark.faults
def test_ray_stores_the_same_where_a_worker_is_killed(
    ray_data: Any, index: SpladeIndex, expected: dict[str, Any], tmp_path: Path
) -> None:
    ray_rows(ray_data, KilledOnce(WriteStep(index), tmp_path))
    assert (tmp_path / "killed").exists()
    assert stored(index) == expected


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed (extra `spark`)")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed, which Spark needs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        session = (
            sql.SparkSession.builder.master("local[2, 4]")
            .config("spark.ui.enabled", False)
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", 4)
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def spark_rows(spark: Any, step: Step) -> list[Any]:
    frame = spark.createDataFrame(dataset()).orderBy("id").coalesce(2)
    rows: list[Any] = frame.mapInArrow(spark_step(step), step.spark_schema(frame.schema)).collect()
    return rows


def test_spark_returns_the_vectors_of_one_process(spark: Any, tiny: SparseTextEmbedding) -> None:
    rows = sorted(spark_rows(spark, EncodeStep(tiny)), key=lambda row: row["id"])
    vectors = list(tiny.embed([row["text"] for row in dataset()]))
    assert [row["indices"] for row in rows] == [vector.indices.tolist() for vector in vectors]
    assert [row["values"] for row in rows] == [vector.values.tolist() for vector in vectors]


@pytest.mark.server
def test_spark_stores_what_one_process_stores(
    spark: Any, index: SpladeIndex, expected: dict[str, Any]
) -> None:
    rows = spark_rows(spark, WriteStep(index))
    assert sum(row["written"] for row in rows) == 60
    assert stored(index) == expected


@pytest.mark.server
@pytest.mark.faults
def test_spark_stores_the_same_where_a_worker_is_killed(
    spark: Any, index: SpladeIndex, expected: dict[str, Any], tmp_path: Path
) -> None:
    rows = spark_rows(spark, KilledOnce(WriteStep(index), tmp_path))
    assert (tmp_path / "killed").exists()
    assert sum(row["written"] for row in rows) == 60
    assert stored(index) == expected


@pytest.mark.server
@pytest.mark.parametrize("framework", ["ray", "spark"])
def test_the_example_fills_a_collection(framework: str, empty_server: ServerAddress, tmp_path: Path) -> None:
    pytest.importorskip(
        {"ray": "ray", "spark": "pyspark"}[framework], reason=f"needs the extra `{framework}`"
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(dataset(20)), tmp_path / "passages.parquet")
    program = [sys.executable, str(ROOT / "examples" / "distributed_index.py"), framework]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **RAY_SETTINGS,
    }
    run = subprocess.run(
        [*program, str(tmp_path / "passages.parquet"), empty_server.url, "--workers", "1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.endswith("20 documents written, 0 refused; the collection holds 20\n")
