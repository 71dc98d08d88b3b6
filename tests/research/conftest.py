"""The pipeline, run once on a tiny sample."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.model_building.sample import Made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("research")


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Made":
    from tests.model_building.sample import run_pipeline

    return run_pipeline(tmp_path_factory.mktemp("training"))
