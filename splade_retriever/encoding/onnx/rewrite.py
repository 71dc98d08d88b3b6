"""ONNX surgery: an MLM graph becomes one that ends in (batch, vocab) weights, in fp32 or int8.

1. Find the tail by its structure: the last MatMul or Gemm, and its bias, that make the logits.
2. Replace padded rows of the last hidden state by the row of the first token, so padding cannot win the max.
3. Multiply with the decoder in blocks of columns, each followed by the max over tokens, so the logits,
   (batch, tokens, vocab), never exist as a whole.
4. Add the bias after the max, and apply the activation to (batch, vocab): the max commutes with both.

In int8, every product with a constant matrix becomes one of 8-bit codes (`graph_builder`). In fp32, the
decoder can be screened: most of its columns are left out, and the weights are the same (`screening`). Its
blocks are then wider, but still a small part of the vocabulary.

Weights are read from the source one at a time and streamed into the new file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splade_retriever.encoding.onnx.decoder_screening import screened_weights
from splade_retriever.encoding.onnx.graph_builder import (
    BLOCK,
    ONNX_RUNTIME,
    Constant,
    FloatArray,
    GraphBuilder,
    column_codes,
    column_scale,
)
from splade_retriever.encoding.onnx.onnx_wire import (
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    TENSOR_RAW_DATA,
    Field,
    fields,
)
from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["rewrite"]

OLDEST_OPSET = 11

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_INLINE_BYTES = 1024
_PAGE = 4096
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rewrite(
    source: Path,
    data: BinaryIO,
    data_name: str,
    *,
    pooled: bool,
    activation: Literal["log1p", "log1p_log1p"],
    precision: Literal["fp32", "int8"],
    screened: bool = False,
) -> bytes:
    """Rewrite a model into a pooled graph.

    Args:
        source: An MLM export, or a graph that is pooled already.
        data: Where the weights go, one after the other.
        data_name: The name under which the graph will find `data` beside itself.
        pooled: Whether the source is pooled already, and only quantised; it keeps its own activation.
        activation: See `GraphBuilder.activation`.
        precision: "int8" quantises every product with a constant matrix.
        screened: Whether the decoder of an fp32 graph leaves out columns that cannot weigh, see `screening`.

    Returns:
        The serialised graph.

    Raises:
        ModelFilesError: If a file with weights is missing.
        ModelGraphError: If the graph cannot be pooled or quantised.
    """
    net = Net.read(source)
    net.check_inputs()
    output = net.model.graph.output[0]
    tail = None if pooled else find_tail(net)
    builder = GraphBuilder(opset=net.opset)
    products = 0
    for node in net.needed([tail.hidden if tail else output.name]):
        product = net.product(node) if precision == "int8" else None
        if product is None:
            builder.nodes.append(_widened(node))
        else:
            products += 1
            _int8_product(builder, net, product, node.output[0])
    if precision == "int8" and not products:
        raise ModelGraphError(
            f"{source} cannot be quantised to int8: no product with a constant float matrix was found in it. "
            f'Pass the fp32 export of the model, or precision="fp32".'
        )
    if tail:
        states = _states(builder, tail)
        if screened and precision == "fp32":
            weights = screened_weights(builder, states, tail.weight, tail.bias, activation=activation)
        else:
            weights = builder.activation(_pooled(builder, tail, states, precision), activation)
        builder.op("Identity", weights, result="weights")
        output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", tail.vocab])
    return bytes(_assemble(net, builder, output, Weights(data, data_name)).SerializeToString())


@dataclass(frozen=True)
class Tail:
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
    def vocab(self) -> int:
        """Number of vocabulary entries."""
        return int(self.weight.shape[1])


def find_tail(net: Net) -> Tail:
    """Find the decoder by walking up from the logits.

    On the way up lie at most a bias, casts, identities and reshapes; anything else is no MLM export.

    Raises:
        ModelGraphError: If no decoder is found.
    """
    outputs = [o for o in net.model.graph.output if len(o.type.tensor_type.shape.dim) in (0, 3)]
    named = [o for o in outputs if o.name == "logits"] or outputs
    if not named:
        raise net.refused("its outputs have no shape (batch, tokens, vocab)")
    name, bias, flat = named[0].name, None, False
    while node := net.producers.get(name):
        if node.op_type in ("Identity", "Cast"):
            name = node.input[0]
        elif node.op_type == "Reshape":
            name, flat = node.input[0], True
        elif node.op_type == "Add" and bias is None:
            known = [part for part in node.input if net.constant(part) is not None]
            if len(known) != 1:
                break
            bias = np.ravel(net.array(known[0]))
            name = next(part for part in node.input if part != known[0])
        else:
            break
    product = net.product(node) if node else None
    if product is None:
        found = f"{node.op_type} ({node.name or node.output[0]})" if node else f"the graph input {name}"
        raise net.refused(f"its output {named[0].name!r} ends in {found}")
    weight = product.weight(net)
    if product.bias:
        added = np.ravel(net.array(product.bias))
        bias = added if bias is None else bias + added
    if bias is not None:
        if bias.size not in (1, weight.shape[1]):
            raise net.refused(f"a bias of {bias.size} follows a decoder of {weight.shape[1]} columns")
        bias = np.broadcast_to(bias, weight.shape[1:]).astype(np.float32)
    return Tail(product.left, weight, bias, flat or product.kind == "Gemm")


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm with a constant matrix.

    Attributes:
        kind: "MatMul" or "Gemm".
        left: Name of the other factor.
        matrix: Name of the matrix.
        transposed: Whether the matrix is (out, in).
        bias: Name of what a Gemm adds, or "".
    """

    kind: str
    left: str
    matrix: str
    transposed: bool
    bias: str

    def weight(self, net: Net) -> FloatArray:
        """Return the matrix, (in, out), on disk."""
        found = net.array(self.matrix)
        return found.T if self.transposed else found


