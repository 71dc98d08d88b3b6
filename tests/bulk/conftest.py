"""Fixtures of the tests of bulk encoding."""

import json
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from tests.tiny import write_tiny_model

WORDS = ["moon", "rover", "lunar", "water", "ice", "orbit", "rocket", "pole"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SparseTextEmbedding:
    return SparseTextEmbedding(write_tiny_model(tmp_path_factory.mktemp("bulk") / "tiny"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [
        {"id": f"d{n}", "text": f"the {WORDS[n % 8]} of the {WORDS[n * 3 % 8]}", "year": n, "title": "moon"}
        for n in range(30)
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
