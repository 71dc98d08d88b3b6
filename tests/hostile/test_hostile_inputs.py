"""Damaged files, texts and requests: a right result or a known error, with limits of memory and time.

They are read in a separate process, so that an abort of native code, a hang or memory beyond the limit
is a failure that names the input: `python -m tests.hostile.run KIND NUMBER 1` reads it again.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.cases import CASES

pytest.importorskip("pyarrow", reason="needs the extra `bulk`")
pytest.importorskip("starlette", reason="needs the extra `web`")

EXAMPLES = 5
SLOW_EXAMPLES = 400


def read(kinds: str, first: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.hostile.run", kinds, str(first), str(count)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}\n{done.stderr[-4000:]}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_hostile_input_is_read_or_raises_a_known_error() -> None:
    read(",".join(CASES), 0, EXAMPLES)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("kind", CASES)
def test_many_hostile_inputs_are_read_or_raise_a_known_error(kind: str) -> None:
    read(kind, EXAMPLES, SLOW_EXAMPLES)
