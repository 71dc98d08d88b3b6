"""Processes that run Python code, for tests that kill, fork and lock.

They are forked from one process per test worker, the fork server of multiprocessing, which has imported the
package: a new interpreter takes more than a second to import qdrant-client. Each has its own memory, locks
and standard streams, as with `python -c CODE ARGUMENTS`. It ends without the finalizers of objects: tests of
the end of an interpreter start `sys.executable`.
"""

import atexit
import multiprocessing
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import TracebackType
from typing import NoReturn, Self, TextIO

import pytest

ROOT = Path(__file__).parents[1]
PRELOADED = ["splade_retriever.index.splade_index", "splade_retriever.edge.process", "tests.words"]


def run_python(code: str, *arguments: str, timeout: float = 60) -> CompletedProcess[str]:
    """Run code in a process, and return its status and what it printed, in `stdout` and `stderr`.

    Raises:
        TimeoutExpired: If it takes longer than `timeout` seconds; it is killed.
    """
    with PythonProcess(code, *arguments) as process:
        return process.finish(timeout=timeout)


class PythonProcess:
    """A process that runs Python code in the root of the repository; the end of a `with` block kills it.

    Attributes:
        pid: The process id.
        stdin: Its standard input; closed by `finish`.
        stdout: Its standard output.
    """

    def __init__(self, code: str, *arguments: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        child_input, input_end = context.Pipe(duplex=False)
        output_end, child_output = context.Pipe(duplex=False)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        child_errors = Connection(os.dup(self._errors.fileno()), readable=False)
        streams = (child_input, child_output, child_errors)
        # A daemon is killed with the tests' process, where a failed test left it waiting.
        self._process = context.Process(
            target=_run, args=(code, arguments, dict(os.environ), streams), daemon=True
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # where the fork server finds `tests`
            self._process.start()
        for stream in streams:
            stream.close()
        self.pid: int = self._process.pid or 0
        self.stdin: TextIO = _text_stream(input_end, "w")
        self.stdout: TextIO = _text_stream(output_end, "r")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.close()
        for stream in (self.stdin, self.stdout, self._errors):
            stream.close()

    @property
    def status(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.join()

    def finish(self, input: str = "", *, timeout: float = 60) -> CompletedProcess[str]:
        """Write to its standard input and close it, read its standard output, and wait for its end.

        Raises:
            TimeoutExpired: If that takes longer than `timeout` seconds; it is killed.
        """
        self.stdin.write(input)
        self.stdin.close()
        killer = threading.Timer(timeout, self._process.kill)
        killer.start()
        output = self.stdout.read()
        self._process.join()
        if not killer.is_alive():
            raise TimeoutExpired("Python code", timeout, output)
        killer.cancel()
        self._errors.seek(0)
        assert self.status is not None
        return CompletedProcess("Python code", self.status, output, self._errors.read().decode("utf-8"))


def _text_stream(end: Connection, mode: str) -> TextIO:
    stream = open(os.dup(end.fileno()), mode, encoding="utf-8")  # noqa: SIM115 - closed by the process
    end.close()
    return stream  # type: ignore[return-value]


def _run(
    code: str, arguments: tuple[str, ...], environment: Mapping[str, str], streams: tuple[Connection, ...]
) -> NoReturn:
    """Run code in the child, and end it as an interpreter ends: threads first, then exit handlers."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = _status(end)
    except BaseException:  # noqa: BLE001 - what an interpreter prints before it ends
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(end: SystemExit) -> int:
    """Return the exit status, and print a message that stands in its place."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
