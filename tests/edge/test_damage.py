"""Damaged index folders: a flipped bit is an error or changes nothing. No wrong results, aborts or hangs."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.edge.checksums import Checksums
from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import StorageError
from tests.python_process import run_python

pytestmark = pytest.mark.faults

NAME = "docs"
QUERY = models.SparseVector(indices=[1, 2, 3], values=[1.0, 2.0, 3.0])
FLIPS = 50
"""With --slow three times as many."""

# Flips bits of copies of a folder, opens each copy and prints what happened. A crash of the engine ends this
# program, and so fails the test.
FLIP = """
import json, sys
from pathlib import Path
from tests.edge.test_damage import answers_of_copy, outcome
folder, flips = Path(sys.argv[1]), json.loads(sys.argv[2])
expected = answers_of_copy(folder)
for name, offset, bit in flips:
    print(json.dumps([name, offset, bit, outcome(folder, expected, (name, offset, bit))]), flush=True)
"""


def build(folder: Path, *, indexed: bool) -> None:
    client = EdgeClient(folder)
    client.create_collection(
        NAME, vectors_config={}, sparse_vectors_config={"splade": models.SparseVectorParams()}
    )
    if indexed:
        client.create_payload_index(NAME, "n", models.PayloadSchemaType.INTEGER)
        client.create_payload_index(NAME, "text", models.PayloadSchemaType.KEYWORD)
    client.upsert(
        NAME,
        [
            models.PointStruct(
                id=n,
                vector={
                    "splade": models.SparseVector(indices=[n % 5, 5 + n % 7], values=[1.0, 0.5 + n / 50])
                },
                payload={"text": f"text {n}", "n": n % 4},
            )
            for n in range(50)
        ],
    )
    client.close()


def answers(folder: Path) -> Any:
    client = EdgeClient(folder)
    try:
        points, _ = client.scroll(NAME, limit=100, with_vectors=True)
        filtered = models.Filter(must=[models.FieldCondition(key="n", match=models.MatchValue(value=2))])
        found = client.query_points(NAME, query=QUERY, using="splade", limit=50, query_filter=filtered).points
        return json.loads(
            json.dumps([[point.model_dump(mode="json") for point in side] for side in (points, found)])
        )
    finally:
        client.close()


def copied(folder: Path) -> Path:
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-r", "--sparse=always", str(folder), str(copy)], check=True)
    return copy


def answers_of_copy(folder: Path) -> Any:
    return answers(copied(folder))


def outcome(folder: Path, expected: Any, flip: tuple[str, int, int]) -> str:
    """Flip one bit in a copy of an index, and return the error, "same" or "WRONG"."""
    name, offset, bit = flip
    copy = copied(folder)
    with open(copy / name, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))
    try:
        return "same" if answers(copy) == expected else "WRONG"
    except StorageError as error:
        return f"error: {error}"


def flips(folder: Path, count: int) -> list[tuple[str, int, int]]:
    """Choose bits of the bytes that a file really has, as often in small files as in large ones."""
    chosen = random.Random(7)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    found: list[tuple[str, int, int]] = []
    while len(found) < count:
        path = chosen.choice(files)
        # Large files are mostly holes: prefer their first bytes.
        size = path.stat().st_size if chosen.random() < 0.3 else min(path.stat().st_size, 4096)
        found.append((path.relative_to(folder).as_posix(), chosen.randrange(size), chosen.randrange(8)))
    return found


@pytest.mark.faults
@pytest.mark.parametrize("indexed", [False, True])
def test_a_flipped_bit_is_an_error_or_changes_nothing(
    tmp_path: Path, indexed: bool, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "index"
    build(folder, indexed=indexed)
    count = 3 * FLIPS if request.config.getoption("--slow") else FLIPS
    chosen = flips(folder, count)

    finished = run_python(FLIP, str(folder), json.dumps(chosen), timeout=300)

    assert finished.returncode == 0, finished.stderr
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(results) == count
    assert not [result for result in results if result[3] == "WRONG"]
    assert (
        len([result for result in results if "changed since the index was closed" in result[3]]) > count / 2
    )


def first_shard(folder: Path) -> Path:
    (shard,) = folder.glob("collections/*/shard")
    return shard


def test_the_error_names_the_damaged_file_and_the_folder_stays_openable_after_a_repair(
    tmp_path: Path,
) -> None:
    build(tmp_path / "index", indexed=False)
    status = next(first_shard(tmp_path / "index").rglob("deleted/status.dat"))
    original = status.read_bytes()
    status.write_bytes(b"\xff" * len(original))

    client = EdgeClient(tmp_path / "index")
    with pytest.raises(
        StorageError, match=r"'docs'.*damaged: segments/.*status\.dat changed since the index was"
    ):
        client.count(NAME)
    client.close()

    status.write_bytes(original)
    assert len(answers(tmp_path / "index")[0]) == 50


def test_a_missing_and_an_added_file_are_damage(tmp_path: Path) -> None:
    build(tmp_path / "index", indexed=False)
    shard = first_shard(tmp_path / "index")
    checksums = Checksums(shard, shard.parent / "checksums.json")
    assert checksums.damaged() == []

    (shard / "extra").write_bytes(b"x")
    (shard / "edge_config.json").unlink()

    assert checksums.damaged() == ["edge_config.json", "extra"]


def test_filling_the_holes_of_a_sparse_file_is_no_damage(tmp_path: Path) -> None:
    build(tmp_path / "index", indexed=False)
    shard = first_shard(tmp_path / "index")
    page = next(shard.rglob("page_0.dat"))
    page.write_bytes(page.read_bytes())

    assert Checksums(shard, shard.parent / "checksums.json").damaged() == []


def test_a_shard_that_ends_the_process_is_an_error_after_a_kill(tmp_path: Path) -> None:
    """A killed process leaves no checksums; the engine then opens the shard in a child process first."""
    build(tmp_path / "index", indexed=False)
    shard = first_shard(tmp_path / "index")
    (shard.parent / "checksums.json").unlink()
    status = next(shard.rglob("deleted/status.dat"))
    status.write_bytes(b"\xff" * status.stat().st_size)

    client = EdgeClient(tmp_path / "index")
    with pytest.raises(StorageError, match=r"cannot be opened: the engine"):
        client.count(NAME)
    client.close()


def test_opening_after_a_kill_imports_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", indexed=False)
    (first_shard(tmp_path / "index").parent / "checksums.json").unlink()
    here = tmp_path / "here"
    here.mkdir()
    (here / "qdrant_edge.py").write_text("from pathlib import Path\nPath('imported').touch()\n", "utf-8")
    monkeypatch.chdir(here)

    with EdgeClient(tmp_path / "index") as client:
        assert client.count(NAME).count == 50

    assert [path.name for path in here.iterdir()] == ["qdrant_edge.py"]


def test_a_damaged_manifest_does_not_keep_a_healthy_index_closed(tmp_path: Path) -> None:
    build(tmp_path / "index", indexed=False)
    manifest = first_shard(tmp_path / "index").parent / "checksums.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"format": 1', '"format": 3'), "utf-8")

    assert len(answers(tmp_path / "index")[0]) == 50
