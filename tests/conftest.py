"""Skip tests that need a network, a server, PyTorch or much time, unless these are available."""

import contextlib
import gc
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before Haystack and ONNX Runtime are imported: they decide then whether to send usage statistics.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import pytest
from hypothesis import HealthCheck, settings
from qdrant_client import QdrantClient

from tests.qdrant_server import (
    HOW_TO_GET_ONE,
    Cluster,
    QdrantServer,
    ServerAddress,
    emptied,
    given_server,
    program,
)

# Helpers with assertions: pytest rewrites them, so that a failure shows the values.
pytest.register_assert_rewrite("tests.llama_index.suite", "tests.notebooks")

_ORACLES = ("torch", "transformers", "sentence_transformers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="run tests that download from the model hub")
    parser.addoption("--slow", action="store_true", help="run tests of more than 20 seconds")
    parser.addoption("--research", action="store_true", help="run the tests of the experiments")


def pytest_configure(config: pytest.Config) -> None:
    """Choose where temporary folders are, and what hypothesis tries and allows."""
    if "TMPDIR" not in os.environ and _has_room(_MEMORY):
        os.environ["TMPDIR"] = _MEMORY
        tempfile.tempdir = None  # it is looked up again
    # Before transformers is imported: it copies the code of trusted models to the user's cache folder.
    os.environ["HF_MODULES_CACHE"] = modules = tempfile.mkdtemp(prefix="modules-")
    config.add_cleanup(lambda: shutil.rmtree(modules, ignore_errors=True))
    any_machine = settings(
        # A busy machine fails no test; a fixture that each example shares is meant to be shared.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    settings.register_profile("quick", any_machine, max_examples=30)
    settings.register_profile("complete", any_machine, max_examples=100)
    settings.load_profile("complete" if config.getoption("--slow") else "quick")
    gc.disable()  # until the tests are collected: modules stay


def pytest_collection_finish() -> None:
    """Let the garbage collector skip the modules, and run less often: it took a quarter of the time."""
    gc.freeze()
    gc.set_threshold(5000, 20, 20)
    gc.enable()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be absent
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start one worker more than there are processors, since some tests wait for a child or a time limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return (len(affinity(0)) if affinity else os.cpu_count() or 1) + 1


_MEMORY = "/dev/shm"
"""A file system in memory. On a disk, tests mostly wait until it has written what an index flushed."""
_ROOM_BYTES = 4 << 30


def _has_room(folder: str) -> bool:
    """Return whether a folder can take the temporary folders of a run, programs included."""
    try:
        may_execute = not os.statvfs(folder).f_flag & os.ST_NOEXEC
        return may_execute and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM_BYTES
    except (OSError, AttributeError):  # not on Linux
        return False


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
    if program() is None:
        reasons["own_server"] = f"starts Qdrant servers: {HOW_TO_GET_ONE}"
        if given_server() is None:
            reasons["server"] = f"needs a Qdrant server: {HOW_TO_GET_ONE}, or set QDRANT_URL"
    if not config.getoption("--research"):
        reasons["research"] = "tests an experiment; run with --research"
    missing = [name for name in _ORACLES if importlib.util.find_spec(name) is None]
    if missing:
        reasons["oracle"] = f"{missing[0]} is not installed; pip install 'splade-retriever[oracle]'"
    return reasons


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the graphs that the tests rewrite out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        # huggingface_hub's cache stays where the user has it, for tests that need the hub.
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        patch.setenv("HF_HOME", os.environ.get("HF_HOME") or os.path.join(home, "huggingface"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _children_without_fastembed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide FastEmbed, which few users have, from the processes that tests start.

    qdrant-client imports it if it is installed, which takes half a second per process.
    """
    folder = tmp_path_factory.mktemp("without_fastembed")
    (folder / "fastembed.py").write_text("raise ImportError('hidden by the tests')\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, which is faster for small matrices."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", name="server_address")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    """The server that tests marked `server` share: the one at QDRANT_URL, else one per process."""
    given = given_server()
    if given is not None:
        yield given
        return
    server = QdrantServer(tmp_path_factory.mktemp("qdrant")).start()
    yield server.address
    server.kill()


@pytest.fixture(scope="session")
def server_client(server_address: ServerAddress) -> Iterator[QdrantClient]:
    """A client of the shared server."""
    client = server_address.client()
    yield client
    client.close()


@pytest.fixture
def empty_server(server_address: ServerAddress, server_client: QdrantClient) -> Iterator[ServerAddress]:
    """The shared server without collections, for one test; what the test creates is deleted after it."""
    with emptied(server_client, server_address.url):
        yield server_address


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., QdrantServer]]:
    """Start a server for one test, with the arguments of `QdrantServer`; mark the test `own_server`."""
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> QdrantServer:
            server = QdrantServer(tmp_path / f"qdrant{len(started)}", **options)  # type: ignore[arg-type]
            started.append(server)
            stack.callback(server.kill)
            return server.start()

        started: list[QdrantServer] = []
        yield start


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes for one test; mark the test `own_server`."""
    nodes = Cluster(tmp_path / "cluster")
    try:
        yield nodes.start()
    finally:
        nodes.kill()
