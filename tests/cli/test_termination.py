"""SIGTERM, as `docker stop` and systemd send it, ends a command after it closed its index."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splade_retriever import SpladeIndex

pytest.importorskip("uvicorn", reason="needs the extra `web`")

ROOT = Path(__file__).parents[2]


def test_the_page_closes_its_index_when_the_system_ends_it(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index") as index:
        index.add(["The lander reached the Moon."])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "splade_retriever", "serve", "--index", str(tmp_path / "index")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([*command, "--port", str(port)], env=environment) as process:
        wait_for_page(port)
        assert not list(tmp_path.glob("index/collections/*/checksums.json"))
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    assert process.returncode == 143
    assert list(tmp_path.glob("index/collections/*/checksums.json"))


def wait_for_page(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the page is not served"
            time.sleep(0.1)
