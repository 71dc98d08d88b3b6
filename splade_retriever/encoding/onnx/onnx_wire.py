"""Reads the structure of an ONNX file without loading its weights.

A published model is half a gigabyte of weights around a few kilobytes of structure. Protocol buffers prefix
each part with its length, so a reader can skip the weights.

Source:
    protobuf.dev/programming-guides/encoding, and onnx/onnx.proto for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from splade_retriever.encoding.model_root import MAX_WEIGHTS_BYTES, ContentStamp, ModelRoot, content_stamp
from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["Field", "OnnxSummary", "external_files", "is_quantised", "iter_fields", "read_summary"]

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9
_GRAPH_NODE = 1
_GRAPH_OUTPUT = 12
_NODE_OPERATOR = 4
_INTEGER_PRODUCTS = (b"MatMulInteger", b"QLinearMatMul", b"MatMulNBits", b"DynamicQuantizeMatMul", b"QGemm")
_TENSOR_EXTERNAL_DATA = 13


class Field(NamedTuple):
    """One field of a message: its number and its place in the file.

    Attributes:
        number: The field number of the message's schema.
        start: Offset of the field, its key included.
        value: Offset of a length-delimited value; for other kinds, the end of the key.
        stop: Offset after the field.
        delimited: Whether the value is length-delimited (a message, bytes or text).
    """

    number: int
    start: int
    value: int
    stop: int
    delimited: bool


@dataclass(frozen=True)
class OnnxSummary:
    """The outputs and weight files of an ONNX model.

    Attributes:
        output_ranks: Rank of each graph output by name, in order; None where the file does not state it.
        external_files: Names of the files beside the model that hold weights, as written in the model.
    """

    output_ranks: Mapping[str, int | None]
    external_files: tuple[str, ...]


def read_summary(path: Path) -> OnnxSummary:
    """Read outputs and external files of an ONNX model.

    Raises:
        ModelFilesError: If there is no such file.
        ModelGraphError: If it is not an ONNX file, or names weights outside its own folder.
    """
    try:
        return _read_summary(path, content_stamp(path))
    except FileNotFoundError as error:
        raise ModelFilesError(f"There is no model file {path}. Pass a complete model folder.") from error


@lru_cache(maxsize=16)
def _read_summary(path: Path, _: ContentStamp) -> OnnxSummary:
    """Read a file once per content: opening a model asks five times, and a graph has a thousand fields."""
    ranks: dict[str, int | None] = {}
    external: dict[str, None] = {}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for part in (f for f in iter_fields(file, 0, size) if f.number == MODEL_GRAPH):
            for field in iter_fields(file, part.value, part.stop):
                if field.number == _GRAPH_OUTPUT:
                    ranks.update([_output(file, field)])
                elif field.number == GRAPH_INITIALIZER:
                    external.update(dict.fromkeys(_locations(file, field)))
    for name in external:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelGraphError(
                f"{path} keeps weights in {name!r}, expected a file beside the model. Do not trust this "
                f"file, or export the model again."
            )
    if not ranks:
        raise ModelGraphError(f"{path} is not an ONNX model: it holds no graph with an output.")
    return OnnxSummary(output_ranks=ranks, external_files=tuple(external))


def is_quantised(path: Path) -> bool:
    """Return whether a graph multiplies integer codes or few-bit weights, as quantisation tools write it.

    Raises:
        ModelFilesError: If there is no such file.
        ModelGraphError: If it is not an ONNX file.
    """
    try:
        with path.open("rb") as file:
            for part in (f for f in iter_fields(file, 0, file.seek(0, 2)) if f.number == MODEL_GRAPH):
                for node in (f for f in iter_fields(file, part.value, part.stop) if f.number == _GRAPH_NODE):
                    if _operator(file, node) in _INTEGER_PRODUCTS:
                        return True
    except FileNotFoundError as error:
        raise ModelFilesError(f"There is no model file {path}. Pass a complete model folder.") from error
    return False


def external_files(model: Path) -> list[Path]:
    """Return the files beside an ONNX model that hold its weights, in the order of their names.

    Raises:
        ModelFilesError: If one is missing, is not a regular file, or is a link out of the model's folder.
        ModelGraphError: If the model is damaged, or names weights outside its own folder.
    """
    root, paths = ModelRoot(model.parent), []
    for name in sorted(read_summary(model).external_files):
        path = root.find(name, max_bytes=MAX_WEIGHTS_BYTES)
        if path is None:
            raise ModelFilesError(
                f"{model} keeps weights in {name!r}, which is not in {model.parent}. "
                f"Download or copy all files of the model."
            )
        paths.append(path)
    return paths


def iter_fields(file: BinaryIO, start: int, stop: int) -> Iterator[Field]:
    """Iterate over the fields of the message in `file[start:stop]` without reading values.

    Raises:
        ModelGraphError: If the bytes are not a message, as in an incomplete download.
    """
    offset = start
    while offset < stop:
        file.seek(offset)
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
                f"{file.name} is not an ONNX model, or is incomplete: a field at byte {offset} extends to "
                f"byte {end}, and its message ends at byte {stop}. Download or export the file again."
            )
        yield Field(key >> 3, offset, value, end, kind == 2)
        offset = end


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
        f"{file.name} is not an ONNX model, or is incomplete at byte {file.tell()}. "
        f"Download or export the file again."
    )


def _read(file: BinaryIO, field: Field) -> bytes:
    file.seek(field.value)
    return file.read(field.stop - field.value)


def _operator(file: BinaryIO, node: Field) -> bytes:
    fields = iter_fields(file, node.value, node.stop)
    return next((_read(file, field) for field in fields if field.number == _NODE_OPERATOR), b"")


def _output(file: BinaryIO, field: Field) -> tuple[str, int | None]:
    # ValueInfoProto: name 1, type 2 -> TypeProto: tensor_type 1 -> shape 2 -> one field 1 per dimension.
    name, rank = "", None
    for part in iter_fields(file, field.value, field.stop):
        if part.number == 1:
            name = _read(file, part).decode(errors="replace")
        elif part.number == 2:
            for tensor in (f for f in iter_fields(file, part.value, part.stop) if f.number == 1):
                for shape in (f for f in iter_fields(file, tensor.value, tensor.stop) if f.number == 2):
                    rank = sum(1 for f in iter_fields(file, shape.value, shape.stop) if f.number == 1)
    return name, rank


def _locations(file: BinaryIO, tensor: Field) -> Iterator[str]:
    # TensorProto: external_data 13 -> StringStringEntryProto: key 1, value 2.
    for entry in (
        f for f in iter_fields(file, tensor.value, tensor.stop) if f.number == _TENSOR_EXTERNAL_DATA
    ):
        pair = {
            f.number: _read(file, f).decode(errors="replace")
            for f in iter_fields(file, entry.value, entry.stop)
        }
        if pair.get(1) == "location":
            yield pair.get(2, "")
