"""The processes that other tests start."""

import os
from subprocess import TimeoutExpired

import pytest

from tests.python_process import ROOT, PythonProcess, run_python


def test_code_runs_with_its_arguments_and_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("VALUE", value)
        done = run_python(
            "import os, sys; print(sys.argv[1:], os.environ['VALUE'], os.getcwd()); sys.exit('failed')",
            "a",
            "b",
        )
        assert (done.returncode, done.stdout) == (1, f"['a', 'b'] {value} {ROOT}\n")


def test_an_error_is_printed_and_exit_handlers_run() -> None:
    done = run_python("import atexit; atexit.register(print, 'bye'); 1 / 0")

    assert (done.returncode, done.stdout) == (1, "bye\n")
    assert "ZeroDivisionError" in done.stderr


def test_a_process_waits_for_its_input_and_can_be_killed() -> None:
    code = "import os\nprint(os.getpid(), flush=True)\nprint('read', input())"
    with PythonProcess(code) as process, PythonProcess(code) as killed:
        assert [int(one.stdout.readline()) for one in (process, killed)] == [process.pid, killed.pid]
        assert len({process.pid, killed.pid, os.getpid()}) == 3
        killed.kill()
        assert killed.status == -9
        assert process.status is None
        assert process.finish("a line\n").stdout == "read a line\n"


def test_a_process_is_killed_after_its_time() -> None:
    with pytest.raises(TimeoutExpired):
        run_python("import time; time.sleep(60)", timeout=0.1)
