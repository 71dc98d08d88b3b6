"""Index folders from somebody else: any content of their small files opens or is a SpladeError."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models

from splade_retriever.edge.checksums import json_checksum
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.lock import lock_folder
from splade_retriever.errors import IndexLockedError, InputError, SpladeError, StorageError
from splade_retriever.index.splade_index import SpladeIndex
from tests.words import WordEncoder

KEYS = ["format", "name", "config", "payload_indexes", "replaces", "metadata", "vectors", "sparse_vectors"]
KEYS += ["splade_retriever", "encoder", "layout", "vector_name", "windows", "min_weight", "splade", "files"]
WORDS = ["c", "splade", "../c", "", "points", "keyword", "\ud800", "con", ".."]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
quick = settings(max_examples=40)


@pytest.fixture(name="folder")
def index_folder(tmp_path: Path) -> Path:
    with EdgeClient(tmp_path / "index") as client:
        client.create_collection("splade", sparse_vectors_config={"splade": models.SparseVectorParams()})
    return tmp_path / "index"


def open_folder(folder: Path) -> None:
    """Open a folder for reading in each way; what is changed must not be written."""
    with contextlib.suppress(SpladeError), EdgeClient(folder, read_only=True) as client:
        for described in client.get_collections().collections:
            client.count(described.name)
    with contextlib.suppress(SpladeError), SpladeIndex(folder, read_only=True) as index:
        index.count()


def restored(path: Path, content: bytes) -> Any:
    @contextlib.contextmanager
    def change() -> Any:
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            yield
        finally:
            path.write_bytes(before)

    return change()


@given(change=st.dictionaries(st.sampled_from(KEYS), values, max_size=3), inside=st.booleans())
@quick
def test_a_collection_json_with_any_values_opens_or_is_a_splade_error(
    folder: Path, change: dict[str, Any], inside: bool
) -> None:
    (path,) = folder.glob("collections/*/collection.json")
    stored = json.loads(path.read_text("utf-8"))
    del stored["checksum"]
    if inside:
        stored["config"] = {**stored["config"], **change}
    else:
        stored |= change
    stored["checksum"] = json_checksum(stored)
    with restored(path, json.dumps(stored).encode()):
        open_folder(folder)


@given(
    settings_of_index=values | st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
    format_is_right=st.booleans(),
)
@quick
def test_settings_of_an_index_with_any_values_open_or_are_a_splade_error(
    folder: Path, settings_of_index: Any, format_is_right: bool
) -> None:
    if format_is_right and isinstance(settings_of_index, dict):
        settings_of_index = {**settings_of_index, "format": 1}
    (path,) = folder.glob("collections/*/collection.json")
    stored = json.loads(path.read_text("utf-8"))
    del stored["checksum"]
    stored["config"]["metadata"] = {"splade_retriever": settings_of_index}
    stored["checksum"] = json_checksum(stored)
    with restored(path, json.dumps(stored).encode()):
        open_folder(folder)


@given(
    name=st.sampled_from(["collection.json", "checksums.json", "edge.json"]), content=st.binary(max_size=99)
)
@quick
def test_small_files_with_any_bytes_open_or_are_a_splade_error(
    folder: Path, name: str, content: bytes
) -> None:
    path = folder / name if name == "edge.json" else next(folder.glob(f"collections/*/{name}"))
    with restored(path, content):
        open_folder(folder)


@given(content=st.binary(max_size=40))
@quick
def test_any_content_of_a_lock_that_is_held_is_an_error_of_locking(folder: Path, content: bytes) -> None:
    descriptor = lock_folder(folder, os.getpid())
    try:
        (folder / ".lock").write_bytes(content)
        with pytest.raises(IndexLockedError):
            EdgeClient(folder, read_only=True)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "message"),
    [("garbage", "is damaged"), ("[1]", "is damaged"), ('{"format": 9}', "Upgrade splade-retriever")],
)
def test_a_damaged_mark_is_not_taken_for_one_of_a_newer_version(
    folder: Path, content: str, message: str
) -> None:
    (folder / "edge.json").write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=message):
        EdgeClient(folder)


@pytest.mark.parametrize("call", ["get", "delete"])
def test_half_a_surrogate_pair_in_an_id_is_an_input_error(call: str) -> None:
    with SpladeIndex(model=WordEncoder()) as index, pytest.raises(InputError, match="surrogate"):
        getattr(index, call)(["\ud800"])
