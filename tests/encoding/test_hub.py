"""Downloads from a server that speaks the hub's protocol; each client is a process with a new home folder."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.encoding.hub_client import REPO, Client
from tests.hub_server import COMMIT, HubServer


@pytest.fixture(scope="module")
def large() -> bytes:
    """Return more than two of the client's chunks of 10 MiB, so that a part of it is kept."""
    return random.Random(0).randbytes(25 << 20)


@pytest.fixture
def hub(large: bytes) -> Iterator[HubServer]:
    with HubServer(REPO, {"tokenizer.json": b"{}", "model.onnx": large}) as server:
        yield server


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path, hub.url)


def test_the_first_use_downloads_with_a_progress_bar_and_the_second_sends_no_request(
    hub: HubServer, client: Client, large: bytes
) -> None:
    # tqdm draws the bar for a terminal; with this variable it also draws it for a pipe.
    first = client.fetch(env={"TQDM_POSITION": "-1"})

    assert first["revision"] == COMMIT
    assert Path(first["folder"], "model.onnx").read_bytes() == large
    assert Path(first["folder"], "tokenizer.json").read_bytes() == b"{}"
    assert "model.onnx: 100%" in first["stderr"]
    assert str(client.home) in first["folder"]

    hub.requests.clear()
    second = client.fetch()

    assert hub.requests == []
    assert second["folder"] == first["folder"]
    assert second["revision"] == COMMIT


def test_huggingface_hub_finds_the_download_in_the_shared_cache(hub: HubServer, client: Client) -> None:
    snapshot = client.fetch()
    script = f"from huggingface_hub import snapshot_download as s; print(s({REPO!r}, local_files_only=True))"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env=client.environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert printed.stdout.strip() == snapshot["folder"]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"local_files_only": True}, {}, "local_files_only=True forbids"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1 forbids"),
    ],
)
def test_offline_sends_no_request_whether_the_model_is_cached_or_not(
    hub: HubServer,
    client: Client,
    arguments: dict[str, object],
    environment: dict[str, str],
    message: str,
) -> None:
    error = client.fetch(env=environment, **arguments)["error"]

    assert hub.requests == []
    assert message in error
    assert "'mine'" in error
    assert str(client.home) in error
    assert "tokenizer.json, model.onnx missing" in error
    assert "specific_model_path=" in error

    client.fetch()
    hub.requests.clear()

    assert client.fetch(env=environment, **arguments)["revision"] == COMMIT
    assert hub.requests == []


def test_a_download_that_the_server_interrupts_continues_in_the_next_process(
    hub: HubServer, client: Client, large: bytes
) -> None:
    hub.cut_after = len(large) - 100
    error = client.fetch()["error"]

    assert "'mine'" in error
    assert "continue where it stopped" in error

    hub.cut_after, hub.broken = None, False
    hub.ranges.clear()
    snapshot = client.fetch()

    assert hub.ranges == [f"bytes={20 << 20}-"]
    assert Path(snapshot["folder"], "model.onnx").read_bytes() == large


@pytest.mark.faults
def test_a_download_whose_process_is_killed_continues_in_the_next_process(
    hub: HubServer, client: Client, large: bytes
) -> None:
    hub.stall_after = len(large) - 100
    killed = subprocess.Popen(
        client.command(), env=client.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert hub.stalled.wait(30)
    _wait_for(lambda: any(path.stat().st_size >= 20 << 20 for path in client.home.rglob("*.partial")))
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    hub.stall_after = None
    hub.ranges.clear()
    snapshot = client.fetch()

    assert hub.ranges == [f"bytes={20 << 20}-"]
    assert Path(snapshot["folder"], "model.onnx").read_bytes() == large
    assert not list(client.home.rglob("*.partial"))


def test_a_partial_file_with_other_content_is_detected(hub: HubServer, client: Client, large: bytes) -> None:
    hub.cut_after = len(large) - 100
    client.fetch()
    (partial,) = client.home.rglob("*.partial")
    partial.write_bytes(bytes(partial.stat().st_size))
    hub.cut_after, hub.broken = None, False

    assert "arrived damaged" in client.fetch()["error"]
    assert Path(client.fetch()["folder"], "model.onnx").read_bytes() == large


def test_two_processes_at_once_download_once_and_both_get_the_complete_file(
    hub: HubServer, client: Client, large: bytes
) -> None:
    both = [
        subprocess.Popen(client.command(), env=client.environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in both]

    assert answers[0] == answers[1]
    assert Path(answers[0]["folder"], "model.onnx").read_bytes() == large
    assert sum(request == "GET /store/model.onnx" for request in hub.requests) == 1


def test_a_wrong_name_a_wrong_revision_and_a_missing_file_have_different_messages(
    hub: HubServer, client: Client
) -> None:
    assert "no such repository" in client.fetch(repo="someone/else")["error"]
    assert "no revision 'v9'" in client.fetch(revision="v9")["error"]
    missing = client.fetch(files=["tokenizer.json", "other.onnx"])["error"]
    assert "a file is missing in the repository" in missing
    assert "other.onnx" in missing


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "accept its terms at"),
        (401, None, "access was refused"),
        (403, None, "access was refused"),
    ],
)
def test_the_error_of_a_closed_repository_says_how_to_get_access(
    hub: HubServer, client: Client, status: int, code: str | None, message: str
) -> None:
    hub.refuse = status, code

    error = client.fetch()["error"]

    assert message in error
    assert "HF_TOKEN" in error


def test_a_token_is_sent_to_the_hub_and_not_to_a_store_on_another_host(
    hub: HubServer, client: Client
) -> None:
    client.fetch(env={"HF_TOKEN": "hf_secret"})

    logins = {path.split("/")[1]: login for path, login in hub.logins}
    assert logins["someone"] == "Bearer hf_secret"
    assert logins["store"] is None


def test_an_unreachable_server_raises_a_clear_error_within_seconds(tmp_path: Path) -> None:
    with HubServer(REPO, {}) as server:
        endpoint = server.url
    started = time.monotonic()
    error = Client(tmp_path, endpoint).fetch()["error"]

    assert time.monotonic() - started < 12
    assert "it cannot be reached" in error
    assert endpoint in error
    assert "Traceback" not in error


def test_a_commit_requested_by_hash_is_the_commit_that_is_opened(hub: HubServer, client: Client) -> None:
    assert client.fetch(revision=COMMIT)["revision"] == COMMIT
    hub.requests.clear()
    assert client.fetch(revision=COMMIT)["revision"] == COMMIT
    assert hub.requests == []


def test_the_cache_folder_is_the_argument_then_the_environment(
    hub: HubServer, client: Client, tmp_path: Path
) -> None:
    argument, home = tmp_path / "argument", tmp_path / "hf"

    assert client.fetch(cache_dir=str(argument))["folder"].startswith(str(argument))
    assert client.fetch(env={"HF_HOME": str(home)})["folder"].startswith(str(home))


def test_a_file_removed_from_the_cache_is_downloaded_again(hub: HubServer, client: Client) -> None:
    folder = Path(client.fetch()["folder"])
    link = folder / "model.onnx"
    link.resolve().unlink()
    link.unlink()

    assert Path(client.fetch()["folder"], "model.onnx").stat().st_size == 25 << 20


def _wait_for(condition: object, limit_s: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)
