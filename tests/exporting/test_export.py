"""Exports of tiny random checkpoints equal PyTorch and sentence-transformers; others are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from typer.testing import CliRunner

from splade_retriever import SparseTextEmbedding
from splade_retriever.cli.commands import app
from splade_retriever.encoding.model_cards import ModelCard, published
from splade_retriever.errors import (
    InputError,
    LicenseError,
    ModelFilesError,
    ModelGraphError,
    ModelOutputError,
    StorageError,
)
from tests.exporting.checkpoints import (
    FAMILIES,
    MAX_LENGTH,
    add_readme,
    save_checkpoint,
    save_custom_checkpoint,
    save_encoder,
)
from tests.hub_server import COMMIT, hub_of

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.usefixtures("one_thread"),
    # The warnings of the exporters and of the reference implementations concern their own code.
    pytest.mark.filterwarnings("ignore"),
]

QUESTIONS = [
    "why do stars explode?",
    "The ROVER of six wheels",
    "crème brûlée",
    "a " * 300,
]


def export(model: str | Path, target: Path, **options: Any) -> Any:
    from splade_retriever.exporting import export_model

    return export_model(model, target, **options)


def theirs(folder: Path, side: str, **options: Any) -> np.ndarray[Any, Any]:
    """Return what sentence-transformers' SparseEncoder returns for the questions."""
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(folder), device="cpu", local_files_only=True, **options)
    rows: np.ndarray[Any, Any] = getattr(encoder, f"encode_{side}")(
        QUESTIONS, batch_size=1, convert_to_tensor=True, convert_to_sparse_tensor=False
    ).numpy()
    return rows


