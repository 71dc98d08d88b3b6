"""`reindex`: real folders, qdrant-client's local mode in place of a server, kills at every step."""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.edge import storage as edge_folder
from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import CollectionMismatchError, CollectionNotFoundError, InputError, StorageError
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.reindex import reindex
from splade_retriever.sparse import SparseEmbedding
from tests.maintenance.conftest import DoublingEncoder
from tests.python_process import PythonProcess
from tests.qdrant_server import ServerAddress
from tests.words import LetterEncoder, WordEncoder

ROOT = Path(__file__).parents[2]
N = 100


class DyingEncoder(DoublingEncoder):
    """Raises KeyboardInterrupt after some texts."""

    def __init__(self, texts: int) -> None:
        super().__init__()
        self.left = texts

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        for vector in super().passage_embed(texts):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield vector


def fill(index: SpladeIndex, n: int = N) -> None:
    index.add(
        [f"moon text {k} of the rover" for k in range(n)],
        [{"n": k, "deep": {"list": [k, None]}} for k in range(n)],
        [f"id {k}" for k in range(n)],
        extras=[{"from": k} if k % 2 else None for k in range(n)],
    )


def folder(path: Path, n: int = N, **settings: Any) -> Path:
    with SpladeIndex(path, model=WordEncoder(), indexed_fields={"n": "integer"}, **settings) as index:
        fill(index, n)
    return path


def documents(index: SpladeIndex) -> dict[str, tuple[Any, ...]]:
    return {hit.id: (hit.text, hit.metadata, hit.extra) for hit in index.scroll()}


