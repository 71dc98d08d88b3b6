"""The ONNX graph of an MLM export, read for rewriting: its structure in memory, its weights on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.graph_builder import FloatArray
from splade_retriever.encoding.onnx.onnx_wire import (
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    TENSOR_RAW_DATA,
    Field,
    iter_fields,
)
from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["Decoder", "MatrixProduct", "SourceGraph", "input_names", "widen_halves"]

_MIN_OPSET: Final = 11
_HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Decoder:
    """The end of an MLM graph: logits = hidden @ weight + bias.

    Attributes:
        hidden: Name of the last hidden state; (batch, tokens, hidden), or (rows, hidden) if `flat`.
        weight: Shape (hidden, vocab), float32, on disk.
        bias: Shape (vocab,), or None.
        flat: Whether texts and tokens were merged into rows.
    """

    hidden: str
    weight: FloatArray
    bias: FloatArray | None
    flat: bool

    @property
    def vocab_size(self) -> int:
        """Number of vocabulary entries."""
        return int(self.weight.shape[1])


@dataclass(frozen=True)
class MatrixProduct:
    """A MatMul or Gemm with a constant matrix.

    Attributes:
        kind: "MatMul" or "Gemm".
        left: Name of the other factor.
        matrix: Name of the matrix.
        transposed: Whether the matrix is (out, in).
        bias: Name of the constant that a Gemm adds, or "".
    """

    kind: str
    left: str
    matrix: str
    transposed: bool
    bias: str

    def weight(self, graph: SourceGraph) -> FloatArray:
        """Return the matrix, (in, out), on disk."""
        matrix = graph.array(self.matrix)
        return matrix.T if self.transposed else matrix


class SourceGraph:
    """The graph of an ONNX file.

    Args:
        path: The file.
        model: The model without initialisers.
        initializers: The initialisers by name.
    """

    def __init__(self, path: Path, model: onnx.ModelProto, initializers: dict[str, Initializer]) -> None:
        self.path, self.model, self.initializers = path, model, initializers
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)

    @classmethod
    def read(cls, path: Path) -> SourceGraph:
        """Read the structure of a file; weights are only located."""
        model = onnx.ModelProto()
        initializers: dict[str, Initializer] = {}
        with path.open("rb") as file:
            for part in iter_fields(file, 0, file.seek(0, 2)):
                if part.number != MODEL_GRAPH:
                    model.MergeFromString(_read_bytes(file, part.start, part.stop))
                    continue
                for item in iter_fields(file, part.value, part.stop):
                    if item.number == GRAPH_INITIALIZER:
                        tensor = Initializer.read(file, item, path)
                        initializers[tensor.header.name] = tensor
                    else:
                        model.graph.MergeFromString(_read_bytes(file, item.start, item.stop))
        return cls(path, model, initializers)

    def error(self, reason: str) -> ModelGraphError:
        """Return the error that says why this graph cannot be rewritten."""
        return ModelGraphError(
            f"{self.path} cannot be pooled inside the graph: {reason}. Expected an MLM export: the inputs "
            f"input_ids and attention_mask, (batch, tokens), and the output logits, (batch, tokens, vocab), "
            f"of a MatMul or Gemm with a constant decoder and an optional bias. Export the model with its "
            f"MLM head (task fill-mask)."
        )

    def check_inputs(self) -> None:
        """Check the inputs and the opset.

        Raises:
            ModelGraphError: If they are not those of an encoder, or fixed to one shape.
        """
        if self.opset < _MIN_OPSET:
            raise self.error(f"its opset is {self.opset}, and the minimum is {_MIN_OPSET}")
        inputs = {i.name: i for i in self.model.graph.input if i.name not in self.initializers}
        for name in ("input_ids", "attention_mask"):
            if name not in inputs:
                raise self.error(f"it has no input {name} (found: {', '.join(inputs)})")
            shape = [d.dim_value for d in inputs[name].type.tensor_type.shape.dim]
            if any(shape) or len(shape) not in (0, 2):
                raise self.error(f"{name} has the fixed shape {shape}; export it with dynamic axes")

    def find_decoder(self) -> Decoder:
        """Find the decoder by following the graph back from the logits.

        Between the logits and the decoder there may be a bias, casts, identities and reshapes; a graph with
        another operator there is not an MLM export.

        Raises:
            ModelGraphError: If no decoder is found.
        """
        outputs = [o for o in self.model.graph.output if len(o.type.tensor_type.shape.dim) in (0, 3)]
        named = [o for o in outputs if o.name == "logits"] or outputs
        if not named:
            raise self.error("its outputs have no shape (batch, tokens, vocab)")
        name, bias, flat = named[0].name, None, False
        while node := self.producers.get(name):
            if node.op_type in ("Identity", "Cast"):
                name = node.input[0]
            elif node.op_type == "Reshape":
                name, flat = node.input[0], True
            elif node.op_type == "Add" and bias is None:
                constants = [part for part in node.input if self.constant(part) is not None]
                if len(constants) != 1:
                    break
                bias = np.ravel(self.array(constants[0]))
                name = next(part for part in node.input if part != constants[0])
            else:
                break
        product = self.matrix_product(node) if node else None
        if product is None:
            end = f"{node.op_type} ({node.name or node.output[0]})" if node else f"the graph input {name}"
            raise self.error(f"its output {named[0].name!r} ends in {end}")
        return self._decoder(product, bias, flat or product.kind == "Gemm")

    def _decoder(self, product: MatrixProduct, bias: FloatArray | None, flat: bool) -> Decoder:
        weight = product.weight(self)
        if product.bias:
            added = np.ravel(self.array(product.bias))
            bias = added if bias is None else bias + added
        if bias is not None:
            if bias.size not in (1, weight.shape[1]):
                raise self.error(f"a bias of {bias.size} follows a decoder of {weight.shape[1]} columns")
            bias = np.broadcast_to(bias, weight.shape[1:]).astype(np.float32)
        return Decoder(product.left, weight, bias, flat)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a value that is known before running, as a view on disk where possible; otherwise None."""
        if name in self.initializers:
            return self.initializers[name].array()
        node = self.producers.get(name)
        attributes = _attributes(node) if node else {}
        if node is None or node.op_type not in ("Constant", "Identity", "Transpose", "Cast"):
            return None
        if node.op_type == "Constant":
            return _as_single(numpy_helper.to_array(attributes["value"])) if "value" in attributes else None
        inner = self.constant(node.input[0])
        if inner is not None and node.op_type == "Transpose":
            return inner.transpose(attributes.get("perm"))
        if inner is not None and node.op_type == "Cast" and attributes["to"] not in _HALVES:
            return inner.astype(helper.tensor_dtype_to_np_dtype(attributes["to"]), copy=False)
        return inner

    def array(self, name: str) -> FloatArray:
        """Return a constant as float32."""
        value = self.constant(name)
        if value is None:
            raise self.error(f"{name} is not a constant")
        return value.astype(np.float32, copy=False)

    def matrix_product(self, node: onnx.NodeProto) -> MatrixProduct | None:
        """Return the product of a node that multiplies rows with a constant matrix of floats."""
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            return None
        attributes = _attributes(node)
        scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        if scaled or attributes.get("transA", 0):
            return None
        matrix = self.constant(node.input[1])
        if matrix is None or matrix.ndim != 2 or matrix.dtype != np.float32:
            return None
        if self.constant(node.input[0]) is not None:
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self.constant(bias) is None:
            return None
        transposed = bool(attributes.get("transB", 0))
        return MatrixProduct(node.op_type, node.input[0], node.input[1], transposed, bias)

    def needed_nodes(self, targets: Iterable[str]) -> list[onnx.NodeProto]:
        """Return the nodes that the targets depend on, in the order of the graph."""
        needed, open_names = set(), list(targets)
        while open_names:
            node = self.producers.get(open_names.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                open_names.extend(input_names(node))
        distinct = {id(node): node for node in self.producers.values()}
        return [node for key, node in distinct.items() if key in needed]


@dataclass(frozen=True)
class Initializer:
    """A constant of a graph, on disk.

    Attributes:
        header: Everything but its raw bytes.
        path: The file that holds the raw bytes.
        start: Offset of the raw bytes, or None where the values are in `header`.
    """

    header: TensorProto
    path: Path
    start: int | None

    @classmethod
    def read(cls, file: BinaryIO, item: Field, path: Path) -> Initializer:
        """Locate an initialiser, in the model's own file or in one beside it."""
        header, start = TensorProto(), None
        for part in iter_fields(file, item.value, item.stop):
            if part.number == TENSOR_RAW_DATA:
                start = part.value
            else:
                header.MergeFromString(_read_bytes(file, part.start, part.stop))
        if header.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in header.external_data}
            path, start = path.parent / place["location"], int(place.get("offset", 0))
        return cls(header, path, start)

    def array(self) -> NDArray[Any]:
        """Return the values, mapped from disk; float16 and bfloat16 as float32.

        Raises:
            ModelFilesError: If the file is missing or too short.
        """
        shape = tuple(self.header.dims)
        if self.start is None or 0 in shape:
            return _as_single(numpy_helper.to_array(self.header))
        is_bfloat16 = self.header.data_type == TensorProto.BFLOAT16
        dtype = np.dtype(np.uint16) if is_bfloat16 else helper.tensor_dtype_to_np_dtype(self.header.data_type)
        try:
            values = np.memmap(self.path, dtype, "r", self.start, shape or (1,)).reshape(shape)
        except (OSError, ValueError) as error:
            raise ModelFilesError(
                f"The weight {self.header.name!r} cannot be read from {self.path}: {error}. "
                f"Download or copy all files of the model."
            ) from error
        # A bfloat16 is the upper half of a float32.
        return (values.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else _as_single(values)


def input_names(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name that a node reads, those of its branches and bodies included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.ByteSize() else []:
            for inner in graph.node:
                yield from input_names(inner)


def widen_halves(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the node with float32 in place of float16 and bfloat16; processors compute in float32 anyway."""
    if not any(_is_half(a) for a in node.attribute):
        return node
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.t.data_type in _HALVES:
            attribute.t.CopyFrom(numpy_helper.from_array(_as_single(numpy_helper.to_array(attribute.t))))
        elif _is_half(attribute):
            attribute.i = TensorProto.FLOAT
    return wide


def _is_half(attribute: onnx.AttributeProto) -> bool:
    return attribute.t.data_type in _HALVES or (attribute.name in ("to", "dtype") and attribute.i in _HALVES)


def _as_single(array: NDArray[Any]) -> NDArray[Any]:
    """Return float16 and bfloat16 as float32, and other types unchanged."""
    half = array.dtype == np.float16 or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if half else array


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _read_bytes(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
