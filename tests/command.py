"""Run the `splade` command and scripts in the tests' process, which saves the imports of a new process."""

import gc
import io
import logging
import os
import runpy
import subprocess
import sys
import warnings
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
        _enter(patch, folder, environment)
        patch.setattr(sys, "argv", ["splade", *arguments])
        patch.setattr(sys, "stdin", _stream(stdin or ""))
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", errors)
        try:
            status = _run_main()
        finally:
            logger.handlers[:] = handlers
    return subprocess.CompletedProcess(["splade", *arguments], status, _text(output), _text(errors))


def run_script(script: Path, *, environment: Mapping[str, str]) -> None:
    """Run a script in its folder as `python -W error::DeprecationWarning:__main__ script` would."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
        warnings.filterwarnings("ignore", message=".* is in beta")  # LangChain's note on `loads`
        _enter(patch, script.parent, environment)
        patch.syspath_prepend(script.parent)
        patch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
    gc.collect()  # what the script left open is closed before the next test


def _enter(patch: pytest.MonkeyPatch, folder: Path, environment: Mapping[str, str]) -> None:
    """Set the working folder and the environment of this process."""
    patch.chdir(folder)
    for name in set(os.environ) - set(environment):
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)


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
