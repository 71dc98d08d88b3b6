"""`migrate`: real folders, qdrant-client's local mode in place of a server, and a real kill."""

import itertools
import json
import os
import random
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    IndexLockedError,
    InputError,
    ServerError,
    SpladeError,
    StorageError,
)
from splade_retriever.index import connection as server
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.migrate import migrate
from tests.command import run_command
from tests.python_process import PythonProcess
from tests.qdrant_server import ServerAddress
from tests.rest_server import CuttingProxy, RestServer
from tests.words import LetterEncoder, WordEncoder

ROOT = Path(__file__).parents[2]
WORDS = ("moon", "rover", "lander", "orbit", "dust", "crater", "launch", "rocket", "ice", "signal", "ramp")


def texts(n: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in range(n)]


def fill(place: Path, n: int = 150, **settings: Any) -> None:
    with SpladeIndex(place, model=WordEncoder(), indexed_fields={"year": "integer"}, **settings) as index:
        index.add(
            texts(n),
            [{"year": 2000 + k % 9, "share": k / 7, "owner": f"o{k % 3}"} for k in range(n)],
            [f"d{k}" for k in range(n)],
        )


def content(client: Any, collection: str = "splade") -> dict[Any, Any]:
    """Everything that a client gives of a collection, in a form that can be compared."""
    records, _ = client.scroll(collection, limit=100_000, with_payload=True, with_vectors=True)
    return {record.id: (rounded(record.payload), rounded(plain(record.vector))) for record in records}


def plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: plain(value) for name, value in vector.items()}
    if isinstance(vector, models.SparseVector):
        return sorted(zip(vector.indices, vector.values, strict=True))
    return vector