def dense(vectors: Any, vocab_size: int) -> np.ndarray[Any, Any]:
    rows = np.zeros((len(QUESTIONS), vocab_size), dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[vector.indices] = vector.values
    return rows


def assert_equal(model: SparseTextEmbedding, documents: Any, queries: Any) -> None:
    assert documents.max() > 0.3
    assert 0.05 < (documents > 0).mean() < 0.95
    np.testing.assert_allclose(dense(model.embed(QUESTIONS), model.vocab_size), documents, atol=1e-4)
    np.testing.assert_allclose(dense(model.query_embed(QUESTIONS), model.vocab_size), queries, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_of_each_family_returns_the_weights_of_sentence_transformers(
    tmp_path: Path, family: str, tied: bool
) -> None:
    source = save_checkpoint(tmp_path / "source", family, tie_word_embeddings=tied)

    report = export(source, tmp_path / "out")

    model = SparseTextEmbedding(tmp_path / "out")
    assert model.max_length == MAX_LENGTH
    assert report.max_difference < 1e-4
    assert_equal(model, theirs(source, "document"), theirs(source, "query"))


def test_a_symmetric_encoder_of_sentence_transformers_is_exported(encoder: Path, tmp_path: Path) -> None:
    report = export(encoder, tmp_path / "out")

    assert report.library == "sentence-transformers"
    assert (report.card.query_side, report.card.activation) == ("symmetric", "log1p")
    assert_equal(SparseTextEmbedding(tmp_path / "out"), theirs(encoder, "document"), theirs(encoder, "query"))


@pytest.mark.parametrize(("kind", "query_side"), [("random", "idf"), ("ones", "ones")])
def test_an_inference_free_encoder_keeps_its_activation_and_query_weights(
    checkpoint: Path, tmp_path: Path, kind: str, query_side: str
) -> None:
    import torch

    size = json.loads((checkpoint / "config.json").read_text("utf-8"))["vocab_size"]
    table = (
        torch.ones(size) if kind == "ones" else torch.rand(size, generator=torch.Generator().manual_seed(0))
    )
    source = save_encoder(tmp_path / "source", checkpoint, activation="log1p_relu", query_weights=table)

    report = export(source, tmp_path / "out", int8=False)

    assert (report.card.query_side, report.card.activation) == (query_side, "log1p_log1p")
    assert (tmp_path / "out" / "idf.json").exists() == (kind == "random")
    model = SparseTextEmbedding(tmp_path / "out")
    documents, queries = theirs(source, "document"), theirs(source, "query")
    documents[:, model.tokenizer.special_ids] = queries[:, model.tokenizer.special_ids] = 0
    queries[-1] = dense(model.query_embed(QUESTIONS), model.vocab_size)[-1]  # truncated at other tokens
    assert_equal(model, documents, queries)


def test_a_checkpoint_with_an_idf_table_needs_its_activation(checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "idf.json").write_text(json.dumps({"moon": 2.5, "the": 0.25}), encoding="utf-8")

    with pytest.raises(ModelFilesError, match="no file states its activation"):
        export(source, tmp_path / "out")
    report = export(source, tmp_path / "out", activation="log1p_log1p")

    assert (report.card.query_side, report.card.activation) == ("idf", "log1p_log1p")
    model = SparseTextEmbedding(tmp_path / "out")
    assert sorted(next(model.query_embed("the the")).values.tolist()) == [0.25]


def test_an_int8_export_is_one_pooled_graph_near_the_fp32_vectors(encoder: Path, tmp_path: Path) -> None:
    from splade_retriever.encoding.onnx.onnx_wire import read_summary
    from splade_retriever.encoding.onnx.pooled_model import is_pooled

    report = export(encoder, tmp_path / "out", int8=True)

    assert is_pooled(read_summary(tmp_path / "out" / "model.onnx"))
    assert report.cosine > 0.98
    model = SparseTextEmbedding(tmp_path / "out")
    assert model.precision == "int8"
    ours = dense(model.embed(QUESTIONS), model.vocab_size)
    expected = theirs(encoder, "document")
    assert np.abs(ours - expected).sum() < 0.1 * expected.sum()


def test_weights_beyond_the_limit_of_a_file_are_written_beside_it(checkpoint: Path, tmp_path: Path) -> None:
    report = export(checkpoint, tmp_path / "out", max_file_bytes=10_000)

    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model.onnx", "model.onnx.data"}
    assert report.max_difference < 1e-4
    assert_equal(
        SparseTextEmbedding(tmp_path / "out"), theirs(checkpoint, "document"), theirs(checkpoint, "query")
    )


def test_the_model_s_own_code_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    source = save_custom_checkpoint(tmp_path / "source", tmp_path / "scratch")

    with pytest.raises(ModelGraphError, match=r"model_type 'new'.*--trust-remote-code"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export(source, tmp_path / "out", trust_remote_code=True)

    assert report.max_difference < 1e-4
    assert SparseTextEmbedding(tmp_path / "out").max_length == MAX_LENGTH


def test_a_tokenizer_of_more_tokens_than_the_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkpoint, tmp_path / "source")
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["supernova"])
    tokenizer.save(str(source / "tokenizer.json"))

    with pytest.raises(ModelFilesError, match=rf"ids up to {size} \('supernova'\).*ids up to {size - 1}"):
        export(source, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_network_that_fails_is_named_with_the_length_of_the_text(tmp_path: Path) -> None:
    source = save_custom_checkpoint(tmp_path / "source", tmp_path / "scratch")
    code = source / "modeling_new.py"
    first = "        state = self.words(input_ids)\n"
    assert first in code.read_text("utf-8")
    failing = "        if input_ids.shape[1] > 90:\n            raise ValueError('too many tokens')\n"
    code.write_text(code.read_text("utf-8").replace(first, failing + first), encoding="utf-8")

    with pytest.raises(ModelFilesError, match=rf"fails on a text of {MAX_LENGTH} tokens.*too many tokens"):
        export(source, tmp_path / "out", trust_remote_code=True)

    assert not (tmp_path / "out").exists()


def test_a_mismatch_writes_nothing(encoder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(encoder, tmp_path / "source")
    prompts = source / "config_sentence_transformers.json"
    content = json.loads(prompts.read_text("utf-8"))
    content["prompts"] = {"query": "search: ", "document": ""}
    prompts.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(ModelOutputError, match=r"other query weights than sentence-transformers.*prompt"):
        export(source, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_checkpoint_without_its_language_head_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    headless = tmp_path / "headless"
    transformers.AutoModel.from_pretrained(checkpoint).save_pretrained(headless)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, headless)
    with pytest.raises(ModelFilesError, match=r"BertModel.*ForMaskedLM"):
        export(headless, tmp_path / "out")

    config = json.loads((headless / "config.json").read_text("utf-8"))
    (headless / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ModelFilesError, match=r"not complete: .*cls.*missing"):
        export(headless, tmp_path / "out")


def test_other_poolings_and_modules_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelGraphError, match="pools by 'sum'"):
        export(save_encoder(tmp_path / "sum", checkpoint, pooling="sum"), tmp_path / "out")

    other = shutil.copytree(tmp_path / "sum", tmp_path / "other")
    modules = json.loads((other / "modules.json").read_text("utf-8"))
    modules.append(
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    )
    (other / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ModelGraphError, match=r"has the module sentence_transformers\.models\.Normalize"):
        export(other, tmp_path / "out")


def test_a_folder_in_use_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(InputError, match="is not an empty folder"):
        export(checkpoint, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"file/sub/out cannot be written: .*Make room"):
        export(checkpoint, tmp_path / "file" / "sub" / "out")


def test_a_licence_is_copied_and_checked_on_export_and_on_opening(checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkpoint, tmp_path / "source")
    add_readme(source, "cc-by-nc-4.0")
    (source / "LICENSE").write_text("The terms", encoding="utf-8")

    with pytest.raises(LicenseError, match=r"cc-by-nc-4\.0"):
        export(source, tmp_path / "out")
    export(source, tmp_path / "out", accept_license=True)

    assert (tmp_path / "out" / "LICENSE").read_text("utf-8") == "The terms"
    with pytest.raises(LicenseError, match=r"cc-by-nc-4\.0"):
        SparseTextEmbedding(tmp_path / "out")
    SparseTextEmbedding(tmp_path / "out", accept_license=True, lazy_load=True)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_repository_is_downloaded_at_one_commit_without_files_that_are_not_needed(
    encoder: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(encoder, tmp_path / "source")
    add_readme(source, "apache-2.0")
    unwanted = {"onnx/model.onnx": b"-", "pytorch_model.bin": b"-", "tf_model.h5": b"-", "run.py": b"-"}
    files = {**contents(source), **unwanted}
    with hub_of("me/splade", files) as hub:
        report = export("me/splade", tmp_path / "out", cache_dir=tmp_path / "cache")
        requested = {name for name in files if any(path.endswith(f"/{name}") for path in hub.requests)}

    card = json.loads((tmp_path / "out" / "card.json").read_text("utf-8"))
    assert card["exported_from"] == {"repository": "me/splade", "commit": COMMIT}
    assert (card["model"], card["license"]) == ("me/splade", "apache-2.0")
    assert requested == files.keys() - unwanted.keys()
    assert report.max_difference < 1e-4
    again = export("me/splade", tmp_path / "again", cache_dir=tmp_path / "cache", local_files_only=True)
    assert again.card == report.card


def test_the_command_exports_a_published_model_with_the_settings_of_its_card(
    checkpoint: Path, tmp_path: Path
) -> None:
    name = "opensearch-project/opensearch-neural-sparse-encoding-doc-v3-distill"
    files = {**contents(checkpoint), "idf.json": b'{"moon": 2.5, "the": 0.25}'}
    with hub_of(name, files), pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        done = CliRunner().invoke(app, ["export", name, str(tmp_path / "out"), "--json"])

    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["activation"], printed["query_side"]) == ("log1p_log1p", "idf")
    assert printed["max_difference"] < 1e-4
    model = SparseTextEmbedding(tmp_path / "out")
    assert model.model_name == name
    assert model.tokens_and_weights(next(model.query_embed("the moon"))) == {"moon": 2.5, "the": 0.25}


@pytest.mark.parametrize("card", [card for card in published() if card.export_needed], ids=lambda c: c.model)
def test_each_published_card_without_an_onnx_file_finds_its_checkpoint(
    card: ModelCard, checkpoint: Path, tmp_path: Path
) -> None:
    from splade_retriever.exporting.source import find_source

    table = {"idf.json": b'{"moon": 2.5}'} if card.query_side == "idf" else {}
    with hub_of(card.model, {**contents(checkpoint), **table}):
        source = find_source(
            card.model.upper(),
            activation=None,
            revision=None,
            cache_dir=tmp_path,
            local_files_only=False,
            accept_license=True,
            trust_remote_code=False,
        )

    found = source.card
    assert (found.model, found.license, found.activation) == (card.model, card.license, card.activation)
    assert (found.query_side, found.zero_special_tokens) == (card.query_side, card.zero_special_tokens)
    assert found.max_length == MAX_LENGTH
    assert (source.checkpoint.query_weights is not None) == (card.query_side == "idf")
