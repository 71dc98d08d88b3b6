"""The steps in the shapes that Ray Data and Spark call. Neither is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from splade_retriever.distributed.columns import Batch
from splade_retriever.distributed.steps import Step

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RayStep", "spark_step"]


class RayStep:
    """Runs a step in `ray.data.Dataset.map_batches`; each actor opens the model once.

    Example:
        dataset.map_batches(RayStep, fn_constructor_args=(step,), batch_format="pyarrow", concurrency=4)
    """

    def __init__(self, step: Step) -> None:
        """Open the model of the step, in the actor that Ray starts."""
        self._step = step
        step.open()

    def __call__(self, batch: Batch) -> pa.Table:
        """Return the rows that a batch becomes."""
        return self._step.run(batch)


def spark_step(step: Step) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function of a step for `pyspark.sql.DataFrame.mapInArrow`.

    A Python worker of Spark opens the model once, for all tasks that it runs.

    Example:
        frame.mapInArrow(spark_step(step), step.spark_schema(frame.schema))
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield from step.run(batch).to_batches()

    return run
