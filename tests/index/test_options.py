"""Options and settings: groups, keywords, and what is refused."""

import inspect
import warnings
from dataclasses import fields
from typing import Any

import pytest

from splade_retriever.errors import CollectionMismatchError, InputError
from splade_retriever.index.collection_settings import (
    SETTINGS_KEY,
    CollectionSettings,
    check_encoder,
    check_settings,
    differences,
)
from splade_retriever.index.options import (
    INDEX_ARGUMENTS,
    CreateOptions,
    Fusion,
    IndexKeywords,
    IndexOptions,
    SearchKeywords,
    SearchOptions,
    ServerOptions,
    VectorOptions,
)
from splade_retriever.index.payload import Layout
from splade_retriever.index.server_client import connect
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.index.writer import AddKeywords, AddOptions


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_every_keyword_is_a_field_of_one_group_and_every_field_has_a_keyword() -> None:
    groups = [ServerOptions, CreateOptions, VectorOptions]
    rest = names(IndexOptions) - {"server", "create", "vectors"}
    in_groups = [name for group in groups for name in names(group)]

    assert len(in_groups) == len(set(in_groups))
    assert set(IndexKeywords.__annotations__) == {*in_groups, *rest}
    assert set(SearchKeywords.__annotations__) == names(SearchOptions)
    assert set(AddKeywords.__annotations__) == names(AddOptions)


def test_keywords_go_to_their_groups() -> None:
    options = IndexOptions.of(
        {"windows": "merge", "timeout": 5, "api_key": "secret", "datatype": "uint8", "vector_name": "text"}
    )

    assert options.vectors.set() == {"windows": "merge"}
    assert options.server == ServerOptions(api_key="secret", timeout=5)
    assert options.create == CreateOptions(datatype="uint8")
    assert (options.vector_name, options.dense_name, options.second_name) == ("text", "dense", None)
    assert options.server.without_key() == {"timeout": 5}


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(IndexOptions.of({"api_key": "secret"}))


