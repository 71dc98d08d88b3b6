"""ONNX files in other places of a folder or a repository, in fp16 and already quantised."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_folder import choose_model, open_folder
from splade_retriever.errors import InputError, ModelFilesError
from tests.hub_server import COMMIT, hub_of
from tests.mlm_graphs import Shape, random_weights, save_folder, save_mlm
from tests.tiny import write_tiny_model

SHAPE = Shape(vocab=30522, hidden=16, layers=1, heads=2, inner=16)
TEXTS = ["why do stars explode?", "The rover of six wheels drove down the ramp.", "a moon"]
MINI = "opensearch-project/opensearch-neural-sparse-encoding-doc-v2-mini"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an fp32 export."""
    return save_folder(tmp_path_factory.mktemp("formats") / "exact", SHAPE)


def dense(folder: Path, **options: Any) -> np.ndarray[Any, Any]:
    rows = np.zeros((len(TEXTS), SHAPE.vocab), dtype=np.float32)
    for row, vector in zip(rows, SparseTextEmbedding(folder, **options).embed(TEXTS), strict=True):
        row[vector.indices] = vector.values
    return rows


def with_file(exact: Path, folder: Path, name: str) -> tuple[Path, Path]:
    """Copy a folder without its ONNX file; return it and the path of the file to write."""
    shutil.copytree(exact, folder, ignore=shutil.ignore_patterns("*.onnx"))
    (folder / name).parent.mkdir(exist_ok=True)
    return folder, folder / name


@pytest.mark.parametrize("name", ["onnx/model_fp16.onnx", "onnx/model_O4.onnx"])
def test_an_fp16_file_returns_nearly_the_weights_of_fp32(exact: Path, tmp_path: Path, name: str) -> None:
    folder, path = with_file(exact, tmp_path / "half", name)
    save_mlm(path, random_weights(SHAPE, decoder_bias=-3.0), SHAPE, half=True)

    weights, expected = dense(folder), dense(exact)

    assert open_folder(folder).model == path
    assert expected.max() > 0.3
    np.testing.assert_allclose(weights, expected, atol=0.02)


def test_a_quantised_file_runs_as_it_is_and_is_labelled_int8(
    exact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    folder, path = with_file(exact, tmp_path / "quantised", "onnx/model_quantized.onnx")
    quantize_dynamic(str(exact / "model.onnx"), str(path))
    caplog.clear()

    weights, expected = dense(folder), dense(exact)

    assert np.abs(weights - expected).sum() < 0.1 * expected.sum()
    model = SparseTextEmbedding(folder)
    assert (model.precision, model.fingerprint["precision"]) == ("int8", "int8")
    assert [record for record in caplog.records if record.name.startswith("splade_retriever")] == []
    np.testing.assert_array_equal(dense(folder, precision="int8"), weights)
    with pytest.raises(InputError, match="exists only as int8"):
        SparseTextEmbedding(folder, precision="fp32")


def test_the_most_exact_file_of_a_repository_is_chosen() -> None:
    names = [
        "onnx/model_quantized.onnx",
        "onnx/model_O4.onnx",
        "onnx/model_O2.onnx",
        "openvino/openvino_model.xml",
    ]

    assert choose_model([*names, "onnx/model.onnx", "model.onnx"]) == "model.onnx"
    assert choose_model([*names, "onnx/model.onnx"]) == "onnx/model.onnx"
    assert choose_model(names) == "onnx/model_O2.onnx"
    assert choose_model(names[:2]) == "onnx/model_O4.onnx"
    assert choose_model(names[:1]) == "onnx/model_quantized.onnx"
    assert choose_model(names[:1], "onnx/model_quantized.onnx") == "onnx/model_quantized.onnx"
    assert choose_model(names[3:]) is None


@pytest.fixture
def repository(tmp_path: Path) -> dict[str, bytes]:
    """The files of a repository that has its ONNX file in onnx/ only."""
    folder = write_tiny_model(tmp_path / "published", name="onnx/model.onnx")
    names = ("tokenizer.json", "onnx/model.onnx")
    files = {name: (folder / name).read_bytes() for name in names}
    return {**files, "idf.json": b'{"moon": 2.5}', "openvino/openvino_model.xml": b"-"}


@pytest.mark.usefixtures("catalogue")
def test_a_custom_model_is_read_from_the_place_that_its_repository_has(
    repository: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SparseTextEmbedding.add_custom_model("me/mine", sources={"hf": "me/repo"}, max_length=32)
    with hub_of("me/repo", repository, large="onnx/model.onnx"):
        first = SparseTextEmbedding("me/mine", cache_dir=tmp_path)
    offline = SparseTextEmbedding("me/mine", cache_dir=tmp_path, local_files_only=True)

    assert first.fingerprint["revision"] == COMMIT
    assert offline.fingerprint == first.fingerprint
    assert next(offline.embed("the moon")) == next(first.embed("the moon"))
    assert "is read from onnx/model.onnx: model.onnx was not found" in caplog.text


@pytest.mark.usefixtures("catalogue")
def test_a_published_model_without_a_known_onnx_file_uses_one_that_its_repository_has_now(
    repository: dict[str, bytes], tmp_path: Path
) -> None:
    with hub_of(MINI, repository, large="onnx/model.onnx"):
        lazy = SparseTextEmbedding(MINI, cache_dir=tmp_path, lazy_load=True, max_length=32)
        assert next(lazy.query_embed("moon")).values.tolist() == [2.5]
        assert len(next(lazy.embed("moon"))) > 0

    others = {name: body for name, body in repository.items() if not name.endswith(".onnx")}
    with hub_of(MINI, others), pytest.raises(ModelFilesError, match=f"splade export {MINI}"):
        SparseTextEmbedding(MINI, cache_dir=tmp_path / "other")


@pytest.mark.usefixtures("catalogue")
def test_a_transfer_that_fails_does_not_choose_another_file(
    repository: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {**repository, "model.onnx": repository["onnx/model.onnx"] * 50}
    SparseTextEmbedding.add_custom_model("me/mine", sources={"hf": "me/repo"}, max_length=32)
    with hub_of("me/repo", files, large="model.onnx") as hub:
        hub.cut_after = 1000
        with (
            pytest.raises(ModelFilesError, match="the hub answered with an error"),
            caplog.at_level(logging.WARNING),
        ):
            SparseTextEmbedding("me/mine", cache_dir=tmp_path)

    assert "is read from" not in caplog.text
