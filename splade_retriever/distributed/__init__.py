"""Encode and write on many machines, with Ray Data or Spark. Needs the extra `ray` or `spark`.

EncodeStep   adds the vectors of texts to a dataset, as two columns
WriteStep    encodes rows and writes them to a collection of a Qdrant server
Columns      which columns of a dataset hold the ids, the texts and the metadata
RayStep      runs a step in `Dataset.map_batches`
spark_step   makes a step the function of `DataFrame.mapInArrow`

Each worker process opens a step's model once and sends its points to the server itself. The driver only
creates the collection.
"""

from splade_retriever.errors import MissingExtraError

try:
    import pyarrow  # noqa: F401 - imported here to report its absence in one place
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "splade_retriever.distributed needs pyarrow, which is not installed. Run: "
        'pip install "splade-retriever[ray]" or pip install "splade-retriever[spark]"'
    ) from error

from splade_retriever.distributed.columns import Columns
from splade_retriever.distributed.frameworks import RayStep, spark_step
from splade_retriever.distributed.steps import EncodeStep, WriteStep

__all__ = ["Columns", "EncodeStep", "RayStep", "WriteStep", "spark_step"]