class Net:
    """A source graph: its structure in memory, its weights on disk.

    Args:
        path: The file.
        model: The model without initialisers.
        stored: The initialisers by name.
    """

    def __init__(self, path: Path, model: onnx.ModelProto, stored: dict[str, Stored]) -> None:
        self.path, self.model, self.stored = path, model, stored
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)

    @classmethod
    def read(cls, path: Path) -> Net:
        """Read a file; weights are only located."""
        model = onnx.ModelProto()
        stored: dict[str, Stored] = {}
        with path.open("rb") as file:
            for part in fields(file, 0, file.seek(0, 2)):
                if part.number != MODEL_GRAPH:
                    model.MergeFromString(_slice(file, part.start, part.stop))
                    continue
                for item in fields(file, part.value, part.stop):
                    if item.number == GRAPH_INITIALIZER:
                        tensor = Stored.read(file, item, path)
                        stored[tensor.head.name] = tensor
                    else:
                        model.graph.MergeFromString(_slice(file, item.start, item.stop))
        return cls(path, model, stored)

    def refused(self, found: str) -> ModelGraphError:
        """Say why this graph cannot be rewritten."""
        return ModelGraphError(
            f"{self.path} cannot be pooled inside the graph: {found}. Expected an MLM export: input_ids and "
            f"attention_mask, (batch, tokens), in; logits, (batch, tokens, vocab), out of a MatMul or Gemm "
            f"with a constant decoder and an optional bias. Export the model with its MLM head (task "
            f"fill-mask), or open it with Session, which pools logits outside the graph."
        )

    def check_inputs(self) -> None:
        """Check the inputs and the opset.

        Raises:
            ModelGraphError: If they are not those of an encoder, or fixed to one shape.
        """
        if self.opset < OLDEST_OPSET:
            raise self.refused(f"its opset is {self.opset}, the oldest that is known is {OLDEST_OPSET}")
        given = {i.name: i for i in self.model.graph.input if i.name not in self.stored}
        for name in ("input_ids", "attention_mask"):
            if name not in given:
                raise self.refused(f"it has no input {name} (found: {', '.join(given)})")
            shape = [d.dim_value for d in given[name].type.tensor_type.shape.dim]
            if any(shape) or len(shape) not in (0, 2):
                raise self.refused(f"{name} has the fixed shape {shape}; export it with dynamic axes")

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a value that is known before running, as a view on disk where it can be; else None."""
        if name in self.stored:
            return self.stored[name].array()
        node = self.producers.get(name)
        given = _attributes(node) if node else {}
        if node is None or node.op_type not in ("Constant", "Identity", "Transpose", "Cast"):
            return None
        if node.op_type == "Constant":
            return _single(numpy_helper.to_array(given["value"])) if "value" in given else None
        inner = self.constant(node.input[0])
        if inner is not None and node.op_type == "Transpose":
            return inner.transpose(given.get("perm"))
        if inner is not None and node.op_type == "Cast" and given["to"] not in _HALVES:
            return inner.astype(helper.tensor_dtype_to_np_dtype(given["to"]), copy=False)
        return inner

    def array(self, name: str) -> FloatArray:
        """Return a constant as float32."""
        found = self.constant(name)
        if found is None:
            raise self.refused(f"{name} is not a constant")
        return found.astype(np.float32, copy=False)

    def product(self, node: onnx.NodeProto) -> Product | None:
        """Return what a node multiplies, if it multiplies rows with a constant matrix of floats."""
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            return None
        given = _attributes(node)
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
            return None
        matrix = self.constant(node.input[1])
        if matrix is None or matrix.ndim != 2 or matrix.dtype != np.float32:
            return None
        if self.constant(node.input[0]) is not None:
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self.constant(bias) is None:
            return None
        return Product(node.op_type, node.input[0], node.input[1], bool(given.get("transB", 0)), bias)

    def needed(self, targets: Iterable[str]) -> list[onnx.NodeProto]:
        """Return the nodes that the targets depend on, in the order of the graph."""
        wanted, open_names = set(), list(targets)
        while open_names:
            node = self.producers.get(open_names.pop())
            if node is not None and id(node) not in wanted:
                wanted.add(id(node))
                open_names.extend(_reads(node))
        return [node for node in self.producers_in_order() if id(node) in wanted]

    def producers_in_order(self) -> list[onnx.NodeProto]:
        """Return every node once, in the order of the graph."""
        return list({id(node): node for node in self.producers.values()}.values())


@dataclass(frozen=True)
class Stored:
    """An initialiser on disk.

    Attributes:
        head: Everything but its raw bytes.
        path: The file that holds the raw bytes.
        start: Offset of the raw bytes, or None where the values are in `head`.
    """

    head: TensorProto
    path: Path
    start: int | None

    @classmethod
    def read(cls, file: BinaryIO, item: Field, path: Path) -> Stored:
        """Locate an initialiser, in the model's own file or in one beside it."""
        head, start = TensorProto(), None
        for part in fields(file, item.value, item.stop):
            if part.number == TENSOR_RAW_DATA:
                start = part.value
            else:
                head.MergeFromString(_slice(file, part.start, part.stop))
        if head.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in head.external_data}
            path, start = path.parent / place["location"], int(place.get("offset", 0))
        return cls(head, path, start)

    def array(self) -> NDArray[Any]:
        """Return the values, mapped from disk; halves as float32.

        Raises:
            ModelFilesError: If the file is missing or too short.
        """
        shape = tuple(self.head.dims)
        if self.start is None or 0 in shape:
            return _single(numpy_helper.to_array(self.head))
        brain = self.head.data_type == TensorProto.BFLOAT16
        kind = np.dtype(np.uint16) if brain else helper.tensor_dtype_to_np_dtype(self.head.data_type)
        try:
            found = np.memmap(self.path, kind, "r", self.start, shape or (1,)).reshape(shape)
        except (OSError, ValueError) as err:
            raise ModelFilesError(
                f"The weight {self.head.name!r} cannot be read from {self.path}: {err}. "
                f"Download or copy all files of the model."
            ) from err
        # A bfloat16 is the upper half of a float32.
        return (found.astype(np.uint32) << 16).view(np.float32) if brain else _single(found)


