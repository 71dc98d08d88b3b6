"""Adapting a model to a folder of texts, measuring it, and the command that does both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'splade-retriever[train]'")

import torch

from splade_retriever import SparseTextEmbedding
from splade_retriever.cli.commands import app
from splade_retriever.encoding.onnx.graph_builder import column_scale
from splade_retriever.errors import InputError, StorageError
from splade_retriever.training import AdaptSettings, Corpus, adapt, load_model, measure, quality_table
from tests.training.folders import write_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_adapting_changes_what_may_change_and_leaves_the_start_alone(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "model.onnx").read_bytes()

    adapt(corpus, tmp_path / "mine", start=folder, settings=AdaptSettings(steps=2))

    assert (folder / "model.onnx").read_bytes() == before
    begun, trained = (load_model(place).state_dict() for place in (folder, tmp_path / "mine"))
    assert not torch.equal(begun["head.dense.weight"], trained["head.dense.weight"])
    assert not torch.equal(begun["head.log_gain"], trained["head.log_gain"])
    for name in ("encoder.words.weight", f"encoder.layers.{AdaptSettings().frozen - 1}.up.weight"):
        # Exporting rounds to 8 bits once more: half a step of a row, of the words less their mean.
        mean = begun[name].mean(0) if "words" in name else 0.0
        step = torch.from_numpy(column_scale((begun[name] - mean).T.numpy()))[:, None]
        assert bool(((begun[name] - trained[name]).abs() <= 0.51 * step).all())
    assert SparseTextEmbedding(str(tmp_path / "mine"), lazy_load=True).model_name == "mine"


def test_entries_that_expand_the_corpus_get_columns_beside_those_that_had_them(
    state: dict[str, Any], corpus: Corpus, tmp_path: Path
) -> None:
    even = np.arange(len(state["head.bias"])) % 2 == 0
    write_model(state | {"head.expanding": even}, tmp_path / "start")

    adapt(corpus, tmp_path / "mine", start=tmp_path / "start", settings=AdaptSettings(steps=1))

    had, has = (load_model(tmp_path / name).head.expanding.numpy() for name in ("start", "mine"))
    assert not had[1::2].any()
    assert has[had].all()
    assert 0 < has[1::2].sum() < len(has) / 4


def test_the_command_adapts_and_reports_bm25_before_and_after(
    texts: Path, folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    command = f"adapt {texts} --start {folder} --to {mine} --steps 1 --held-out 0.5 --json"

    result = CliRunner().invoke(app, command.split())

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["model"] == str(mine)
    assert len(report["held_out_files"]) == 2
    assert list(report["quality"]) == ["BM25", "before", "after"]
    # Both words of a heading occur in its one passage and in no other.
    assert set(report["quality"]["BM25"].values()) == {1}
    for name in ("before", "after"):
        assert all(0.6 < figure <= 1 for figure in report["quality"][name].values())
    assert SparseTextEmbedding(str(mine), lazy_load=True).model_name == "mine"


def test_the_command_shows_a_table(texts: Path, folder: Path, tmp_path: Path) -> None:
    command = f"adapt {texts} --start {folder} --to {tmp_path / 'mine'} --steps 1"

    result = CliRunner().invoke(app, command.split())

    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert [row for row in rows if row in ("system", "BM25", "before", "after")] == [
        "system",
        "BM25",
        "before",
        "after",
    ]


def test_each_step_is_reported(corpus: Corpus, folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []

    adapt(
        corpus,
        tmp_path / "mine",
        start=folder,
        settings=AdaptSettings(steps=2, batch=2),
        on_step=lambda done, total: steps.append((done, total)),
    )

    assert steps == [(1, 2), (2, 2)]


def test_the_model_that_is_adapted_is_never_replaced(corpus: Corpus, folder: Path) -> None:
    before = (folder / "model.onnx").read_bytes()

    with pytest.raises(InputError, match="would replace the one it starts from"):
        adapt(corpus, folder, start=folder)

    assert (folder / "model.onnx").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_error_before_the_training(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"file/out cannot be made: .*Nothing was trained"):
        adapt(corpus, tmp_path / "file" / "out", start=folder)


@pytest.mark.parametrize("held_out", [0.0, 1.0, 30.0])
def test_a_share_that_is_not_between_0_and_1_is_refused(texts: Path, held_out: float) -> None:
    with pytest.raises(InputError, match="held_out must be between 0 and 1"):
        Corpus.read(texts, held_out=held_out)


@pytest.mark.parametrize("name", ["steps", "batch", "groups"])
def test_numbers_below_1_are_refused(name: str) -> None:
    zero: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=name):
        AdaptSettings(**zero)


def test_the_figures_are_those_of_the_models_that_were_named(corpus: Corpus, folder: Path) -> None:
    qualities = measure(corpus, {"one": folder, "two": folder})

    assert list(qualities) == ["BM25", "one", "two"]
    assert qualities["one"].ndcg_at_10 == qualities["two"].ndcg_at_10
    assert f"{qualities['BM25'].ndcg_at_10:.4f}" in quality_table(qualities)