def test_the_new_vectors_replace_the_old_ones_in_a_folder_and_all_else_is_kept(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        before, score = documents(index), index.search("rover", 1)[0].score

    encoder = DoublingEncoder()
    report = reindex(tmp_path / "a", encoder)

    assert (report.switch, report.new_collection) == ("replaced", "splade")
    assert (report.documents, report.encoded, report.other_text) == (N, N, 0)
    assert (report.old_model, report.model) == ("words", "doubling")
    assert encoder.encoded == N
    with pytest.raises(CollectionMismatchError, match="made by model 'doubling'"):
        SpladeIndex(tmp_path / "a", model=WordEncoder())
    with SpladeIndex(tmp_path / "a", model=encoder) as index:
        assert documents(index) == before
        assert index.search("rover", 1)[0].score == pytest.approx(4 * score)  # query and document
        assert index.count({"n": {"$lt": 10}}) == 10
        fill(index)
        assert encoder.encoded == N, "the new hashes are those of add"
        schema = index.client.get_collection("splade").payload_schema
        assert list(schema) == ["metadata.n"]
    with EdgeClient(tmp_path / "a") as client:
        assert [found.name for found in client.get_collections().collections] == ["splade"]
    assert len(list((tmp_path / "a" / "collections").iterdir())) == 1


def test_reindexing_with_the_same_settings_does_nothing(tmp_path: Path) -> None:
    folder(tmp_path / "a", 3)
    encoder = WordEncoder()

    assert reindex(tmp_path / "a", encoder).switch == "nothing to do"
    assert encoder.encoded == 0


def test_a_collection_of_an_engine_in_a_child_process_is_replaced(tmp_path: Path) -> None:
    folder(tmp_path / "a", 5)

    with EdgeProcess(tmp_path / "a") as client:
        assert reindex(client, WordEncoder(), max_active_dims=2).switch == "replaced"
        assert [found.name for found in client.get_collections().collections] == ["splade"]


def test_other_settings_with_the_same_model(tmp_path: Path) -> None:
    folder(tmp_path / "a", 5)

    reindex(tmp_path / "a", WordEncoder(), max_active_dims=2)
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        assert {len(hit.vector or []) for hit in index.scroll(with_vectors=True)} == {2}
    reindex(tmp_path / "a", WordEncoder(), max_active_dims=0)
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        assert {len(hit.vector or []) for hit in index.scroll(with_vectors=True)} == {6}


def test_after_an_interrupt_the_old_vectors_are_used_and_the_second_run_encodes_only_the_rest(
    tmp_path: Path,
) -> None:
    folder(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        reindex(tmp_path / "a", DyingEncoder(60), batch_size=10)
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        assert len(index.search("moon", 200)) == N
        index.delete(["id 1", "id 99"])
        index.add(["new text"], ids=["new"])
        index.update_metadata("id 0", {"n": -1})
        changed = documents(index)
    with pytest.raises(CollectionMismatchError, match="not complete: `splade reindex`"):
        SpladeIndex(tmp_path / "a", collection="splade.next")

    encoder = DoublingEncoder()
    report = reindex(tmp_path / "a", encoder, batch_size=10)

    assert 1 <= report.encoded == encoder.encoded <= 51
    with SpladeIndex(tmp_path / "a", model=encoder) as index:
        assert documents(index) == changed
        assert index.search("new", 1)[0].id == "new"


def test_what_another_run_left_raises_and_is_deleted_on_restart(tmp_path: Path) -> None:
    folder(tmp_path / "a", 30)
    with pytest.raises(KeyboardInterrupt):
        reindex(tmp_path / "a", DyingEncoder(20), batch_size=10)

    with pytest.raises(CollectionMismatchError, match=r"'doubling'.*--restart"):
        reindex(tmp_path / "a", WordEncoder("third"))
    assert reindex(tmp_path / "a", WordEncoder("third"), restart=True).encoded == 30


def test_documents_of_several_windows_are_put_together(tmp_path: Path) -> None:
    text = " ".join(f"word{k}" for k in range(40)) + " end."
    with SpladeIndex(
        tmp_path / "a", model=WordEncoder(max_length=10), windows="points", window_overlap=2
    ) as index:
        index.add([text, "short"], [{"n": 1}, {"n": 2}], ids=["long", "short"])
        assert index.client.count("splade").count > 4

    report = reindex(tmp_path / "a", DoublingEncoder(max_length=20), window_overlap=4)

    assert (report.documents, report.other_text) == (2, 0)
    encoder = DoublingEncoder(max_length=20)
    with SpladeIndex(tmp_path / "a", model=encoder) as index:
        assert {hit.id: hit.text for hit in index.get(["long", "short"])} == {"long": text, "short": "short"}
        assert index.client.count("splade").count == 4
        assert index.search("word39", 1)[0].id == "long"


def test_dense_vectors_are_copied_without_their_encoder(tmp_path: Path) -> None:
    texts = ["moon", "rover", "lander", "dust"]
    with SpladeIndex(tmp_path / "a", model=WordEncoder(), dense=LetterEncoder()) as index:
        index.add(texts, ids=texts)

    reindex(tmp_path / "a", DoublingEncoder())

    with SpladeIndex(tmp_path / "a", model=DoublingEncoder(), dense=LetterEncoder()) as index:
        for text in texts:
            hit = index.search(text, 1, mode="dense")[0]
            assert hit.id == text
            assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_dense_vectors_are_made_again_by_an_encoder_of_llama_index(tmp_path: Path) -> None:
    from llama_index.core import MockEmbedding

    dense = MockEmbedding(embed_dim=8)
    with SpladeIndex(tmp_path / "a", model=WordEncoder(), dense=dense) as index:
        index.add(["moon", "rover"], ids=["moon", "rover"])

    assert reindex(tmp_path / "a", DoublingEncoder(), dense=dense).encoded == 2

    with SpladeIndex(tmp_path / "a", model=DoublingEncoder(), dense=dense) as index:
        assert len(index.search("moon", mode="dense")) == 2
    with pytest.raises(InputError, match="dense is a str"):
        reindex(tmp_path / "a", DoublingEncoder(), dense="all-MiniLM-L6-v2")  # type: ignore[arg-type]


def test_headings_are_encoded_again_and_unknown_texts_are_counted(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        index.add(
            ["about rovers", "plain", "own"],
            [{"heading": "Wheels"}, {"heading": "Wheels"}, None],
            ["under", "plain", "own"],
            encoded_texts=["Wheels\nabout rovers", None, "secret words"],
        )

    report = reindex(tmp_path / "a", DoublingEncoder())

    assert report.other_text == 1
    with SpladeIndex(tmp_path / "a", model=DoublingEncoder()) as index:
        assert [hit.id for hit in index.search("wheels")] == ["under"]
        assert [hit.id for hit in index.search("own")] == ["own"]


# -- the switch ----------------------------------------------------------------------------------------------


class KilledError(BaseException):
    pass


def states_of_a_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder as a kill before each write or rename of the switch would leave it, and at the end."""
    folder(tmp_path / "a", 12)
    states: list[Path] = []
    switching = False

    def before(call: Any) -> Any:
        def photographed(*args: Any) -> Any:
            if switching:
                states.append(tmp_path / f"state{len(states)}")
                shutil.copytree(tmp_path / "a", states[-1])
            return call(*args)

        return photographed

    replace = EdgeClient.replace_collection

    def noted(self: EdgeClient, *args: Any, **kwargs: Any) -> bool:
        nonlocal switching
        switching = True
        try:
            return replace(self, *args, **kwargs)
        finally:
            switching = False

    monkeypatch.setattr(EdgeClient, "replace_collection", noted)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, before(getattr(os, name)))
    monkeypatch.setattr(edge_folder, "remove_leftovers", before(vars(edge_folder)["remove_leftovers"]))
    reindex(tmp_path / "a", DoublingEncoder())
    monkeypatch.undo()
    return [*states, tmp_path / "a"]


@pytest.mark.faults
def test_a_kill_at_any_step_of_the_switch_leaves_a_complete_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = states_of_a_switch(tmp_path, monkeypatch)
    assert len(states) == 8, "the checksums of both, two writes, two renames, the removal, the end"

    switched = []
    for state in states:
        with EdgeClient(state) as client:
            names = [found.name for found in client.get_collections().collections]
        new = names == ["splade"]
        switched.append(new)
        assert new or names == ["splade", "splade.next"]
        with SpladeIndex(state, model=DoublingEncoder() if new else WordEncoder()) as index:
            assert len(index.search("moon", 50)) == index.count() == 12
        assert reindex(state, DoublingEncoder()).encoded == 0, "nothing is encoded twice"
        with SpladeIndex(state, model=DoublingEncoder()) as index:
            assert len(index.search("moon", 50)) == 12
        assert len(list((state / "collections").iterdir())) == 1
    assert switched == [False] * 3 + [True] * 5


REINDEXING = """
import sys
from splade_retriever.maintenance.reindex import reindex
from tests.maintenance.conftest import DoublingEncoder
reindex(sys.argv[1], DoublingEncoder(), batch_size=16, on_progress=lambda done, n: print(done, flush=True))
"""


@pytest.mark.faults
def test_after_a_kill_nothing_is_lost_and_the_second_run_continues(tmp_path: Path) -> None:
    folder(tmp_path / "a", 600)
    with PythonProcess(REINDEXING, str(tmp_path / "a")) as process:
        done = [int(process.stdout.readline()) for _ in range(6)]
        process.kill()
        done += [int(line) for line in process.stdout if line.endswith("\n")]
    assert done[-1] < 600, "the process was killed too late"
    with SpladeIndex(tmp_path / "a", model=WordEncoder()) as index:
        assert len(index.search("moon", 1000)) == 600

    report = reindex(tmp_path / "a", DoublingEncoder(), batch_size=16)

    assert report.documents == 600
    assert 0 < report.encoded <= 600 - done[-1]
    with SpladeIndex(tmp_path / "a", model=DoublingEncoder()) as index:
        assert len(index.search("moon", 1000)) == 600


# -- in place of a server ------------------------------------------------------------------------------------


def test_the_new_name_is_reported_where_a_collection_cannot_be_renamed(client: QdrantClient) -> None:
    fill(SpladeIndex(client=client, collection="docs", model=WordEncoder()), 20)

    report = reindex(client, DoublingEncoder(), collection="docs")

    assert (report.switch, report.new_collection, report.encoded) == ("new name", "docs.2", 20)
    new = SpladeIndex(client=client, collection="docs.2", model=DoublingEncoder())
    old = SpladeIndex(client=client, collection="docs", model=WordEncoder())
    assert documents(new) == documents(old)


def test_an_alias_is_switched_when_the_new_collection_is_complete(client: QdrantClient) -> None:
    fill(SpladeIndex(client=client, collection="docs.2", model=WordEncoder()), 20)
    lead = models.CreateAlias(collection_name="docs.2", alias_name="docs")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=lead)])
    with pytest.raises(KeyboardInterrupt):
        reindex(client, DyingEncoder(10), collection="docs", batch_size=5)
    assert SpladeIndex(client=client, collection="docs", model=WordEncoder()).search("moon")

    report = reindex(client, DoublingEncoder(), collection="docs", batch_size=5)

    assert (report.switch, report.new_collection) == ("alias", "docs.3")
    assert report.encoded == 10
    assert SpladeIndex(client=client, collection="docs", model=DoublingEncoder()).count() == 20
    assert SpladeIndex(client=client, collection="docs.2", model=WordEncoder()).count() == 20


def alias_docs(client: QdrantClient) -> SpladeIndex:
    """Fill a collection with an alias, and open it by the alias."""
    fill(SpladeIndex(client=client, collection="docs.2", model=WordEncoder()), 40)
    alias = models.CreateAlias(collection_name="docs.2", alias_name="docs")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    return SpladeIndex(client=client, collection="docs", model=WordEncoder())


def test_writes_during_a_reindexing_are_in_the_new_collection(client: QdrantClient) -> None:
    writer = alias_docs(client)

    def write(done: int, total: int) -> None:
        if done == 30:
            ids = [hit.id for hit in writer.scroll()]
            writer.update_metadata(ids[0], {"n": -1})
            writer.delete([ids[1]])
            writer.add(["corrected words", "new words"], ids=[ids[2], "new"])

    report = reindex(client, DoublingEncoder(), collection="docs", batch_size=10, on_progress=write)

    old = SpladeIndex(client=client, collection="docs.2", model=WordEncoder())
    new = SpladeIndex(client=client, collection="docs", model=DoublingEncoder())
    assert documents(new) == documents(old)
    assert [hit.text for hit in new.search("corrected")] == ["corrected words"]
    assert report.switch == "alias"
    assert report.passes == 3, "all documents, those changed meanwhile, and one pass without a difference"
    assert report.encoded == 42


class WritingEncoder(DoublingEncoder):
    """Changes a document of the collection whenever it encodes one."""

    def __init__(self, writer: SpladeIndex) -> None:
        super().__init__()
        self.writer = writer
        self.versions = 0

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        self.versions += 1
        self.writer.add([f"version {self.versions}"], ids=["id 0"])
        return super().passage_embed(texts)


def test_a_collection_that_is_changed_all_the_time_is_not_switched(client: QdrantClient) -> None:
    writer = alias_docs(client)

    with pytest.raises(StorageError, match=r"was changed during each of 10 .* Stop the programs"):
        reindex(client, WritingEncoder(writer), collection="docs")

    assert writer.search("moon"), "the alias still leads to the old collection"
    assert reindex(client, DoublingEncoder(), collection="docs").switch == "alias"


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_missing_collection_or_one_without_settings_raises(tmp_path: Path, client: QdrantClient) -> None:
    folder(tmp_path / "a", 1)
    with pytest.raises(CollectionNotFoundError, match=r"'docs'.*found: 'splade'"):
        reindex(tmp_path / "a", DoublingEncoder(), collection="docs")
    client.create_collection("theirs", sparse_vectors_config={"splade": models.SparseVectorParams()})
    with pytest.raises(CollectionMismatchError, match="does not record"):
        reindex(client, DoublingEncoder(), collection="theirs")


def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder(tmp_path / "a", 1)
    with pytest.raises(InputError, match="expected 'truncate', 'merge' or 'points'"):
        reindex(tmp_path / "a", DoublingEncoder(), windows="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no dense vectors"):
        reindex(tmp_path / "a", DoublingEncoder(), dense=LetterEncoder())
    with EdgeClient(tmp_path / "a") as opened:
        assert len(opened.get_collections().collections) == 1


def test_an_existing_collection_of_the_new_name_is_not_changed(tmp_path: Path) -> None:
    folder(tmp_path / "a", 2)
    with SpladeIndex(tmp_path / "a", collection="splade.next", model=WordEncoder()) as index:
        index.add(["mine"], ids=["mine"])

    with pytest.raises(CollectionMismatchError, match="exists at"):
        reindex(tmp_path / "a", DoublingEncoder())
    with SpladeIndex(tmp_path / "a", collection="splade.next", model=WordEncoder()) as index:
        assert index.count() == 1


@pytest.mark.server
def test_on_a_real_server_the_alias_is_switched(empty_server: ServerAddress) -> None:
    name = f"splade-test-{uuid.uuid4().hex[:8]}"
    client = empty_server.client()
    try:
        fill(SpladeIndex(client=client, collection=f"{name}.1", model=WordEncoder()), 20)
        lead = models.CreateAlias(collection_name=f"{name}.1", alias_name=name)
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=lead)])
        report = reindex(client, DoublingEncoder(), collection=name)
        assert (report.switch, report.new_collection) == ("alias", f"{name}.2")
        assert SpladeIndex(client=client, collection=name, model=DoublingEncoder()).count() == 20
    finally:
        for number in (1, 2):
            client.delete_collection(f"{name}.{number}")
        client.close()
