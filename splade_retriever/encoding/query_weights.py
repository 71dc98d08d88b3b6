"""Query weights of inference-free models: each token has a fixed weight, from a table or 1.0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splade_retriever.errors import ModelFilesError
from splade_retriever.sparse import SparseEmbedding

__all__ = ["QueryWeights"]

_LAYOUTS: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_MAX_HEADER_BYTES: Final = 1 << 20


class QueryWeights:
    """The weight of each vocabulary entry in a query."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        """Take the weights.

        Args:
            weights: Shape (vocab,); an entry of 0 or less has no weight in a query.
        """
        self._weights = np.where(np.isfinite(weights) & (weights > 0), weights, 0).astype(np.float32)

    @classmethod
    def ones(cls, vocab_size: int, *, without: Sequence[int]) -> QueryWeights:
        """Weigh each token 1.0, and those of `without` 0.0."""
        return cls(np.ones(vocab_size, dtype=np.float32))._without(without)

    @classmethod
    def from_file(cls, path: Path, vocabulary: Mapping[str, int], *, without: Sequence[int]) -> QueryWeights:
        """Read a table of weights: `from_safetensors` or `from_idf`, by the extension of the file."""
        if path.suffix == ".safetensors":
            return cls.from_safetensors(path, without=without)
        return cls.from_idf(path, vocabulary, without=without)

    @classmethod
    def from_idf(cls, path: Path, vocabulary: Mapping[str, int], *, without: Sequence[int]) -> QueryWeights:
        """Read an `idf.json`, `{token: weight}`; tokens that are not in the vocabulary are skipped.

        Raises:
            ModelFilesError: If the file is not such a table, or none of its tokens is in the vocabulary.
        """
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            weight_by_id = {
                vocabulary[token]: float(weight) for token, weight in table.items() if token in vocabulary
            }
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelFilesError(
                f"The table of query weights {path} cannot be read as {{token: weight}}: {error}. Download "
                f"the file again."
            ) from error
        if not weight_by_id:
            raise ModelFilesError(
                f"The table of query weights {path} has {len(table)} tokens, none of them in the model's "
                f"vocabulary of {len(vocabulary)}. Use the idf.json and the tokenizer.json of the same model."
            )
        weights = np.zeros(max(vocabulary.values()) + 1, dtype=np.float32)
        weights[list(weight_by_id)] = list(weight_by_id.values())
        return cls(weights)._without(without)

    @classmethod
    def from_safetensors(cls, path: Path, *, without: Sequence[int]) -> QueryWeights:
        """Read the flat tensor that sentence-transformers' SparseStaticEmbedding saves.

        Raises:
            ModelFilesError: If the file has no flat tensor named `weight`.

        Source:
            The format is 8 bytes of header length, little-endian, a JSON header, the tensors' bytes;
            https://github.com/huggingface/safetensors.
        """
        try:
            raw = path.read_bytes()
            length = int.from_bytes(raw[:8], "little")
            if length > min(len(raw) - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            entry = json.loads(raw[8 : 8 + length])["weight"]
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            weights = np.frombuffer(raw[start:end], dtype=_LAYOUTS[entry["dtype"]])
            if [len(weights)] != entry["shape"]:
                raise ValueError(f"its tensor has shape {entry['shape']}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelFilesError(
                f"The query weights in {path} cannot be read: {type(error).__name__}: {error}; expected one "
                f"flat float tensor named 'weight'. Save the model again with sentence-transformers."
            ) from error
        return cls(weights.astype(np.float32))._without(without)

    def as_table(self, vocabulary: Mapping[str, int]) -> dict[str, float]:
        """Return the weights above 0 as `{token: weight}`; the inverse of `from_idf`."""
        return {
            token: float(self._weights[token_id])
            for token, token_id in sorted(vocabulary.items(), key=lambda entry: entry[1])
            if token_id < len(self._weights) and self._weights[token_id] > 0
        }

    def embed(self, token_ids: Sequence[int]) -> SparseEmbedding:
        """Return the weights of the unique tokens of one query."""
        unique = np.unique(np.asarray(token_ids, dtype=np.int64))
        weights = self._weights[unique[unique < len(self._weights)]]
        present = weights > 0
        ids = unique[: len(weights)][present].astype(np.int32)
        return SparseEmbedding(values=weights[present], indices=ids)

    def _without(self, ids: Sequence[int]) -> QueryWeights:
        self._weights[[token_id for token_id in ids if token_id < len(self._weights)]] = 0
        return self