def _int8_product(builder: GraphBuilder, net: Net, product: Product, result: str) -> None:
    name = f"{product.matrix}{'.T' if product.transposed else ''}"
    codes = builder.put(f"{name}.codes", lambda: column_codes(product.weight(net)))
    scale = builder.put(f"{name}.scale", lambda: column_scale(product.weight(net)))
    left = builder.row_codes(product.left)
    if product.bias:
        builder.op("Add", builder.int8_product(left, codes, scale), product.bias, result=result)
    else:
        builder.int8_product(left, codes, scale, result=result)


def _states(builder: GraphBuilder, tail: Tail) -> str:
    """Return the last hidden states, (batch, tokens, hidden), without padding."""
    states = tail.hidden
    if tail.flat:
        rest = builder.put("rest", np.array([-1], dtype=np.int64))
        shape = builder.op("Concat", builder.op("Shape", "input_ids"), rest, axis=0)
        states = builder.op("Reshape", states, shape)
    return builder.without_padding(states, "attention_mask")


def _pooled(builder: GraphBuilder, tail: Tail, states: str, precision: str) -> str:
    """Pool into (batch, vocab), before the activation."""
    if precision == "int8":
        logits = builder.int8_pooled(states, builder.coded_columns("decoder", tail.weight))
    else:
        products = (
            builder.op(
                "MatMul", states, builder.put(f"decoder_{start}", tail.weight[:, start : start + BLOCK])
            )
            for start in range(0, tail.vocab, BLOCK)
        )
        logits = builder.op("Concat", *(builder.largest(product, 1) for product in products), axis=1)
    if tail.bias is not None:
        logits = builder.op("Add", logits, builder.put("decoder_bias", tail.bias))
    return logits


