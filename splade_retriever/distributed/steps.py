"""The two steps that run on workers: encode, and encode and write.

A step is a small value that is sent to the workers. What is expensive (the model, the connections) is opened
there when the first batch comes, once per process, also where a framework runs several tasks in one process.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import pyarrow as pa

from splade_retriever.distributed.columns import Batch, Columns, to_table
from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.encoding.text_embedding import SparseTextEmbedding
from splade_retriever.encoding.windows import embed_complete_texts
from splade_retriever.errors import InputError
from splade_retriever.index.documents import BadInput
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.protocols import Encoder
from splade_retriever.validation import checked_int, is_url

__all__ = ["EncodeStep", "Step", "WriteStep"]

_INDICES: Final = "indices"
_VALUES: Final = "values"
_WRITTEN: Final = pa.schema(
    [
        ("written", pa.int64()),
        ("refused", pa.list_(pa.struct([("id", pa.string()), ("reason", pa.string())]))),
    ]
)
_OPEN_AT_ONCE: Final = 4
"""Models and indexes that a process keeps open, for the steps that use them."""
_THREADS_VARIABLE: Final = "OMP_NUM_THREADS"


class Step(Protocol):
    """What a worker does with each batch of rows."""

    def open(self) -> None:
        """Open the model in this process, if it is not open yet."""

    def run(self, batch: Batch) -> pa.Table:
        """Return the rows that a batch becomes."""

    def spark_schema(self, schema: Any) -> str:
        """Return the schema of the result, for `mapInArrow`, from that of the data frame."""


@dataclass(frozen=True, slots=True)
class EncodeStep:
    """Adds the vectors of texts to a dataset: the columns `indices` (int32) and `values` (float32).

    A text that is longer than the model reads is encoded in windows, whose vectors are merged.

    Attributes:
        model: A model's name, a folder that every worker can read, an encoder that can be pickled, or None:
            the bundled model.
        columns: Which columns hold the texts.
        threads: Batches that a worker computes at once. None for `OMP_NUM_THREADS`, which Ray and Spark set
            to the processors of a worker; without it one per core.
    """

    model: ModelArgument = None
    columns: Columns = field(default_factory=Columns)
    threads: int | None = None

    def __post_init__(self) -> None:
        threads = checked_int("threads", self.threads, minimum=1, optional=True)
        object.__setattr__(self, "threads", threads)

    def open(self) -> None:
        """Open the model in this process, if it is not open yet."""
        self._encoder()

    def run(self, batch: Batch) -> pa.Table:
        """Return a batch with the two columns.

        Raises:
            InputError: If a column does not exist, or a text is not valid.
        """
        rows = to_table(batch)
        vectors = embed_complete_texts(self.columns.texts(rows), self._encoder())
        indices = pa.array([vector.indices for vector in vectors], pa.list_(pa.int32()))
        values = pa.array([vector.values for vector in vectors], pa.list_(pa.float32()))
        return rows.append_column(_INDICES, indices).append_column(_VALUES, values)

    def spark_schema(self, schema: Any) -> str:
        """Return the schema of the result, for `mapInArrow`.

        Args:
            schema: The schema of the data frame, `frame.schema`.
        """
        names = [f"`{one.name.replace('`', '``')}` {one.dataType.simpleString()}" for one in schema.fields]
        return ", ".join([*names, f"{_INDICES} array<int>", f"{_VALUES} array<float>"])

    def _encoder(self) -> Encoder:
        return _opened_encoder(_pickled(self.model, "The model"), self.threads)


class WriteStep:
    """Encodes rows and writes them to a collection, as `SpladeIndex.add` does.

    Ids, payloads and vectors are those of `add`: a batch that is written again changes nothing, and a batch
    that was interrupted continues. The result has one row per batch: `written`, the number of documents that
    are stored, and `refused`, the others with the reason.
    """

    def __init__(
        self,
        index: SpladeIndex,
        columns: Columns | None = None,
        *,
        threads: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> None:
        """Prepare the step; nothing is written.

        Args:
            index: An index on a Qdrant server, at an address that the workers can reach. Opening it creates
                the collection. The step holds its arguments, with the API key.
            columns: Which columns make documents; None for `Columns()`.
            threads: As for `EncodeStep`.
            on_error: "raise" to fail at a row that cannot be stored, before its batch is written. "collect"
                to store the others and to return it under `refused`.

        Raises:
            InputError: If the index is not on a server, or an argument is not valid.
            CollectionMismatchError: If its model is not that of the collection.
        """
        threads = checked_int("threads", threads, minimum=1, optional=True)
        if on_error not in ("raise", "collect"):
            raise InputError(f"on_error is {on_error!r}, expected 'raise' or 'collect'.")
        self._columns = columns or Columns()
        self._threads = threads
        self._on_error = on_error
        self._index = _index_arguments(index)

    def open(self) -> None:
        """Open the model and the connection in this process, if they are not open yet."""
        _ = self._opened().model

    def run(self, batch: Batch) -> pa.Table:
        """Write a batch; return one row that counts its documents.

        Raises:
            InputError: If a column does not exist, or a row cannot be stored.
            ServerError: If the server does not answer.
            StorageError: If it refuses to write.
        """
        rows = to_table(batch)
        named = self._columns.with_ids(rows)
        without_id = len(rows) - len(named)
        if without_id and self._on_error == "raise":
            raise InputError(
                f"{without_id} of {len(rows)} rows have no id in column {self._columns.id!r}. Nothing of "
                f"this batch was written. Give each row an id that stays the same when it is written again."
            )
        refused: list[BadInput] = []
        written = self._opened().add(
            **self._columns.inputs(named), on_error="raise" if self._on_error == "raise" else refused.append
        )
        reasons = [{"id": one.id, "reason": one.reason} for one in refused]
        reasons += [{"id": None, "reason": "the row has no id"}] * without_id
        return pa.table({"written": [len(written)], "refused": [reasons]}, schema=_WRITTEN)

    def spark_schema(self, schema: Any = None) -> str:
        """Return the schema of the result, for `mapInArrow`; that of the data frame has no part in it."""
        return "written bigint, refused array<struct<id:string,reason:string>>"

    def _opened(self) -> SpladeIndex:
        return _opened_index(self._index, self._threads)


def _index_arguments(index: SpladeIndex) -> bytes:
    arguments = index.reopen_arguments
    if not is_url(str(arguments["location"])):
        raise InputError(
            f"The index is in the folder {arguments['location']}, which one process writes at a time. Open "
            f"it on a Qdrant server, such as SpladeIndex('http://host:6333')."
        )
    # The settings tell apart collections of one name that were made one after the other.
    settings = index.store.settings
    return _pickled((type(index), {**arguments, "model": index.model}, settings), "The index")


def _pickled(value: object, name: str) -> bytes:
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"{name} cannot be sent to workers, because it cannot be pickled: {error}. Pass the model's "
            f"name, or an encoder that can be pickled."
        ) from error


@lru_cache(_OPEN_AT_ONCE)
def _opened_encoder(model: bytes, threads: int | None) -> Encoder:
    return _with_threads(load_encoder(pickle.loads(model)), threads)


@lru_cache(_OPEN_AT_ONCE)
def _opened_index(pickled: bytes, threads: int | None) -> SpladeIndex:
    kind, arguments, _ = pickle.loads(pickled)
    index: SpladeIndex = kind(**{**arguments, "model": _with_threads(arguments["model"], threads)})
    return index


def _with_threads(encoder: Encoder, threads: int | None) -> Encoder:
    """Limit the threads of an encoder, so that the workers of a machine do not compete for its cores."""
    number = os.environ.get(_THREADS_VARIABLE, "")
    limit = threads or (int(number) if number.isdecimal() and int(number) > 0 else None)
    if limit is None or not isinstance(encoder, SparseTextEmbedding):
        return encoder
    return encoder.with_threads(limit)
