"""Opening a folder: sharing it in a process, reading copies of it, and leaving foreign files alone."""

import gc
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.edge.checksums import json_checksum
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import (
    CollectionNotFoundError,
    IndexClosedError,
    IndexLockedError,
    InputError,
    NotSupportedError,
    SpladeError,
    StorageError,
)
from tests.edge.conftest import DENSE, ROOT, SPARSE, point, weights
from tests.python_process import PythonProcess, run_python


def fill(folder: Path, count: int = 3) -> None:
    with EdgeClient(folder) as client:
        client.create_collection("c", DENSE, SPARSE)
        client.upsert("c", [point(n, n=n) for n in range(count)])


def contents(folder: Path) -> dict[str, Any]:
    """Return every path below a folder with its type and content; links are not followed."""
    found: dict[str, Any] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            kind = stat.S_IFMT(path.lstat().st_mode)
            found[str(path.relative_to(folder))] = (
                kind,
                path.read_bytes() if kind == stat.S_IFREG else None,
            )
    return found


OPEN_AND_WAIT = """
import sys
from splade_retriever.edge.client import EdgeClient
client = EdgeClient(sys.argv[1], read_only=sys.argv[2:] == ["read"])
print(client.count("c").count if client.collection_exists("c") else "empty", flush=True)
sys.stdin.readline()
"""


# -- sharing -------------------------------------------------------------------------------------------------


