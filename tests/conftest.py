"""Skip tests that need a network, a server, PyTorch or much time, unless these are available."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

# Helpers with assertions: pytest rewrites them, so that a failure shows the values.
pytest.register_assert_rewrite("tests.llama_index.suite", "tests.notebooks")

_ORACLES = ("torch", "transformers", "sentence_transformers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="run tests that download from the model hub")
    parser.addoption("--slow", action="store_true", help="run tests of more than 20 seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip with a reason. `-ra` in pyproject.toml prints the reasons at the end of the run."""
    reasons = _reasons(config)
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _reasons(config: pytest.Config) -> dict[str, str]:
    """Map each marker to the reason why its tests cannot run."""
    reasons = {}
    if not config.getoption("--network"):
        reasons["network"] = "needs the model hub; run with --network"
    if not config.getoption("--slow"):
        reasons["slow"] = "takes more than 20 seconds; run with --slow"
    if not os.environ.get("QDRANT_URL"):
        reasons["server"] = "needs a Qdrant server; set QDRANT_URL"
    missing = [name for name in _ORACLES if importlib.util.find_spec(name) is None]
    if missing:
        reasons["oracle"] = f"{missing[0]} is not installed; pip install 'splade-retriever[oracle]'"
    return reasons


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, which is faster for small matrices."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
