"""Fixtures that several tests of the encoder share."""

from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_cards import Catalogue, published
from tests.tiny import write_tiny_model


@pytest.fixture(scope="session")
def bundled() -> SparseTextEmbedding:
    return SparseTextEmbedding()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> SparseTextEmbedding:
    return SparseTextEmbedding(tiny_folder)


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Make models that a test registers known only to that test, without any accepted licence."""
    monkeypatch.delenv("SPLADE_ACCEPT_LICENSE", raising=False)
    fresh = Catalogue(published())
    monkeypatch.setattr(SparseTextEmbedding, "_catalogue", fresh)
    return fresh