class Weights:
    """Writes constants into the data file, one after the other, each on a page of its own."""

    def __init__(self, data: BinaryIO, name: str) -> None:
        self._data, self._name = data, name

    def write(self, name: str, value: Constant) -> TensorProto:
        """Write one constant; small ones stay in the graph, where shapes are inferred from them."""
        found = np.asarray(value() if callable(value) else value)
        array = np.ascontiguousarray(found).reshape(found.shape)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, dims=array.shape, data_type=kind)
        if array.nbytes <= _INLINE_BYTES:
            tensor.raw_data = array.tobytes()
            return tensor
        self._data.write(b"\0" * (-self._data.tell() % _PAGE))
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._name, "offset": self._data.tell(), "length": array.nbytes}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        self._data.write(array.data)
        return tensor


def _assemble(
    net: Net, builder: GraphBuilder, output: onnx.ValueInfoProto, weights: Weights
) -> onnx.ModelProto:
    """Put the new graph together, and write its weights."""
    read = {name for node in builder.nodes for name in _reads(node)}
    inputs = [i for i in net.model.graph.input if i.name in read and i.name not in net.stored]
    unknown = [i.name for i in inputs if i.name not in _INPUTS]
    if unknown:
        raise net.refused(f"it also wants {', '.join(unknown)}")
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    graph = model.graph
    for part in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        graph.ClearField(part)
    graph.node.extend(builder.nodes)
    graph.input.extend(inputs)
    graph.output.append(output)
    kept = {name: stored.array for name, stored in net.stored.items()}
    for name, value in {**kept, **builder.constants}.items():
        if name in read:
            graph.initializer.append(weights.write(name, value))
    if all(o.domain != ONNX_RUNTIME for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ONNX_RUNTIME, 1))
    model.ir_version = max(model.ir_version, 7)
    model.producer_name = "splade-retriever"
    return model


def _widened(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the node with float32 in place of halves: the processor computes in float32 anyway."""
    if not any(_is_half(a) for a in node.attribute):
        return node
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.t.data_type in _HALVES:
            attribute.t.CopyFrom(numpy_helper.from_array(_single(numpy_helper.to_array(attribute.t))))
        elif _is_half(attribute):
            attribute.i = TensorProto.FLOAT
    return wide


def _is_half(attribute: onnx.AttributeProto) -> bool:
    return attribute.t.data_type in _HALVES or (attribute.name in ("to", "dtype") and attribute.i in _HALVES)


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Return halves as float32, and anything else as it is."""
    half = array.dtype == np.float16 or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if half else array


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name a node reads, those of its branches and bodies included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.ByteSize() else []:
            for inner in graph.node:
                yield from _reads(inner)


def _slice(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
