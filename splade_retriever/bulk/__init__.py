"""Encode large collections to Parquet files, on one machine or on many. Needs the extra `bulk`.

encode_files   encode files to one Parquet file; a killed run continues
load_vectors   add the vectors of such a file to an index
"""

from splade_retriever.errors import MissingExtraError

try:
    import pyarrow  # noqa: F401 - imported here to report its absence in one place
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "splade_retriever.bulk needs pyarrow, which is not installed. Run: "
        'pip install "splade-retriever[bulk]"'
    ) from error

from splade_retriever.bulk.encode import EncodeReport, Shard, encode_files
from splade_retriever.bulk.load import load_vectors

__all__ = ["EncodeReport", "Shard", "encode_files", "load_vectors"]
