"""Token ids as padded tensors, and passes over groups of texts of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["in_groups", "padded"]


def padded(texts: Sequence[Sequence[int] | NDArray[np.uint16]], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return token ids and mask, (texts, tokens), padded with 0."""
    ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def in_groups(
    ids: Tensor, mask: Tensor, groups: int, forward: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Call `forward` on groups of texts of similar length, each cut to its longest text.

    Args:
        ids: Shape (texts, tokens).
        mask: Shape (texts, tokens), 1 for a token.
        groups: Number of groups.
        forward: Maps ids and mask of a group to tensors with one row per text.

    Returns:
        The tensors of all groups, their rows in the order of `ids`.
    """
    lengths = mask.sum(1)
    rows_of = [rows for rows in lengths.argsort().tensor_split(groups) if len(rows)]
    results = []
    for rows in rows_of:
        longest = int(lengths[rows].max())
        results.append(forward(ids[rows, :longest], mask[rows, :longest]))
    order = torch.cat(rows_of).argsort()
    return tuple(torch.cat(parts)[order] for parts in zip(*results, strict=True))
