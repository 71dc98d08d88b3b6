"""A collection of one bundled model, opened with the other: both give a document the same vector."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import splade_retriever
from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.encoding import model_files
from splade_retriever.encoding.model_files import bundled_names
from splade_retriever.errors import CollectionMismatchError
from tests.index.parts import MOON

FIRST, DOC = bundled_names()
QUERY = "lunar rover"


@pytest.mark.parametrize(("made_by", "opened_with"), [(FIRST, DOC), (DOC, FIRST)])
def test_each_searches_what_the_other_stored(client: Any, made_by: str, opened_with: str) -> None:
    ids = [f"d{n}" for n in range(len(MOON))]
    SpladeIndex(client=client, model=made_by).add(MOON, ids=ids)

    index = SpladeIndex(client=client, model=opened_with)

    query = next(SparseTextEmbedding(opened_with, lazy_load=True).query_embed(QUERY))
    by_hand = {
        id: sum(weight * vector.get(token, 0.0) for token, weight in query.as_dict().items())
        for id, vector in zip(
            ids, (each.as_dict() for each in SparseTextEmbedding(made_by).embed(MOON)), strict=True
        )
    }
    hits = index.search(QUERY, k=len(MOON))
    assert hits
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {id: score for id, score in by_hand.items() if score > 0}, rel=1e-4
    )


def test_nothing_is_encoded_again_when_the_other_model_adds_the_same_texts(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    SpladeIndex(client=client, model=FIRST).add(MOON, ids=map(str, range(len(MOON))))
    index = SpladeIndex(client=client, model=DOC)
    monkeypatch.setattr(SparseTextEmbedding, "_opened_session", None)

    index.add(MOON, ids=map(str, range(len(MOON))))

    assert index.count() == len(MOON)


def test_without_a_model_the_one_that_made_the_collection_is_opened(client: Any) -> None:
    SpladeIndex(client=client, model=DOC).add(MOON)

    assert SpladeIndex(client=client).model.fingerprint["model"] == DOC


def test_another_network_is_refused_although_the_name_is_the_same(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SpladeIndex(client=client, model=DOC).add(MOON)
    older = shutil.copytree(Path(splade_retriever.__file__).parent / "bundled", tmp_path / "older")
    tokenizer = older / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")
    monkeypatch.setattr(model_files, "_BUNDLED", older)

    with pytest.raises(CollectionMismatchError, match=rf"another revision.*reindex --model {DOC}"):
        SpladeIndex(client=client).search(QUERY)
    with pytest.raises(CollectionMismatchError, match="Their vectors cannot be compared"):
        SpladeIndex(client=client, model=DOC)