def test_an_unknown_keyword_is_refused_with_a_similar_one() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'window'\. Did you mean 'windows'"):
        IndexOptions.of({"window": "merge"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match=r"search got an unexpected keyword argument 'modes'.*'mode'"):
        SearchOptions().changed(modes="sparse")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"add got an unexpected keyword argument 'metadata'.*'metadatas'"):
        AddOptions.of({"metadata": [{}]})  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    ("call", "name", "here"),
    [
        (IndexOptions.of, "path", "location"),
        (IndexOptions.of, "collection_name", "collection"),
        (lambda keywords: SearchOptions().changed(**keywords), "top_k", "k"),
        (lambda keywords: SearchOptions().changed(**keywords), "where", "filter"),
        (AddOptions.of, "documents", "texts"),
    ],
)
def test_a_keyword_of_another_library_is_refused_with_its_name_here(call: Any, name: str, here: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'. Did you mean '{here}'"):
        call({name: None})


def test_the_arguments_to_suggest_are_those_of_the_signatures() -> None:
    named = [name for name in inspect.signature(SpladeIndex).parameters if name != "options"]

    assert sorted(INDEX_ARGUMENTS) == sorted([*named, *IndexKeywords.__annotations__])


def test_a_keyword_without_a_similar_one_is_refused_with_all_names() -> None:
    with pytest.raises(TypeError, match=r"'zzz'\. It takes: query, k, filter, options, offset"):
        SearchOptions().changed(zzz=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": True}, "timeout is True"),
        ({"datatype": "float64"}, "datatype is 'float64', expected one of"),
        ({"query_max_active_dims": True}, "query_max_active_dims is True"),
        ({"query_max_active_dims": 0}, "query_max_active_dims is 0"),
        ({"retry_for": 10**400}, "retry_for is 1000"),
        ({"on_disk": "maybe"}, "on_disk is 'maybe', expected True, False or None"),
        ({"read_only": 1}, "read_only is 1, expected True or False"),
        ({"prefer_grpc": None}, "prefer_grpc is a NoneType, expected True or False"),
        ({"layout": "text"}, "layout is a str, expected a Layout"),
        ({"layout": {"text_key": "text"}}, "layout has the key 'text_key', expected some of: content_key"),
    ],
)
def test_a_value_that_is_not_valid_is_refused(keywords: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IndexOptions.of(keywords)


def test_keywords_of_a_search_override_the_fields_of_its_options() -> None:
    options = SearchOptions(mode="sparse", offset=5, fusion=Fusion(rrf_k=2))

    assert options.changed() is options
    assert options.changed(offset=7) == SearchOptions(mode="sparse", offset=7, fusion=Fusion(rrf_k=2))
    assert options.changed(fusion=None, mode=None) == SearchOptions(offset=5)


SETTINGS = CollectionSettings(encoder={"model": "words", "precision": "fp32"}, vector_name="splade")


def test_settings_are_read_as_they_were_written() -> None:
    settings = CollectionSettings(
        encoder={"model": "words", "revision": None},
        vector_name="text",
        layout=Layout("content", "meta", native_ids=True),
        max_active_dims=5,
        min_weight=0.5,
        windows="points",
        window_overlap=3,
        dense_name="dense",
        dense_size=26,
    )

    assert CollectionSettings.from_metadata(settings.to_metadata(), "docs") == settings
    assert CollectionSettings.from_metadata({"other": 1}, "docs") is None
    assert CollectionSettings.from_metadata(None, "docs") is None


def test_settings_of_a_newer_version_are_refused() -> None:
    metadata = SETTINGS.to_metadata()
    metadata[SETTINGS_KEY]["format"] = 3

    with pytest.raises(CollectionMismatchError, match=r"has format 3, this version reads 1 and 2\. Upgrade"):
        CollectionSettings.from_metadata(metadata, "docs")


@pytest.mark.parametrize(
    "change",
    [
        {"windows": "cut"},
        {"window_overlap": -1},
        {"max_active_dims": True},
        {"max_active_dims": 0},
        {"min_weight": float("nan")},
        {"min_weight": -1.0},
    ],
)
def test_settings_that_are_not_valid_are_refused(change: Any) -> None:
    (name,) = change
    with pytest.raises(InputError, match=name):
        CollectionSettings(**{"encoder": {}, "vector_name": "splade", **change}).check()


def test_another_encoder_is_refused_with_what_differs() -> None:
    other = {"model": "words", "precision": "int8"}

    assert differences(SETTINGS.encoder, other) == {"precision": ("fp32", "int8")}
    check_encoder(SETTINGS.encoder, dict(SETTINGS.encoder), "docs")
    with pytest.raises(CollectionMismatchError, match="precision: collection 'fp32', index 'int8'"):
        check_encoder(SETTINGS.encoder, other, "docs")


def test_other_settings_are_refused_and_none_leaves_them_as_they_are() -> None:
    check_settings(SETTINGS, {"windows": "truncate", "max_active_dims": None}, "docs")
    with pytest.raises(CollectionMismatchError, match="windows='truncate', but windows='merge'"):
        check_settings(SETTINGS, {"windows": "merge"}, "docs")


def test_what_makes_a_vector_is_in_the_recipe_and_names_are_not() -> None:
    def recipe(**changes: Any) -> str:
        return CollectionSettings(**{"encoder": {}, "vector_name": "splade", **changes}).recipe()

    assert recipe(vector_name="text", layout=Layout("content"), dense_name="d") == recipe()
    changes: list[dict[str, Any]] = [{"encoder": {"model": "x"}}, {"windows": "merge"}, {"min_weight": 1.0}]
    for change in changes:
        assert recipe(**change) != recipe()


@pytest.mark.parametrize("url", ["http://qdrant.example:6333", "http://10.0.0.5"])
@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_key_is_not_sent_unencrypted_to_another_machine(url: str, prefer_grpc: bool) -> None:
    with pytest.raises(InputError, match="allow_insecure_key=True") as raised:
        connect(url, ServerOptions(api_key="secret", prefer_grpc=prefer_grpc))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://qdrant.example", False),
        ("http://localhost:6333", False),
        ("http://127.0.0.1:6333", False),
        ("http://[::1]:6333", False),
        ("http://qdrant.example", True),
    ],
)
def test_a_key_is_sent_encrypted_or_to_this_machine_or_where_it_is_allowed(url: str, allowed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # qdrant-client warns of a key over http, also to this machine
        connect(url, ServerOptions(api_key="secret", allow_insecure_key=allowed)).close()
