"""Runs a graph in ONNX Runtime: token ids to weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splade_retriever.encoding.model_cards import Activation
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError, ModelOutputError
from splade_retriever.validation import plain

__all__ = [
    "PROCESSOR",
    "DeviceSessions",
    "Provider",
    "ProviderArgument",
    "Session",
    "checked_providers",
    "max_pool",
    "on_devices",
]

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

ProviderArgument: TypeAlias = str | tuple[str, Mapping[str, object]]
"""The name of an execution provider, or its name and its options."""

PROCESSOR: Final = "CPUExecutionProvider"
_CHECK_DEVICE: Final = (
    "Check the driver, the libraries of the device and the options of the provider, or leave providers= out."
)
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_DEVICES: Final = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
"""Where the outputs of a provider's graph can stay; those of the others are read by the processor."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        name: Its name, such as "CUDAExecutionProvider".
        options: Its options, as names and values.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Provider:
        """Return a provider with options; ONNX Runtime takes their values as text."""
        return cls(name, tuple((str(key), str(value)) for key, value in options.items()))


class Session:
    """A SPLADE graph, opened once and called from several threads.

    The session computes each call on the calling thread. Callers use one thread per core: ONNX Runtime
    releases the GIL, and the threads share the weights.

    Args:
        path: An ONNX file that maps `input_ids` and `attention_mask` to (batch, vocab) weights, or to logits
            (batch, tokens, vocab), which a second graph then pools on the same device, text by text. A graph
            of `pooled_graph` returns the same in less time and memory.
        providers: Execution providers, used exactly as given; None is the CPU. See `checked_providers`.
        activation: How logits become weights; see `max_pool`. Pooled graphs contain theirs.
        cpu_mem_arena: Whether ONNX Runtime keeps freed memory for later calls.
        content: The graph, where it was made from the file in memory.

    Raises:
        InputError: If a provider cannot be started.
        ModelFilesError: If there is no such file.
        ModelGraphError: If the file cannot be opened, or its inputs are not those of an encoder.
    """

    def __init__(
        self,
        path: Path,
        *,
        providers: Sequence[Provider] | None = None,
        activation: Activation = "log1p",
        cpu_mem_arena: bool = True,
        content: bytes | None = None,
    ) -> None:
        self._activation = activation
        chosen = [Provider(PROCESSOR)] if providers is None else providers
        self._backend = _open(path, chosen, cpu_mem_arena=cpu_mem_arena, content=content)
        self._inputs: dict[str, type[np.generic]] = {
            node.name: np.int32 if node.type == "tensor(int32)" else np.int64
            for node in self._backend.get_inputs()
        }
        unknown = self._inputs.keys() - set(_INPUTS)
        if unknown or "input_ids" not in self._inputs:
            raise ModelGraphError(
                f"{path} has the inputs {', '.join(self._inputs)}; expected input_ids, attention_mask and "
                f"optionally token_type_ids. Export the model with these inputs."
            )
        output, self.is_pooled = _output(path, self._backend.get_outputs())
        self._output = str(output.name)
        self._pooling = None if self.is_pooled else _pooling_session(output.type, activation, chosen)
        self._device = (_DEVICES.get(chosen[0].name, "cpu"), int(dict(chosen[0].options).get("device_id", 0)))

    def weights(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Run one batch.

        Args:
            input_ids: Shape (batch, tokens).
            attention_mask: Shape (batch, tokens); 1 for a token, 0 for padding.

        Returns:
            Shape (batch, vocab), float32, >= 0.

        Raises:
            ModelOutputError: If the graph fails on these ids, or returns another shape.
        """
        if self.is_pooled:
            weights = self._run(input_ids, attention_mask)
            if weights.ndim != 2 or len(weights) != len(input_ids):
                raise ModelOutputError(
                    f"The model returned shape {weights.shape}, expected ({len(input_ids)}, vocabulary): it "
                    f"is not a pooled SPLADE graph. Export the model again."
                )
            return weights
        # One text at a time, so that only its logits are in memory: 64 MB for 512 tokens.
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            tokens = slice(0, max(1, int(mask.nonzero()[0].max(initial=-1)) + 1))
            rows.append(self._pooled(ids[None, tokens], mask[None, tokens]))
        return np.concatenate(rows)

    def token_weights(self, input_ids: Sequence[int]) -> FloatArray:
        """Run one text, and return the weights of each of its tokens before pooling.

        Args:
            input_ids: The token ids of the text.

        Returns:
            Shape (tokens, vocab), float32, >= 0. Their maximum over tokens is the text's vector.

        Raises:
            ModelOutputError: If the graph fails on these ids, or pools its tokens.
        """
        ids = np.asarray([input_ids], dtype=np.int64)
        rows = self._run(ids, np.ones_like(ids))
        if rows.ndim == 3:  # logits: each token is pooled alone
            rows = max_pool(
                rows.transpose(1, 0, 2), np.ones((rows.shape[1], 1), np.int64), activation=self._activation
            )
        if rows.ndim != 2 or len(rows) != len(input_ids):
            raise ModelOutputError(
                f"The model returned shape {rows.shape}, expected ({len(input_ids)}, vocabulary). Export the "
                f"model with its MLM head."
            )
        return rows

    def _run(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        try:
            feeds = self._feeds(input_ids, attention_mask)
            output: FloatArray = self._backend.run([self._output], feeds)[0]
        except Exception as error:
            raise _failure(input_ids, error) from error
        return output.astype(np.float32, copy=False)

    def _pooled(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Run one text, and pool its logits where they are, so that only its weights leave the device."""
        if self._pooling is None:
            return max_pool(self._run(input_ids, attention_mask), attention_mask, activation=self._activation)
        try:
            binding = self._backend.io_binding()
            for name, array in self._feeds(input_ids, attention_mask).items():
                binding.bind_cpu_input(name, array)
            binding.bind_output(self._output, *self._device)
            self._backend.run_with_iobinding(binding)
            (logits,) = binding.get_outputs()
        except Exception as error:
            raise _failure(input_ids, error) from error
        _check_logits(logits.shape(), attention_mask)
        pooling = self._pooling.io_binding()
        pooling.bind_ortvalue_input("logits", logits)
        pooling.bind_cpu_input("attention_mask", attention_mask)
        pooling.bind_output("weights")
        self._pooling.run_with_iobinding(pooling)
        weights: FloatArray = pooling.copy_outputs_to_cpu()[0]
        return weights

    def _feeds(self, input_ids: IntArray, attention_mask: IntArray) -> dict[str, NDArray[Any]]:
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            arrays["token_type_ids"] = np.zeros_like(input_ids)
        return {name: arrays[name].astype(kind, copy=False) for name, kind in self._inputs.items()}


class DeviceSessions:
    """Sessions of one graph on several devices; a batch runs on the device with the fewest batches.

    Args:
        sessions: One session per device.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = list(sessions)
        self._running = [0] * len(self._sessions)
        self._choosing = threading.Lock()

    def weights(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Run one batch; see `Session.weights`."""
        with self._choosing:
            device = self._running.index(min(self._running))
            self._running[device] += 1
        try:
            return self._sessions[device].weights(input_ids, attention_mask)
        finally:
            with self._choosing:
                self._running[device] -= 1


def max_pool(
    logits: FloatArray,
    attention_mask: IntArray,
    *,
    activation: Activation = "log1p",
) -> FloatArray:
    """Pool MLM logits into one weight per vocabulary entry.

    w_j = f(max over tokens i of relu(logit_ij)), with f(x) = log(1 + x), or that applied twice. Both are
    monotone, so they are applied after the maximum, to (batch, vocab).

    Args:
        logits: Shape (batch, tokens, vocab), float32.
        attention_mask: Shape (batch, tokens); 1 for a token, 0 for padding.
        activation: "log1p", or "log1p_log1p" for the OpenSearch v3 models.

    Returns:
        Shape (batch, vocab), float32, >= 0.

    Raises:
        ModelOutputError: If the shapes disagree.

    Source:
        SPLADE v2, arXiv 2109.10086.
    """
    _check_logits(logits.shape, attention_mask)
    pooled: FloatArray = np.max(logits, axis=1, initial=0, where=attention_mask[:, :, None] > 0)
    for _ in range(2 if activation == "log1p_log1p" else 1):
        pooled = np.log1p(pooled)
    return pooled


def _check_logits(shape: Sequence[int], attention_mask: IntArray) -> None:
    if len(shape) != 3 or tuple(shape[:2]) != attention_mask.shape:
        raise ModelOutputError(
            f"The model returned shape {tuple(shape)}, expected {(*attention_mask.shape, 'vocabulary')}. "
            f"Export it with its MLM head."
        )


def _failure(input_ids: IntArray, error: Exception) -> ModelOutputError:
    return ModelOutputError(
        f"The model failed on a batch of shape {input_ids.shape} with ids up to "
        f"{int(input_ids.max(initial=0))}: {error}. Check that the tokenizer belongs to the model, "
        f"and that max_length is not larger than the model's positions."
    )


def checked_providers(providers: Sequence[ProviderArgument] | None) -> list[Provider]:
    """Return the execution providers to use, in order; None is the CPU.

    Args:
        providers: Names, or pairs of a name and its options, as ONNX Runtime takes them.

    Raises:
        InputError: If they are not such a list, it is empty, or one is not available.
    """
    if providers is None:
        return [Provider(PROCESSOR)]
    valid = not isinstance(providers, str) and isinstance(providers, Sequence) and len(providers) > 0
    if not valid or not all(map(_is_provider, providers)):
        raise InputError(
            f"providers is {providers!r}, expected a list of names of ONNX Runtime's execution providers, "
            f"such as [{PROCESSOR!r}], or of pairs of a name and its options, such as "
            f"[('CUDAExecutionProvider', {{'device_id': 1}})]."
        )
    chosen = [Provider(one) if isinstance(one, str) else Provider.of(*one) for one in providers]
    available = onnxruntime.get_available_providers()
    missing = [provider.name for provider in chosen if provider.name not in available]
    if missing:
        raise InputError(
            f"The installed ONNX Runtime has no {missing[0]} (found: {', '.join(available)}). "
            f"Install the onnxruntime build that has it, or leave providers= out."
        )
    return chosen


def on_devices(providers: Sequence[Provider], device_ids: Sequence[int]) -> list[list[Provider]]:
    """Return the providers of one session per device.

    Args:
        providers: The providers; the device is an option of the first.
        device_ids: The numbers of the devices.

    Raises:
        InputError: If the first provider has no devices, or a number is not valid.
    """
    first, *others = providers
    device_ids = plain(list(device_ids))
    valid = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in device_ids)
    if not valid or len(set(device_ids)) < len(device_ids):
        raise InputError(f"device_ids is {list(device_ids)!r}, expected different ints of 0 or more.")
    if first.name == PROCESSOR:
        raise InputError(
            f"device_ids is {list(device_ids)!r}, and {PROCESSOR} has no devices. Pass the provider of the "
            f"devices, such as providers=['CUDAExecutionProvider'], or leave device_ids= out."
        )
    options = dict(first.options)
    return [[Provider.of(first.name, {**options, "device_id": device}), *others] for device in device_ids]


