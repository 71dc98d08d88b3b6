"""What an ONNX file says about itself, read without loading it.

A published model is half a gigabyte of weights around a few kilobytes of structure. Protocol buffers
prefix every part with its length, so the weights can be stepped over: nothing here reads them.

Source:
    protobuf.dev/programming-guides/encoding and onnx/onnx.proto for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["Field", "Outline", "fields", "outline"]

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9
_GRAPH_OUTPUT = 12
_TENSOR_EXTERNAL_DATA = 13


class Field(NamedTuple):
    """One field of a message: its number and where it lies in the file.

    Attributes:
        number: The field number of the message's schema.
        start: Offset of the field, its key included.
        value: Offset of a length-delimited value; for other kinds, where the key ends.
        stop: Offset after the field.
        delimited: Whether the value is a length-delimited one (message, bytes, text).
    """

    number: int
    start: int
    value: int
    stop: int
    delimited: bool


@dataclass(frozen=True)
class Outline:
    """What can be told without reading weights.

    Attributes:
        ranks: Rank of each graph output by name, in order; None where the file does not say.
        external: Names of the files beside the model that hold weights, as written in the model.
    """

    ranks: dict[str, int | None]
    external: list[str]


def outline(path: Path) -> Outline:
    """Read outputs and external files of an ONNX model.

    Raises:
        ModelFilesError: If there is no such file.
        ModelGraphError: If it is not an ONNX file, or names weights outside its own folder.
    """
    ranks: dict[str, int | None] = {}
    external: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            for part in (f for f in fields(file, 0, size) if f.number == MODEL_GRAPH):
                for field in fields(file, part.value, part.stop):
                    if field.number == _GRAPH_OUTPUT:
                        ranks.update([_output(file, field)])
                    elif field.number == GRAPH_INITIALIZER:
                        external.update(dict.fromkeys(_locations(file, field)))
    except FileNotFoundError as err:
        raise ModelFilesError(f"There is no model file {path}; pass a complete model folder.") from err
    for name in external:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelGraphError(
                f"{path} keeps weights in {name!r}; expected a file beside it. Do not trust this file, or "
                f"export it again."
            )
    if not ranks:
        raise ModelGraphError(f"{path} is not an ONNX model: no graph with an output was found in it.")
    return Outline(ranks=ranks, external=list(external))


def fields(file: BinaryIO, start: int, stop: int) -> Iterator[Field]:
    """Step through the fields of the message in `file[start:stop]`; values are not read.

    Raises:
        ModelGraphError: If the bytes are not a message; a cut-off download reads so.
    """
    at = start
    while at < stop:
        file.seek(at)
        key = _varint(file)
        kind = key & 7
        value = file.tell()
        if kind == 2:
            length = _varint(file)
            value = file.tell()
            end = value + length
        elif kind == 0:
            _varint(file)
            end = file.tell()
        else:
            end = value + {1: 8, 5: 4}.get(kind, stop)
        if end > stop or not key >> 3:
            raise ModelGraphError(
                f"{file.name} is not an ONNX model, or is cut off: a part at byte {at} reaches to byte "
                f"{end}, its frame ends at {stop}. Download or export the file again."
            )
        yield Field(key >> 3, at, value, end, kind == 2)
        at = end


def _varint(file: BinaryIO) -> int:
    number = shift = 0
    while byte := file.read(1):
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
        shift += 7
        if shift > 63:
            break
    raise ModelGraphError(
        f"{file.name} is not an ONNX model, or is cut off at byte {file.tell()}. "
        f"Download or export the file again."
    )


def _read(file: BinaryIO, field: Field) -> bytes:
    file.seek(field.value)
    return file.read(field.stop - field.value)


def _output(file: BinaryIO, field: Field) -> tuple[str, int | None]:
    # ValueInfoProto: name 1, type 2 -> TypeProto: tensor_type 1 -> shape 2 -> one field 1 a dimension.
    name, rank = "", None
    for part in fields(file, field.value, field.stop):
        if part.number == 1:
            name = _read(file, part).decode(errors="replace")
        elif part.number == 2:
            for tensor in (f for f in fields(file, part.value, part.stop) if f.number == 1):
                for shape in (f for f in fields(file, tensor.value, tensor.stop) if f.number == 2):
                    rank = sum(1 for f in fields(file, shape.value, shape.stop) if f.number == 1)
    return name, rank


def _locations(file: BinaryIO, tensor: Field) -> Iterator[str]:
    # TensorProto: external_data 13 -> StringStringEntryProto: key 1, value 2.
    for entry in (f for f in fields(file, tensor.value, tensor.stop) if f.number == _TENSOR_EXTERNAL_DATA):
        pair = {
            f.number: _read(file, f).decode(errors="replace") for f in fields(file, entry.value, entry.stop)
        }
        if pair.get(1) == "location":
            yield pair.get(2, "")
