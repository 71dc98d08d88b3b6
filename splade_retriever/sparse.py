"""The sparse vector: ids of the model's vocabulary and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splade_retriever.drawing.html import Row, paragraph, table, view
from splade_retriever.errors import InputError

if TYPE_CHECKING:
    from splade_retriever.drawing.plot import TokenFigure

__all__ = ["SparseEmbedding", "SparseLike", "TokenReader"]

_SHOWN_IN_A_NOTEBOOK = 20


@runtime_checkable
class TokenReader(Protocol):
    """Converts ids to tokens; the model's tokenizer is one."""

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entries of `ids`, in their order."""
        ...


@runtime_checkable
class _TextReader(Protocol):
    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]: ...


@runtime_checkable
class SparseLike(Protocol):
    """A sparse vector of another library, such as FastEmbed's."""

    @property
    def indices(self) -> Any:
        """Ids in the model's vocabulary."""
        ...

    @property
    def values(self) -> Any:
        """Weights, in the order of the ids."""
        ...


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SparseEmbedding:
    """Weights over a vocabulary, without the zeros.

    The arrays are read-only, so one embedding can be shared between threads.

    Attributes:
        values: Shape (active,), float32, > 0: the weights.
        indices: Shape (active,), int32, ascending, unique: ids in the model's vocabulary.

    Raises:
        InputError: If the arrays differ in length, an id repeats or is negative, or a weight is not a
            finite number above zero.
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int32]

    def __init__(self, values: ArrayLike, indices: ArrayLike) -> None:
        values, indices = _as_weights(values), _as_ids(indices)
        if values.ndim != 1 or values.shape != indices.shape:
            raise InputError(
                f"A sparse embedding needs one weight per id in two flat arrays, got values of shape "
                f"{values.shape} and indices of shape {indices.shape}."
            )
        # A query is encoded with cold caches, where each call of NumPy takes 5 to 10 µs.
        if not (indices[1:] > indices[:-1]).all():
            order = np.argsort(indices, kind="stable")
            indices, values = indices[order], values[order]
            _check_unique(indices)
        _check_weights(indices, values)
        self._hold(_read_only(values), _read_only(_as_int32(indices)))

    def _hold(self, values: NDArray[np.float32], indices: NDArray[np.int32]) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "indices", indices)

    @classmethod
    def _of_checked(cls, values: NDArray[np.float32], indices: NDArray[np.int32]) -> SparseEmbedding:
        """Hold new arrays that are known to be valid; checking them again takes longer than making them."""
        embedding = cls.__new__(cls)
        values.flags.writeable = indices.flags.writeable = False
        embedding._hold(values, indices)
        return embedding

    @classmethod
    def from_dense(cls, row: ArrayLike) -> SparseEmbedding:
        """Keep the entries of a dense row that are above zero.

        Args:
            row: Shape (vocab,); finite, >= 0.

        Raises:
            InputError: If the row is not flat, or holds a negative or non-finite weight.
        """
        dense = _as_weights(row)
        if dense.ndim != 1:
            raise InputError(f"A dense row must be flat, got shape {dense.shape}.")
        # NaN differs from 0, too, and is an error.
        indices = np.flatnonzero(dense != 0).astype(np.int32)  # ten times faster than of the floats
        values = dense[indices]
        _check_weights(indices, values)
        return cls._of_checked(values, indices)

    @classmethod
    def from_dict(cls, weights: Mapping[int, float]) -> SparseEmbedding:
        """Build from `{id: weight}`, in any order; the inverse of `as_dict`.

        Raises:
            InputError: If it is no such dict; for the ids and weights as the class says.
        """
        if not isinstance(weights, Mapping):
            raise InputError(f"from_dict got {type(weights).__name__}, expected a dict {{id: weight}}.")
        try:
            values = np.fromiter(weights.values(), dtype=np.float32, count=len(weights))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Weights must be numbers: {error}. Give each id one weight.") from error
        return cls(values=values, indices=list(weights))

    @classmethod
    def from_like(cls, vector: SparseLike) -> SparseEmbedding:
        """Return an embedding unchanged, and copy a vector of another library, such as FastEmbed's.

        Raises:
            InputError: If it is no sparse vector.
        """
        if isinstance(vector, cls):
            return vector
        if not isinstance(vector, SparseLike):
            raise InputError(
                f"A vector is of type {type(vector).__name__}, expected one with indices and values, such as "
                f"SparseEmbedding. Use SparseEmbedding.from_dict for {{id: weight}}."
            )
        return cls(values=vector.values, indices=vector.indices)

    def __len__(self) -> int:
        """Return the number of active dimensions."""
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseEmbedding):
            return NotImplemented
        return np.array_equal(self.indices, other.indices) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.indices.tobytes(), self.values.tobytes()))

    def __repr__(self) -> str:
        return f"SparseEmbedding(values={self.values!r}, indices={self.indices!r})"

    def as_object(self) -> dict[str, NDArray[Any]]:
        """Return `{"values": ..., "indices": ...}`, the two arrays by name."""
        return {"values": self.values, "indices": self.indices}

    def as_dict(self) -> dict[int, float]:
        """Return `{id: weight}`, ascending by id."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def dot(self, other: SparseEmbedding) -> float:
        """Return the dot product with another embedding: unbounded, 0.0 without a shared id.

        Raises:
            InputError: If it is no sparse vector.
        """
        other = self.from_like(other)
        _, rows, other_rows = np.intersect1d(
            self.indices, other.indices, assume_unique=True, return_indices=True
        )
        return float(self.values[rows].astype(np.float64) @ other.values[other_rows].astype(np.float64))

    def top(self, k: int) -> SparseEmbedding:
        """Keep the `k` largest weights, ascending by id; of equal weights the lower id is kept.

        Raises:
            InputError: If `k` is no int of 0 or more.
        """
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 0:
            raise InputError(f"top(k) has k={k!r}, expected an int of 0 or more.")
        if k >= len(self):
            return self
        kept = np.sort(self._largest_first()[:k])
        return self._of_checked(self.values[kept], self.indices[kept])

    def power(self, exponent: float) -> SparseEmbedding:
        """Raise each weight to a power.

        Raises:
            InputError: If `exponent` is no number, or a weight becomes 0 or infinite.
        """
        if not isinstance(exponent, Real) or isinstance(exponent, bool):
            raise InputError(f"power(exponent) has exponent={exponent!r}, expected a number.")
        with np.errstate(all="ignore"):  # the check below reports it
            values = (self.values**exponent).astype(np.float32, copy=False)
        _check_weights(self.indices, values)
        return self._of_checked(values, self.indices)

    def tokens_and_weights(self, tokenizer: TokenReader) -> dict[str, float]:
        """Return `{token: weight}`, largest first, with the tokens of the model's tokenizer.

        Raises:
            InputError: If the tokenizer does not convert ids, or has no token of one.
        """
        order = self._largest_first()
        tokens = _tokens_of(self.indices[order].tolist(), tokenizer)
        return dict(zip(tokens, self.values[order].tolist(), strict=True))

    def _largest_first(self) -> NDArray[np.intp]:
        return np.argsort(-self.values, kind="stable")

    def plot(
        self, tokenizer: TokenReader | None = None, *, text: str | None = None, max_tokens: int = 20
    ) -> TokenFigure:
        """Draw the largest weights as bars, in a figure of matplotlib.

        The figure has the width of a column of a paper; `figure.savefig("vector.svg")` writes it, also as PNG
        or PDF.

        Args:
            tokenizer: The model's tokenizer, whose tokens name the bars (`model.tokenizer`); None for ids.
            text: The text that was encoded. Colour and pattern then show which tokens it contains, and which
                the model added.
            max_tokens: How many weights to draw.

        Raises:
            InputError: `max_tokens` is less than 1, the tokenizer does not convert ids, or there is a text
                and no tokenizer that reads texts.
            MissingExtraError: matplotlib is not installed.
        """
        from splade_retriever.drawing.plot import Bar, bar_chart

        order = self._largest_first()
        ids = self.indices[order].tolist()
        names = [str(id) for id in ids] if tokenizer is None else _tokens_of(ids, tokenizer)
        kinds: list[str | None] = [None] * len(ids)
        if text is not None:
            literal = _ids_of(text, tokenizer)
            kinds = ["literal" if id in literal else "text expanded" for id in ids]
        bars = [Bar(*row) for row in zip(names, self.values[order].tolist(), kinds, strict=True)]
        return bar_chart(
            bars,
            axis="Weight",
            max_tokens=max_tokens,
            legend={"literal": "in the text", "text expanded": "added by the model"},
        )

    def _repr_html_(self) -> str:
        order = self._largest_first()[:_SHOWN_IN_A_NOTEBOOK]
        pairs = zip(self.indices[order].tolist(), self.values[order].tolist(), strict=True)
        rest = len(self) - len(order)
        return view(
            [
                paragraph(f"SparseEmbedding, {len(self)} active dimensions", "head"),
                table(("id", "weight"), [Row(str(index), value) for index, value in pairs]),
                paragraph(f"and {rest} smaller weights" if rest > 0 else ""),
                paragraph("model.tokens_and_weights(embedding) names the tokens."),
            ]
        )


