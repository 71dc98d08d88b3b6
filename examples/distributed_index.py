"""Encode a Parquet dataset on many machines, and write it to a Qdrant server or cluster in parallel.

    pip install "splade-retriever[ray]"      # or [spark], on the driver and on every worker
    python examples/distributed_index.py ray passages.parquet http://qdrant:6333 --workers 16
    python examples/distributed_index.py spark passages.parquet http://qdrant:6333

The dataset has the columns `id` and `text`; the others become metadata. On a laptop the same commands start
Ray or Spark locally. A run that was interrupted is started again with the same command: documents that are
stored already are not encoded again.
"""

import argparse
import os

from splade_retriever import SpladeIndex
from splade_retriever.distributed import RayStep, WriteStep, spark_step


def main() -> None:
    """Create the collection, run the step on the workers, print what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("framework", choices=["ray", "spark"])
    parser.add_argument("dataset", help="Parquet file or folder that every worker can read")
    parser.add_argument("url", help="address of the Qdrant server; the workers use it too")
    parser.add_argument("--collection", default="passages")
    parser.add_argument("--model", help="a model's name; the bundled one if left out")
    parser.add_argument("--shards", type=int, help="shards of a new collection: a multiple of the nodes")
    parser.add_argument("--workers", type=int, default=2, help="Ray: number of actors")
    parser.add_argument("--cores", type=int, default=1, help="Ray: cores of each actor")
    arguments = parser.parse_args()
    with SpladeIndex(
        arguments.url,
        collection=arguments.collection,
        model=arguments.model,
        shard_number=arguments.shards,
        api_key=os.environ.get("QDRANT_API_KEY"),
    ) as index:
        step = WriteStep(index, on_error="collect")
        run = with_ray if arguments.framework == "ray" else with_spark
        written, refused = run(step, arguments)
        print(f"{written} documents written, {refused} refused; the collection holds {index.count()}")


def with_ray(step: WriteStep, arguments: argparse.Namespace) -> tuple[int, int]:
    """Run the step in actors of Ray; a killed actor is started again, and its batches are repeated."""
    import ray

    results = ray.data.read_parquet(arguments.dataset).map_batches(
        RayStep,
        fn_constructor_args=(step,),
        batch_format="pyarrow",
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_cpus=arguments.cores,
    )
    counts = [(row["written"], len(row["refused"])) for row in results.iter_rows()]
    return sum(written for written, _ in counts), sum(refused for _, refused in counts)


def with_spark(step: WriteStep, arguments: argparse.Namespace) -> tuple[int, int]:
    """Run the step in Python workers of Spark; a failed partition is repeated (spark.task.maxFailures)."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    frame = spark.read.parquet(arguments.dataset)
    rows = frame.mapInArrow(spark_step(step), step.spark_schema(frame.schema)).collect()
    spark.stop()
    return sum(row["written"] for row in rows), sum(len(row["refused"]) for row in rows)


if __name__ == "__main__":
    main()
