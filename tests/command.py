"""Run the `splade` command in the tests' process, which saves each command the imports of a new process."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from splade_retriever.cli.commands import main


def run_command(
    arguments: Sequence[str], folder: Path, *, environment: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Call the function that the `splade` program calls, with its arguments, folder, environment and streams.

    Libraries that read the environment when they are imported see the one of the tests, and the index folders
    that a test has open are shared. Where a test is about either, start a process.
    """
    logger = logging.getLogger("splade_retriever")
    handlers = list(logger.handlers)
    output, errors = _stream(), _stream()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["splade", *arguments])
        patch.setattr(sys, "stdin", _stream(stdin or ""))
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", errors)
        try:
            status = _run_main()
        finally:
            logger.handlers[:] = handlers
    return subprocess.CompletedProcess(["splade", *arguments], status, _text(output), _text(errors))


def _run_main() -> int:
    """Return the exit status that a process would have."""
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _stream(content: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