def _tokens_of(ids: list[int], tokenizer: object) -> list[str]:
    if not isinstance(tokenizer, TokenReader):
        raise InputError(f"The tokenizer is of type {type(tokenizer).__name__}. Pass model.tokenizer.")
    return tokenizer.tokens(ids)


def _ids_of(text: str, tokenizer: object) -> set[int]:
    if not isinstance(tokenizer, _TextReader):
        raise InputError("plot got a text and no tokenizer that reads it. Pass the model's: model.tokenizer.")
    return {id for encoding in tokenizer.encode_batch([text]) for id in encoding.ids}


def _as_array(name: str, numbers: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(numbers)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be a flat array of numbers, got {type(numbers).__name__}: {error}"
        ) from error


def _as_weights(values: ArrayLike) -> NDArray[np.float32]:
    weights = _as_array("Weights", values)
    if weights.size and weights.dtype.kind not in "fiu":
        raise InputError(f"Weights must be numbers, got an array of {weights.dtype}.")
    return weights.astype(np.float32, copy=False)


def _as_ids(indices: ArrayLike) -> NDArray[np.integer[Any]]:
    ids = _as_array("Token ids", indices)
    if ids.size == 0:
        return np.zeros(ids.shape, dtype=np.int32)
    if ids.dtype.kind not in "iu":
        raise InputError(f"Token ids must be integers, got an array of {ids.dtype}.")
    return ids


def _as_int32(ascending: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    if len(ascending):
        low, high = int(ascending[0]), int(ascending[-1])
        if low < 0 or high > np.iinfo(np.int32).max:
            raise InputError(f"Token ids must be in 0..2147483647, found {low if low < 0 else high}.")
    return ascending.astype(np.int32, copy=False)


def _check_unique(ascending: NDArray[np.integer[Any]]) -> None:
    repeated = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(repeated):
        raise InputError(f"Token id {ascending[repeated[0]]} appears twice. Give each id one weight.")


def _check_weights(indices: NDArray[np.integer[Any]], values: NDArray[np.float32]) -> None:
    # The minimum of NaN is NaN, which is not above 0.
    if not len(values) or (values.min() > 0 and values.max() < np.inf):
        return
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    raise InputError(
        f"Weights must be finite and above 0, found {values[bad[0]]} for token id {indices[bad[0]]}."
    )


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view() if array.flags.writeable is False else array.copy()
    view.flags.writeable = False
    return view