def rounded(value: Any) -> Any:
    """JSON with floats as far as every engine keeps them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def everything(folder: Path) -> dict[Any, Any]:
    with EdgeClient(folder) as client:
        return content(client)


def test_a_folder_is_copied_with_its_indexes_settings_and_vector_parameters(tmp_path: Path) -> None:
    fill(tmp_path / "a", dense=LetterEncoder(), max_active_dims=12, datatype="float16")

    report = migrate(tmp_path / "a", tmp_path / "b")

    assert (report.state, report.points, report.copied, report.present) == ("new", 150, 150, 0)
    assert report.payload_indexes == ["metadata.year"]
    assert report.queries == 20
    assert report.model == "words"
    assert everything(tmp_path / "b") == everything(tmp_path / "a")
    with EdgeClient(tmp_path / "a") as one, EdgeClient(tmp_path / "b") as other:
        before, after = one.get_collection("splade"), other.get_collection("splade")
        assert after.config.params == before.config.params
        assert after.config.metadata == before.config.metadata
        assert after.config.hnsw_config == before.config.hnsw_config
        assert {k: v.data_type for k, v in after.payload_schema.items()} == {
            k: v.data_type for k, v in before.payload_schema.items()
        }
    with SpladeIndex(tmp_path / "b", model=WordEncoder(), dense=LetterEncoder()) as index:
        assert index.get(["d7"])[0].metadata["year"] == 2007
        assert index.add([texts(150)[7]], [{"year": 1}], ["d7"]) == ["d7"]


def test_an_unchanged_text_is_not_encoded_again_after_the_migration(tmp_path: Path) -> None:
    fill(tmp_path / "a", 20)
    migrate(tmp_path / "a", tmp_path / "b")

    encoder = WordEncoder()
    with SpladeIndex(tmp_path / "b", model=encoder) as index:
        index.add(texts(20), ids=[f"d{k}" for k in range(20)])
    assert encoder.encoded == 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name == "collection.json"
    }


def test_the_source_is_never_changed(tmp_path: Path) -> None:
    fill(tmp_path / "a", 70)
    before, settings = everything(tmp_path / "a"), files_of(tmp_path / "a")

    migrate(tmp_path / "a", tmp_path / "b")

    assert everything(tmp_path / "a") == before
    assert files_of(tmp_path / "a") == settings


def test_a_collection_is_equal_after_a_migration_to_a_client_and_back(tmp_path: Path) -> None:
    fill(tmp_path / "a", 130)
    client = QdrantClient(":memory:")
    try:
        there = migrate(tmp_path / "a", client, target_collection="docs")
        back = migrate(client, tmp_path / "b", collection="docs", target_collection="splade")

        assert (there.copied, back.copied) == (130, 130)
        assert content(client, "docs") == everything(tmp_path / "a") == everything(tmp_path / "b")
        with SpladeIndex(client=client, collection="docs", model=WordEncoder()) as index:
            assert index.search("moon")
    finally:
        client.close()


COPYING = """
import sys
from splade_retriever.maintenance.migrate import migrate
migrate(sys.argv[1], sys.argv[2], on_progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.faults
def test_after_a_kill_the_second_run_copies_only_what_is_missing(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1500)
    with PythonProcess(COPYING, str(tmp_path / "a"), str(tmp_path / "b")) as process:
        done = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
        done += [int(line) for line in process.stdout if line.endswith("\n")]
    assert 320 <= done[-1] < 1500, "the process was killed too late"

    with pytest.raises(CollectionMismatchError, match="not complete: `splade migrate`"):
        SpladeIndex(tmp_path / "b", model=WordEncoder())
    planned = migrate(tmp_path / "a", tmp_path / "b", dry_run=True)
    report = migrate(tmp_path / "a", tmp_path / "b")

    assert planned.state == report.state == "unfinished"
    assert report.present >= done[-1]
    assert planned.copied == report.copied == 1500 - report.present
    assert everything(tmp_path / "b") == everything(tmp_path / "a")
    with SpladeIndex(tmp_path / "b", model=WordEncoder()) as index:
        assert index.count() == 1500


class StoppedError(Exception):
    pass


def stopped_after(points: int) -> Any:
    def on_progress(done: int, total: int) -> None:
        if done >= points:
            raise StoppedError

    return on_progress


def test_changes_of_the_source_between_two_runs_are_copied(tmp_path: Path) -> None:
    fill(tmp_path / "a", 300)
    with pytest.raises(StoppedError):
        migrate(tmp_path / "a", tmp_path / "b", on_progress=stopped_after(200))
    with EdgeClient(tmp_path / "b") as half:
        copied = [(record.payload or {})["_splade"]["id"] for record in half.scroll("splade", limit=1000)[0]]
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        index.delete(copied[:3])
        index.update_metadata(copied[3], {"year": 1969})
        index.add(["another text of the moon"], ids=[copied[4]])

    report = migrate(tmp_path / "a", tmp_path / "b")

    assert report.removed == 3
    assert report.present == len(copied) - 5
    assert everything(tmp_path / "b") == everything(tmp_path / "a")


def test_a_complete_target_is_compared_and_never_written(tmp_path: Path) -> None:
    fill(tmp_path / "a", 80)
    migrate(tmp_path / "a", tmp_path / "b")

    again = migrate(tmp_path / "a", tmp_path / "b")
    assert (again.state, again.copied, again.present, again.queries) == ("complete", 0, 80, 20)

    with SpladeIndex(tmp_path / "b", model=WordEncoder()) as index:
        index.update_metadata("d5", {"year": 1})
    after = everything(tmp_path / "b")
    with pytest.raises(
        CollectionMismatchError, match="it has 80 points, the source 80, of which 1 are missing or different"
    ):
        migrate(tmp_path / "a", tmp_path / "b")
    assert everything(tmp_path / "b") == after


def test_a_target_of_another_model_raises_with_both_names(tmp_path: Path) -> None:
    fill(tmp_path / "a", 5)
    with SpladeIndex(tmp_path / "b", model=WordEncoder("other")) as index:
        index.add(["moon"], ids=["m"])
    before = everything(tmp_path / "b")

    with pytest.raises(CollectionMismatchError, match=r"'other'.*'words'.*encoder.*Nothing was written"):
        migrate(tmp_path / "a", tmp_path / "b")
    assert everything(tmp_path / "b") == before


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", 40)

    report = migrate(tmp_path / "a", tmp_path / "b", dry_run=True)

    assert (report.state, report.points, report.copied, report.dry_run) == ("new", 40, 40, True)
    assert report.vectors == ["splade"]
    assert not (tmp_path / "b").exists()


def test_a_tilde_in_a_place_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "a", 40)

    with pytest.raises(InputError, match="both collection 'splade'"):
        migrate("~/a", tmp_path / "a")
    planned = migrate("~/a", "~/b", dry_run=True)
    assert (planned.target, planned.copied) == (str(tmp_path / "b"), 40)
    assert migrate("~/a", "~/b").copied == 40
    again = migrate("~/a", "~/b", dry_run=True)
    assert (again.state, again.present) == ("complete", 40)
    with pytest.raises(InputError, match="a host and a port without a scheme"):
        migrate("~/a", "host:6333")


