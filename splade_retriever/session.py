"""Token ids to weights: the only place where ONNX Runtime runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splade_retriever.errors import InputError, ModelGraphError, ModelOutputError

__all__ = ["Session"]


class Session:
    """A pooled SPLADE graph, opened once and called from several threads.

    One session computes each call on one thread, and callers bring as many threads as there are cores:
    ONNX Runtime releases the GIL and the weights are shared.

    Args:
        path: An ONNX file that maps `input_ids` and `attention_mask` to (batch, vocab).
        threads: How many calls the caller will run at once; None means one a core.
        providers: ONNX Runtime execution providers, used exactly as given.

    Raises:
        InputError: If a provider is not available here.
        ModelGraphError: If the file cannot be opened.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
        available = onnxruntime.get_available_providers()
        missing = [name for name in chosen if name not in available]
        if missing:
            raise InputError(
                f"ONNX Runtime here has no {missing[0]} (found: {', '.join(available)}). "
                f"Install the onnxruntime build that has it, or leave `providers` out."
            )
        self.threads = threads or len(os.sched_getaffinity(0))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._backend = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as err:
            raise ModelGraphError(f"ONNX Runtime cannot open {path}: {err}") from err
        self._inputs = {node.name for node in self._backend.get_inputs()}

    def weights(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            input_ids: Shape (batch, tokens).
            attention_mask: Shape (batch, tokens); 1 for a token, 0 for padding.

        Returns:
            Shape (batch, vocab), float32, >= 0.

        Raises:
            ModelOutputError: If the graph returns another shape.
        """
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        found: NDArray[np.float32] = self._backend.run(
            None, {name: value for name, value in feeds.items() if name in self._inputs}
        )[0]
        if found.ndim != 2 or len(found) != len(input_ids):
            raise ModelOutputError(
                f"The model returned shape {found.shape}, expected ({len(input_ids)}, vocabulary); "
                f"it is not a pooled SPLADE graph."
            )
        return found
