"""Batches of tokenised texts: every text once, within the budget, shared among workers."""

from hypothesis import given
from hypothesis import strategies as st

from splade_retriever.encoding.batching import batches
from splade_retriever.encoding.tokenizer import TokenIds


@given(
    st.lists(st.integers(0, 40), max_size=50),
    st.integers(1, 100),
    st.none() | st.integers(1, 5),
    st.integers(1, 8),
)
def test_batches_contain_each_text_once_within_the_budget(
    lengths: list[int], budget: int, max_texts: int | None, workers: int
) -> None:
    texts = [TokenIds([7 + row] * length, False) for row, length in enumerate(lengths)]

    result = list(
        batches(texts, token_budget=budget, workers=workers, min_tokens=20, max_texts=max_texts, pad_id=3)
    )

    rows = [row for batch in result for row in batch.rows]
    assert sorted(rows) == [row for row, length in enumerate(lengths) if length]
    for batch in result:
        assert len(batch.rows) == 1 or batch.input_ids.size <= budget
        assert len(batch.rows) <= (max_texts or len(batch.rows))
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True):
            assert ids.tolist() == [7 + row] * lengths[row] + [3] * (len(ids) - lengths[row])
            assert mask.tolist() == [1] * lengths[row] + [0] * (len(ids) - lengths[row])


def test_batches_get_smaller_so_that_all_workers_finish_together() -> None:
    texts = [TokenIds([7] * 10, False) for _ in range(100)]

    for workers, expected in ((1, [100] * 10), (2, [100] * 7 + [70, 50, 40, 30, 30, 30, 30, 20])):
        result = batches(texts, token_budget=100, workers=workers, min_tokens=30)
        sizes = [batch.input_ids.size for batch in result]
        assert sum(sizes) == 1000
        assert sizes == expected


def test_a_few_texts_are_split_among_the_workers() -> None:
    texts = [TokenIds([7] * 30, False) for _ in range(8)]

    result = list(batches(texts, token_budget=1000, workers=4, min_tokens=20))

    assert [len(batch.rows) for batch in result] == [1] * 8
