"""Reads hostile inputs one after another in this process, which has limits of memory and time.

`python -m tests.hostile.run KINDS FIRST COUNT` prints each kind and number before it is read.
"""

import faulthandler
import logging
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

from tests.hostile.cases import CASES

MEMORY_BYTES = 3 << 30
"""More than a real input needs: address space, above what the process has when it starts."""
SECONDS = 180


def main(kinds: list[str], first: int, count: int) -> int:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="splade-hostile-") as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        for kind in kinds:
            folder = Path(temporary, kind)
            folder.mkdir()
            for number in range(first, first + count):
                print(f"{kind} {number}", flush=True)
                faulthandler.dump_traceback_later(SECONDS, exit=True)
                CASES[kind](random.Random(f"{kind} {number}"), folder)
                faulthandler.cancel_dump_traceback_later()
                if number == first:  # it has opened what all of a kind share
                    _limit_memory()
    return 0


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])))