def test_clients_of_one_process_share_a_folder_until_the_last_closes(tmp_path: Path) -> None:
    fill(tmp_path)
    first, second = EdgeClient(tmp_path), EdgeClient(str(tmp_path / "."))
    second.upsert("c", [point(10)])
    assert first.count("c").count == 4
    first.create_collection("d", DENSE)
    first.close()
    with pytest.raises(IndexClosedError):
        first.count("c")

    assert second.collection_exists("d")
    assert second.count("c").count == 4
    done = run_python(OPEN_AND_WAIT, str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")  # the second client still has the folder
    assert "IndexLockedError" in done.stderr
    second.close()
    with EdgeClient(tmp_path) as third:
        assert third.count("c").count == 4


def test_a_folder_is_shared_through_a_link_to_it(tmp_path: Path) -> None:
    fill(tmp_path / "index")
    (tmp_path / "link").symlink_to(tmp_path / "index")

    with EdgeClient(tmp_path / "index") as one, EdgeClient(tmp_path / "link") as other:
        one.upsert("c", [point(7)])
        assert other.count("c").count == 4


def test_a_forgotten_client_releases_its_share(tmp_path: Path) -> None:
    first, second = EdgeClient(tmp_path), EdgeClient(tmp_path)
    del first
    gc.collect()
    second.create_collection("c", DENSE)
    second.close()
    with EdgeClient(tmp_path) as third:
        assert third.collection_exists("c")


def test_a_shared_engine_is_not_moved_to_a_child(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as one, EdgeClient(tmp_path) as other:
        with pytest.raises(NotSupportedError, match="2 clients"):
            EdgeProcess.taking_over(one)
        one.create_collection("c", DENSE)
        assert other.collection_exists("c")


@pytest.mark.parametrize("use", ["nowhere", "vector", "query", "delete", "filter", "recreate"])
def test_a_refused_call_does_not_keep_the_folder_open(tmp_path: Path, use: str) -> None:
    fill(tmp_path)
    client = EdgeClient(tmp_path)
    by_id = models.Filter(must=[models.HasIdCondition(has_id=["no id"])])
    calls: dict[str, Callable[[EdgeClient], object]] = {
        "nowhere": lambda client: client.count("nowhere"),
        "vector": lambda client: client.upsert("c", [point(1, dense=[1.0])]),
        "query": lambda client: client.query_points("c", [1.0], using="dense"),
        "delete": lambda client: client.set_payload("c", {"a": 1}, [99]),
        "filter": lambda client: client.count("c", by_id),
        "recreate": lambda client: client.create_collection("c", DENSE),
    }
    opened = client._folder._open
    gc.disable()
    try:
        try:
            calls[use](client)
        except SpladeError:
            pass
        else:
            pytest.fail("the call was to be refused")
        del client
        assert opened.closed
    finally:
        gc.enable()


# -- reading only --------------------------------------------------------------------------------------------


def test_a_read_only_client_reads_a_copy_and_refuses_writes(tmp_path: Path) -> None:
    fill(tmp_path)
    before = contents(tmp_path)
    with EdgeClient(tmp_path, read_only=True) as client:
        assert client.count("c").count == 3
        assert len(client.query_points("c", weights(i1=1.0), using="sparse").points) == 3
        for write in (
            lambda: client.upsert("c", [point(9)]),
            lambda: client.delete("c", [1]),
            lambda: client.create_collection("d", DENSE),
            lambda: client.delete_collection("c"),
            lambda: client.replace_collection("d", "c"),
            lambda: client.update_collection("c", metadata={"a": 1}),
            lambda: client.create_payload_index("c", "n", "integer"),
            lambda: client.optimize("c"),
        ):
            with pytest.raises(NotSupportedError, match="read-only"):
                write()
        copy = client._folder.path
    assert contents(tmp_path) == before
    assert not copy.exists()


def test_several_processes_read_a_folder_at_once(tmp_path: Path) -> None:
    fill(tmp_path)
    readers = [PythonProcess(OPEN_AND_WAIT, str(tmp_path), "read") for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "3\n"
    with EdgeClient(tmp_path) as writer:  # the readers have their copies
        writer.upsert("c", [point(9)])
        with EdgeClient(tmp_path, read_only=True) as current:  # shares the engine of this process
            assert current.count("c").count == 4
            with pytest.raises(NotSupportedError):
                current.delete("c", [1])
        late = run_python(OPEN_AND_WAIT, str(tmp_path), "read")
        assert (late.returncode, late.stdout) == (1, "")
    for reader in readers:
        with reader:
            assert reader.finish("\n").returncode == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "index")
    for path in [tmp_path / "index", *(tmp_path / "index").rglob("*")]:
        path.chmod(path.stat().st_mode & 0o555)
    with EdgeClient(tmp_path / "index", read_only=True) as client:
        assert client.count("c").count == 3
    with pytest.raises(StorageError):
        EdgeClient(tmp_path / "index")


def test_a_read_only_mount_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "index")
    program = tmp_path / "read.py"
    program.write_text(
        "import sys\n"
        "from splade_retriever.edge.client import EdgeClient\n"
        "print(EdgeClient(sys.argv[1], read_only=True).count('c').count)\n"
        "EdgeClient(sys.argv[1])\n"
    )
    index = tmp_path / "index"
    script = (
        f"mount --bind {index} {index} && mount -o remount,bind,ro {index} && "
        f"exec {sys.executable} {program} {index}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "EdgeClient" not in done.stderr and "StorageError" not in done.stderr:
        pytest.skip(f"this system mounts nothing here: {done.stderr.strip()}")
    assert done.stdout == "3\n"
    assert "Read-only file system" in done.stderr


def test_a_missing_index_is_not_created_to_read_it(tmp_path: Path) -> None:
    for options in ({"read_only": True}, {"create": False}):
        with pytest.raises(CollectionNotFoundError, match="no index"):
            EdgeClient(tmp_path, **options)
        with pytest.raises(CollectionNotFoundError, match="no index"):
            EdgeClient(tmp_path / "nowhere", **options)
    with pytest.raises(InputError, match="read_only"):
        EdgeClient(read_only=True)
    assert list(tmp_path.iterdir()) == []


# -- foreign files -------------------------------------------------------------------------------------------


def test_opening_removes_only_leftovers_of_this_package(tmp_path: Path) -> None:
    fill(tmp_path)
    collections = tmp_path / "collections"
    (name,) = (item.name for item in collections.iterdir())
    leftover = collections / f".new-{name}-0123abcd"
    (leftover / "shard" / "wal").mkdir(parents=True)
    (leftover / ".collection.json.0123456789abcdef.new").write_text("{")
    (collections / f".old-{name}-0123abcd" / "shard").mkdir(parents=True)
    kept = [".git", ".ssh", f".new-{name}-0123abcg", ".old-x", f".old-{name}-89abcdef"]
    for folder in kept:
        (collections / folder).mkdir()
        (collections / folder / "id_rsa").write_text("secret")
    (collections / ".DS_Store").write_text("")
    (collections / "Thumbs.db").write_text("")
    (collections / "empty").mkdir()

    with EdgeClient(tmp_path) as client:
        assert client.count("c").count == 3
    assert {item.name for item in collections.iterdir()} == {name, *kept, ".DS_Store", "Thumbs.db", "empty"}
    assert all((collections / folder / "id_rsa").read_text() == "secret" for folder in kept)


def test_links_below_an_index_are_refused_and_their_targets_stay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "key").write_text("secret")
    index = home / "repo" / "index"
    index.mkdir(parents=True)
    (index / "edge.json").write_text('{"format": 1}')
    (index / "collections").symlink_to("../..")
    before = contents(home)

    for options in ({}, {"read_only": True}, {"create": False}):
        with pytest.raises(StorageError, match="link"):
            EdgeClient(index, **options)
    assert contents(home) == before

    fill(tmp_path / "real")
    (collection,) = (tmp_path / "real" / "collections").iterdir()
    (index / "collections").unlink()
    (index / "collections").mkdir()
    (index / "collections" / collection.name).symlink_to(collection)
    before = contents(tmp_path / "real")
    for options in ({}, {"read_only": True}):
        with pytest.raises(StorageError, match="link"), EdgeClient(index, **options):
            pass
    assert contents(tmp_path / "real") == before


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_links_in_the_engines_files_are_refused(tmp_path: Path, make: Any) -> None:
    fill(tmp_path / "index")
    victim = next((tmp_path / "index").glob("collections/*/shard/segments/*/segment.json"))
    outside = tmp_path / "outside"
    shutil.move(victim, outside)
    make(victim, outside)
    before = outside.read_bytes()

    with EdgeClient(tmp_path / "index") as client, pytest.raises(StorageError, match="link"):
        client.count("c")
    assert outside.read_bytes() == before


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("name", [".lock", ".edge.json.new", "edge.json"])
def test_no_file_is_written_through_a_link(tmp_path: Path, make: Any, name: str) -> None:
    fill(tmp_path / "index")
    victim = tmp_path / "victim"
    victim.write_text('{"format": 1}')
    (tmp_path / "index" / name).unlink(missing_ok=True)
    make(tmp_path / "index" / name, victim)

    try:
        with EdgeClient(tmp_path / "index") as client:
            client.update_collection("c", metadata={"a": 1})
    except StorageError as error:
        assert "link" in str(error)  # noqa: PT017 - either outcome is right, as long as the file stays
    assert victim.read_text() == '{"format": 1}'


def test_a_folder_of_something_else_keeps_its_lock_file(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("another program's")
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(StorageError, match=r"not an index .* To search these files: `splade index "):
        EdgeClient(tmp_path)
    assert (tmp_path / ".lock").read_text() == "another program's"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [".lock", "edge.json", "collection.json"])
def test_a_named_pipe_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    path = tmp_path / name if name != "collection.json" else next(tmp_path.glob(f"collections/*/{name}"))
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(StorageError):
        EdgeClient(tmp_path)


def test_only_those_who_can_write_the_folder_can_lock_it(tmp_path: Path) -> None:
    for mode, expected in ((0o755, 0o600), (0o775, 0o660), (0o700, 0o600)):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        with EdgeClient(folder):
            assert stat.S_IMODE((folder / ".lock").stat().st_mode) == expected
        (folder / ".lock").chmod(0o644)
        with EdgeClient(folder):
            assert stat.S_IMODE((folder / ".lock").stat().st_mode) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"name": 5},
        {"name": "../x"},
        {"name": ""},
        {"config": []},
        {"payload_indexes": [1]},
        {"replaces": 7},
        {"replaces": "a/b"},
        {"config": {"vectors": 3}},
    ],
    ids=str,
)
def test_settings_of_wrong_types_are_reported_as_damaged(tmp_path: Path, changed: dict[str, Any]) -> None:
    fill(tmp_path)
    (path,) = tmp_path.glob("collections/*/collection.json")
    settings = {**json.loads(path.read_text()), **changed}
    del settings["checksum"]
    path.write_text(json.dumps({**settings, "checksum": json_checksum(settings)}))

    with pytest.raises(StorageError, match="damaged"):
        EdgeClient(tmp_path)
    for text in (b"[]", b"3", b"null", b"[" * 100_000, b"\xed\xa0\x80", b"\0"):
        path.write_bytes(text)
        with pytest.raises(StorageError, match="damaged"):
            EdgeClient(tmp_path)


