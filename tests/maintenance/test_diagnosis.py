"""`diagnose` on real folders: what is found, what is advised, and that nothing changes."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.edge.segments import MIN_OPTIMIZED_BYTES
from splade_retriever.errors import CollectionNotFoundError, InputError
from splade_retriever.index.collection_settings import SETTINGS_KEY, STAGING
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.diagnosis import Finding, diagnose
from splade_retriever.maintenance.diagnosis.headroom import available_memory, check_disk, check_memory
from tests.index.parts import MOON
from tests.words import WordEncoder

SPARSE = {"splade": models.SparseVectorParams()}


@pytest.fixture(scope="module", name="folder")
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of three documents, to be read only."""
    folder = tmp_path_factory.mktemp("diagnosis") / "index"
    with SpladeIndex(folder, model=WordEncoder(), indexed_fields={"n": "integer"}) as index:
        index.add(MOON, [{"n": n, "topic": {"kind": "moon"}} for n in range(3)], ["pole", "rover", "orbit"])
    return folder


def findings(folder: Path, **arguments: Any) -> dict[str, Finding]:
    """Check -> its finding."""
    return {finding.check: finding for finding in diagnose(folder, **arguments).findings}


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of each file."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def test_a_sound_folder_has_no_fault_and_is_not_changed(folder: Path) -> None:
    before = snapshot(folder)
    diagnosis = diagnose(folder, model=WordEncoder(), filters=[{"n": {"$gte": 1}}], fields=["topic.kind"])
    assert snapshot(folder) == before
    assert diagnosis.ok
    assert not diagnosis.at_level("warning")
    checks = {finding.check: finding.found for finding in diagnosis.findings}
    assert checks["model"] == "words"
    assert checks["payload index of 'n'"] == "kind float"
    assert checks["payload index of 'topic.kind'"] == "none, which 3 documents do not need"
    assert {"files", "documents", "size", "segments", "disk", "memory"} <= set(checks)


def test_another_model_than_the_recorded_one_is_a_fault(folder: Path) -> None:
    model = findings(folder, model=WordEncoder(revision="2"))["model"]
    assert model.level == "fault"
    assert "made by 'words' with revision" in model.found
    assert "'words' with revision '2' would be used" in model.found
    assert "splade reindex --model" in model.advice


def test_a_recorded_model_that_cannot_be_opened_is_a_fault(folder: Path) -> None:
    model = findings(folder)["model"]
    assert model.level == "fault"
    assert "was made by model 'words', which cannot be opened by its name here" in model.found
    assert "Pass model=" in model.advice


def test_the_share_of_truncated_documents_is_counted(tmp_path: Path) -> None:
    encoder = WordEncoder(max_length=3)
    for windows in ("truncate", "merge"):
        with SpladeIndex(tmp_path / windows, model=encoder, windows=windows) as index:
            index.add(["one two three four", "five six", "seven", "eight"])
    truncated = findings(tmp_path / "truncate", model=encoder)["long texts"]
    assert truncated.level == "warning"
    assert truncated.found.startswith("1 of 4 documents have more than 3 tokens (25.0%)")
    assert "--windows merge" in truncated.advice
    merged = findings(tmp_path / "merge", model=encoder)["long texts"]
    assert (merged.level, merged.found) == ("ok", 'encoded completely, in windows (windows="merge")')


def test_the_text_that_was_encoded_counts_for_truncation(tmp_path: Path) -> None:
    encoder = WordEncoder(max_length=3)
    with SpladeIndex(tmp_path / "index", model=encoder, windows="truncate") as index:
        index.add(["one two"], [{"title": "a long title"}], encoded_texts=["a long title\none two"])
    assert findings(tmp_path / "index", model=encoder)["long texts"].level == "warning"


def test_a_field_of_filters_that_no_document_has_is_a_warning(folder: Path) -> None:
    field = findings(folder, model=WordEncoder(), fields=["nn"])["payload index of 'nn'"]
    assert field.level == "warning"
    assert field.found == "none, and none of 3 documents has the field"


def test_many_documents_need_an_index_of_the_kind_of_their_values(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "index") as client:
        client.create_collection("docs", vectors_config={}, sparse_vectors_config=SPARSE)
        vector = {"splade": models.SparseVector(indices=[1], values=[1.0])}
        for start in range(0, 10_000, 500):
            points = [
                models.PointStruct(id=n, vector=vector, payload={"text": "moon", "years": [n, n + 1]})
                for n in range(start, start + 500)
            ]
            client.upsert("docs", points)
    checks = findings(tmp_path / "index", fields=["years"], model=WordEncoder())
    field = checks["payload index of 'years'"]
    assert (field.level, field.found) == ("warning", "none: a filter reads each of 10,000 documents")
    assert 'indexed_fields={"years": "integer"}' in field.advice
    assert checks["model"].level == "warning"
    assert "does not record its model" in checks["model"].found


