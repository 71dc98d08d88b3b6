"""The encoder: vectors that depend only on the text, bounded memory, errors, queries."""

import inspect
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from splade_retriever import SparseEmbedding, SparseTextEmbedding
from splade_retriever.encoding.model_cards import ModelCard
from splade_retriever.encoding.text_embedding import _INIT_KEYWORDS
from splade_retriever.encoding.token_weights import TokenWeights
from splade_retriever.encoding.windows import WindowTokenizer
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError, ModelOutputError
from splade_retriever.protocols import Encoder
from tests.tiny import VOCABULARY, tiny_logits, write_json, write_tiny_model

TOLERANCE = 1e-5
words = st.sampled_from(
    ["the", "moon", "mission", "lunar", "rover", "qx", "Chandrayaan-3", "naïve", "漢字", ",", "\n"]
)
sentences = st.lists(words, max_size=40).map(" ".join)


@pytest.fixture(scope="module", params=["bundled int8", "tiny fp32"])
def model(request: pytest.FixtureRequest, bundled: SparseTextEmbedding, tiny: SparseTextEmbedding) -> object:
    return bundled if request.param == "bundled int8" else tiny


def assert_same(one: SparseEmbedding, two: SparseEmbedding, tolerance: float = TOLERANCE) -> None:
    """Compare two vectors; a weight near 0 may be missing in one."""
    ids = np.union1d(one.indices, two.indices)
    left, right = one.as_dict(), two.as_dict()
    for token_id in ids.tolist():
        assert left.get(token_id, 0.0) == pytest.approx(right.get(token_id, 0.0), abs=tolerance)


# -- vectors -------------------------------------------------------------------------------------------------


