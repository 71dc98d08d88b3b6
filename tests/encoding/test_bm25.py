"""BM25 equals FastEmbed's, and is served by an index and by the adapters."""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import TextNode
from qdrant_client import models

from splade_retriever import Bm25Embedding, EdgeClient, SparseTextEmbedding, SpladeIndex, reindex
from splade_retriever.encoding.bm25 import _ENGLISH
from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.errors import InputError, UnknownModelError
from splade_retriever.llama_index import SpladeRetriever as LlamaIndexRetriever
from splade_retriever.llama_index import SpladeSparseEmbedding, sparse_encoders
from tests.mlm_graphs import real_texts

fastembed = pytest.importorskip("fastembed.sparse.bm25", reason="fastembed is not installed (extra `test`)")

TEXTS = [
    "Why do stars explode?",
    "The CAFÉ on the Champs-Élysées isn't open; snake_case __init__ and _ alone",
    "running runner runs ran, co-operation; ÅNGSTRÖM ﬁ 12,5 3.14 x² ①",
    "",
    "the of and",
    f"{'a' * 40} {'b' * 41}",
    "Ein Haus, zwei Häuser; 月の南極 القمر يدور Пример",
    "tab\tand\nnewline\u00a0and\u200bzero",
]
DOCUMENTS = {
    "moon": "The lander touched down near the lunar south pole of the Moon.",
    "rover": "A rover of six wheels drove down the ramp.",
    "stars": "Massive stars explode when their cores collapse.",
}


def theirs(folder: Path, **options: object) -> Any:
    """Return FastEmbed's encoder with a local list of stop words in place of its download."""
    (folder / "english.txt").write_text("\n".join(sorted(_ENGLISH)), encoding="utf-8")
    return fastembed.Bm25("Qdrant/bm25", specific_model_path=str(folder), **options)


def assert_equal(ours: object, expected: object, texts: list[str]) -> None:
    for our, their, text in zip(ours, expected, texts, strict=True):  # type: ignore[call-overload]
        order = np.argsort(their.indices)
        assert our.indices.tolist() == their.indices[order].tolist(), text
        np.testing.assert_allclose(our.values, their.values[order], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 0.9, "b": 0.4, "avg_len": 60.0}, {"disable_stemmer": True}, {"token_max_length": 5}],
)
def test_documents_and_queries_equal_those_of_fastembed(tmp_path: Path, options: dict[str, float]) -> None:
    texts = [*TEXTS, *real_texts()]
    reference, ours = theirs(tmp_path, **options), Bm25Embedding(**options)  # type: ignore[arg-type]

    assert_equal(ours.embed(texts), reference.embed(texts), texts)
    assert_equal(ours.query_embed(texts), reference.query_embed(texts), texts)
    assert ours.token_count(texts) == reference.token_count(texts)


def test_another_language_equals_fastembeds_with_the_same_stop_words(tmp_path: Path) -> None:
    texts = ["Die Häuser der Stadt sind alt.", "Ein Haus und zwei Häuser"]
    words = {"die", "der", "und", "ein"}
    reference = theirs(tmp_path, language="german", stopwords=words)

    ours = Bm25Embedding(language="german", stopwords=words)

    assert_equal(ours.embed(texts), reference.embed(texts), texts)


NLTK = Path(importlib.util.find_spec("llama_index.core").submodule_search_locations[0])  # type: ignore[union-attr,index]
NLTK_WORDS = NLTK / "_static" / "nltk_cache" / "corpora" / "stopwords"
"""NLTK's lists, which llama-index-core comes with."""
WITHOUT_LIST = ("arabic", "greek", "romanian", "tamil")
"""Languages without stop words here."""
SENTENCES = {
    "arabic": "القمر يدور حول الأرض وهو من أقرب الأجرام",
    "danish": "Månen kredser om jorden, og den er ikke langt væk",
    "dutch": "De maan draait om de aarde en is niet ver weg",
    "english": "The moon circles the earth and is not far away",
    "finnish": "Kuu kiertää maata eikä se ole kaukana meistä",
    "french": "La lune tourne autour de la terre et n'est pas loin",
    "german": "Der Mond kreist um die Erde und ist nicht weit entfernt",
    "greek": "Η σελήνη γυρίζει γύρω από τη γη και δεν είναι μακριά",  # noqa: RUF001
    "hungarian": "A hold a föld körül kering, és nincs messze tőlünk",
    "italian": "La luna gira intorno alla terra e non è lontana",
    "norwegian": "Månen går rundt jorden, og den er ikke langt unna",
    "portuguese": "A lua gira em torno da terra e não está longe",
    "romanian": "Luna se rotește în jurul pământului și nu este departe",
    "russian": "Луна вращается вокруг земли, и она не далеко от нас",
    "spanish": "La luna gira alrededor de la tierra y no está lejos",
    "swedish": "Månen kretsar kring jorden och den är inte långt borta",
    "tamil": "சந்திரன் பூமியைச் சுற்றி வருகிறது",
    "turkish": "Ay dünyanın çevresinde döner ve çok uzakta değil",  # noqa: RUF001
}


