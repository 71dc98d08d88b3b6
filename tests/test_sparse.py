"""SparseEmbedding: invariants, arithmetic, conversions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splade_retriever import SparseEmbedding
from splade_retriever.errors import InputError

weights = st.dictionaries(st.integers(0, 200), st.floats(0.015625, 10, width=32), max_size=40)


@given(weights)
def test_a_dictionary_is_returned_equal(mapping: dict[int, float]) -> None:
    embedding = SparseEmbedding.from_dict(mapping)
    assert embedding.as_dict() == dict(sorted(mapping.items()))
    assert SparseEmbedding.from_dict(embedding.as_dict()) == embedding
    assert embedding.indices.dtype == np.int32
    assert embedding.values.dtype == np.float32


@given(weights, weights)
def test_dot_is_the_sum_of_products_over_shared_ids(one: Any, two: Any) -> None:
    expected = sum(one[i] * two[i] for i in one.keys() & two.keys())
    assert SparseEmbedding.from_dict(one).dot(SparseEmbedding.from_dict(two)) == pytest.approx(expected)


@given(weights, st.integers(0, 50))
def test_top_keeps_the_largest_weights_in_ascending_id_order(mapping: dict[int, float], k: int) -> None:
    top = SparseEmbedding.from_dict(mapping).top(k)
    assert sorted(top.values.tolist()) == sorted(mapping.values())[max(0, len(mapping) - k) :]
    assert top.indices.tolist() == sorted(top.indices.tolist())


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        ([1.0, 2.0], [7, 7], "Token id 7 appears twice"),
        ([1.0], [-1], "found -1"),
        ([float("nan")], [3], "found nan for token id 3"),
        ([0.0], [3], "found 0.0 for token id 3"),
        ([-1.0], [3], "found -1.0"),
        ([1.0], [1, 2], "one weight per id"),
        (["heavy"], [1], "Weights must be numbers"),
        ([1.0], [1.5], "must be integers"),
        ([1.0], [2**40], "found 1099511627776"),
    ],
)
def test_a_bad_vector_is_refused_with_the_value_found(values: Any, indices: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseEmbedding(values=np.array(values), indices=np.array(indices))


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        ([[1], [1, 2]], [1, 2], "Weights must be a flat array of numbers, got list"),
        ([1, 2], [[1], [1, 2]], "Token ids must be a flat array of numbers, got list"),
    ],
)
def test_lists_of_several_lengths_are_refused(values: Any, indices: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseEmbedding(values, indices)
    with pytest.raises(InputError, match="must be a flat array of numbers"):
        SparseEmbedding.from_dense([[1], [1, 2]])


@pytest.mark.parametrize("weights", [5, [1.0], {1: "heavy"}, {1: [1.0, 2.0]}, {1: 1j}])
def test_what_is_no_dictionary_of_weights_is_refused(weights: Any) -> None:
    with pytest.raises(InputError, match=r"expected a dict \{id: weight\}|Weights must be numbers"):
        SparseEmbedding.from_dict(weights)


@pytest.mark.parametrize("other", [5, None, {1: 1.0}, [1.0]])
def test_what_is_no_vector_is_refused(other: Any) -> None:
    with pytest.raises(InputError, match="expected one with indices and values"):
        SparseEmbedding.from_like(other)
    with pytest.raises(InputError, match="expected one with indices and values"):
        SparseEmbedding.from_dict({1: 1.0}).dot(other)


def test_what_is_no_tokenizer_is_refused() -> None:
    embedding: Any = SparseEmbedding.from_dict({1: 1.0})

    with pytest.raises(InputError, match=r"The tokenizer is of type str\. Pass model\.tokenizer"):
        embedding.tokens_and_weights("moon")
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    with pytest.raises(InputError, match="The tokenizer is of type str"):
        embedding.plot("moon")


def test_the_arrays_are_copies_and_read_only() -> None:
    ids = np.array([1, 2], dtype=np.int32)
    embedding = SparseEmbedding(values=np.array([1, 2], dtype=np.float32), indices=ids)
    ids[0] = 99
    assert embedding.indices.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        embedding.values[0] = 5


def test_ids_in_any_order_are_sorted_with_their_weights() -> None:
    embedding = SparseEmbedding(values=np.array([3.0, 1.0]), indices=np.array([9, 4]))
    assert embedding.as_dict() == {4: 1.0, 9: 3.0}


def test_from_dense_keeps_weights_above_zero() -> None:
    assert SparseEmbedding.from_dense([0, 0.5, 0, 2]).as_dict() == {1: 0.5, 3: 2.0}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_from_dense_refuses_a_weight_that_is_negative_or_not_finite(weight: float) -> None:
    with pytest.raises(InputError, match=f"above 0, found {weight} for token id 3"):
        SparseEmbedding.from_dense(np.array([0, 1, 0, weight], dtype=np.float32))


def test_embeddings_made_of_others_are_read_only_and_leave_them_unchanged() -> None:
    row = np.array([0, 4, 0, 9, 1], dtype=np.float32)
    embedding = SparseEmbedding.from_dense(row)
    row[:] = 0
    made = [embedding, embedding.top(2), embedding.power(0.5)]
    assert [one.as_dict() for one in made] == [{1: 4, 3: 9, 4: 1}, {1: 4, 3: 9}, {1: 2, 3: 3, 4: 1}]
    for one in made:
        assert [array.dtype.name for array in (one.values, one.indices)] == ["float32", "int32"]
        assert not any(array.flags.writeable for array in (one.values, one.indices))


def test_a_power_that_ends_at_zero_or_infinity_is_refused() -> None:
    embedding = SparseEmbedding.from_dict({5: 1e-30, 6: 1e30})
    for power, weight in ((2, "0.0 for token id 5"), (-2, "inf for token id 5")):
        with pytest.raises(InputError, match=f"found {weight}"):
            embedding.power(power)


def test_tokens_are_sorted_by_weight() -> None:
    class Letters:
        def tokens(self, ids: Any) -> Any:
            return [chr(97 + i) for i in ids]

    embedding = SparseEmbedding.from_dict({0: 0.5, 1: 2.0, 2: 1.0})
    assert list(embedding.tokens_and_weights(Letters()).items()) == [("b", 2.0), ("c", 1.0), ("a", 0.5)]


def test_an_empty_embedding_is_valid_and_scores_zero() -> None:
    empty = SparseEmbedding.from_dict({})
    assert len(empty) == 0
    assert empty.dot(SparseEmbedding.from_dict({1: 1.0})) == 0.0