def _is_provider(value: object) -> bool:
    if isinstance(value, tuple) and len(value) == 2:
        return isinstance(value[0], str) and isinstance(value[1], Mapping)
    return isinstance(value, str)


def _open(path: Path, chosen: Sequence[Provider], *, cpu_mem_arena: bool, content: bytes | None) -> Any:
    if not path.is_file():
        raise ModelFilesError(f"There is no model file {path}. Pass a complete model folder.")
    options = _options(cpu_mem_arena=cpu_mem_arena)
    try:
        # ONNX Runtime (1.32) is faster with a GELU after the bias than with both in one operator.
        session = _start(content or str(path), options, chosen, disabled_optimizers={"BiasGeluFusion"})
    except Exception as error:
        devices = [provider.name for provider in chosen if provider.name != PROCESSOR]
        if devices and devices[0] in str(error):
            raise InputError(
                f"ONNX Runtime could not start {devices[0]}: {error}. {_CHECK_DEVICE}"
            ) from error
        raise ModelGraphError(
            f"ONNX Runtime cannot open {path}: {error}. Download or export the model again."
        ) from error
    _check_started(chosen, session.get_providers())
    return session


def _start(
    model: str | bytes, options: onnxruntime.SessionOptions, chosen: Sequence[Provider], **more: Any
) -> Any:
    """Start a session that never continues on the processor where its device fails, at once or later."""
    session = onnxruntime.InferenceSession(
        model,
        options,
        providers=[provider.name for provider in chosen],
        provider_options=[dict(provider.options) for provider in chosen],
        enable_fallback=False,
        **more,
    )
    session.disable_fallback()  # releases before 1.23 ignore the argument
    return session


