"""An index of two sparse encoders: each has its ranking, and a search fuses them."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from splade_retriever import Bm25Embedding, Fusion, SpladeIndex, SpladeQuery, reindex
from splade_retriever.errors import CollectionMismatchError, InputError, MissingExtraError
from splade_retriever.index.collection_settings import SETTINGS_KEY
from splade_retriever.index.documents import Hit
from splade_retriever.maintenance.diagnosis import diagnose
from splade_retriever.maintenance.migrate import migrate
from tests.words import LetterEncoder, WordEncoder

pytest.importorskip("py_rust_stemmers", reason="needs the extra `bm25`")

DOCUMENTS = {
    "moon": "The lander touched down near the lunar south pole of the Moon.",
    "rover": "A rover of six wheels drove down the ramp.",
    "stars": "Massive stars explode when their cores collapse.",
    "code": "Error XR-7741 of the rover's wheel controller.",
}
QUERY = "rover wheels XR-7741"


def fill(index: SpladeIndex) -> SpladeIndex:
    index.add(list(DOCUMENTS.values()), [{"n": n} for n in range(len(DOCUMENTS))], list(DOCUMENTS))
    return index


@pytest.fixture(scope="module")
def index() -> Iterator[SpladeIndex]:
    with SpladeIndex(second_model="Qdrant/bm25") as made:
        yield fill(made)


def test_both_rankings_are_fused_and_each_can_be_searched_alone(index: SpladeIndex) -> None:
    fused = index.search(QUERY)
    alone = {mode: index.search(QUERY, mode=mode) for mode in ("sparse", "second")}

    assert index.branches == ("sparse", "second")
    assert fused == index.search(QUERY, mode="hybrid")
    for hit in fused:
        for name, branch in hit.branches.items():
            found = alone[name][branch.rank - 1]
            assert found.id == hit.id
            assert found.score == pytest.approx(branch.score)
        expected = sum(1 / (59 + branch.rank) for branch in hit.branches.values())
        assert hit.score == pytest.approx(expected, rel=1e-5)
    assert [hit.id for hit in alone["second"]] == ["code", "rover"]


def test_the_second_ranking_is_that_of_an_index_of_its_model_alone(index: SpladeIndex) -> None:
    with SpladeIndex(model="Qdrant/bm25") as words:
        expected = fill(words).search(QUERY)

    found = index.search(QUERY, mode="second")

    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected])


@pytest.mark.parametrize(
    ("fusion", "first"),
    [
        (Fusion(weights=(0.0, 1.0)), "second"),
        (Fusion(weights=(1.0, 0.0)), "sparse"),
    ],
)
def test_weights_choose_between_the_rankings(index: SpladeIndex, fusion: Fusion, first: Any) -> None:
    found = index.search(QUERY, 2, fusion=fusion)

    assert [hit.id for hit in found] == [hit.id for hit in index.search(QUERY, 2, mode=first)]


def test_dbsf_fuses_the_rankings(index: SpladeIndex) -> None:
    found = index.search(QUERY, fusion=Fusion("dbsf"))

    assert {hit.id for hit in found[:2]} == {"code", "rover"}
    assert set(found[0].branches) == {"sparse", "second"}


def test_a_filter_holds_for_both_rankings(index: SpladeIndex) -> None:
    assert [hit.id for hit in index.search(QUERY, filter={"n": 1})] == ["rover"]


def test_async_searches_are_the_same(index: SpladeIndex) -> None:
    async def both() -> list[list[Hit]]:
        return list(await asyncio.gather(index.asearch(QUERY), index.asearch(QUERY, mode="second")))

    assert asyncio.run(both()) == [index.search(QUERY), index.search(QUERY, mode="second")]


def test_every_store_fuses_filters_and_explains_both_rankings(client: Any) -> None:
    index = fill(SpladeIndex(client=client, model=WordEncoder(), second_model="Qdrant/bm25"))
    index.add(["A comet with a tail."], [{"n": 7}], ["stars"])
    index.delete(["moon"])
    hits = index.search(QUERY)
    explanations = [explanation.second for explanation in index.explain_all(QUERY, hits)]

    assert [hit.id for hit in hits] == ["code", "rover"]
    assert [hit.id for hit in index.search("comets tails", filter={"n": {"$gt": 5}})] == ["stars"]
    scores = [explanation.score for explanation in explanations if explanation is not None]
    assert scores == pytest.approx([hit.branches["second"].score for hit in hits], rel=1e-4)
    assert index.search("stars", mode="second") == []


def test_three_rankings_are_fused() -> None:
    with SpladeIndex(model=WordEncoder(), second_model="Qdrant/bm25", dense=LetterEncoder()) as index:
        fill(index)
        hits = index.search("rover", fusion=Fusion(weights=(1.0, 2.0, 3.0)))

        assert index.branches == ("sparse", "second", "dense")
        assert set(hits[0].branches) == {"sparse", "second", "dense"}
        weights = {"sparse": 1.0, "second": 2.0, "dense": 3.0}
        expected = sum(1 / (b.rank / weights[name] + 59) for name, b in hits[0].branches.items())
        assert hits[0].score == pytest.approx(expected, rel=1e-4)
        with pytest.raises(
            InputError, match=r"expected one for each ranking of the index: \(sparse, second, de"
        ):
            index.search("rover", fusion=Fusion(weights=(1.0, 1.0)))


def test_an_explanation_has_the_contributions_of_both_rankings(index: SpladeIndex) -> None:
    hits = index.search(QUERY)
    explanations = index.explain_all(QUERY, hits)

    for hit, explanation in zip(hits, explanations, strict=True):
        assert explanation.score == pytest.approx(hit.branches["sparse"].score, rel=1e-4)
        assert explanation.second is not None
        second = hit.branches.get("second")
        assert explanation.second.score == pytest.approx(0.0 if second is None else second.score, rel=1e-4)
    best = next(e for hit, e in zip(hits, explanations, strict=True) if hit.id == "code").second
    assert best is not None
    assert {c.token: c.kind for c in best.contributions} == dict.fromkeys(
        ["rover", "wheel", "xr", "7741"], "literal"
    )
    assert best.contributions[-1].score < best.contributions[0].score  # rare words weigh more
    assert [best.text[slice(*span)] for span in best.spans] == ["XR", "7741", "rover", "wheel"]
    assert best.shares["literal"] == pytest.approx(1.0)
    assert explanations[0].to_dict()["second"]["score"] == explanations[0].second.score  # type: ignore[union-attr]


def test_an_explanation_shows_both_rankings_to_people(index: SpladeIndex) -> None:
    from rich.console import Console

    explanation = index.explain("wheels", index.search("wheels", 1)[0])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(explanation)

    assert "second model" in console.export_text()
    assert "second model" in explanation._repr_html_()


def test_an_index_of_bm25_alone_is_explained_and_takes_controls() -> None:
    with SpladeIndex(model="Qdrant/bm25") as index:
        fill(index)
        query = SpladeQuery("drove", boost={"exploding": 3.0})
        hits = index.search(query)
        explanations = index.explain_all(query, hits)

    assert [hit.id for hit in hits] == ["stars", "rover"]
    assert [e.score for e in explanations] == pytest.approx([hit.score for hit in hits], rel=1e-4)
    assert (explanations[0].contributions[0].token, explanations[0].second) == ("explod", None)


def test_controls_change_both_rankings(index: SpladeIndex) -> None:
    plain, boosted = (
        index.explain(q, index.get(["rover"])[0]).second
        for q in ("rover wheels", SpladeQuery("rover wheels", boost={"wheels": 2.0}))
    )
    assert plain is not None
    assert boosted is not None
    of = [{c.token: c.score for c in e.contributions} for e in (plain, boosted)]

    assert of[1]["wheel"] == pytest.approx(2 * of[0]["wheel"], rel=1e-5)
    assert of[1]["rover"] == pytest.approx(of[0]["rover"], rel=1e-5)


def test_why_not_names_the_place_in_each_ranking(index: SpladeIndex) -> None:
    missing = index.why_not(QUERY, "rover", k=1)
    alone = index.why_not("XR-7741", "stars", mode="second")

    assert set(missing.places) == {"sparse", "second"}
    assert missing.places["second"].rank == 2
    assert (alone.rank, alone.reasons[0].kind) == (None, "no shared token")


def test_documents_are_replaced_and_deleted_in_both_rankings(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path, model=WordEncoder(), second_model="Qdrant/bm25") as index:
        fill(index)
        index.add(["A comet with a tail."], ids=["rover"])
        index.delete(["stars"])

        assert [hit.id for hit in index.search("comets", mode="second")] == ["rover"]
        assert index.search("stars", mode="second") == index.search("six", mode="second") == []


def test_a_document_with_a_vector_is_encoded_by_the_second_model() -> None:
    with SpladeIndex(model=WordEncoder(), second_model="Qdrant/bm25") as index:
        (vector,) = WordEncoder().passage_embed(["comet"])
        index.add(["A rover."], ids=["a"], vectors=[vector])

        assert index.search("comet", mode="sparse")[0].id == "a"
        assert index.search("rovers", mode="second")[0].id == "a"
        assert index.search("comet", mode="second") == []


@pytest.mark.parametrize("windows", ["truncate", "merge", "points"])
def test_long_texts_are_read_completely_by_bm25(windows: Any) -> None:
    text = " ".join(["word"] * 600) + " zebra"
    with SpladeIndex(second_model="Qdrant/bm25", windows=windows) as index:
        index.add([text, "Another text about a giraffe."], ids=["long", "short"])
        (hit,) = index.search("zebras", mode="second")
        explanation = index.explain("zebras", hit).second

    assert hit.id == "long"
    assert explanation is not None
    assert explanation.score == pytest.approx(hit.score, rel=1e-4)
    assert [hit.text[slice(*span)] for span in explanation.spans] == ["zebra"]


def test_a_folder_opens_without_naming_the_second_model(tmp_path: Path) -> None:
    german = Bm25Embedding(language="german", k=0.9)
    with SpladeIndex(tmp_path, model=WordEncoder(), second_model=german, second_name="bm25") as index:
        index.add(["Zwei Häuser"], ids=["a"])
        params = index.client.get_collection("splade").config.params.sparse_vectors or {}
    with SpladeIndex(tmp_path, model=WordEncoder()) as again:
        found = again.search("Haus", mode="second")
        second = again.second_model

    assert {name: vector.modifier for name, vector in params.items()} == {
        "splade": None,
        "bm25": models.Modifier.IDF,
    }
    assert [hit.id for hit in found] == ["a"]
    assert second is not None
    assert second.fingerprint == german.fingerprint


def test_own_stop_words_must_be_passed_again(tmp_path: Path) -> None:
    second = Bm25Embedding(stopwords=["haus"])
    SpladeIndex(tmp_path, model=WordEncoder(), second_model=second).close()

    with (
        SpladeIndex(tmp_path, model=WordEncoder()) as index,
        pytest.raises(CollectionMismatchError, match=r"by second model 'Qdrant/bm25'.*stopwords: coll"),
    ):
        index.search("house")
    with SpladeIndex(tmp_path, model=WordEncoder(), second_model=second) as index:
        assert index.search("house") == []


def test_another_second_model_is_refused(tmp_path: Path) -> None:
    SpladeIndex(tmp_path, model=WordEncoder(), second_model="Qdrant/bm25").close()

    with pytest.raises(
        CollectionMismatchError, match=r"index uses second model .*splade reindex --second-model"
    ):
        SpladeIndex(tmp_path, model=WordEncoder(), second_model=Bm25Embedding(k=2))
    with pytest.raises(CollectionMismatchError, match=r"no sparse vector named 'bm25'.*second_name="):
        SpladeIndex(tmp_path, model=WordEncoder(), second_name="bm25")


def test_an_index_of_one_model_refuses_a_second_one_and_names_reindex(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path, model=WordEncoder()) as index:
        stored = index.store.describe().config.metadata or {}
        with pytest.raises(InputError, match="mode is 'second', but the index has no second model"):
            index.search("rover", mode="second")

    assert stored[SETTINGS_KEY]["format"] == 1  # older versions read it
    assert not [name for name in stored[SETTINGS_KEY] if name.startswith("second")]
    with pytest.raises(CollectionMismatchError, match=r"no vectors of a second model.*--second-model"):
        SpladeIndex(tmp_path, model=WordEncoder(), second_model="Qdrant/bm25")


def test_a_missing_extra_is_named_when_the_second_model_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SpladeIndex(tmp_path, model=WordEncoder(), second_model="Qdrant/bm25") as index:
        fill(index)
    monkeypatch.setitem(__import__("sys").modules, "mmh3", None)

    with SpladeIndex(tmp_path, model=WordEncoder()) as index:
        assert index.search("rover", mode="sparse")
        with pytest.raises(MissingExtraError, match=r"splade-retriever\[bm25\]"):
            index.search("rover")


def test_reindexing_adds_changes_and_removes_the_second_model(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path, model=WordEncoder()) as index:
        fill(index)
    found = []
    for second in ("Qdrant/bm25", Bm25Embedding(disable_stemmer=True), None, "none"):
        report = reindex(tmp_path, WordEncoder(), second_model=second)
        with SpladeIndex(tmp_path, model=WordEncoder()) as index:
            mode: Any = "second" if "second" in index.branches else "sparse"
            found.append(
                (report.switch, index.branches[1:], [hit.id for hit in index.search("rovers", mode=mode)])
            )
            assert index.count() == len(DOCUMENTS)
            params = index.client.get_collection("splade").config.params.sparse_vectors or {}

    assert found == [
        ("replaced", ("second",), ["rover", "code"]),
        ("replaced", ("second",), []),
        ("nothing to do", ("second",), []),
        ("replaced", (), []),
    ]
    assert list(params) == ["splade"]


def test_a_migrated_index_has_both_rankings(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "a", model=WordEncoder(), second_model="Qdrant/bm25") as index:
        expected = fill(index).search(QUERY)
    migrate(str(tmp_path / "a"), str(tmp_path / "b"))

    with SpladeIndex(tmp_path / "b", model=WordEncoder()) as index:
        assert index.search(QUERY) == expected


def test_the_doctor_checks_the_second_model(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path, second_model="Qdrant/bm25") as index:
        fill(index)

    found = {f.check: f for f in diagnose(tmp_path).findings}
    other = {f.check: f for f in diagnose(tmp_path, second_model=Bm25Embedding(k=2)).findings}

    assert (found["second model"].level, found["second model"].found) == ("ok", "Qdrant/bm25")
    assert other["second model"].level == "fault"


def test_relevance_of_the_second_ranking_is_one_scale(index: SpladeIndex) -> None:
    (hit,) = index.search(DOCUMENTS["stars"], 1, mode="second")

    assert index.reference_score(DOCUMENTS["stars"], "second") == pytest.approx(hit.score, rel=1e-4)


# -- adapters, configuration, command line -------------------------------------------------------------------


def test_langchain_joins_both_rankings(tmp_path: Path) -> None:
    from splade_retriever.langchain import SpladeRetriever, SpladeVectorStore

    texts, ids = list(DOCUMENTS.values()), list(DOCUMENTS)
    with SpladeVectorStore(tmp_path, second_model="Qdrant/bm25") as store:
        store.add_texts(texts, ids=ids)
        found = store.similarity_search(QUERY, 2, with_explanations=True)
        (alone, *_) = store.similarity_search(QUERY, 1, mode="second")
        relevant = store.similarity_search_with_relevance_scores(QUERY, 2)
        of_words = store.similarity_search_with_relevance_scores(DOCUMENTS["stars"], 1, mode="second")
    with SpladeRetriever(location=tmp_path, k=2) as retriever:
        again = retriever.invoke(QUERY)

    assert {document.id for document in found} == {"code", "rover"} == {document.id for document in again}
    report = found[0].metadata["_splade"]
    assert set(report["branches"]) == {"sparse", "second"}
    assert report["explanation"]["second"]["score"] == pytest.approx(report["branches"]["second"]["score"])
    assert alone.id == "code"
    assert 0.9 < relevant[0][1] <= 1.0
    assert of_words[0][1] == pytest.approx(0.76, abs=0.01)


def test_llama_index_weighs_the_second_ranking_by_alpha() -> None:
    from llama_index.core.schema import TextNode

    from splade_retriever.llama_index import SpladeRetriever, SpladeVectorStore

    store = SpladeVectorStore(second_model="Qdrant/bm25")
    store.add([TextNode(id_=id, text=text) for id, text in DOCUMENTS.items()])

    def found(**arguments: Any) -> list[Any]:
        nodes = SpladeRetriever(store, **arguments).retrieve(QUERY)
        return [(node.node.node_id, node.score) for node in nodes]

    assert found(mode="hybrid", alpha=1.0)[0] == ("code", pytest.approx(1.0))
    assert len(found(mode="hybrid", alpha=1.0)) == 2
    assert found(mode="hybrid", alpha=0.0) == [
        (id, pytest.approx(60 / (59 + n)))
        for n, id in enumerate((id for id, _ in found(mode="sparse")), start=1)
    ]
    store.close()


def test_haystack_joins_both_rankings() -> None:
    pytest.importorskip("haystack", reason="needs the extra `haystack`")
    from haystack import Document

    from splade_retriever.haystack import SpladeDocumentStore, SpladeRetriever

    store = SpladeDocumentStore(settings={"second_model": "Qdrant/bm25"})
    store.write_documents([Document(id=id, content=text) for id, text in DOCUMENTS.items()])
    found = SpladeRetriever(store, top_k=1, explain=True).run("XR-7741")["documents"]

    assert found[0].id == "code"
    assert found[0].meta["_splade"]["explanation"]["second"]["score"] > 0
    store.close()


def test_a_configuration_names_the_second_model(tmp_path: Path) -> None:
    from splade_retriever import RetrieverConfig

    with SpladeIndex(tmp_path / "index", second_model="Qdrant/bm25") as index:
        fill(index)
    config = tmp_path / "splade.yaml"
    config.write_text("location: ./index\nsecond_model: Qdrant/bm25\nk: 1\nfusion: {weights: [1, 2]}\n")
    with RetrieverConfig.read(config).langchain() as retriever:
        (found,) = retriever.invoke("XR-7741")
    values = {"location": str(tmp_path / "index"), "k": 1}
    with RetrieverConfig.from_dict(values).llama_index() as nodes:
        (node,) = nodes.retrieve("XR-7741")

    assert found.id == node.node.node_id == "code"
    assert node.score == pytest.approx(1.0)


@pytest.mark.parametrize("option", ["model", "second_model"])
def test_an_index_with_stop_words_of_the_caller_says_how_to_open_it(tmp_path: Path, option: str) -> None:
    others: dict[str, Any] = {} if option == "model" else {"model": WordEncoder()}
    encoders: dict[str, Any] = {**others, option: Bm25Embedding(stopwords=["moon"])}
    with SpladeIndex(tmp_path, **encoders) as index:
        index.add(["moon rock"], ids=["rock"])

    with (
        SpladeIndex(tmp_path, **others) as index,
        pytest.raises(CollectionMismatchError, match=rf"{option}=Bm25Embedding\(stopwords="),
    ):
        index.search("rock")

    with SpladeIndex(tmp_path, **encoders) as index:
        assert [hit.id for hit in index.search("rock")] == ["rock"]