@given(data=st.data(), texts=st.lists(sentences, min_size=1, max_size=8))
@settings(max_examples=12)
def test_a_vector_depends_only_on_its_text(
    model: SparseTextEmbedding, data: st.DataObject, texts: list[str]
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    batch_size = data.draw(st.none() | st.integers(1, 9))
    parallel = data.draw(st.sampled_from([None, 0, 1, 2, 5]))

    alone = [next(model.embed(text)) for text in texts]
    together = list(model.embed([texts[place] for place in order], batch_size=batch_size, parallel=parallel))

    for place, vector in zip(order, together, strict=True):
        assert_same(vector, alone[place])


def test_padding_never_changes_the_vector(model: SparseTextEmbedding) -> None:
    short, long = "the moon", "lunar mission " * 15

    padded, _ = model.embed([short, long], batch_size=2)

    assert_same(padded, next(model.embed(short)))


@given(sentences)
@settings(max_examples=50)
def test_a_vector_is_the_maximum_over_tokens_of_log1p_of_the_positive_logits(
    tiny: SparseTextEmbedding, text: str
) -> None:
    ids = tiny.tokenizer.encode_batch([text])[0].ids
    expected = np.log1p(np.maximum(tiny_logits(ids), 0)).max(axis=0)

    assert_same(next(tiny.embed(text)), SparseEmbedding.from_dense(expected))


def test_a_string_is_one_document(bundled: SparseTextEmbedding) -> None:
    assert len(list(bundled.embed("the moon"))) == 1


def test_a_symmetric_model_encodes_passages_and_queries_the_same(tiny: SparseTextEmbedding) -> None:
    (document,) = tiny.embed("lunar mission")

    assert list(tiny.passage_embed(["lunar mission"])) == [document]
    assert list(tiny.query_embed("lunar mission")) == [document]


def test_the_bundled_model_prunes_query_weights_and_raises_them_to_a_power(
    bundled: SparseTextEmbedding,
) -> None:
    text = "why do the tails of comets always point away from the sun, and why do some of them have two?"
    (document,), (query,) = bundled.embed(text), bundled.query_embed(text)

    largest = document.top(len(query))
    np.testing.assert_array_equal(query.indices, largest.indices)
    assert len(query) <= 32
    assert list(np.argsort(query.values)) == list(np.argsort(largest.values))
    assert query.values.max() / query.values.min() > largest.values.max() / largest.values.min()


def test_the_encoder_satisfies_the_protocols_of_index_and_windows(bundled: SparseTextEmbedding) -> None:
    assert isinstance(bundled, Encoder)
    assert isinstance(bundled.tokenizer, WindowTokenizer)


def test_threads_can_share_one_model(bundled: SparseTextEmbedding) -> None:
    texts = [f"mission number {number} to the moon" for number in range(8)]
    expected = list(bundled.embed(texts))
    results: dict[int, list[SparseEmbedding]] = {}

    def work(number: int) -> None:
        results[number] = list(bundled.embed(texts))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 4
    for vectors in results.values():
        for one, two in zip(vectors, expected, strict=True):
            assert_same(one, two)


# -- streams -------------------------------------------------------------------------------------------------


def test_a_long_stream_runs_in_bounded_memory_and_reads_little_ahead(tiny: SparseTextEmbedding) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"the moon mission number {read} lands"

    vectors = tiny.embed(texts(), parallel=2)
    for _ in islice(vectors, 2_000):
        pass
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in islice(vectors, 20_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    vectors.close()

    assert read <= 22_000 + 1_024
    # 20,000 vectors kept would be more than 20 MB; two windows and their batches are a few.
    assert peak - before < 12_000_000


def test_a_progress_bar_is_shown_on_request(
    tiny: SparseTextEmbedding, capsys: pytest.CaptureFixture[str]
) -> None:
    list(tiny.embed(["moon"] * 3))
    assert capsys.readouterr().err == ""

    assert len(list(tiny.embed(["moon"] * 3, show_progress=True))) == 3
    assert "3/3" in capsys.readouterr().err


# -- unusual texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000", "\x00", "\u200b"])
def test_a_text_without_words_has_the_vector_of_the_empty_text(
    bundled: SparseTextEmbedding, text: str
) -> None:
    assert_same(next(bundled.embed(text)), next(bundled.embed("")))


def test_the_repr_states_name_precision_and_max_length(tiny: SparseTextEmbedding) -> None:
    assert repr(tiny) == "SparseTextEmbedding('tiny', precision='fp32', max_length=32)"


def test_no_texts_return_no_vectors(bundled: SparseTextEmbedding) -> None:
    assert list(bundled.embed([])) == []
    assert list(bundled.query_embed([])) == []
    assert bundled.token_count([]) == 0


def test_a_text_of_100_000_characters_is_truncated_to_max_length(bundled: SparseTextEmbedding) -> None:
    long = "moon " * 20_000

    (vector,) = bundled.embed(long)

    assert_same(vector, next(bundled.embed("moon " * 510)))


@pytest.mark.parametrize("bad", ["half \ud83d", 7, None, b"moon", ["nested"]])
def test_an_item_that_is_not_text_is_refused_with_its_position(
    bundled: SparseTextEmbedding, bad: object
) -> None:
    vectors = bundled.embed(["moon", "rover", bad, "mars"])  # type: ignore[list-item]

    assert len([next(vectors), next(vectors)]) == 2
    with pytest.raises(InputError, match="position 2 "):
        next(vectors)
    with pytest.raises(InputError, match="position 2 "):
        bundled.token_count(["moon", "rover", bad])  # type: ignore[list-item]


@pytest.mark.parametrize("method", ["embed", "passage_embed", "query_embed", "token_count"])
@pytest.mark.parametrize("bad", [None, 7, b"moon"])
def test_an_argument_that_is_not_texts_is_refused_immediately(
    bundled: SparseTextEmbedding, method: str, bad: object
) -> None:
    with pytest.raises(InputError, match="expected a str or an iterable"):
        getattr(bundled, method)(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected an int of 1 or more"),
        ({"batch_size": True}, "batch_size is True"),
        ({"parallel": -1}, "parallel is -1, expected an int of 0 or more"),
        ({"parallel": 1.5}, "parallel is 1.5"),
    ],
)
def test_an_invalid_number_is_refused_immediately(
    bundled: SparseTextEmbedding, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bundled.embed(["moon"], **arguments)  # type: ignore[arg-type]


# -- truncation ----------------------------------------------------------------------------------------------


def test_truncated_texts_are_counted_and_logged_once(
    tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SparseTextEmbedding(tiny_folder, max_length=8)
    caplog.set_level(logging.INFO, logger="splade_retriever")

    list(model.embed(["moon " * 6, "moon " * 7, "rover " * 50]))
    list(model.embed(["moon " * 9]))

    assert model.truncated == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "longer than the 8 tokens" in warnings[0]
    runs = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [run for run in runs if "Truncated" in run] == [
        "Truncated 2 of 3 texts to 8 tokens",
        "Truncated 1 of 1 texts to 8 tokens",
    ]


@pytest.mark.parametrize("text", ["", "  ", "\U0001f600", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"])
def test_a_text_without_a_known_token_has_an_empty_vector_and_is_counted(
    bundled: SparseTextEmbedding, text: str
) -> None:
    before = bundled.unreadable

    vectors = [*bundled.embed([text, "moon"]), *bundled.query_embed([text])]

    assert [len(vector) > 0 for vector in vectors] == [False, True, False]
    assert bundled.unreadable == before + 2


def test_unreadable_texts_are_logged_once(
    tiny_folder: Path, inference_free: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SparseTextEmbedding(tiny_folder)
    asymmetric = SparseTextEmbedding(inference_free, lazy_load=True)

    list(model.embed(["moon", "\U0001f600"]))
    list(model.embed(["\U0001f600"]))
    list(asymmetric.query_embed(["moon", "\U0001f600"]))

    assert (model.unreadable, asymmetric.unreadable) == (2, 1)
    warnings = [record.getMessage() for record in caplog.records if "no token" in record.getMessage()]
    assert len(warnings) == 2


def test_words_of_other_texts_never_come_from_punctuation_or_special_tokens(
    bundled: SparseTextEmbedding,
) -> None:
    (vector,) = bundled.embed(["The Apollo landings on the moon."])

    tokens = [token.removeprefix("##") for token in bundled.tokens_and_weights(vector)]
    assert {"moon", "lunar"} < set(tokens)
    assert [token for token in tokens if len(token) == 1 or not token.isalnum()] in ([], ["."])


def test_tokens_are_counted_without_truncation_and_with_special_tokens(tiny_folder: Path) -> None:
    model = SparseTextEmbedding(tiny_folder, max_length=8)

    assert model.token_count("moon " * 20) == 22
    assert model.token_count(["moon", "the moon", ""]) == 3 + 4 + 2
    assert model.token_count((f"moon {'of ' * n}" for n in range(5)), batch_size=2) == 5 * 3 + 10


@pytest.mark.parametrize(
    ("max_length", "message"),
    [(33, "reads at most 32 tokens"), (0, "max_length is 0"), (2, "expected at least 3")],
)
def test_a_max_length_beyond_the_models_is_refused(tiny_folder: Path, max_length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseTextEmbedding(tiny_folder, max_length=max_length)


# -- FastEmbed's interface -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["embed", "passage_embed", "query_embed", "token_count"])
def test_methods_take_fastembeds_arguments(method: str) -> None:
    fastembed = pytest.importorskip("fastembed", reason="fastembed is not installed (extra `test`)")

    def names(owner: type) -> list[str]:
        parameters = inspect.signature(getattr(owner, method)).parameters.values()
        return [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]

    expected = names(fastembed.SparseTextEmbedding)
    assert names(SparseTextEmbedding)[: len(expected)] == expected


def test_the_constructor_takes_fastembeds_arguments_by_name() -> None:
    fastembed = pytest.importorskip("fastembed", reason="fastembed is not installed (extra `test`)")
    theirs = list(inspect.signature(fastembed.SparseTextEmbedding).parameters)
    ours = list(inspect.signature(SparseTextEmbedding).parameters)

    assert set(theirs) - {"kwargs"} <= set(ours)
    assert ours[:7] == theirs[:7] == ["model_name", "cache_dir", "threads", "providers", *theirs[4:7]]


# -- opening -------------------------------------------------------------------------------------------------


def test_lazy_load_opens_the_session_with_the_first_text_only(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(b"no graph")
    model = SparseTextEmbedding(folder, lazy_load=True)

    with pytest.raises(ModelGraphError):
        next(model.embed("moon"))
    with pytest.raises(ModelGraphError):
        SparseTextEmbedding(folder)


def test_a_file_replaced_after_a_lazy_open_is_an_error(tmp_path: Path) -> None:
    folder, other = (write_tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    model = SparseTextEmbedding(folder, lazy_load=True)
    fingerprint = model.fingerprint
    os.link(folder / "model.onnx", tmp_path / "a second link")
    assert len(next(model.embed("moon")))  # a link changes the file's change time and not its content

    model = SparseTextEmbedding(folder, lazy_load=True)
    assert model.fingerprint == fingerprint
    os.replace(other / "model.onnx", folder / "model.onnx")
    with pytest.raises(ModelFilesError, match="changed after the model was opened"):
        next(model.embed("moon"))

    model = SparseTextEmbedding(folder, lazy_load=True)
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.replace("##z", "##Z"), encoding="utf-8")
    with pytest.raises(ModelFilesError, match="changed after the model was opened"):
        _ = model.fingerprint


def test_fastembeds_device_arguments_are_refused_with_the_argument_to_use() -> None:
    with pytest.raises(InputError, match=r"cuda=True.*providers=\['CUDAExecutionProvider'\]"):
        SparseTextEmbedding(cuda=True)
    with pytest.raises(InputError, match="device_ids"):
        SparseTextEmbedding(device_ids=[0])
    for no_gpu in (False, None, "cpu", "auto"):
        SparseTextEmbedding(None, None, None, None, no_gpu, [], True)
    fastembed = pytest.importorskip("fastembed.common.types", reason="fastembed is not installed")
    SparseTextEmbedding(cuda=fastembed.Device.AUTO, lazy_load=True)
    with pytest.raises(InputError, match="providers="):
        SparseTextEmbedding(cuda=fastembed.Device.CUDA)


def test_a_model_without_a_memory_arena_returns_the_same_vectors(
    tiny_folder: Path, tiny: SparseTextEmbedding
) -> None:
    model = SparseTextEmbedding(tiny_folder, enable_cpu_mem_arena=False)

    assert_same(next(model.embed("the moon")), next(tiny.embed("the moon")))
    assert model._opened_session() is not tiny._opened_session()


@pytest.mark.parametrize(
    "again", [lambda model: model.with_threads(1), lambda model: pickle.loads(pickle.dumps(model))]
)
def test_an_encoder_that_is_opened_again_has_the_arguments_of_the_first(
    tiny_folder: Path, again: Callable[[SparseTextEmbedding], SparseTextEmbedding]
) -> None:
    model = SparseTextEmbedding(tiny_folder, enable_cpu_mem_arena=False)

    assert again(model)._opened_session() is model._opened_session()
    parameters = inspect.signature(SparseTextEmbedding.__init__).parameters
    assert set(parameters) - {"self", "cuda", "lazy_load", "fastembed"} <= set(model._arguments)


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="max_lenght"):
        SparseTextEmbedding(max_lenght=8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("providers", "screened"),
    [
        (None, True),
        (["CPUExecutionProvider"], True),
        (["AzureExecutionProvider", "CPUExecutionProvider"], False),
    ],
)
def test_the_decoder_is_screened_on_a_processor_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: list[str] | None, screened: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tiny_model(tmp_path)

    SparseTextEmbedding(str(tmp_path), providers=providers)

    (graph,) = tmp_path.glob("cache/splade_retriever/graphs/*.onnx")
    assert graph.stem.endswith("-fp32-screened" if screened else "-fp32")


def test_an_unavailable_provider_is_an_error_without_a_fallback() -> None:
    with pytest.raises(InputError, match="QNNExecutionProvider"):
        SparseTextEmbedding(providers=["QNNExecutionProvider"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"precision": "fp32"}, "exists only as int8"),
        ({"threads": 0}, "threads is 0"),
        ({"providers": []}, r"providers is \[\], expected a list of names"),
        (
            {"providers": ["CPUExecutionProvider"], "device_ids": 5},
            "device_ids is 5, expected a list of ints",
        ),
        ({"enable_cpu_mem_arena": "no"}, "enable_cpu_mem_arena is 'no', expected True or False"),
        ({"model_name": 5}, "model_name is an int, expected a str, a path or None"),
        ({"specific_model_path": []}, "specific_model_path is a list"),
        ({"cache_dir": b"x"}, "cache_dir is a bytes"),
        ({"revision": 5}, "revision is an int, expected a str or None"),
    ],
)
def test_a_setting_that_the_bundled_model_does_not_have_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SparseTextEmbedding(**arguments)  # type: ignore[arg-type]


def test_int8_is_close_to_fp32_and_stated_in_the_fingerprint(
    tiny_folder: Path, tiny: SparseTextEmbedding
) -> None:
    model = SparseTextEmbedding(tiny_folder, precision="int8")
    exact, approximate = next(tiny.embed("the moon mission")), next(model.embed("the moon mission"))

    assert_same(exact, approximate, tolerance=0.2)
    assert exact != approximate
    assert model.fingerprint == tiny.fingerprint | {"precision": "int8"}


# -- the fingerprint -----------------------------------------------------------------------------------------


def test_the_fingerprint_of_a_folder_depends_on_content_and_not_on_place(tmp_path: Path) -> None:
    one, copy, other = (
        SparseTextEmbedding(write_tiny_model(tmp_path / place / "tiny", seed=seed)).fingerprint
        for place, seed in (("a", 0), ("b", 0), ("c", 1))
    )

    assert one == copy
    assert one.keys() == other.keys()
    assert {key for key in one if one[key] != other[key]} == {"revision"}


def test_every_setting_that_changes_a_vector_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    plain = SparseTextEmbedding(folder, lazy_load=True).fingerprint
    shorter = SparseTextEmbedding(folder, max_length=16, lazy_load=True).fingerprint
    write_json(folder / "card.json", {"activation": "log1p_log1p"})
    twice = SparseTextEmbedding(folder, lazy_load=True).fingerprint
    write_json(folder / "card.json", {"zero_special_tokens": True})
    zeroed = SparseTextEmbedding(folder, lazy_load=True).fingerprint

    assert shorter == plain | {"max_length": 16}
    assert twice == plain | {"activation": "log1p_log1p"}
    assert zeroed == plain | {"zero_special_tokens": True}


def test_external_weights_count_for_the_fingerprint(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    model = onnx.load(str(folder / "model.onnx"))
    onnx.save(
        model, str(folder / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=0
    )
    plain = SparseTextEmbedding(folder, lazy_load=True).fingerprint
    content = bytearray((folder / "model.data").read_bytes())
    content[0] ^= 1
    (folder / "model.data").write_bytes(content)

    assert SparseTextEmbedding(folder, lazy_load=True).fingerprint["revision"] != plain["revision"]


def test_a_model_can_be_opened_again_from_its_fingerprint(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An index opens its model by name, precision, max_length and revision.
    monkeypatch.chdir(tiny_folder.parent)
    first = SparseTextEmbedding("tiny", precision="int8", max_length=16).fingerprint

    again = SparseTextEmbedding(
        str(first["model"]),
        precision="int8",
        max_length=16,
        revision=str(first["revision"]),
        lazy_load=True,
    )

    assert again.fingerprint == first


# -- unusual graphs ------------------------------------------------------------------------------------------


def changed_graph(folder: Path, change: object) -> None:
    path = folder / "model.onnx"
    graph = onnx.load(str(path))
    assert callable(change)
    change(graph.graph)
    onnx.save(graph, str(path))


def test_a_graph_that_cannot_be_pooled_inside_is_pooled_outside_with_the_same_result(
    tmp_path: Path, tiny: SparseTextEmbedding, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_model(tmp_path / "odd")

    def hide_the_decoder(graph: onnx.GraphProto) -> None:
        graph.node[-1].output[0] = "raw"
        graph.node.append(onnx.helper.make_node("Sub", ["raw", "zero"], ["logits"]))
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"))

    changed_graph(folder, hide_the_decoder)
    odd = SparseTextEmbedding(folder)

    assert "pooled outside" in caplog.text
    texts = ["the moon", "lunar mission " * 8, ""]
    for one, two in zip(odd.embed(texts), tiny.embed(texts), strict=True):
        assert_same(one, two)
    with pytest.raises(ModelGraphError):
        SparseTextEmbedding(folder, precision="int8")


def test_a_model_that_returns_infinite_weights_is_an_error(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "damaged")

    def damage(graph: onnx.GraphProto) -> None:
        bias = next(weights for weights in graph.initializer if weights.name == "bias")
        broken = numpy_helper.to_array(bias).copy()
        broken[9] = np.inf
        bias.CopyFrom(numpy_helper.from_array(broken, "bias"))

    changed_graph(folder, damage)

    with pytest.raises(ModelOutputError):
        list(SparseTextEmbedding(folder).embed("moon"))


# -- the query side ------------------------------------------------------------------------------------------


@pytest.fixture
def inference_free(tmp_path: Path) -> Path:
    folder = write_tiny_model(tmp_path / "tiny")
    write_json(folder / "card.json", {"activation": "log1p_log1p"})
    write_json(folder / "idf.json", {"moon": 2.5, "the": 0.25, "rover": 1.5, "[CLS]": 9.0, "of": 0.0})
    return folder


def test_an_idf_query_has_the_weight_of_each_unique_token(inference_free: Path) -> None:
    model = SparseTextEmbedding(inference_free, lazy_load=True)

    one, two = model.query_embed(["the MOON, the moon of the rover", "[CLS] space"])

    assert model.tokens_and_weights(one) == {"moon": 2.5, "rover": 1.5, "the": 0.25}
    assert len(two) == 0


def test_an_inference_free_model_encodes_documents_without_special_tokens(
    inference_free: Path,
) -> None:
    model = SparseTextEmbedding(inference_free)
    ids = model.tokenizer.encode_batch(["the moon"])[0].ids
    expected = np.log1p(np.log1p(np.maximum(tiny_logits(ids), 0))).max(axis=0)
    assert expected[:5].any()
    expected[:5] = 0

    assert_same(next(model.embed("the moon")), SparseEmbedding.from_dense(expected))


def test_a_query_of_ones_gives_each_token_the_same_weight(inference_free: Path) -> None:
    write_json(
        inference_free / "card.json", {"activation": "log1p", "query_side": "ones", "model": "me/ones"}
    )
    model = SparseTextEmbedding(inference_free, lazy_load=True)

    (query,) = model.query_embed("the moon the rover")

    assert model.tokens_and_weights(query) == {"the": 1.0, "moon": 1.0, "rover": 1.0}
    assert VOCABULARY.index("moon") in query.as_dict()


def test_a_query_keeps_the_largest_weights_that_the_card_allows(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    write_json(folder / "card.json", {"model": "me/few", "query_max_active_dims": 2})
    model = SparseTextEmbedding(folder)
    complete = next(model.embed("the moon the rover"))
    assert len(complete) > 2

    assert list(model.query_embed(["the moon the rover", "the moon"])) == [
        complete.top(2),
        next(model.embed("the moon")).top(2),
    ]
    assert "query_max_active_dims" not in model.fingerprint  # documents do not depend on it


def test_query_weights_are_raised_to_the_power_of_the_card(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    write_json(folder / "card.json", {"model": "me/steep", "query_power": 2})
    model = SparseTextEmbedding(folder)
    document = next(model.embed("the moon the rover"))

    (query,) = model.query_embed("the moon the rover")

    np.testing.assert_array_equal(query.indices, document.indices)
    np.testing.assert_allclose(query.values, document.values**2, rtol=1e-6)
    for power in (0, -1, float("nan"), "2"):
        with pytest.raises(InputError, match=r"me/steep.*query_power=.*a finite number above 0"):
            ModelCard(model="me/steep", query_power=power)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, True, "8"])
def test_a_card_that_leaves_queries_without_weights_is_refused(limit: object) -> None:
    with pytest.raises(InputError, match=r"me/few.*query_max_active_dims=.*an int of 1 or more, or None"):
        ModelCard(model="me/few", query_max_active_dims=limit)  # type: ignore[arg-type]


def test_a_truncated_query_is_counted_too(inference_free: Path) -> None:
    model = SparseTextEmbedding(inference_free, max_length=4, lazy_load=True)

    (query,) = model.query_embed("the of moon")

    assert model.tokens_and_weights(query) == {"the": 0.25}
    assert model.truncated == 1


def test_a_process_that_only_encodes_queries_opens_no_session(inference_free: Path) -> None:
    script = (
        "import sys; from splade_retriever import SparseTextEmbedding\n"
        f"model = SparseTextEmbedding({str(inference_free)!r}, lazy_load=True)\n"
        "assert len(next(model.query_embed('the moon'))) == 2\n"
        "print('onnxruntime' in sys.modules, 'onnx' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "False False False"


# -- token weights -------------------------------------------------------------------------------------------


def test_token_weights_are_valid_json_and_have_a_notebook_table(bundled: SparseTextEmbedding) -> None:
    weights = bundled.tokens_and_weights(SparseEmbedding.from_dict({1026: 0.5, 1028: 1.5}))

    assert list(json.loads(json.dumps(weights)).items()) == [(">", 1.5), ("<", 0.5)]
    assert '<th scope="row">&gt;</th><td class="value">1.500</td>' in weights._repr_html_()
    many = TokenWeights({str(n): 100.0 - n for n in range(100)})
    assert "<tbody></tbody>" in TokenWeights()._repr_html_()
    assert "and 70 with smaller weights" in many._repr_html_()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: model.tokens_and_weights({2000: 1.0}),
            "of type dict, expected one with indices",
        ),
        (lambda model: model.save_archive(5), "The archive is an int, expected a path"),
        (lambda model: model.add_custom_model("a", sources=5), "sources=5, expected {'hf'"),
        (
            lambda model: model.add_custom_model("a", sources={"hf": "a/b"}, additional_files="weights"),
            "additional_files='weights', expected a list of paths",
        ),
    ],
)
def test_an_argument_of_another_type_is_refused(
    bundled: SparseTextEmbedding, call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(bundled)


def test_the_card_of_the_bundled_model_is_listed_first() -> None:
    first = SparseTextEmbedding.list_supported_models()[0]

    assert first["model"] == SparseTextEmbedding(lazy_load=True).model_name
    assert first["precision"] == "int8"
    assert ModelCard(model="x").query_side == "symmetric"


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"device_id": 0}, InputError, "CUDAExecutionProvider"),
        ({"avg_len": 200.0}, InputError, "belongs to BM25. Pass it to Bm25Embedding"),
        ({"language": "english"}, InputError, "Bm25Embedding"),
        ({"stemmer": None}, InputError, "Pass language= or disable_stemmer=True to Bm25Embedding"),
        ({"alpha": 0.5}, InputError, "BM42, which this package does not have"),
        ({"max_lenght": 5}, TypeError, "Did you mean 'max_length'"),
        ({"nonsense": 5}, TypeError, "It takes: model_name, cache_dir"),
    ],
)
def test_other_keywords_of_fastembed_are_refused_with_what_to_use(
    keywords: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        SparseTextEmbedding(**keywords)


@pytest.mark.parametrize("model", ["bm25.Bm25", "bm42.Bm42"])
def test_each_keyword_of_fastembeds_other_models_has_its_advice(model: str) -> None:
    pytest.importorskip("fastembed", reason="fastembed is not installed (extra `test`)")
    module, name = model.split(".")
    theirs = inspect.signature(getattr(import_module(f"fastembed.sparse.{module}"), name)).parameters
    others = set(theirs) - set(inspect.signature(SparseTextEmbedding).parameters) - {"kwargs"}

    assert others
    for keyword in others:
        with pytest.raises(InputError, match=f"SparseTextEmbedding got '{keyword}', which"):
            SparseTextEmbedding(**{keyword: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["embed", "passage_embed", "query_embed", "token_count"])
def test_methods_refuse_unknown_keywords_in_words(tiny_folder: Path, method: str) -> None:
    call: Any = getattr(SparseTextEmbedding(tiny_folder, lazy_load=True), method)
    with pytest.raises(TypeError, match=f"{method} got an unexpected keyword argument 'batchsize'. Did you"):
        call(["moon"], batchsize=4)


def test_the_keywords_in_the_message_are_those_of_the_constructor() -> None:
    parameters = inspect.signature(SparseTextEmbedding.__init__).parameters
    not_advised = {"self", "cuda", "device_ids", "fastembed"}
    assert [name for name in parameters if name not in not_advised] == list(_INIT_KEYWORDS)
