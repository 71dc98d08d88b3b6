"""How large batches are: fixed for processors, by the free memory for other devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from splade_retriever.encoding.session import PROCESSOR, Provider

__all__ = ["ON_PROCESSOR", "BatchPlan", "free_memory", "plan_batches"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The limits of batches.

    Attributes:
        tokens: Tokens per batch, padding included; a longer text is a batch by itself.
        min_tokens: The smallest limit of the last batches, which are split among the workers.
        weights: Weights per batch: texts times vocabulary entries.
        workers: Batches that are computed at once; None for one per core.
    """

    tokens: int
    min_tokens: int
    weights: int
    workers: int | None


ON_PROCESSOR: Final = BatchPlan(tokens=512, min_tokens=192, weights=4_000_000, workers=None)
"""From 192 to 512 tokens a product takes the same time per token; with fewer or more it takes longer."""

_BYTES_PER_TOKEN: Final = 256 << 10
"""Activations and attention of a token in float32: 110 KiB for BERT-base, 150 KiB for BERT-large."""
_SHARE: Final = 0.5
"""Share of the free memory that batches may use; ONNX Runtime allocates in powers of 2."""
_MIN_TOKENS: Final = 512
_MAX_TOKENS: Final = 16_384
_UNKNOWN_TOKENS: Final = 4_096
"""Where the free memory is not known: 1 GiB per batch."""
_WORKERS_PER_DEVICE: Final = 2
"""One batch is computed while the vectors of another are read."""
_WEIGHTS_PER_TOKEN: Final = 2_000
"""Texts of about 15 tokens fill a batch: 8 KB of weights per token."""
_NVIDIA: Final = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_PROBE_TIMEOUT_S: Final = 10


def plan_batches(
    devices: Sequence[Sequence[Provider]],
    *,
    probe: Callable[[Provider], int | None] | None = None,
) -> BatchPlan:
    """Return the limits of batches for the devices of a model.

    Args:
        devices: The providers of each device's session, the one that computes first.
        probe: Returns the free bytes of a provider's device, None where they are not known; None for
            `free_memory`.
    """
    first = [providers[0] for providers in devices]
    if any(provider.name == PROCESSOR for provider in first):
        return ON_PROCESSOR
    tokens = min(_tokens_within((probe or free_memory)(provider)) for provider in first)
    return BatchPlan(
        tokens=tokens,
        min_tokens=tokens // 4,
        weights=max(ON_PROCESSOR.weights, tokens * _WEIGHTS_PER_TOKEN),
        workers=_WORKERS_PER_DEVICE * len(first),
    )


def _tokens_within(free_bytes: int | None) -> int:
    if free_bytes is None:
        return _UNKNOWN_TOKENS
    tokens = int(free_bytes * _SHARE) // (_BYTES_PER_TOKEN * _WORKERS_PER_DEVICE)
    return max(_MIN_TOKENS, min(_MAX_TOKENS, tokens))


def free_memory(provider: Provider) -> int | None:
    """Return the free bytes of a provider's device: its option `gpu_mem_limit`, or what nvidia-smi reports.

    Returns:
        None for other devices, and where nvidia-smi is missing or does not answer.
    """
    options = dict(provider.options)
    limit = options.get("gpu_mem_limit", "")
    if limit.isdecimal():
        return int(limit)
    if provider.name not in _NVIDIA:
        return None
    try:
        answer = subprocess.run(
            [
                "nvidia-smi",
                f"--id={_visible_device(options.get('device_id', '0'))}",
                "--query-gpu=memory.free",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PROBE_TIMEOUT_S,
        )
        return int(answer.stdout.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _visible_device(device_id: str) -> str:
    """Return the number or UUID that nvidia-smi has for a device; CUDA counts the visible ones only."""
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if device_id.isdecimal() and int(device_id) < len(visible):
        return visible[int(device_id)]
    return device_id
