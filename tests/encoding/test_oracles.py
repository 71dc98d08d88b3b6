"""Weights equal those of PyTorch and sentence-transformers for the same model, on 300 real texts."""

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tokenizers

import splade_retriever
from splade_retriever import SparseEmbedding, SparseTextEmbedding

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SparseEncoder
    from transformers import BertForMaskedLM

pytestmark = [
    pytest.mark.oracle,
    # The warnings of the reference implementations concern their own code.
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 1e-4
MAX_LENGTH = 96
VOCABULARY = 6000  # common words come first in BERT's vocabulary; a fifth of it takes a fifth of the time
HERE = Path(__file__).parents[1]
TOKENIZER = Path(splade_retriever.__file__).parent / "bundled" / "tokenizer.json"
ASTRONOMY = HERE.parent / "examples" / "data" / "astronomy"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return sentences and paragraphs of the sample passages, of a few to some hundred tokens."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(ASTRONOMY.rglob("*")) if path.is_file()]
    paragraphs = [part.strip() for source in sources for part in source.split("\n\n") if part.strip()]
    sentences = [part for text in paragraphs for part in re.split(r"(?<=[.?!])\s+", text)]
    chosen = [*paragraphs[:100], *sentences[:200]]
    assert len(chosen) == 300
    return chosen


@pytest.fixture(scope="module")
def network() -> "BertForMaskedLM":
    """Return a random BERT with logits on both sides of zero."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.3,
    )
    model = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(model.cls.predictions.bias, mean=-1.5, std=0.5)
    return model


@pytest.fixture(scope="module")
def folder(network: "BertForMaskedLM", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the network as transformers does, and beside it PyTorch's own export of its logits."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("oracle") / "mlm"
    network.save_pretrained(folder)
    tokenizer = json.loads(TOKENIZER.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: number for token, number in words.items() if number < VOCABULARY}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(tokenizer)),
        model_max_length=MAX_LENGTH,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    export(network, folder / "model.onnx")
    return folder


def export(network: "BertForMaskedLM", path: Path) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
            logits: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    example = torch.ones(2, 7, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),  # the exporter restores the mode of the wrapper
            (example, example),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={
                name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask", "logits")
            },
            opset_version=17,
            dynamo=False,
        )


def dense(vectors: list[SparseEmbedding]) -> np.ndarray:
    rows = np.zeros((len(vectors), VOCABULARY), dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[vector.indices] = vector.values
    return rows


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert theirs.max() > 1.0
    assert 0.001 < (theirs > 0).mean() < 0.9, (
        "the random network is not a useful test: all or no entries are active"
    )
    assert float(np.abs(ours - theirs).max()) < TOLERANCE
    assert np.array_equal(ours > TOLERANCE, (ours > TOLERANCE) & (theirs > 0))
    assert np.array_equal(theirs > TOLERANCE, (theirs > TOLERANCE) & (ours > 0))


def test_weights_equal_pytorchs_logits_pooled_by_the_formula(
    network: "BertForMaskedLM", folder: Path, texts: list[str]
) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), 20):
            batch = tokenizer(
                texts[start : start + 20],
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            )
            logits = network(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits.masked_fill(batch["attention_mask"][:, :, None] == 0, float("-inf"))
            rows.append(torch.log1p(torch.relu(logits)).amax(dim=1).numpy())

    model = SparseTextEmbedding(folder)

    assert model.max_length == MAX_LENGTH
    assert_equal(dense(list(model.embed(texts))), np.concatenate(rows))


def test_weights_equal_those_of_sentence_transformers_symmetric_encoder(
    folder: Path, texts: list[str], tmp_path: Path
) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    theirs = SparseEncoder(
        modules=[MLMTransformer(str(folder), max_seq_length=MAX_LENGTH), SpladePooling()], device="cpu"
    )
    ours = saved(theirs, tmp_path / "symmetric", folder)

    assert_equal(dense(list(ours.embed(texts))), encoded(theirs, texts, "document"))
    assert_equal(dense(list(ours.query_embed(texts[:50]))), encoded(theirs, texts[:50], "query"))


def test_weights_equal_those_of_sentence_transformers_inference_free_encoder(
    folder: Path, texts: list[str], tmp_path: Path
) -> None:
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import (
        MLMTransformer,
        SparseStaticEmbedding,
        SpladePooling,
    )

    network = MLMTransformer(str(folder), max_seq_length=MAX_LENGTH)
    table = torch.rand(VOCABULARY, generator=torch.Generator().manual_seed(0)) * 5
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(network.tokenizer, weight=table, frozen=True)],
        document_modules=[network, SpladePooling(activation_function="log1p_relu")],
    )
    theirs = SparseEncoder(modules=[router], device="cpu")
    ours = saved(theirs, tmp_path / "inference_free", folder)

    assert ours.fingerprint["activation"] == "log1p_log1p"
    documents, queries = encoded(theirs, texts, "document"), encoded(theirs, texts[100:150], "query")
    # No query contains a special token, so a document's weight for one never counts and is left out here.
    special = ours.tokenizer.special_ids
    documents[:, special] = queries[:, special] = 0
    our_documents = dense(list(ours.embed(texts)))
    our_queries = dense(list(ours.query_embed(texts[100:150])))

    assert float(np.abs(our_documents - documents).max()) < TOLERANCE
    assert float(np.abs(our_queries - queries).max()) < TOLERANCE
    assert (our_queries > 0).any(axis=1).all()


def saved(theirs: "SparseEncoder", place: Path, folder: Path) -> SparseTextEmbedding:
    """Save the reference model, add the ONNX file where its exporter puts it, and open the folder."""
    theirs.save_pretrained(str(place))
    network = next(iter(place.glob("document_0_*")), place)
    (network / "onnx").mkdir()
    (network / "onnx" / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    return SparseTextEmbedding(place)


def encoded(theirs: "SparseEncoder", texts: list[str], side: str) -> np.ndarray:
    encode = theirs.encode_document if side == "document" else theirs.encode_query
    rows: np.ndarray = encode(
        texts, batch_size=20, convert_to_sparse_tensor=False, convert_to_tensor=True, show_progress_bar=False
    ).numpy()
    return rows
