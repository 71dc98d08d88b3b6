"""An index is opened, read, emptied and closed, also over a collection that another program made."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, models

import splade_retriever
from splade_retriever.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    IndexClosedError,
    InputError,
)
from splade_retriever.index.documents import DocumentKey
from splade_retriever.index.payload import Layout, point_id
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from tests.index.parts import MOON, is_local
from tests.words import LetterEncoder, WordEncoder

# -- opening -------------------------------------------------------------------------------------------------


def test_opening_counting_and_reading_do_not_open_the_model(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder("no-such-model")).add(MOON, ids=["a", "b", "c"])

    index = SpladeIndex(client=client)

    assert index.count() == 3
    assert len(index.get(["a"])) == 1
    index.delete(["a"])
    assert index.count() == 2


def test_another_model_is_refused_before_anything_is_written_and_the_message_names_both(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder("first", precision="fp32")).add(MOON)

    with pytest.raises(
        CollectionMismatchError, match=r"'first'.*'second'.*precision: collection 'fp32', index 'int8'"
    ):
        SpladeIndex(client=client, model=WordEncoder("second", precision="int8"))

    assert SpladeIndex(client=client, model=WordEncoder("first", precision="fp32")).count() == 3


def test_vectors_of_an_older_bundled_model_are_refused_with_the_command_that_renews_them(
    client: Any, tmp_path: Path
) -> None:
    bundled = Path(splade_retriever.__file__).parent / "bundled"
    older = shutil.copytree(bundled, tmp_path / "older")
    tokenizer = older / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")
    SpladeIndex(client=client, model=str(older)).add(MOON[:1])

    index = SpladeIndex(client=client)

    with pytest.raises(
        CollectionMismatchError, match=r"another revision.*`splade reindex --model splade-ret"
    ):
        index.search("moon")


def test_settings_that_shape_vectors_are_stored_and_compared(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder(), max_active_dims=3, min_weight=1.5)

    assert SpladeIndex(client=client, model=WordEncoder()).count() == 0
    advice = r"max_active_dims=3.*max_active_dims=4.*`splade reindex --max-active-dims`"
    with pytest.raises(CollectionMismatchError, match=advice):
        SpladeIndex(client=client, model=WordEncoder(), max_active_dims=4)


@pytest.mark.parametrize(
    "settings",
    [{"windows": "all"}, {"window_overlap": -1}, {"max_active_dims": 0}, {"min_weight": float("nan")}],
)
def test_settings_that_are_not_valid_are_refused_and_nothing_is_created(client: Any, settings: Any) -> None:
    with pytest.raises(InputError):
        SpladeIndex(client=client, model=WordEncoder(), **settings)

    assert not client.collection_exists("splade")


def test_vectors_are_pruned_as_the_settings_say(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), max_active_dims=2, min_weight=2.0)
    index.add(["a", "b b c c c d d d d"], ids=["light", "heavy"])

    assert index.get(["light"], with_vectors=True)[0].vector is None
    (heavy,) = index.get(["heavy"], with_vectors=True)
    assert heavy.vector is not None
    assert sorted(heavy.vector.values.tolist()) == [3.0, 4.0]


def test_queries_are_pruned_by_their_own_setting(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), query_max_active_dims=1)
    index.add(["moon", "rover"], ids=["moon", "rover"])

    assert [hit.id for hit in index.search("rover rover moon")] == ["rover"]


def test_a_missing_collection_is_an_error_if_it_must_not_be_created(client: Any, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="'nothing'"):
        SpladeIndex(client=client, collection="nothing", create=False)
    with pytest.raises(CollectionNotFoundError, match="no index folder"):
        SpladeIndex(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()


def test_a_missing_vector_name_is_an_error_that_lists_the_existing_names(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder())

    with pytest.raises(CollectionMismatchError, match=r"no sparse vector named 'text' \(found: 'splade'\)"):
        SpladeIndex(client=client, model=WordEncoder(), vector_name="text")
    with pytest.raises(CollectionMismatchError, match="no dense vector named 'dense'"):
        SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())


def test_collections_of_one_store_are_separate(client: Any) -> None:
    first = SpladeIndex(client=client, collection="first", model=WordEncoder("a"))
    second = SpladeIndex(client=client, collection="second", model=WordEncoder("b"))
    first.add(["moon"])

    assert (first.count(), second.count()) == (1, 0)


def test_a_client_and_a_location_exclude_each_other(client: Any) -> None:
    with pytest.raises(InputError, match="Both client="):
        SpladeIndex("./somewhere", client=client)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"location": None}, "location is a NoneType"),
        ({"location": ""}, "location is ''"),
        ({"location": "ftp://host"}, "location is 'ftp://host'"),
        ({"location": "localhost:6333"}, "host and a port without a scheme. Write http://localhost:6333"),
        ({"location": "http://me:secret@host"}, "^((?!secret).)*a user name or a password((?!secret).)*$"),
        ({"location": "http://[::1"}, r"location is 'http://\[::1'"),
        ({"client": AsyncQdrantClient(":memory:")}, "client is an AsyncQdrantClient"),
        ({"client": 3}, "client is an int"),
        ({"model": 3}, "model is an int"),
        ({"datatype": "float8"}, "datatype is 'float8'"),
        ({"query_max_active_dims": 0}, "query_max_active_dims is 0"),
        ({"windows": "some"}, "windows is 'some'"),
        ({"window_overlap": "few"}, "window_overlap is 'few'"),
        ({"max_active_dims": 2.5}, r"max_active_dims is 2\.5"),
        ({"min_weight": float("nan")}, "min_weight is nan"),
        ({"min_weight": "light"}, "min_weight is 'light'"),
    ],
)
def test_an_argument_that_is_not_valid_is_refused_and_nothing_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=message):
        SpladeIndex(**{"model": WordEncoder(), **argument})
    assert list(tmp_path.iterdir()) == []


def test_a_closed_index_raises_and_can_be_closed_again() -> None:
    with SpladeIndex(model=WordEncoder()) as index:
        index.add(MOON)
    index.close()

    for use in (index.count, lambda: index.add(["x"]), lambda: index.search("x"), lambda: index.get(["x"])):
        with pytest.raises(IndexClosedError, match="Open it again"):
            use()


def test_a_client_that_was_passed_stays_open(client: Any) -> None:
    SpladeIndex(client=client, model=WordEncoder()).close()

    assert SpladeIndex(client=client, model=WordEncoder()).count() == 0


def test_a_folder_keeps_everything(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model=WordEncoder()) as index:
        index.add(MOON, [{"n": n} for n in range(3)], ["a", "b", "c"])
        before = index.search("rover lander")

    with SpladeIndex(tmp_path / "index", model=WordEncoder(), create=False) as again:
        assert again.search("rover lander") == before
        assert again.count() == 3


def test_repr_shows_location_collection_and_model(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())

    assert repr(index) == f"SpladeIndex(client={type(client).__name__}, collection='splade', model='words')"


def test_a_tenant_field_has_the_engines_tenant_index_and_separates_tenants(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), tenant_field="org.id")
    for org in ("a", "b"):
        index.add([f"moon {n}" for n in range(20)], [{"org": {"id": org}}] * 20)

    hits = index.search("moon", k=100, filter={"org.id": "b"})
    assert len(hits) == 20
    assert {hit.metadata["org"]["id"] for hit in hits} == {"b"}
    index.delete(filter={"org.id": "b"})
    assert index.count() == index.count({"org.id": "a"}) == 20
    if not is_local(client):  # which has no indexes
        (schema,) = client.get_collection("splade").payload_schema.items()
        assert schema[0] == "metadata.org.id"
        assert (schema[1].data_type, schema[1].params.is_tenant, schema[1].points) == ("keyword", True, 20)


def test_a_payload_index_of_another_kind_is_reported_and_kept(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if is_local(client):
        pytest.skip("local mode has no payload indexes")
    SpladeIndex(client=client, model=WordEncoder(), indexed_fields={"year": "keyword", "org": "keyword"})
    SpladeIndex(client=client, indexed_fields={"year": "keyword"})
    assert not caplog.records

    SpladeIndex(client=client, indexed_fields={"year": "integer"}, tenant_field="org")

    messages = [record.getMessage() for record in caplog.records]
    for path, kind in (("metadata.year", "integer"), ("metadata.org", "keyword (tenant)")):
        expected = f"has a payload index of kind keyword for {path!r}, but {kind} was requested"
        assert sum(expected in message for message in messages) == 1, messages
    assert client.get_collection("splade").payload_schema["metadata.year"].data_type == "keyword"


@pytest.fixture
def of_tenants(client: Any) -> SpladeIndex:
    """An index in which two tenants have a document "1" each, of several windows."""
    index = SpladeIndex(
        client=client, model=WordEncoder(max_length=6), windows="points", window_overlap=0, tenant_field="org"
    )
    index.add(["moon rock of the lunar highlands far away"], [{"org": "acme"}], ["1"])
    index.add(["moon dust of the lunar lowlands near by"], [{"org": "globex"}], ["1"])
    return index


def test_two_tenants_may_use_the_same_id(of_tenants: SpladeIndex) -> None:
    index = of_tenants
    assert index.count() == 2
    assert [hit.text[:9] for hit in index.get(["1"], tenant="acme")] == ["moon rock"]
    assert [hit.text[:9] for hit in index.get(["1"], tenant="globex")] == ["moon dust"]
    assert index.get(["1"], tenant="initech") == []
    for org, word in (("acme", "highlands"), ("globex", "lowlands")):
        (hit,) = index.search(word, filter={"org": org})
        assert index.explain(word, hit).contributions[0].token == word
    both = index.add(["moon", "sun"], [{"org": "acme"}, {"org": "globex"}], ["2", "2"])
    assert both == ["2", "2"]
    assert [hit.text for org in ("acme", "globex") for hit in index.get(["2"], tenant=org)] == ["moon", "sun"]

    assert index.update_metadata("1", {"org": "acme", "year": 1969})
    index.delete(["1"], tenant="globex")

    assert [hit.metadata for hit in index.scroll({"year": 1969})] == [{"org": "acme", "year": 1969}]
    assert index.get(["1"], tenant="globex") == []
    assert index.count() == 3


def test_ids_without_their_tenant_are_refused(of_tenants: SpladeIndex, client: Any) -> None:
    index = of_tenants
    for call in (lambda: index.get(["1"]), lambda: index.delete(["1"])):
        with pytest.raises(InputError, match="Pass tenant="):
            call()
    with pytest.raises(InputError, match="Input 0 of add: metadata has None at 'org'"):
        index.add(["moon"], ids=["3"])
    with pytest.raises(InputError, match="Put the tenant into the filter"):
        index.delete(filter={"org": "acme"}, tenant="acme")
    plain = SpladeIndex(client=client, collection="plain", model=WordEncoder())
    with pytest.raises(InputError, match="does not separate tenants"):
        plain.get(["1"], tenant="acme")
    assert index.count() == 2


def test_a_collection_separates_tenants_by_the_field_it_was_created_with(
    of_tenants: SpladeIndex, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    again = SpladeIndex(client=client, model=WordEncoder(max_length=6))
    assert len(again.get(["1"], tenant="acme")) == 1
    with pytest.raises(CollectionMismatchError, match="separates tenants by 'org', but tenant_field='firm'"):
        SpladeIndex(client=client, tenant_field="firm")
    SpladeIndex(client=client, collection="plain", model=WordEncoder())
    SpladeIndex(client=client, collection="plain", tenant_field="org", model=WordEncoder())
    assert "created without tenant_field='org'" in caplog.text


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("keyword", "en"),
        ("integer", 3),
        ("float", 0.5),
        ("bool", True),
        ("datetime", "2023-08-23T12:33:00Z"),
        ("text", "lunar orbit"),
        ("uuid", "550e8400-e29b-41d4-a716-446655440000"),
    ],
)
def test_every_kind_of_index_finds_its_kind_of_value(client: Any, kind: str, value: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), indexed_fields={"field": kind})
    index.add(["moon", "rover"], [{"field": value}, {}], ids=["with", "without"])

    asked = {"$text": "orbit"} if kind == "text" else value
    assert [hit.id for hit in index.scroll({"field": asked})] == ["with"]
    if not is_local(client):
        (schema,) = client.get_collection("splade").payload_schema.values()
        stored_kind = {"integer": "float", "uuid": "keyword"}.get(kind, kind)
        assert (schema.data_type, schema.points) == (stored_kind, 1)


def test_declared_fields_get_an_index(client: Any) -> None:
    index = SpladeIndex(
        client=client, model=WordEncoder(), indexed_fields={"year": "integer", "lang": "keyword"}
    )
    index.add(["moon"], [{"year": 2023, "lang": "en"}])

    assert index.count({"year": 2023, "lang": "en"}) == 1
    with pytest.raises(InputError, match="keyword"):
        SpladeIndex(client=client, model=WordEncoder(), indexed_fields={"year": "number"})


# -- get, scroll, count, delete, update ----------------------------------------------------------------------


def test_get_returns_the_requested_order_and_skips_missing_ids(index: SpladeIndex) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    assert [hit.id for hit in index.get(["c", "nothing", "a", "c"])] == ["c", "a", "c"]
    with pytest.raises(InputError, match=r"Pass \[id\]"):
        index.get("a")


def test_delete_by_ids_and_by_filter(index: SpladeIndex) -> None:
    index.add(MOON, [{"n": 0}, {"n": 1}, {"n": 2}], ["a", "b", "c"])

    index.delete(["a", "nothing"])
    assert index.count() == 2
    index.delete(filter={"n": {"$gt": 1}})
    assert [hit.id for hit in index.scroll()] == ["b"]


@pytest.mark.parametrize("arguments", [{}, {"filter": {}}, {"ids": ["a"], "filter": {"n": 1}}])
def test_delete_without_ids_or_filter_deletes_nothing(index: SpladeIndex, arguments: Any) -> None:
    index.add(MOON, ids=["a", "b", "c"])

    with pytest.raises(InputError, match="clear"):
        index.delete(**arguments)
    assert index.count() == 3


def test_clear_empties_the_index_and_keeps_its_settings(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(MOON)
    index.clear()

    assert index.count() == 0
    with pytest.raises(CollectionMismatchError):
        SpladeIndex(client=client, model=WordEncoder("other"))


def test_scroll_returns_all_documents(index: SpladeIndex) -> None:
    index.add([f"text {n}" for n in range(30)], [{"even": n % 2 == 0} for n in range(30)])

    assert {hit.text for hit in index.scroll(batch_size=7)} == {f"text {n}" for n in range(30)}
    assert len(list(index.scroll({"even": True}, batch_size=7))) == 15


def test_metadata_is_replaced_without_encoding(client: Any) -> None:
    encoder = WordEncoder()
    index = SpladeIndex(client=client, model=encoder)
    index.add(["moon"], [{"a": 1, "b": 2}], ["x"])

    assert index.update_metadata("x", {"c": 3})
    assert not index.update_metadata("y", {"c": 3})

    assert encoder.encoded == 1
    (hit,) = index.search("moon")
    assert hit.metadata == {"c": 3}
    with pytest.raises(InputError, match=r"metadata\.c is a set"):
        index.update_metadata("x", {"c": {1}})


# -- collections of other programs --------------------------------------------------------------------------


def foreign(client: Any) -> None:
    client.create_collection(
        "theirs", vectors_config={}, sparse_vectors_config={"splade": models.SparseVectorParams()}
    )
    vector = next(WordEncoder().passage_embed(["moon"]))
    client.upsert(
        "theirs",
        points=[
            models.PointStruct(
                id="550e8400-e29b-41d4-a716-446655440000",
                vector={
                    "splade": models.SparseVector(
                        indices=vector.indices.tolist(), values=vector.values.tolist()
                    )
                },
                payload={"page_content": "moon", "metadata": {"a": 1}},
            )
        ],
    )


def test_a_collection_in_langchains_layout_can_be_read(client: Any) -> None:
    foreign(client)
    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder())

    (hit,) = index.search("moon", filter={"a": 1})

    assert (hit.id, hit.text, hit.metadata) == ("550e8400-e29b-41d4-a716-446655440000", "moon", {"a": 1})
    assert [found.text for found in index.get([hit.id])] == ["moon"]


def test_a_collection_of_unknown_origin_is_written_only_when_adopted(client: Any) -> None:
    foreign(client)
    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        SpladeIndex(client=client, collection="theirs", model=WordEncoder()).add(["more"])

    SpladeIndex(client=client, collection="theirs", model=WordEncoder(), adopt=True).add(["more"], ids=["m"])

    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder())
    assert index.count() == 2
    assert index.get(["m"])[0].text == "more"
    index.add(["new"], ids=["550e8400-e29b-41d4-a716-446655440000"])
    assert index.count() == 2
    with pytest.raises(CollectionMismatchError, match="'other'"):
        SpladeIndex(client=client, collection="theirs", model=WordEncoder("other"))


def test_a_collection_in_llama_indexs_layout_can_be_read(client: Any) -> None:
    client.create_collection(
        "nodes", vectors_config={}, sparse_vectors_config={"splade": models.SparseVectorParams()}
    )
    vector = models.SparseVector(indices=[1], values=[1.0])
    payload = {
        "lang": "en",
        "_node_type": "TextNode",
        "_node_content": '{"text": "moon", "metadata": {"lang": "en"}}',
    }
    client.upsert("nodes", points=[models.PointStruct(id=7, vector={"splade": vector}, payload=payload)])

    index = SpladeIndex(client=client, collection="nodes", model=WordEncoder())

    (hit,) = index.search(SparseEmbedding(values=[1.0], indices=[1]), filter={"lang": "en"})
    assert (hit.id, hit.text, hit.metadata) == ("7", "moon", {"lang": "en"})


def test_another_layout_can_be_set(client: Any) -> None:
    layout = Layout(content_key="text", metadata_key="about")
    index = SpladeIndex(client=client, model=WordEncoder(), layout=layout)
    index.add(["moon"], [{"a": 1}], ["x"])

    again = SpladeIndex(client=client, model=WordEncoder())
    assert again.search("moon", filter={"a": 1})[0].metadata == {"a": 1}


def test_a_collection_that_another_program_creates_meanwhile_is_kept(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = client.collection_exists
    looks: list[bool] = []

    def created_after_the_first_look(name: str, **kwargs: Any) -> bool:
        looks.append(exists(name, **kwargs))
        if len(looks) == 1:
            foreign(client)
        return looks[-1]

    monkeypatch.setattr(client, "collection_exists", created_after_the_first_look)
    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder())

    assert looks[:2] == [False, True]
    assert client.count("theirs").count == 1
    assert [hit.text for hit in index.search("moon")] == ["moon"]
    with pytest.raises(CollectionMismatchError, match="adopt=True"):
        index.add(["more"])
    assert client.count("theirs").count == 1


@pytest.mark.parametrize(
    ("id", "native"),
    [
        ("7", 7),
        ("0", 0),
        (str(2**64 - 1), 2**64 - 1),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ("550E8400E29B41D4A716446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ("007", None),
        ("+7", None),
        ("7.0", None),
        ("\u0667", None),  # a digit to Python, of another script
        (str(2**64), None),
        ("9" * 5000, None),
    ],
)
def test_an_id_of_another_programs_collection_is_native_in_its_canonical_form(
    id: str, native: int | str | None
) -> None:
    point = point_id(DocumentKey(id), Layout(native_ids=True))

    assert point == (point_id(DocumentKey(id), Layout()) if native is None else native)


def test_numbers_that_are_written_differently_are_different_documents(client: Any) -> None:
    foreign(client)
    index = SpladeIndex(client=client, collection="theirs", model=WordEncoder(), adopt=True)
    ids = ["7", "007", "99999999999999999999999"]

    index.add(["one", "two", "three"], ids=ids)

    assert [(hit.id, hit.text) for hit in index.get(ids)] == list(
        zip(ids, ["one", "two", "three"], strict=True)
    )
    index.delete(["007"])
    assert [hit.id for hit in index.get(ids)] == ["7", "99999999999999999999999"]


def test_a_tilde_in_a_location_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    with SpladeIndex("~/notes", model=WordEncoder()) as index:
        index.add(["A rover."], ids=["a"])

    assert (tmp_path / "notes" / "edge.json").is_file()
    assert not (tmp_path / "~").exists()
