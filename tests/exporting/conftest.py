"""Fixtures of the tests of exports."""

from pathlib import Path

import pytest

from tests.exporting.checkpoints import (
    save_checkpoint,
    save_encoder,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "mine")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Path:
    """The same network as sentence-transformers saves it."""
    return save_encoder(checkpoint.parent / "encoder", checkpoint)
