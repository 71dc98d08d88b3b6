"""Fixtures of the tests of configurations."""

from pathlib import Path

import pytest

from splade_retriever import SpladeIndex

TEXTS = {
    "rover": ("The rover left the lander on the Moon.", {"year": 2023}),
    "orbit": ("A rocket lifted the lander to a lunar orbit.", {"year": 1969}),
    "tides": ("Tides follow the Moon.", {"year": 1687}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index in `index`."""
    folder = tmp_path_factory.mktemp("project")
    texts, metadatas = zip(*TEXTS.values(), strict=True)
    with SpladeIndex(folder / "index") as index:
        index.add(texts, metadatas=metadatas, ids=list(TEXTS))
    return folder
