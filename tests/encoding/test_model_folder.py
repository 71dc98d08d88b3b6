"""Model folders, in the layouts that several programs write."""

import json
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_folder import open_folder
from splade_retriever.errors import ModelFilesError, ModelGraphError
from tests.tiny import VOCABULARY, write_json, write_tiny_model

ROUTER = {
    "types": {
        "query_0_SparseStaticEmbedding": "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding",
        "document_0_MLMTransformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
        "document_1_SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling",
    },
    "structure": {
        "query": ["query_0_SparseStaticEmbedding"],
        "document": ["document_0_MLMTransformer", "document_1_SpladePooling"],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def safetensors(weights: list[float]) -> bytes:
    """Return the bytes of a safetensors file: header length, JSON header, data."""
    import numpy as np

    data = np.array(weights, dtype="<f4").tobytes()
    entry = {"dtype": "F32", "shape": [len(weights)], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_a_bare_export_is_a_symmetric_splade_model_named_after_its_folder(folder: Path) -> None:
    opened = open_folder(folder)

    assert opened.card.model == "tiny"
    assert opened.card.activation == "log1p"
    assert opened.card.query_side == "symmetric"
    assert opened.card.vocab_size == len(VOCABULARY)
    assert opened.model == folder / "model.onnx"
    assert not opened.finished


@pytest.mark.parametrize(("function", "activation"), [("relu", "log1p"), ("log1p_relu", "log1p_log1p")])
def test_the_activation_is_read_from_sentence_transformers_files(
    folder: Path, function: str, activation: str
) -> None:
    pooling = {"pooling_strategy": "max", "activation_function": function}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)

    assert open_folder(folder).card.activation == activation


@pytest.mark.parametrize(
    ("pooling", "message"),
    [({"pooling_strategy": "sum"}, "pools by 'sum'"), ({"activation_function": "gelu"}, "'gelu'")],
)
def test_another_pooling_is_refused(folder: Path, pooling: dict[str, str], message: str) -> None:
    write_json(folder / "1_SpladePooling" / "config.json", pooling)

    with pytest.raises(ModelGraphError, match=message):
        open_folder(folder)


@pytest.mark.parametrize("kind", ["SparseStaticEmbedding", "IDF"])
def test_a_router_with_a_saved_table_is_read(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "routed"
    text = json.dumps(ROUTER).replace("SparseStaticEmbedding", kind)
    write_tiny_model(folder / "document_0_MLMTransformer", name="onnx/model.onnx")
    write_json(folder / "router_config.json", json.loads(text))
    write_json(folder / "document_1_SpladePooling" / "config.json", {"activation_function": "log1p_relu"})
    write_json(folder / f"query_0_{kind}" / "config.json", {"frozen": True})
    weights = [0.5 + number for number in range(len(VOCABULARY))]
    (folder / f"query_0_{kind}" / "model.safetensors").write_bytes(safetensors(weights))

    model = SparseTextEmbedding(folder, lazy_load=True)
    (query,) = model.query_embed("the moon, the moon")

    assert model.fingerprint["query_side"] == "idf"
    assert model.fingerprint["activation"] == "log1p_log1p"
    words = {VOCABULARY.index(word): 0.5 + VOCABULARY.index(word) for word in ("the", "moon")}
    # The comma is not in this vocabulary: it becomes [UNK], a special token, whose weight is 0.
    assert query.as_dict() == words


def test_a_router_whose_root_holds_the_document_model_is_read_from_the_root(folder: Path) -> None:
    write_json(folder / "router_config.json", ROUTER)
    write_json(folder / "document_1_SpladePooling" / "config.json", {"activation_function": "relu"})
    write_json(folder / "query_0_SparseStaticEmbedding" / "config.json", {"path": "idf.json"})
    write_json(folder / "idf.json", {"moon": 2.5, "of": 0.25, "nowhere": 9.0})

    model = SparseTextEmbedding(folder, lazy_load=True)

    (query,) = model.query_embed("rover of the moon")
    assert model.tokens_and_weights(query) == {"moon": 2.5, "of": 0.25}


def test_separate_networks_for_queries_and_documents_are_refused(folder: Path) -> None:
    two = json.loads(json.dumps(ROUTER).replace("SparseStaticEmbedding", "MLMTransformer"))
    write_json(folder / "router_config.json", two)

    with pytest.raises(ModelGraphError, match="separate network"):
        open_folder(folder)


def test_a_query_table_without_a_stated_activation_is_refused(
    folder: Path,
) -> None:
    write_json(folder / "idf.json", {"moon": 2.5})

    with pytest.raises(ModelFilesError, match="no file states its activation"):
        open_folder(folder)

    write_json(folder / "card.json", {"activation": "log1p_log1p"})
    assert open_folder(folder).card.query_side == "idf"


def test_the_fields_of_a_card_file_win(folder: Path) -> None:
    write_json(folder / "card.json", {"model": "me/mine", "max_length": 20, "license": "mit", "note": "x"})

    card = open_folder(folder).card

    assert (card.model, card.max_length, card.license) == ("me/mine", 20, "mit")
    assert card.vocab_size == len(VOCABULARY)


@pytest.mark.parametrize(
    ("config", "more", "limit"),
    [
        ({"max_position_embeddings": 40}, {}, 40),
        ({"max_position_embeddings": 514, "model_type": "roberta"}, {}, 512),
        ({"max_position_embeddings": 40}, {"sentence_bert_config.json": {"max_seq_length": 24}}, 24),
        ({"max_position_embeddings": 40}, {"tokenizer_config.json": {"model_max_length": int(1e30)}}, 40),
        ({"max_position_embeddings": 40}, {"sentence_bert_config.json": {"max_seq_length": None}}, 40),
    ],
)
def test_the_smallest_stated_limit_is_the_limit(
    folder: Path, config: dict[str, object], more: dict[str, dict[str, object]], limit: int
) -> None:
    write_json(folder / "config.json", config)
    for name, content in more.items():
        write_json(folder / name, content)

    assert open_folder(folder).card.max_length == limit


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx", "mine.onnx", "onnx/mine.onnx"])
def test_the_onnx_file_is_found_in_every_place_that_exporters_use(tmp_path: Path, name: str) -> None:
    folder = write_tiny_model(tmp_path / "tiny", name=name)

    assert open_folder(folder).model == folder / name
    SparseTextEmbedding(folder)
    assert open_folder(folder).model == folder / name


def test_several_onnx_files_without_a_card_are_an_error(folder: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()

    with pytest.raises(ModelFilesError, match=r"a\.onnx, b\.onnx.*card\.json"):
        open_folder(folder)

    write_json(folder / "card.json", {"model_file": "b.onnx"})
    assert open_folder(folder).model == folder / "b.onnx"


def test_a_missing_file_is_named_with_its_folder_and_how_to_make_it(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelFilesError, match=r"tiny has no model\.onnx.*`splade export .*tiny NEW_FOLDER`"):
        open_folder(folder)

    write_tiny_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFilesError, match=r"tiny has no tokenizer\.json.*save_pretrained"):
        open_folder(folder)

    with pytest.raises(ModelFilesError, match="There is no model folder"):
        open_folder(folder / "nowhere")


def test_a_model_without_a_language_head_is_refused(folder: Path) -> None:
    write_json(folder / "config.json", {"architectures": ["BertModel"]})

    with pytest.raises(ModelFilesError, match=r"BertModel.*ForMaskedLM"):
        open_folder(folder)


def test_a_damaged_json_file_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")

    with pytest.raises(ModelFilesError, match=r"config\.json is not valid JSON"):
        open_folder(folder)


def test_the_digest_changes_with_each_file_that_decides_a_vector(tmp_path: Path) -> None:
    one, same, other = (
        open_folder(write_tiny_model(tmp_path / name / "tiny", seed=seed)).digest()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == same != other

    folder = tmp_path / "a" / "tiny"
    (folder / "README.md").write_text("words", encoding="utf-8")
    assert open_folder(folder).digest() == one
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace("##z", "##Z"), encoding="utf-8")
    assert open_folder(folder).digest() != one