@pytest.mark.parametrize("text", ["", "-1", "999999999999999999999999", "x" * 10_000, "1\n", "٣"])
def test_any_content_of_the_lock_file_is_accepted(tmp_path: Path, text: str) -> None:
    fill(tmp_path)
    (tmp_path / ".lock").write_text(text, "utf-8")
    with EdgeClient(tmp_path) as client:
        assert client.count("c").count == 3
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


# -- temporary folders ---------------------------------------------------------------------------------------


def test_temporary_folders_of_killed_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    script = """
import sys
from splade_retriever.edge.client import EdgeClient
client = EdgeClient()
print(client._folder.path, flush=True)
sys.stdin.readline()
"""
    killed, living = PythonProcess(script), PythonProcess(script)
    with killed:
        orphan, used = Path(killed.stdout.readline().strip()), Path(living.stdout.readline().strip())
        assert orphan.is_dir()  # while its process lives, nobody removes it
    foreign = orphan.with_name(orphan.name + "x")
    foreign.mkdir()  # the name alone is no proof
    ended = time.monotonic() + 20
    try:
        with EdgeClient() as client:
            while orphan.exists() and time.monotonic() < ended:
                time.sleep(0.01)  # another process of the tests may be removing it
            assert not orphan.exists()
            assert used.is_dir()
            assert foreign.is_dir()
            assert client._folder.path.is_dir()
    finally:
        foreign.rmdir()
        with living:
            living.finish("\n")
    assert not used.exists()


def test_the_error_of_a_locked_folder_names_the_other_process(tmp_path: Path) -> None:
    fill(tmp_path)
    with PythonProcess(OPEN_AND_WAIT, str(tmp_path)) as process:
        assert process.stdout.readline() == "3\n"
        for options in ({}, {"read_only": True}):
            with pytest.raises(IndexLockedError, match=rf"another process \({process.pid}\)"):
                EdgeClient(tmp_path, **options)
        process.finish("\n")
