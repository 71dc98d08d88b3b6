"""Query weights of inference-free models: each token has a fixed weight, from a table or 1.0.

A table may also expand: a token then adds weights to a few other entries, as the words of a query do in a
network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splade_retriever.errors import ModelFilesError
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Expansions", "QueryWeights"]

_LAYOUTS: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "U16": "<u2"}
_EXPANSIONS: Final = ("expansion.ends", "expansion.ids", "expansion.weights")
_MAX_HEADER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Expansions:
    """The entries that each token of a query adds weight to, besides its own.

    Attributes:
        ends: Shape (vocab,): where the entries of each token end in the other arrays; they start where those
            of the token before end.
        ids: The entries.
        weights: Their weights, above 0.
    """

    ends: NDArray[np.int64]
    ids: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        vocab, total = len(self.ends), len(self.ids)
        rising = np.diff(self.ends, prepend=0)
        if not vocab or (rising < 0).any() or self.ends[-1] != total or len(self.weights) != total:
            raise ValueError(f"the expansions of {vocab} tokens do not end at {total} entries")
        if total and not 0 <= self.ids.min() <= self.ids.max() < vocab:
            raise ValueError(f"an expansion names an entry outside the vocabulary of {vocab}")
        if not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise ValueError("an expansion has a weight that is not above 0")

    def of(self, token_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the entries of some tokens and their weights; an entry may occur several times."""
        known = token_ids[token_ids < len(self.ends)]
        places = [np.arange(self.ends[token - 1] if token else 0, self.ends[token]) for token in known]
        chosen = np.concatenate([np.arange(0), *places])
        return self.ids[chosen], self.weights[chosen]


class QueryWeights:
    """The weight of each vocabulary entry in a query."""

    def __init__(self, weights: NDArray[np.float32], expansions: Expansions | None = None) -> None:
        """Take the weights.

        Args:
            weights: Shape (vocab,); an entry of 0 or less has no weight in a query.
            expansions: What each token adds to other entries; None for nothing.
        """
        self._weights = np.where(np.isfinite(weights) & (weights > 0), weights, 0).astype(np.float32)
        self._expansions = expansions

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

        A file of this package may also have the flat tensors of `Expansions`, named `expansion.ends`,
        `expansion.ids` and `expansion.weights`.

        Raises:
            ModelFilesError: If the file has no flat tensor named `weight`, or its expansions are not valid.

        Source:
            The format is 8 bytes of header length, little-endian, a JSON header, the tensors' bytes;
            https://github.com/huggingface/safetensors.
        """
        try:
            raw = path.read_bytes()
            length = int.from_bytes(raw[:8], "little")
            if length > min(len(raw) - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
            weights = _flat_tensor(header["weight"], body)
            expansions = None
            if any(name in header for name in _EXPANSIONS):
                ends, ids, values = (_flat_tensor(header[name], body) for name in _EXPANSIONS)
                expansions = Expansions(
                    ends.astype(np.int64), ids.astype(np.int64), values.astype(np.float32)
                )
                if len(ends) != len(weights):
                    raise ValueError(f"it has weights of {len(weights)} tokens and expansions of {len(ends)}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelFilesError(
                f"The query weights in {path} cannot be read: {type(error).__name__}: {error}; expected one "
                f"flat float tensor named 'weight'. Save the model again with sentence-transformers."
            ) from error
        return cls(weights.astype(np.float32), expansions)._without(without)

    def as_table(self, vocabulary: Mapping[str, int]) -> dict[str, float]:
        """Return the weights above 0 as `{token: weight}`; the inverse of `from_idf`."""
        return {
            token: float(self._weights[token_id])
            for token, token_id in sorted(vocabulary.items(), key=lambda entry: entry[1])
            if token_id < len(self._weights) and self._weights[token_id] > 0
        }

    def embed(self, token_ids: Sequence[int]) -> SparseEmbedding:
        """Return the summed weights of the unique tokens of one query, and of what they expand to."""
        unique = np.unique(np.asarray(token_ids, dtype=np.int64))
        ids = unique[unique < len(self._weights)]
        weights = self._weights[ids]
        if self._expansions is not None:
            added, values = self._expansions.of(ids)
            ids, places = np.unique(np.concatenate([ids, added]), return_inverse=True)
            weights = np.bincount(places, np.concatenate([weights, values]), len(ids)).astype(np.float32)
        present = weights > 0
        return SparseEmbedding(values=weights[present], indices=ids[present].astype(np.int32))

    def _without(self, ids: Sequence[int]) -> QueryWeights:
        self._weights[[token_id for token_id in ids if token_id < len(self._weights)]] = 0
        return self


def _flat_tensor(entry: Mapping[str, Any], body: bytes) -> NDArray[Any]:
    """Return one tensor of a safetensors file, by its entry in the header.

    Raises:
        ValueError: If it is not flat.
    """
    start, end = entry["data_offsets"]
    values = np.frombuffer(body[start:end], dtype=_LAYOUTS[entry["dtype"]])
    if [len(values)] != entry["shape"]:
        raise ValueError(f"its tensor has shape {entry['shape']}")
    return values
