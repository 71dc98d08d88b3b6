"""The bundled model whose queries need no network."""

from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_files import bundled_names
from splade_retriever.encoding.model_session import SharedSessions

TEXTS = ["The rover Pragyan found sulphur near the lunar south pole.", "Coeliac disease and gluten", ""]
QUESTION = "which stars are the hottest?"


@pytest.fixture(scope="module")
def doc() -> SparseTextEmbedding:
    return SparseTextEmbedding(bundled_names()[1], lazy_load=True)


def test_it_is_listed_after_the_default_and_opens_by_its_name_in_any_case(doc: SparseTextEmbedding) -> None:
    first, second = SparseTextEmbedding.list_supported_models()[:2]

    assert (first["model"], second["model"]) == bundled_names()
    assert second["query_side"] == "idf"
    assert SparseTextEmbedding(doc.model_name.upper(), lazy_load=True).fingerprint == doc.fingerprint


def test_a_query_opens_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(SharedSessions, "open", refuse)
    model = SparseTextEmbedding(bundled_names()[1], lazy_load=True)

    weights = model.tokens_and_weights(next(model.query_embed(QUESTION)))

    assert next(iter(weights)) == "hottest"
    assert weights["stars"] > weights["star"] > 0  # an expansion
    assert weights.get("the", 0.0) < 0.1
    with pytest.raises(AssertionError, match="a session was opened"):
        next(model.embed("a document"))


def test_a_query_keeps_32_weights_and_needs_a_known_token(doc: SparseTextEmbedding) -> None:
    long = " ".join(text for text in TEXTS) + " " + QUESTION * 3

    assert len(next(doc.query_embed(long))) == 32
    assert len(next(doc.query_embed(""))) == len(next(doc.query_embed("\U0001f680"))) == 0


def test_documents_have_the_vectors_of_the_first_model(
    doc: SparseTextEmbedding, bundled: SparseTextEmbedding
) -> None:
    for one, two in zip(doc.embed(TEXTS), bundled.embed(TEXTS), strict=True):
        assert one.as_dict() == two.as_dict()


def test_the_fingerprint_names_the_network_that_both_share(
    doc: SparseTextEmbedding, bundled: SparseTextEmbedding
) -> None:
    ours, first = doc.fingerprint, bundled.fingerprint

    assert (ours["documents_by"], ours["document_revision"]) == (first["model"], first["revision"])
    differing = {name for name in first if ours[name] != first[name]}
    assert differing == {"model", "revision", "query_side"}


def test_an_archive_holds_all_its_files_and_opens_as_the_same_model(
    doc: SparseTextEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    files = doc.save_archive(tmp_path / "doc.tar")
    opened = SparseTextEmbedding(tmp_path / "doc.tar", lazy_load=True)

    assert {"card.json", "model.onnx", "queries.safetensors", "tokenizer.json"} <= set(files)
    assert opened.fingerprint == doc.fingerprint
    assert next(opened.query_embed(QUESTION)).as_dict() == next(doc.query_embed(QUESTION)).as_dict()
