"""The pipeline, run once on a tiny sample."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.model_building.sample import Made


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Made":
    from tests.model_building.sample import run_pipeline

    return run_pipeline(tmp_path_factory.mktemp("training"))