def test_a_missing_source_raises_and_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "a", 1)

    with pytest.raises(CollectionNotFoundError, match="no index folder"):
        migrate(tmp_path / "none", tmp_path / "b")
    with pytest.raises(CollectionNotFoundError, match="empty"):
        migrate(tmp_path / "empty", tmp_path / "b")
    with pytest.raises(CollectionNotFoundError, match=r"'docs'.*found: 'splade'"):
        migrate(tmp_path / "a", tmp_path / "b", collection="docs")
    assert not (tmp_path / "b").exists()
    assert not any((tmp_path / "empty").iterdir())


def test_a_folder_in_use_raises(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    with EdgeProcess(tmp_path / "a"), pytest.raises(IndexLockedError, match="already open"):
        migrate(tmp_path / "a", tmp_path / "b")
    with EdgeProcess(tmp_path / "b"), pytest.raises(IndexLockedError, match="already open"):
        migrate(tmp_path / "a", tmp_path / "b")


def test_source_and_target_must_differ_but_may_share_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "a", 30)

    with pytest.raises(InputError, match="both collection 'splade'"):
        migrate(tmp_path / "a", str(tmp_path / "a"))
    assert migrate(tmp_path / "a", tmp_path / "a", target_collection="copy").copied == 30
    with EdgeClient(tmp_path / "a") as client:
        assert content(client, "copy") == content(client)


def test_a_collection_of_another_program_is_copied_too(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "a") as client:
        client.create_collection(
            "notes", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
        )
        client.upsert(
            "notes", [models.PointStruct(id=n, vector=[n, 1.0], payload={"n": n}) for n in range(1, 90)]
        )

    report = migrate(tmp_path / "a", tmp_path / "b", collection="notes")

    assert (report.model, report.vectors, report.copied, report.queries) == (None, [""], 89, 20)
    with EdgeClient(tmp_path / "b") as client:
        assert not client.get_collection("notes").config.metadata
        (found,) = client.retrieve("notes", [7], with_vectors=True)
        assert (found.vector, found.payload) == ([7.0, 1.0], {"n": 7})


