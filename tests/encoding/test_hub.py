"""Downloads against a server that speaks the hub's protocol; every client is a process with a fresh home."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, HubServer

REPO = "someone/splade"
FETCH = """
import json, sys
from splade_retriever.errors import ModelFilesError
from splade_retriever.encoding.hub import fetch
try:
    found = fetch(**json.loads(sys.argv[1]))
    print(json.dumps({"folder": str(found.folder), "revision": found.revision}))
except ModelFilesError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def large() -> bytes:
    """More than two of the client's chunks of 10 MiB, so that half of it is worth keeping."""
    return random.Random(0).randbytes(25 << 20)


@pytest.fixture
def hub(large: bytes) -> Iterator[HubServer]:
    with HubServer(REPO, {"tokenizer.json": b"{}", "model.onnx": large}) as server:
        yield server


class Client:
    """Runs `fetch` in a new process, as a user's program would."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home, self.endpoint = home, endpoint

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HTTP"))
        }
        # The client's proxies, where it has any, are not for localhost.
        local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {**kept, **local, "HOME": str(self.home), "HF_ENDPOINT": self.endpoint, **more}

    def command(self, **arguments: object) -> list[str]:
        asked = {"repo": REPO, "files": ["tokenizer.json", "model.onnx"], "model": "mine", **arguments}
        return [sys.executable, "-c", FETCH, json.dumps(asked)]

    def fetch(self, *, env: dict[str, str] | None = None, **arguments: object) -> dict[str, str]:
        done = subprocess.run(
            self.command(**arguments),
            env=self.environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, str] = json.loads(done.stdout) | {"stderr": done.stderr}
        return answer


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path, hub.url)


def test_the_first_use_downloads_with_a_progress_bar_and_the_second_asks_nothing(
    hub: HubServer, client: Client, large: bytes
) -> None:
    # The bar is drawn for a terminal; this tells tqdm to draw it for a pipe too.
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


def test_the_library_and_its_other_users_find_the_download_in_the_shared_cache(
    hub: HubServer, client: Client
) -> None:
    ours = client.fetch()
    script = f"from huggingface_hub import snapshot_download as s; print(s({REPO!r}, local_files_only=True))"
    theirs = subprocess.run(
        [sys.executable, "-c", script],
        env=client.environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert theirs.stdout.strip() == ours["folder"]


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        ({"local_files_only": True}, {}, "local_files_only=True forbids"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1 forbids"),
    ],
)
def test_offline_means_no_request_whether_the_model_is_here_or_not(
    hub: HubServer,
    client: Client,
    arguments: dict[str, object],
    environment: dict[str, str],
    named: str,
) -> None:
    refused = client.fetch(env=environment, **arguments)["error"]

    assert hub.requests == []
    assert named in refused
    assert "'mine'" in refused
    assert str(client.home) in refused
    assert "tokenizer.json, model.onnx missing" in refused
    assert "specific_model_path=" in refused

    client.fetch()
    hub.requests.clear()

    assert client.fetch(env=environment, **arguments)["revision"] == COMMIT
    assert hub.requests == []


def test_a_download_that_the_server_cuts_goes_on_in_the_next_process(
    hub: HubServer, client: Client, large: bytes
) -> None:
    hub.cut_after = len(large) - 100
    error = client.fetch()["error"]

    assert "'mine'" in error
    assert "continue where it stopped" in error

    hub.cut_after, hub.broken = None, False
    hub.ranges.clear()
    found = client.fetch()

    assert hub.ranges == [f"bytes={20 << 20}-"]
    assert Path(found["folder"], "model.onnx").read_bytes() == large


def test_a_download_whose_process_is_killed_goes_on_in_the_next_process(
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
    found = client.fetch()

    assert hub.ranges == [f"bytes={20 << 20}-"]
    assert Path(found["folder"], "model.onnx").read_bytes() == large
    assert not list(client.home.rglob("*.partial"))


def test_a_partial_file_that_is_not_the_beginning_of_this_one_is_found_out(
    hub: HubServer, client: Client, large: bytes
) -> None:
    hub.cut_after = len(large) - 100
    client.fetch()
    (partial,) = client.home.rglob("*.partial")
    partial.write_bytes(bytes(partial.stat().st_size))
    hub.cut_after, hub.broken = None, False

    assert "arrived damaged" in client.fetch()["error"]
    assert Path(client.fetch()["folder"], "model.onnx").read_bytes() == large


def test_two_processes_at_once_download_once_and_both_get_the_whole_file(
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


def test_a_wrong_name_is_told_apart_from_a_gate_and_from_a_missing_file(
    hub: HubServer, client: Client
) -> None:
    assert "no such repository" in client.fetch(repo="someone/else")["error"]
    assert "no revision 'v9'" in client.fetch(revision="v9")["error"]
    missing = client.fetch(files=["tokenizer.json", "other.onnx"])["error"]
    assert "a file is missing in the repository" in missing
    assert "other.onnx" in missing


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "GatedRepo", "accept its terms at"),
        (401, None, "access was refused"),
        (403, None, "access was refused"),
    ],
)
def test_a_closed_repository_says_how_to_get_in(
    hub: HubServer, client: Client, status: int, code: str | None, told: str
) -> None:
    hub.refuse = status, code

    error = client.fetch()["error"]

    assert told in error
    assert "HF_TOKEN" in error


def test_a_login_goes_to_the_hub_and_not_to_the_store_on_another_host(hub: HubServer, client: Client) -> None:
    client.fetch(env={"HF_TOKEN": "hf_secret"})

    logins = {path.split("/")[1]: login for path, login in hub.logins}
    assert logins["someone"] == "Bearer hf_secret"
    assert logins["store"] is None


def test_a_server_that_is_down_is_an_error_in_plain_words_within_seconds(tmp_path: Path) -> None:
    with HubServer(REPO, {}) as gone:
        endpoint = gone.url
    started = time.monotonic()
    error = Client(tmp_path, endpoint).fetch()["error"]

    assert time.monotonic() - started < 12
    assert "it cannot be reached" in error
    assert endpoint in error
    assert "Traceback" not in error


def test_a_commit_that_is_asked_for_by_hash_is_the_one_that_is_opened(hub: HubServer, client: Client) -> None:
    assert client.fetch(revision=COMMIT)["revision"] == COMMIT
    hub.requests.clear()
    assert client.fetch(revision=COMMIT)["revision"] == COMMIT
    assert hub.requests == []


def test_the_cache_folder_is_the_argument_then_the_environment(
    hub: HubServer, client: Client, tmp_path: Path
) -> None:
    given, home = tmp_path / "given", tmp_path / "hf"

    assert client.fetch(cache_dir=str(given))["folder"].startswith(str(given))
    assert client.fetch(env={"HF_HOME": str(home)})["folder"].startswith(str(home))


def test_a_file_that_disappeared_from_the_cache_is_fetched_again(hub: HubServer, client: Client) -> None:
    folder = Path(client.fetch()["folder"])
    link = folder / "model.onnx"
    link.resolve().unlink()
    link.unlink()

    assert Path(client.fetch()["folder"], "model.onnx").stat().st_size == 25 << 20


def _wait_for(true: object, limit_s: float = 20) -> None:
    assert callable(true)
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