@pytest.mark.parametrize("language", fastembed.supported_languages)
def test_each_language_has_the_words_and_stems_of_fastembed(tmp_path: Path, language: str) -> None:
    words = NLTK_WORDS / language
    if language not in WITHOUT_LIST:
        (tmp_path / f"{language}.txt").write_text(words.read_text("utf-8"), encoding="utf-8")
    texts = [SENTENCES[language], SENTENCES[language].upper(), words.read_text("utf-8")]
    reference = fastembed.Bm25("Qdrant/bm25", specific_model_path=str(tmp_path), language=language)

    ours = Bm25Embedding(language=language)

    assert_equal(ours.embed(texts), reference.embed(texts), texts)
    assert_equal(ours.query_embed(texts), reference.query_embed(texts), texts)


@pytest.mark.network
@pytest.mark.parametrize("language", fastembed.supported_languages)
def test_each_language_equals_fastembeds_download(language: str) -> None:
    texts = [SENTENCES[language], (NLTK_WORDS / language).read_text("utf-8")]
    reference = fastembed.Bm25("Qdrant/bm25", language=language)
    has_no_licence = language in WITHOUT_LIST and language != "tamil"  # FastEmbed has no list for Tamil
    words = (NLTK_WORDS / language).read_text("utf-8").split() if has_no_licence else None

    assert_equal(
        Bm25Embedding(language=language, stopwords=words).embed(texts), reference.embed(texts), texts
    )


def test_an_index_ranks_by_bm25_with_the_inverse_document_frequency(tmp_path: Path) -> None:
    with SpladeIndex(tmp_path / "index", model="Qdrant/bm25") as index:
        index.add(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
        hits = index.search("the rovers drove near the moon")
        vectors = index.client.get_collection(index.collection).config.params.sparse_vectors or {}
        (sparse,) = vectors.values()
    with SpladeIndex(tmp_path / "index") as again:
        reopened = again.search("the rovers drove near the moon")

    assert sparse.modifier == models.Modifier.IDF
    assert [hit.id for hit in reopened] == [hit.id for hit in hits] == ["rover", "moon"]
    ours = Bm25Embedding()
    (query,), (document,) = ours.query_embed("the rovers drove near the moon"), ours.embed(DOCUMENTS["rover"])
    # Each word is in one of three documents: ln((3 - 1 + .5) / (1 + .5) + 1), Qdrant's formula.
    assert hits[0].score == pytest.approx(query.dot(document) * np.log(2.5 / 1.5 + 1), rel=1e-4)


def test_a_collection_that_fastembed_wrote_is_searched(tmp_path: Path) -> None:
    client, reference = EdgeClient(tmp_path / "store"), theirs(tmp_path)
    idf = models.SparseVectorParams(modifier=models.Modifier.IDF)
    client.create_collection("old", vectors_config={}, sparse_vectors_config={"bm25": idf})
    points = [
        models.PointStruct(id=number, vector={"bm25": vector.as_object()}, payload={"page_content": text})
        for number, (text, vector) in enumerate(
            zip(DOCUMENTS.values(), reference.embed(list(DOCUMENTS.values())), strict=True)
        )
    ]
    client.upsert("old", points)

    index = SpladeIndex(
        client=client, collection="old", vector_name="bm25", model="Qdrant/bm25", create=False
    )

    assert [hit.text for hit in index.search("lunar landers")] == [DOCUMENTS["moon"]]
    client.close()


@pytest.mark.parametrize("back", [False, True])
def test_reindexing_changes_the_modifier_of_the_collection(tmp_path: Path, back: bool) -> None:
    models_of = ["Qdrant/bm25", None] if back else [None, "Qdrant/bm25"]
    with SpladeIndex(tmp_path, model=models_of[0]) as index:
        index.add(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    reindex(tmp_path, model=SparseTextEmbedding() if back else models_of[1])
    with SpladeIndex(tmp_path) as index:
        vectors = index.client.get_collection(index.collection).config.params.sparse_vectors or {}
        (sparse,) = vectors.values()
        hits = index.search("exploding stars")

    assert sparse.modifier == (None if back else models.Modifier.IDF)
    assert hits[0].id == "stars"


def test_the_adapters_take_the_name() -> None:
    from splade_retriever.langchain import SpladeSparseEmbeddings, SpladeVectorStore

    store = SpladeVectorStore.from_texts(
        list(DOCUMENTS.values()), ids=list(DOCUMENTS), model="Qdrant/bm25", location=":memory:"
    )
    (found,) = store.similarity_search("rovers", k=1)
    assert found.id == "rover"
    vector = SpladeSparseEmbeddings("qdrant/BM25").embed_query("rovers")
    (expected,) = Bm25Embedding().query_embed("rovers")
    assert (vector.indices, vector.values) == (expected.indices.tolist(), expected.values.tolist())


def test_llama_index_takes_the_name() -> None:
    nodes = [TextNode(id_=id, text=text) for id, text in DOCUMENTS.items()]
    with LlamaIndexRetriever.from_nodes(nodes, model="Qdrant/bm25", similarity_top_k=1) as retriever:
        (found,) = retriever.retrieve("rovers")
        vectors = retriever.vector_store.client.get_collection("splade").config.params.sparse_vectors
    assert (found.node.node_id, vectors["splade"].modifier) == ("rover", models.Modifier.IDF)

    documents, queries = sparse_encoders("Qdrant/bm25")
    (expected,) = Bm25Embedding().query_embed("rovers")
    assert queries(["rovers"]) == ([expected.indices.tolist()], [expected.values.tolist()])
    (node,) = SpladeSparseEmbedding("Qdrant/bm25")([TextNode(text=DOCUMENTS["rover"])])
    assert node.metadata["_splade_vector"]["indices"] == documents([DOCUMENTS["rover"]])[0][0]


def test_what_multiplies_vectors_itself_refuses_bm25(tmp_path: Path) -> None:
    from splade_retriever import evaluate
    from splade_retriever.langchain import SpladeReranker
    from splade_retriever.llama_index import SpladeRerank

    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "text": "a rover"}\n', encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "rover"}\n', encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"evaluate\(\).*modifier 'idf'"):
        evaluate(tmp_path, "Qdrant/bm25")
    with pytest.raises(InputError, match="A reranker multiplies vectors"):
        SpladeRerank(model="Qdrant/bm25")
    with pytest.raises(InputError, match="A reranker multiplies vectors"):
        SpladeReranker(model="Qdrant/bm25").compress_documents([Document("a rover")], "rover")