def test_an_empty_collection_and_texts_without_tokens_are_copied(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        assert index.count() == 0
    assert migrate(tmp_path / "a", tmp_path / "b").points == 0
    with SpladeIndex(tmp_path / "c", model=WordEncoder()) as index:
        index.add(["...", "moon"], ids=["dots", "moon"])
    migrate(tmp_path / "c", tmp_path / "d")
    with SpladeIndex(tmp_path / "d", model=WordEncoder()) as index:
        assert [hit.text for hit in index.get(["dots", "moon"])] == ["...", "moon"]


class Lossy(EdgeClient):
    """An engine that answers queries with other scores than it should."""

    def query_batch_points(self, *args: Any, **kwargs: Any) -> list[models.QueryResponse]:
        answers = super().query_batch_points(*args, **kwargs)
        for answer in answers:
            for point in answer.points:
                point.score += 0.01
        return answers


def test_a_target_with_other_search_results_is_not_complete(tmp_path: Path) -> None:
    fill(tmp_path / "a", 30)
    with Lossy(tmp_path / "b") as client, pytest.raises(StorageError, match="not verified"):
        migrate(tmp_path / "a", client)
    with pytest.raises(SpladeError, match="not complete"):
        SpladeIndex(tmp_path / "b", model=WordEncoder())


def test_the_command_prints_its_plan_and_its_result(tmp_path: Path) -> None:
    fill(tmp_path / "a", 10)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return run_command(["migrate", "a", "b", *options], tmp_path, environment=dict(os.environ))

    assert "10 points would be copied" in run("--dry-run").stdout
    done = json.loads(run("--json").stdout)
    assert (done["copied"], done["queries"], done["state"]) == (10, 10, "new")
    assert "all 10 points exist in the target" in run().stdout
    missing = run("--collection", "docs")
    assert missing.returncode == 1
    assert missing.stderr.startswith("splade: There is no collection 'docs'")


@pytest.mark.parametrize("fault", ["stopped", "gone"])
def test_a_migration_to_a_server_and_back_survives_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(server, "_WAITS_S", (0.01, 0.02))
    fill(tmp_path / "a", 400, dense=LetterEncoder(), tenant_field="owner")
    with RestServer() as rest, CuttingProxy(rest.port) as proxy:
        proxy.cuts = ["request", "pass", "answer"]

        def interrupt(done: int, total: int) -> None:
            if done >= 128 and fault == "stopped":
                raise StoppedError
            if done >= 128:
                proxy.go_away()

        with pytest.raises((StoppedError, ServerError)):
            migrate(tmp_path / "a", proxy.url, on_progress=interrupt, retry_for=0.3)
        proxy.come_back()
        with pytest.raises(CollectionMismatchError, match="not complete: `splade migrate`"):
            SpladeIndex(proxy.url, model=WordEncoder())

        there = migrate(tmp_path / "a", proxy.url)
        assert (there.present, there.copied, there.queries) == (128, 272, 20)
        assert there.payload_indexes == ["metadata.owner", "metadata.year"]
        schema = rest.store.get_collection("splade").payload_schema
        assert {path: index.data_type for path, index in schema.items()} == {
            "metadata.owner": "keyword",
            "metadata.year": "float",
        }
        assert is_tenant_field(schema["metadata.owner"])
        with pytest.raises(CollectionMismatchError, match="'words', but this index uses model 'other'"):
            SpladeIndex(proxy.url, model=WordEncoder("other"))
        back = migrate(proxy.url, tmp_path / "b")
        assert (back.copied, back.queries) == (400, 20)
    assert everything(tmp_path / "b") == everything(tmp_path / "a")
    with SpladeIndex(tmp_path / "b", model=WordEncoder()) as index:
        assert is_tenant_field(index.client.get_collection("splade").payload_schema["metadata.owner"])


def is_tenant_field(info: models.PayloadIndexInfo) -> bool:
    return isinstance(info.params, models.KeywordIndexParams) and info.params.is_tenant is True


def test_the_command_moves_a_folder_to_a_server(tmp_path: Path) -> None:
    fill(tmp_path / "a", 10)
    with RestServer() as rest:
        done = run_command(["migrate", "a", rest.url, "--json"], tmp_path, environment=dict(os.environ))
        assert json.loads(done.stdout)["copied"] == 10, done.stderr
        assert content(rest.store) == everything(tmp_path / "a")


def test_writes_to_the_source_during_a_migration_are_copied(tmp_path: Path) -> None:
    fill(tmp_path / "a", 300)
    with RestServer() as rest, SpladeIndex(rest.url, model=WordEncoder()) as writer:
        writer.add(texts(300), [{"year": k} for k in range(300)], [f"d{k}" for k in range(300)])

        def write(done: int, total: int) -> None:
            if done == 192:
                ids = [hit.id for hit in writer.scroll()]
                writer.update_metadata(ids[0], {"year": 1969})
                writer.delete([ids[1], ids[-1]])
                writer.add(["new words of the moon", "changed words"], ids=["new", ids[2]])

        report = migrate(rest.url, tmp_path / "b", on_progress=write)

        assert everything(tmp_path / "b") == content(rest.store)
    assert report.points == 299
    assert 1 <= report.removed <= 2, "the last document may be deleted before it is read"
    assert report.passes == 2


def test_a_source_that_is_changed_all_the_time_is_an_error_that_says_so(tmp_path: Path) -> None:
    with RestServer() as rest, SpladeIndex(rest.url, model=WordEncoder()) as index:
        index.add(texts(10), ids=[f"d{k}" for k in range(10)])
        point = rest.store.scroll("splade", limit=1)[0][0].id
        year = itertools.count()

        def write(method: str, path: str, body: dict[str, Any]) -> None:
            if path.endswith("/points/scroll"):
                rest.store.set_payload("splade", {"metadata": {"year": next(year)}}, points=[point])

        rest.on_request = write
        with pytest.raises(StorageError, match=r"was changed during each of 10 .* Stop the programs"):
            migrate(rest.url, tmp_path / "b")
        with pytest.raises(CollectionMismatchError, match="not complete: `splade migrate`"):
            SpladeIndex(tmp_path / "b", model=WordEncoder())

        rest.on_request = lambda method, path, body: None
        assert migrate(rest.url, tmp_path / "b").state == "unfinished"
        assert everything(tmp_path / "b") == content(rest.store)


@pytest.mark.server
def test_to_a_real_server_and_back(tmp_path: Path, empty_server: ServerAddress) -> None:
    url, key = empty_server.url, empty_server.api_key
    name = f"splade-test-{uuid.uuid4().hex[:8]}"
    fill(tmp_path / "a", 300, dense=LetterEncoder())
    client = empty_server.client()
    try:
        with pytest.raises(StoppedError):
            migrate(tmp_path / "a", url, target_collection=name, api_key=key, on_progress=stopped_after(128))
        time.sleep(0.1)
        there = migrate(tmp_path / "a", url, target_collection=name, api_key=key)
        assert (there.present, there.copied, there.queries) == (128, 172, 20)
        assert list(client.get_collection(name).payload_schema) == ["metadata.year"]
        migrate(url, tmp_path / "b", collection=name, target_collection="splade", source_api_key=key)
        assert everything(tmp_path / "b") == everything(tmp_path / "a")
    finally:
        client.delete_collection(name)
        client.close()
