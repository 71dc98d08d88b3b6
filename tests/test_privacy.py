"""Indexing and searching with the bundled model sends nothing and writes nothing outside the index."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import asyncio, sys, time
from splade_retriever import SpladeIndex

async def search(index):
    return await index.asearch("lunar")

with SpladeIndex(sys.argv[1], engine_in_subprocess=True) as index:
    index.add(["The rover landed on the moon.", "Bread is baked in an oven."], ids=["moon", "bread"])
    assert index.search("lunar")[0].id == "moon"
    assert asyncio.run(search(index))[0].id == "moon"
time.sleep(float(sys.argv[2]))
"""
INTERNET = re.compile(r"(?:connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?\b.*")
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')


def environment(home: Path) -> dict[str, str]:
    """Return an environment with an empty home folder, as of a user who has set nothing."""
    ours = ("ORT_", "HF_", "XDG_", "SPLADE_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | {"HOME": str(home)}


def written(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_indexing_and_searching_write_nothing_to_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path / "index"), "1"],
        env=environment(home),
        check=True,
        timeout=120,
    )

    assert written(home) == []


def test_indexing_and_searching_contact_no_other_machine(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    allowed = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip(f"strace cannot trace here: {allowed.stderr.decode().strip()}")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    tracer = [strace, "-f", "-qq", "-e", "trace=%network", "-o", str(trace)]

    subprocess.run(
        # ONNX Runtime's first event is sent 9 seconds after its import.
        [*tracer, sys.executable, "-c", JOB, str(tmp_path / "index"), "12"],
        env=environment(home),
        check=True,
        timeout=300,
    )

    calls = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    assert any("socket" in call for call in calls), "strace recorded no network call at all"
    assert [call for call in calls if INTERNET.search(call) and not LOOPBACK.search(call)] == []


def test_importing_qdrant_client_after_the_package_starts_no_telemetry(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    script = "import splade_retriever, qdrant_client, onnxruntime"
    subprocess.run([sys.executable, "-c", script], env=environment(home), check=True, timeout=120)

    assert written(home) == []


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_users_choice_about_telemetry_is_kept(tmp_path: Path, value: str) -> None:
    script = "import os, splade_retriever; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path) | {"ORT_DISABLE_TELEMETRY": value},
        capture_output=True,
        text=True,
        check=True,
    )

    assert printed.stdout.strip() == value