def test_an_encoder_pickles() -> None:
    ours = Bm25Embedding(k=0.9)

    copy = pickle.loads(pickle.dumps(ours))

    assert copy.fingerprint == ours.fingerprint != Bm25Embedding().fingerprint
    assert list(copy.embed(TEXTS)) == list(ours.embed(TEXTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": -1}, "k is -1"),
        ({"b": 1.5}, "b is 1.5, expected a positive number up to 1"),
        ({"avg_len": 0}, "avg_len is 0"),
        ({"language": "klingon"}, "language is 'klingon', expected one of arabic"),
        ({"stopwords": "the"}, "stopwords is a str"),
        ({"stopwords": 5}, "stopwords is an int, expected a set or a list of words"),
        ({"stopwords": ["the", 5]}, "stopwords holds an int, 5"),
        ({"token_max_length": 0}, "token_max_length is 0"),
    ],
)
def test_a_parameter_that_is_not_valid_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bm25Embedding(**options)  # type: ignore[arg-type]


def test_a_text_that_is_not_a_str_is_refused_with_its_position() -> None:
    with pytest.raises(InputError, match="position 1 is an int"):
        list(Bm25Embedding().embed(["a", 1]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="position 0 has a lone surrogate"):
        list(Bm25Embedding().query_embed("\ud800"))
    with pytest.raises(InputError, match="position 0 is a list"):
        Bm25Embedding().literal_tokenizer([])  # type: ignore[arg-type]


@pytest.mark.parametrize("parameters", ["k=much", "k", "depth=1.0"])
def test_damaged_parameters_of_a_fingerprint_are_named(parameters: str) -> None:
    fingerprint = {**Bm25Embedding().fingerprint, "parameters": parameters}

    with pytest.raises(InputError, match=f"The parameters of Qdrant/bm25 are '{parameters}'"):
        Bm25Embedding.of_fingerprint(fingerprint)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Qdrant/bm25", r"Use Bm25Embedding\(\)"),
        (
            "Qdrant/bm42-all-minilm-l6-v2-attentions",
            "prithivida/Splade_PP_en_v1.*Qdrant/bm25.*splade reindex",
        ),
        ("Qdrant/minicoil-v1", "a model per word.*Splade_PP_en_v1.*Qdrant/bm25"),
    ],
)
def test_fastembeds_other_sparse_models_have_an_error_that_says_what_to_use(name: str, advice: str) -> None:
    with pytest.raises(UnknownModelError, match=advice):
        SparseTextEmbedding(name)
    if name != "Qdrant/bm25":
        with pytest.raises(UnknownModelError, match=advice):
            load_encoder(name)
