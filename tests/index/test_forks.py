"""An index in a child of os.fork(), as in gunicorn --preload or Celery, answers or raises, and never hangs.

The parent has searched and has threads. It is a fresh interpreter, without the threads of the test run.
"""

from pathlib import Path

import pytest

from tests.python_process import run_python

ROOT = Path(__file__).parents[2]

SCRIPT = """
import asyncio, faulthandler, os, sys
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.errors import SpladeError
from tests.index.parts import client_of
from tests.rest_server import RestServer
from tests.words import LetterEncoder, WordEncoder

faulthandler.dump_traceback_later(45, exit=True)
store, parent_first = sys.argv[1], sys.argv[2]

def ids(hits):
    return [hit.id for hit in hits]

def calls(index):
    yield "asearch", lambda: ids(asyncio.run(index.asearch("lander", mode="sparse"))) == ["a"]
    yield "hybrid", lambda: set(ids(asyncio.run(index.asearch("lander")))) == {"a", "b"}
    yield "search", lambda: ids(index.search("lander", mode="sparse")) == ["a"]
    yield "acount", lambda: asyncio.run(index.acount()) == 2
    yield "scroll", lambda: {hit.id for hit in index.scroll()} == {"a", "b"}

def run(index):
    for name, call in calls(index):
        try:
            print(os.getpid() == parent, name, call(), flush=True)
        except SpladeError as error:
            print(os.getpid() == parent, name, type(error).__name__, flush=True)

parent = os.getpid()
server = RestServer().__enter__() if store == "rest" else None
if store == "folder":
    index = SpladeIndex(sys.argv[3], model=WordEncoder(), dense=LetterEncoder())
elif store == "rest":
    index = SpladeIndex(server.url, model=WordEncoder(), dense=LetterEncoder())
else:
    index = SpladeIndex(client=client_of("local"), model=WordEncoder(), dense=LetterEncoder())
index.add(["the lander", "the rover"], ids=["a", "b"])
if parent_first == "async":
    run(index)
else:
    index.search("lander")
child = os.fork()
if child == 0:
    run(index)
    os._exit(0)
_, status = os.waitpid(child, 0)
run(index)
os._exit(os.waitstatus_to_exitcode(status))
"""


def run(store: str, parent_first: str, folder: Path) -> list[str]:
    """Search in a parent, its forked child, and the parent again; return what both print."""
    done = run_python(SCRIPT, store, parent_first, str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CALLS = ("asearch", "hybrid", "search", "acount", "scroll")


@pytest.mark.parametrize("parent_first", ["async", "sync"])
@pytest.mark.parametrize("store", ["rest", "local"])
def test_a_forked_child_searches_a_server_and_local_mode(
    store: str, parent_first: str, tmp_path: Path
) -> None:
    lines = run(store, parent_first, tmp_path / "index")

    parent = [f"True {name} True" for name in CALLS]
    child = [f"False {name} True" for name in CALLS]
    assert lines == [*(parent if parent_first == "async" else []), *child, *parent]


@pytest.mark.parametrize("parent_first", ["async", "sync"])
def test_a_forked_child_of_an_embedded_index_is_refused_at_once(parent_first: str, tmp_path: Path) -> None:
    lines = run("folder", parent_first, tmp_path / "index")

    parent = [f"True {name} True" for name in CALLS]
    child = [f"False {name} ForkedProcessError" for name in CALLS]
    assert lines == [*(parent if parent_first == "async" else []), *child, *parent]
