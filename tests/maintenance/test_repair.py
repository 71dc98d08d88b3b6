"""Damaged folders: which documents are damaged, and a sound index of the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InputError,
    NotSupportedError,
    StorageError,
)
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.diagnosis import Finding, diagnose
from splade_retriever.maintenance.repair import _Work, repair
from splade_retriever.maintenance.salvage import DamagedDocument, Salvage
from tests.index.parts import MOON
from tests.python_process import run_python
from tests.words import WordEncoder

IDS = ["pole", "rover", "orbit"]
ROOT = Path(__file__).parents[2]


def overwrite(folder: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in the stored payloads."""
    changed = 0
    for page in folder.glob("collections/*/shard/segments/*/payload_storage/page_*.dat"):
        content = page.read_bytes()
        changed += content.count(old)
        page.write_bytes(content.replace(old, new))
    assert changed


def set_payload(folder: Path, id: str, changes: dict[str, Any], key: str | None = None) -> None:
    """Change a stored payload by the engine, as damage that leaves it readable would."""
    with SpladeIndex(folder, model=WordEncoder()) as index:
        points = {(record.payload or {})["_splade"]["id"]: record.id for record in index.store.scroll()}
        index.client.set_payload("splade", changes, points=[points[id]], key=key)


def findings(folder: Path) -> dict[str, Finding]:
    """Check -> its finding, for a folder with one collection."""
    return {finding.check: finding for finding in diagnose(folder, model=WordEncoder()).findings}


def found(folder: Path) -> dict[str, str | bool]:
    """Id -> reason of the damage, or whether the document is verified."""
    with Salvage(folder) as salvage:
        return {
            item.id if isinstance(item, DamagedDocument) else item.document.id: item.reason
            if isinstance(item, DamagedDocument)
            else item.verified
            for item in salvage.documents("splade")
        }


def test_a_flipped_text_is_found_and_named(folder: Path) -> None:
    overwrite(folder, b"left the lander", b"lost the lander")
    assert findings(folder)["files"].level == "fault"
    documents = findings(folder)["documents"]
    assert (documents.level, documents.documents) == ("fault", ("rover",))
    assert "'rover' (its text differs from its checksum)" in documents.found
    assert "2 can be read" in documents.found
    assert f"splade reindex --index {folder} --collection splade --repair" in documents.advice


