"""Weights equal FastEmbed's for the same ONNX file, on real texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splade_retriever import SparseEmbedding, SparseTextEmbedding
from tests.mlm_graphs import Shape, real_texts, save_folder

fastembed = pytest.importorskip("fastembed", reason="FastEmbed is not installed (extra `test`)")

SHAPE = Shape(vocab=30522, hidden=32, layers=2, positions=512)
MODEL = "prithivida/Splade_PP_en_v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("splade"), SHAPE)


@pytest.fixture(scope="module")
def texts(request: pytest.FixtureRequest) -> list[str]:
    """Sentences, paragraphs, and one text of more than 512 tokens; 300 with --slow, else 100.

    FastEmbed's pooling takes most of the time.
    """
    paragraphs = sorted(real_texts(), key=len)
    sentences = [text.split(". ")[0] for text in paragraphs[-270:]]
    texts = [*sentences, *paragraphs[-400:-371], " ".join(paragraphs[-4:])]
    assert len(texts) == 300
    return texts if request.config.getoption("--slow") else texts[2::3]


@pytest.fixture(scope="module")
def theirs(folder: Path, texts: list[str]) -> Any:
    reference = fastembed.SparseTextEmbedding(MODEL, specific_model_path=str(folder), threads=1)
    return list(reference.embed(texts, batch_size=8))


def dense(embedding: SparseEmbedding) -> np.ndarray:
    row = np.zeros(SHAPE.vocab)
    row[embedding.indices] = embedding.values
    return row


def test_every_weight_equals_fastembeds_within_1e_4(folder: Path, texts: list[str], theirs: Any) -> None:
    ours = list(SparseTextEmbedding(MODEL, specific_model_path=str(folder)).embed(texts))
    assert len(ours) == len(theirs) == len(texts) >= 100
    for own, other in zip(ours, theirs, strict=True):
        assert np.abs(dense(own) - dense(other)).max() < 1e-4
        np.testing.assert_array_equal(dense(own) > 1e-4, dense(other) > 1e-4)
    active = [len(embedding.indices) for embedding in theirs]
    assert 30 < np.mean(active) < 6000


def test_the_batch_size_does_not_change_the_comparison_with_fastembed(
    folder: Path, texts: list[str], theirs: Any
) -> None:
    model = SparseTextEmbedding(MODEL, specific_model_path=str(folder))
    for own, other in zip(model.embed(texts[:20], batch_size=1), theirs[:20], strict=True):
        assert np.abs(dense(own) - dense(other)).max() < 1e-4
