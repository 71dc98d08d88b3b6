"""Runs a graph in ONNX Runtime: token ids to weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splade_retriever.encoding.model_cards import Activation
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError, ModelOutputError

__all__ = ["PROCESSOR", "Session", "checked_providers", "max_pool"]

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

PROCESSOR: Final = "CPUExecutionProvider"
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


class Session:
    """A SPLADE graph, opened once and called from several threads.

    The session computes each call on the calling thread. Callers use one thread per core: ONNX Runtime
    releases the GIL, and the threads share the weights.

    Args:
        path: An ONNX file that maps `input_ids` and `attention_mask` to (batch, vocab) weights, or to logits
            (batch, tokens, vocab), which are then pooled here, text by text. A graph of
            `pooled_graph` returns the same in less time and memory.
        providers: ONNX Runtime execution providers, used exactly as given.
        activation: How logits become weights; see `max_pool`. Pooled graphs contain theirs.
        cpu_mem_arena: Whether ONNX Runtime keeps freed memory for later calls.
        content: The graph, where it was made from the file in memory.

    Raises:
        InputError: If `providers` are not valid.
        ModelFilesError: If there is no such file.
        ModelGraphError: If the file cannot be opened, or its inputs are not those of an encoder.
    """

    def __init__(
        self,
        path: Path,
        *,
        providers: Sequence[str] | None = None,
        activation: Activation = "log1p",
        cpu_mem_arena: bool = True,
        content: bytes | None = None,
    ) -> None:
        self._activation = activation
        self._backend = _open(path, providers, cpu_mem_arena=cpu_mem_arena, content=content)
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
        self._output, self.is_pooled = _output(path, self._backend.get_outputs())

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
            logits = self._run(ids[None, tokens], mask[None, tokens])
            rows.append(max_pool(logits, mask[None, tokens], activation=self._activation))
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
        arrays = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
        }
        feeds = {name: arrays[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        try:
            output: FloatArray = self._backend.run([self._output], feeds)[0]
        except Exception as error:
            raise ModelOutputError(
                f"The model failed on a batch of shape {input_ids.shape} with ids up to "
                f"{int(input_ids.max(initial=0))}: {error}. Check that the tokenizer belongs to the model, "
                f"and that max_length is not larger than the model's positions."
            ) from error
        return output.astype(np.float32, copy=False)


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
    if logits.ndim != 3 or logits.shape[:2] != attention_mask.shape:
        raise ModelOutputError(
            f"The model returned shape {logits.shape}, expected {(*attention_mask.shape, 'vocabulary')}. "
            f"Export it with its MLM head."
        )
    pooled: FloatArray = np.max(logits, axis=1, initial=0, where=attention_mask[:, :, None] > 0)
    for _ in range(2 if activation == "log1p_log1p" else 1):
        pooled = np.log1p(pooled)
    return pooled


def checked_providers(providers: Sequence[str] | None) -> list[str]:
    """Return the execution providers to use, in order; None is the CPU.

    Raises:
        InputError: If they are not a list of names, or one is not available.
    """
    if providers is None:
        return [PROCESSOR]
    if isinstance(providers, str) or not all(isinstance(name, str) for name in providers):
        raise InputError(
            f"providers is {providers!r}, expected a list of names of ONNX Runtime's execution providers, "
            f"such as [{PROCESSOR!r}]."
        )
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing:
        raise InputError(
            f"The installed ONNX Runtime has no {missing[0]} (found: {', '.join(available)}). "
            f"Install the onnxruntime build that has it, or leave providers= out."
        )
    return list(providers)


def _open(path: Path, providers: Sequence[str] | None, *, cpu_mem_arena: bool, content: bytes | None) -> Any:
    chosen = checked_providers(providers)
    if not path.is_file():
        raise ModelFilesError(f"There is no model file {path}. Pass a complete model folder.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Each batch has another shape; a memory plan cached per shape would only accumulate.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = cpu_mem_arena
    options.log_severity_level = 3
    try:
        # ONNX Runtime (1.32) is faster with a GELU after the bias than with both in one operator.
        return onnxruntime.InferenceSession(
            content or str(path), options, providers=chosen, disabled_optimizers={"BiasGeluFusion"}
        )
    except Exception as error:
        raise ModelGraphError(
            f"ONNX Runtime cannot open {path}: {error}. Download or export the model again."
        ) from error


def _output(path: Path, outputs: Sequence[Any]) -> tuple[str, bool]:
    """Return the name of the output to read, and whether it is pooled."""
    for rank in (3, 2):
        ranked = [node.name for node in outputs if len(node.shape) == rank]
        if ranked:
            return ("logits" if "logits" in ranked else ranked[0]), rank == 2
    shapes = ", ".join(f"{node.name} {node.shape}" for node in outputs)
    raise ModelGraphError(
        f"{path} returns {shapes}; expected weights (batch, vocab) or logits (batch, tokens, vocab). "
        f"Export the model with its MLM head."
    )