def test_a_repaired_index_holds_the_other_documents(folder: Path, tmp_path: Path) -> None:
    overwrite(folder, b"left the lander", b"lost the lander")
    with pytest.raises(StorageError, match="damaged"):
        SpladeIndex(folder, model=WordEncoder()).search("moon")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report = repair(folder, tmp_path / "sound", model=WordEncoder())
    assert (report.documents, report.unverified, report.other_text) == (2, 0, 0)
    assert [document.id for document in report.damaged] == ["rover"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert findings(tmp_path / "sound")["documents"].found == "2 can be read; texts verified"
    with SpladeIndex(tmp_path / "sound", model=WordEncoder(), create=False) as index:
        assert [hit.id for hit in index.search("south pole")] == ["pole"]
        assert index.get(["orbit"])[0].metadata == {"n": 2}
        assert index.count({"n": {"$gte": 1}}) == 1
        assert "metadata.n" in index.store.describe().payload_schema
        encoder = index.model
        index.add([MOON[0]], [{"n": 0}], ["pole"])  # not encoded again
        assert getattr(encoder, "encoded") == 0  # noqa: B009


def test_a_document_whose_id_or_text_changed_is_damaged(folder: Path) -> None:
    set_payload(folder, "orbit", {"page_content": "Another text."})
    set_payload(folder, "rover", {"page_content": 7})
    set_payload(folder, "pole", {"id": "other"}, "_splade")
    documents = found(folder)
    assert documents.keys() == {"orbit", "rover", "other"}
    assert "its text differs" in str(documents["orbit"])
    assert "its id differs" in str(documents["other"])
    assert "payload" in str(documents["rover"])


def test_a_document_of_an_older_version_is_verified_by_its_content_hash_or_reported(folder: Path) -> None:
    set_payload(folder, "pole", {"checksum": None}, "_splade")
    set_payload(folder, "orbit", {"checksum": None, "hash": "of another encoded text"}, "_splade")
    assert found(folder) == {"pole": True, "rover": True, "orbit": False}
    documents = findings(folder)["documents"]
    assert documents.level == "ok"
    assert "texts verified, but for 1 without a checksum" in documents.found


def test_windows_are_verified_each_and_a_document_that_misses_one_is_damaged(tmp_path: Path) -> None:
    texts = ["one two three four five six seven", "eight nine ten eleven twelve thirteen"]
    folder = tmp_path / "index"
    encoder = WordEncoder(max_length=3)
    with SpladeIndex(folder, model=encoder, windows="points", window_overlap=0) as index:
        index.add([*texts, "short"], ids=["a", "b", "c"])
        index.client.delete(
            "splade",
            models.FilterSelector(
                filter=models.Filter(
                    must=[
                        models.FieldCondition(key="_splade.id", match=models.MatchValue(value="b")),
                        models.FieldCondition(key="_splade.window.n", match=models.MatchValue(value=1)),
                    ]
                )
            ),
        )
    assert found(folder) == {"a": True, "b": "some of its windows cannot be read", "c": True}
    report = repair(folder, tmp_path / "sound", model=WordEncoder(max_length=3))
    assert report.documents == 2
    with SpladeIndex(tmp_path / "sound", model=WordEncoder(max_length=3)) as index:
        assert index.get(["a"])[0].text == texts[0]


def test_a_folder_left_by_a_killed_process_has_no_checksums_of_its_files(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from splade_retriever.index.splade_index import SpladeIndex\n"
        "from tests.words import WordEncoder\n"
        "index = SpladeIndex(sys.argv[1], model=WordEncoder())\n"
        "index.add(['moon', 'heron'], ids=['a', 'b'])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert run_python(program, str(tmp_path / "index")).returncode == -9
    checks = findings(tmp_path / "index")
    assert checks["files"].level == "ok"
    assert "not compared: the index was not closed" in checks["files"].found
    assert checks["documents"].found == "2 can be read; texts verified"


def test_an_interrupted_repair_continues_and_a_finished_one_is_not_overwritten(
    folder: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(folder, tmp_path / "sound", model=WordEncoder(), batch_size=1, on_progress=stop)
    with pytest.raises(CollectionMismatchError, match="not complete"):
        SpladeIndex(tmp_path / "sound", model=WordEncoder())
    assert repair(folder, tmp_path / "sound", model=WordEncoder()).documents == 3
    with pytest.raises(CollectionMismatchError, match="exists"):
        repair(folder, tmp_path / "sound", model=WordEncoder())


def test_a_continued_repair_keeps_no_payloads_of_documents_that_it_skips(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    started: list[_Work] = []

    class Watched(_Work):
        def run(self, batch_size: int, on_written: Callable[[int], object]) -> None:
            started.append(self)
            _Work.run(self, batch_size, on_written)

    with pytest.raises(KeyboardInterrupt):
        repair(folder, tmp_path / "sound", model=WordEncoder(), on_progress=stop)
    monkeypatch.setattr("splade_retriever.maintenance.repair._Work", Watched)
    encoder = WordEncoder()
    assert repair(folder, tmp_path / "sound", model=encoder, batch_size=1).documents == 3
    assert encoder.encoded == 0
    (work,) = started
    assert len(work.payloads) <= 1  # those of the last batch


def test_what_cannot_be_repaired_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="server"):
        repair("http://localhost:6333", tmp_path / "sound")
    with pytest.raises(InputError, match="the same folder"):
        repair(folder, folder)
    with pytest.raises(CollectionNotFoundError, match="'splade'"):
        repair(folder, tmp_path / "sound", collection="other")
    with EdgeClient(tmp_path / "foreign") as client:
        client.create_collection("splade", sparse_vectors_config={"s": models.SparseVectorParams()})
    with pytest.raises(CollectionMismatchError, match="does not record"):
        repair(tmp_path / "foreign", tmp_path / "sound")


class Dense:
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]


def test_dense_vectors_are_made_again(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model=WordEncoder(), dense=Dense()) as index:
        index.add(MOON, ids=IDS)
    with pytest.raises(NotSupportedError, match="dense="):
        repair(tmp_path / "index", tmp_path / "sound", model=WordEncoder())
    repair(tmp_path / "index", tmp_path / "sound", model=WordEncoder(), dense=Dense())
    with SpladeIndex(tmp_path / "sound", model=WordEncoder(), dense=Dense()) as index:
        assert index.search("rover", mode="dense")


def test_dense_vectors_are_made_again_by_an_encoder_of_llama_index(tmp_path: Path) -> None:
    from llama_index.core import MockEmbedding

    dense = MockEmbedding(embed_dim=8)
    with SpladeIndex(tmp_path / "index", model=WordEncoder(), dense=dense) as index:
        index.add(MOON, ids=IDS)
    repair(tmp_path / "index", tmp_path / "sound", model=WordEncoder(), dense=dense)
    with SpladeIndex(tmp_path / "sound", model=WordEncoder(), dense=dense) as index:
        assert len(index.search("rover", mode="dense")) == 3
