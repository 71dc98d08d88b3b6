"""Processes, their memory, and the names of the processor and packages, for all benchmarks."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from splade_retriever.encoding.encode_stream import cores


def in_a_process(program: str, *arguments: str) -> tuple[Any, float]:
    """Run a program; return the JSON of its last line, None if it died, and the seconds that it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        report(f"ended with {done.returncode} (-9 is the system's word for out of memory)")
        return None, time.perf_counter() - started
    return json.loads(done.stdout.strip().splitlines()[-1]), time.perf_counter() - started


def report(line: str) -> None:
    """Print progress to standard error; only the table goes to standard output."""
    print(line, file=sys.stderr, flush=True)


def peak_memory_mb() -> float:
    """Return the peak memory of this process in 10^6 bytes, mapped files included."""
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss would count the parent's memory at the fork, too.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def processor() -> str:
    """Return the name of the processor and its number of cores."""
    listed: Iterable[str] = ()
    if Path("/proc/cpuinfo").is_file():
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in listed if line.startswith("model name")]
    flags = next((line for line in listed if line.startswith("flags")), "")
    extra = [name for name in ("avx512_vnni", "avx_vnni", "amx_int8") if name in flags.split()]
    named = models[0] if models else platform.machine()
    return f"{cores()} cores of {named} ({', '.join(extra) or 'no VNNI'})"


def gpu() -> str:
    """Return what nvidia-smi calls the GPUs of this machine."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"a GPU that nvidia-smi does not name ({type(error).__name__})"
    return "; ".join(done.stdout.split("\n")).strip("; ")


def versions(*packages: str) -> str:
    """Return packages with their installed versions."""
    return ", ".join(f"{name} {version(name)}" for name in packages)
