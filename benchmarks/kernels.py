"""The products that ONNX Runtime offers for 8-bit weights, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ONNX_RUNTIME: Final = "com.microsoft"
SECONDS: Final = 0.6
BLOCK: Final = 128
"""Neighbouring weights of a column with one scale, in MatMulNBits."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to multiply rows with a constant matrix.

    Attributes:
        name: What it is.
        inputs: Type of the rows.
        output: Type of the product.
        nodes: From the rows and the matrix to the nodes and constants of a graph.
    """

    name: str
    inputs: int
    output: int
    nodes: Callable[[NDArray[np.int8]], tuple[list[Any], dict[str, Any]]]


def rates(rows: int, inner: int, columns: int) -> Iterator[tuple[str, float]]:
    """Yield the name of each kernel and its rate in 10^9 operations per second, the best of its runs."""
    random = np.random.default_rng(0)
    matrix = random.integers(-127, 128, (inner, columns)).astype(np.int8)
    codes = random.integers(0, 256, (rows, inner)).astype(np.uint8)
    values = random.standard_normal((rows, inner), np.float32)
    for kernel in KERNELS:
        nodes, constants = kernel.nodes(matrix)
        graph = helper.make_graph(
            nodes,
            "kernel",
            [helper.make_tensor_value_info("x", kernel.inputs, [rows, inner])],
            [helper.make_tensor_value_info("y", kernel.output, [rows, columns])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        yield kernel.name, _rate(graph, codes if kernel.inputs == TensorProto.UINT8 else values, columns)


def _rate(graph: Any, x: NDArray[Any], columns: int) -> float:
    domains = [helper.make_opsetid("", 20), helper.make_opsetid(ONNX_RUNTIME, 1)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, {"x": x})
        best = min(best, time.perf_counter() - started)
    return 2 * x.size * columns / best / 1e9


def _float(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": matrix.astype(np.float32)}


def _integer(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    node = helper.make_node("MatMulInteger", ["x", "w", "middle"], ["y"])
    return [node], {"w": matrix, "middle": np.uint8(128)}


def _seven_bits(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    return _integer(matrix // 2)


def _unsigned(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    node = helper.make_node("MatMulInteger", ["x", "w", "middle", "middle"], ["y"])
    return [node], {"w": (matrix.astype(np.int16) + 128).astype(np.uint8), "middle": np.uint8(128)}


def _scaled(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    names = ["x", "w", "unit", "scale", "middle"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain=ONNX_RUNTIME)
    scale = np.ones(matrix.shape[1], np.float32)
    return [node], {"w": matrix, "unit": np.float32(1), "scale": scale, "middle": np.uint8(128)}


def _dynamic(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "scale"], ["y"], domain=ONNX_RUNTIME)
    return [node], {"w": matrix, "scale": np.ones(matrix.shape[1], np.float32)}


def _static(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
    names = ["x", "unit", "middle", "w", "scale", "zero", "range", "middle"]
    constants = {
        "w": matrix,
        "unit": np.float32(1),
        "middle": np.uint8(128),
        "scale": np.ones(matrix.shape[1], np.float32),
        "zero": np.zeros(matrix.shape[1], np.int8),
        "range": np.float32(1e4),
    }
    return [helper.make_node("QLinearMatMul", names, ["y"])], constants


def _bits(bits: int) -> Callable[[NDArray[np.int8]], tuple[list[Any], dict[str, Any]]]:
    def nodes(matrix: NDArray[np.int8]) -> tuple[list[Any], dict[str, Any]]:
        inner, columns = matrix.shape
        blocks = -(-inner // BLOCK)
        node = helper.make_node(
            "MatMulNBits",
            ["x", "w", "scale"],
            ["y"],
            domain=ONNX_RUNTIME,
            K=inner,
            N=columns,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        stored = np.random.default_rng(0).integers(0, 256, (columns, blocks, BLOCK * bits // 8), np.uint8)
        return [node], {"w": stored, "scale": np.ones(columns * blocks, np.float32)}

    return nodes


FLOAT, CODES = int(TensorProto.FLOAT), int(TensorProto.UINT8)
KERNELS: Final = (
    Kernel("MatMul, float32", FLOAT, FLOAT, _float),
    Kernel("MatMulInteger (used by the decoder)", CODES, int(TensorProto.INT32), _integer),
    Kernel("MatMulInteger, weights of 7 bits", CODES, int(TensorProto.INT32), _seven_bits),
    Kernel("MatMulInteger, unsigned weights", CODES, int(TensorProto.INT32), _unsigned),
    Kernel("MatMulIntegerToFloat (used by the layers)", CODES, FLOAT, _scaled),
    Kernel("DynamicQuantizeMatMul, one scale per batch", FLOAT, FLOAT, _dynamic),
    Kernel("QLinearMatMul, fixed scales", CODES, CODES, _static),
    Kernel("MatMulNBits, 8 bits, accuracy level 4", FLOAT, FLOAT, _bits(8)),
    Kernel("MatMulNBits, 4 bits, accuracy level 4", FLOAT, FLOAT, _bits(4)),
)
