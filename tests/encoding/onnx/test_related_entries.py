"""The entries that a token may give a weight: how they are chosen, found for a text, and what they omit."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.onnx.bundled_graph import EXPANDING, HEAD_SKIP, POOLED_IDS, POOLED_STATES
from splade_retriever.encoding.onnx.graph_builder import GraphBuilder
from splade_retriever.encoding.onnx.related_entries import (
    CONTEXT,
    PADDING_ID,
    RELATED,
    related_entries,
    text_entries,
)
from tests.mlm_graphs import real_texts

BUNDLED = Path("splade_retriever/bundled/model.onnx")


@pytest.mark.parametrize(("vocab", "expanding_share"), [(40, 1.0), (300, 0.9), (3000, 0.6), (3000, 0.01)])
def test_a_token_is_related_to_the_entries_that_lack_least(vocab: int, expanding_share: float) -> None:
    random = np.random.default_rng(vocab)
    directions = random.standard_normal((vocab, 16), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scale = random.uniform(0.7, 1.5, vocab).astype(np.float32)
    needed = random.uniform(3, 5, vocab).astype(np.float32)
    barred = np.arange(vocab) < 5
    expanding = (random.random(vocab) < expanding_share) & ~barred

    related = related_entries(
        directions, skip=HEAD_SKIP, scale=scale, needed=needed, expanding=expanding, barred=barred
    )

    assert related.shape == (vocab, min(RELATED, expanding.sum() + 1))
    assert (related[barred] == PADDING_ID).all()
    lacking = needed - HEAD_SKIP * scale * (directions @ directions.T)
    for token in range(5, vocab):
        others = [entry for entry in lacking[token].argsort() if expanding[entry] and entry != token]
        nearest = others[: RELATED - 1]
        expected = {token, *(entry for entry in nearest if lacking[token, entry] <= CONTEXT)}
        assert set(related[token].tolist()) - {PADDING_ID} == expected
        assert (np.diff(related[token].astype(int)) >= 0).all()


def test_the_entries_of_a_text_are_those_of_its_tokens_each_once() -> None:
    random = np.random.default_rng(1)
    related = random.integers(1, 50, (50, 7)).astype(np.uint16)
    related[PADDING_ID] = PADDING_ID
    builder = GraphBuilder(opset=21)
    entries, nothing = text_entries(builder, builder.put("related", related), "ids", vocab=50)
    session = _session(builder, "ids", entries, nothing)
    ids = np.array([[3, 9, 3, 41], [7, 0, 0, 0], [0, 0, 0, 0], [8, 21, 30, 0]])

    found, zeros = session.run(None, {"ids": ids})

    assert zeros.shape == (4, 50)
    assert not zeros.any()
    assert found.shape[1] % 2 == 0
    for text, row in zip(ids, found.tolist(), strict=True):
        expected = set(related[text].ravel().tolist())
        assert set(row) - {PADDING_ID} == expected - {PADDING_ID}
        assert len([entry for entry in row if entry]) == len(expected - {PADDING_ID})


def test_the_texts_of_a_batch_do_not_change_each_other() -> None:
    model, texts = SparseTextEmbedding(), ["moon", *list(real_texts())[:5], "", "a b c"]

    together = list(model.embed(texts))

    for text, vector in zip(texts, together, strict=True):
        (alone,) = model.embed([text])
        assert alone.as_dict() == pytest.approx(vector.as_dict(), abs=1e-5)


def test_few_and_light_weights_of_the_complete_decoder_are_of_entries_that_are_not_related() -> None:
    model = onnx.load(str(BUNDLED))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in (POOLED_STATES, POOLED_IDS):
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tokenizer, texts = SparseTextEmbedding().tokenizer, list(real_texts())[:60]
    floor = stored["floor"]
    columns = stored["words"] * stored["word_steps"][:, None] * stored["factor"][:, None]
    total, missing = 0, []

    for encoding in tokenizer.encode_batch(texts):
        ids = np.array([encoding.ids])
        weights, states, _ = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        logits = (states[0] @ columns.T).max(axis=0) + stored["entry_bias"]
        complete = np.log1p(logits.clip(0)) * stored["entry_gain"]
        # Rounding decides near the floor; entries that do not expand have no weight from other tokens.
        clear = (complete > floor + 0.03) & stored[EXPANDING]
        total += clear.sum()
        missing += complete[clear & (weights[0] == 0)].tolist()

    assert total > 2000
    assert len(missing) <= total / 1000
    assert max(missing, default=0) < 3 * floor


def _session(builder: GraphBuilder, ids: str, *outputs: str) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        builder.nodes,
        "entries",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in builder.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return onnxruntime.InferenceSession(model.SerializeToString())
