"""The token ids of many texts on a device, from which batches are padded there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Rows", "TokenStore"]

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of texts or queries."""

PAD_MULTIPLE = 16
"""A padded batch has a multiple of so many tokens, so that a GPU sees few shapes."""
TOKENS_AT_ONCE = {"cuda": 16_384, "cpu": 2_048}
"""Tokens of a batch of one length: the products with all entries stay small enough for the device."""


class TokenStore:
    """The token ids of many texts.

    Args:
        ids: Of all texts, joined, special tokens included.
        ends: Shape (texts,): where each text ends.
        device: "cpu" or "cuda".
    """

    def __init__(self, ids: NDArray[np.uint16], ends: NDArray[np.int64], device: str) -> None:
        self.device = device
        self.starts = np.append(0, ends[:-1]).astype(np.int64)
        self.lengths = np.diff(ends, prepend=0).astype(np.int64)
        self._ids = torch.from_numpy(ids.astype(np.int32)).to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return ids and mask of some texts, (texts, tokens)."""
        return self._batch(rows, -(-int(self.lengths[rows].max()) // PAD_MULTIPLE) * PAD_MULTIPLE)

    def of_one_length(self) -> Iterator[tuple[Rows, Tensor]]:
        """Yield all texts in batches of one length: their rows, and ids (texts, tokens) without padding."""
        order = np.argsort(self.lengths, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1):
            length = int(self.lengths[same[0]])
            size = max(1, TOKENS_AT_ONCE[self.device] // length)
            for rows in np.split(same, range(size, len(same), size)):
                yield rows, self._batch(rows, length)[0]

    def _batch(self, rows: Rows, tokens: int) -> tuple[Tensor, Tensor]:
        starts, lengths = (
            torch.from_numpy(values[rows]).to(self.device)[:, None] for values in (self.starts, self.lengths)
        )
        places = torch.arange(tokens, device=self.device)
        mask = places < lengths
        ids = self._ids[(starts + places).clamp_max(len(self._ids) - 1)]
        return torch.where(mask, ids, 0).long(), mask.long()