def test_segments_are_unoptimized_exactly_where_the_engine_optimizes_them(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with EdgeClient(folder) as client:
        client.create_collection("docs", vectors_config={}, sparse_vectors_config=SPARSE)
        vector = models.SparseVector(indices=list(range(3_000)), values=[1.0] * 3_000)
        points = [models.PointStruct(id=n, vector={"splade": vector}, payload={}) for n in range(700)]
        client.upsert("docs", points[:100])
        assert client.unoptimized_bytes("docs") < MIN_OPTIMIZED_BYTES
        assert not client.optimize("docs")
        client.upsert("docs", points[100:])
    segments = findings(folder)["segments"]
    assert segments.level == "warning"
    assert f"splade optimize --index {folder} --collection docs" in segments.advice
    with EdgeClient(folder) as client:
        assert client.unoptimized_bytes("docs") > MIN_OPTIMIZED_BYTES
        assert client.optimize("docs")
    assert findings(folder)["segments"].level == "ok"


def test_an_incomplete_collection_is_a_fault(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with EdgeClient(copy) as client:
        client.replace_collection(
            "copy", "splade", metadata={SETTINGS_KEY: {"format": STAGING, "command": "reindex"}}
        )
    settings = findings(copy)["settings"]
    assert settings.level == "fault"
    assert "is not complete: `splade reindex`" in settings.found


def test_a_vector_that_the_collection_lacks_is_a_fault(folder: Path) -> None:
    settings = findings(folder, vector_name="other")["settings"]
    assert (settings.level, "no sparse vector named 'other'" in settings.found) == ("fault", True)


def test_a_filter_that_is_not_valid_is_a_fault(folder: Path) -> None:
    settings = findings(folder, model=WordEncoder(), filters=[{"n": {"$bad": 1}}])["settings"]
    assert (settings.level, "$bad" in settings.found) == ("fault", True)


def test_names_that_do_not_exist_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match=r"no collection 'other'.*found: 'splade'"):
        diagnose(folder, collection="other")
    with pytest.raises(CollectionNotFoundError):
        diagnose(tmp_path / "nowhere")
    with pytest.raises(InputError, match=":memory:"):
        diagnose(":memory:")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_local_mode_is_counted_without_opening_it(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "local"))
    client.create_collection("docs", vectors_config={}, sparse_vectors_config=SPARSE)
    vector = {"splade": models.SparseVector(indices=[1], values=[1.0])}
    client.upsert("docs", [models.PointStruct(id=1, vector=vector, payload={})])
    client.close()
    (small,) = diagnose(tmp_path / "local").findings
    assert (small.level, small.collection) == ("ok", "docs")
    assert small.found.startswith("1 points")

    with sqlite3.connect(tmp_path / "local" / "collection" / "docs" / "storage.sqlite") as connection:
        rows = [(str(n), b"") for n in range(20_000)]
        connection.executemany("INSERT INTO points (id, point) VALUES (?, ?)", rows)
    connection.close()
    before = snapshot(tmp_path / "local")
    (large,) = diagnose(tmp_path / "local").findings
    assert large.level == "warning"
    assert "20,001 points" in large.found
    assert f"splade migrate {tmp_path / 'local'} NEW_FOLDER --collection docs" in large.advice
    assert snapshot(tmp_path / "local") == before
    with pytest.raises(InputError, match=r"no collection 'other'.*'docs'"):
        diagnose(tmp_path / "local", collection="other")


def test_little_disk_space_is_reported(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert check_disk(tmp_path, disk_usage(tmp_path)).level == "ok"
    short = check_disk(tmp_path, 2 * free)
    assert (short.level, "second copy" in short.found) == ("warning", True)


def test_little_memory_is_reported() -> None:
    available = available_memory()
    if available is None:
        pytest.skip("needs /proc/meminfo")
    enough, short = check_memory(1), check_memory(100 * available)
    assert enough is not None
    assert enough.level == "ok"
    assert short is not None
    assert (short.level, "read from the disk" in short.found) == ("warning", True)


def test_the_limit_of_a_container_bounds_the_available_memory(tmp_path: Path) -> None:
    assert available_memory(root=tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000 kB\nMemAvailable:  4000 kB\n")
    assert available_memory(root=tmp_path) == 4_096_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_memory(root=tmp_path) == 4_096_000
    (group / "memory.max").write_text("5000\n")
    assert available_memory(root=tmp_path) == 4_000
    (group / "memory.stat").write_text("anon 400\ninactive_file 600\n")
    assert available_memory(root=tmp_path) == 4_600


def test_a_diagnosis_is_json(folder: Path) -> None:
    diagnosis = diagnose(folder, model=WordEncoder())
    assert json.loads(json.dumps(diagnosis.to_dict()))["ok"] is True