def _options(*, cpu_mem_arena: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Each batch has another shape; a memory plan cached per shape would only accumulate.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = cpu_mem_arena
    options.log_severity_level = 3
    return options


def _pooling_session(logits_type: str, activation: Activation, chosen: Sequence[Provider]) -> Any | None:
    """Return the session that pools logits; None for a type of logits that it does not take."""
    from splade_retriever.encoding.onnx.pooling_graph import pooling_graph

    graph = pooling_graph(logits_type, activation)
    if graph is None:
        return None
    return _start(graph, _options(cpu_mem_arena=False), chosen)


def _check_started(chosen: Sequence[Provider], started: Sequence[str]) -> None:
    """Check that a session uses the providers that it was opened with.

    ONNX Runtime opens a session on the processor where another provider fails to start, for example
    because a library of its device is missing.
    """
    failed = [provider.name for provider in chosen if provider.name not in started]
    if failed:
        raise InputError(
            f"ONNX Runtime could not start {failed[0]} and would use {', '.join(started)} instead. "
            f"{_CHECK_DEVICE}"
        )


def _output(path: Path, outputs: Sequence[Any]) -> tuple[Any, bool]:
    """Return the output to read, and whether it is pooled."""
    for rank in (3, 2):
        ranked = {node.name: node for node in outputs if len(node.shape) == rank}
        if ranked:
            return ranked.get("logits", next(iter(ranked.values()))), rank == 2
    shapes = ", ".join(f"{node.name} {node.shape}" for node in outputs)
    raise ModelGraphError(
        f"{path} returns {shapes}; expected weights (batch, vocab) or logits (batch, tokens, vocab). "
        f"Export the model with its MLM head."
    )
