"""The entries of the vocabulary that a token of a text may give a weight: those related to it.

A token's state in the bundled model is, for the most part, its own word embedding, so the entries it gives a
weight are among those nearest to that embedding. They are chosen when the graph is written. A text's weights
are then computed for the entries related to its tokens, a twentieth of the vocabulary, and are 0 for all
others.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from splade_retriever.encoding.onnx.graph_builder import FloatArray, GraphBuilder

__all__ = ["CONTEXT", "PADDING_ID", "RELATED", "related_entries", "text_entries"]

RELATED: Final = 64
"""Entries related to a token, at most."""
CONTEXT: Final = 2.4
"""What the context of a token may add to a logit: entries that lack more are not related to the token. Of
120,000 expansions by the bundled model, 31 have no token that is related to them. All of these are light."""
PADDING_ID: Final = 0
"""The token [PAD], whose entry never has a weight."""
_ROWS: Final = 128
_GROUP: Final = 16


def related_entries(
    directions: FloatArray,
    *,
    skip: float,
    scale: FloatArray,
    needed: FloatArray,
    expanding: NDArray[np.bool_],
    barred: NDArray[np.bool_],
) -> NDArray[Any]:
    """Choose the entries that a token alone, without its context, brings nearest to a weight.

    Args:
        directions: Shape (vocab, hidden): word embeddings of length 1.
        skip: Factor of a token's embedding in its state.
        scale: Shape (vocab,): factor of an entry's products.
        needed: Shape (vocab,): the scaled product at which the entry's weight begins.
        expanding: Shape (vocab,): entries that may be related to other tokens than their own.
        barred: Shape (vocab,): entries that have no weight.

    Returns:
        Shape (vocab, entries), ascending in each row. A row holds the token's own entry; `PADDING_ID` fills
        rows of fewer entries. The row of a token that is barred is full of it.
    """
    vocab = len(directions)
    columns = np.flatnonzero(expanding)
    column_of = np.full(vocab, -1)
    column_of[columns] = np.arange(len(columns))
    keys = skip * (directions[columns] * scale[columns, None]).T
    others = min(RELATED - 1, len(columns))
    related = np.empty((vocab, others + 1), dtype=np.uint16 if vocab <= 1 << 16 else np.int32)
    related[:, -1] = np.arange(vocab)
    for start in range(0, vocab, _ROWS):
        rows = slice(start, start + _ROWS)
        surplus = directions[rows] @ keys - needed[columns]
        expands = np.flatnonzero(expanding[rows])
        surplus[expands, column_of[rows][expands]] = -np.inf  # a token's own entry is there already
        nearest = _largest(surplus, others)
        reached = np.take_along_axis(surplus, nearest, axis=1) >= -CONTEXT
        related[rows, :-1] = np.where(reached, columns[nearest], PADDING_ID)
    related[barred] = PADDING_ID
    related.sort(axis=1)
    return related


def _largest(values: FloatArray, count: int) -> NDArray[np.int64]:
    """Return the columns of the largest values of each row, (rows, count), in any order.

    The largest values are in the groups of columns with the largest maxima: few are sorted.
    """
    rows, columns = values.shape
    groups = -(-columns // _GROUP)
    padded = np.full((rows, groups * _GROUP), -np.inf, dtype=values.dtype)
    padded[:, :columns] = values
    if groups > count:
        maxima = padded.reshape(rows, groups, _GROUP).max(axis=2)
        chosen = np.argpartition(-maxima, count - 1, axis=1)[:, :count]
        places = (chosen[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(rows, -1)
    else:
        places = np.broadcast_to(np.arange(columns), (rows, columns))
    values = np.take_along_axis(padded, places, axis=1)
    best = np.argpartition(-values, count - 1, axis=1)[:, :count]
    found: NDArray[np.int64] = np.take_along_axis(places, best, axis=1)
    return found


def text_entries(builder: GraphBuilder, related: str, ids: str, *, vocab: int) -> tuple[str, str]:
    """Find the entries related to any token of each text.

    Args:
        builder: Receives the nodes.
        related: Name of the result of `related_entries`.
        ids: Name of the token ids, (batch, tokens), `PADDING_ID` for padding.
        vocab: Size of the vocabulary.

    Returns:
        Names of the entries, (batch, entries), an even number of them, `PADDING_ID` where a text has fewer
        than another; and of zeros, (batch, vocab), float32.
    """
    flat, zero, one, two = _index(builder, -1), _index(builder, 0), _index(builder, 1), _index(builder, 2)
    start, step = builder.put("id_0", np.array(0)), builder.put("id_1", np.array(1))
    texts = builder.op("Shape", ids, start=0, end=1)
    shape = builder.op("Concat", texts, builder.put("vocab", np.array([vocab])), axis=0)
    listed = builder.op("Cast", builder.op("Gather", related, ids), to=TensorProto.INT64)
    listed = builder.op("Reshape", listed, builder.put("text_rows", np.array([0, -1])))
    marks = builder.op(
        "ScatterElements",
        builder.op("Expand", builder.put("unmarked", np.array(0, dtype=np.uint8)), shape),
        listed,
        builder.op("Expand", builder.put("marked", np.array(1, dtype=np.uint8)), builder.op("Shape", listed)),
        axis=1,
    )
    places = builder.op("NonZero", marks)  # text by text
    text, entry = (
        builder.op("Reshape", builder.op("Slice", places, row, end, zero), flat)
        for row, end in ((zero, one), (one, two))
    )
    counts = builder.op(
        "ScatterElements",
        builder.op("Expand", start, texts),
        text,
        builder.op("Expand", step, builder.op("Shape", text)),
        axis=0,
        reduction="add",
    )
    width = builder.reduce_max(counts, 0, keepdims=True)
    width = builder.op("Add", width, builder.op("Mod", width, two))

    def numbers(count: str) -> str:
        return builder.op("Range", start, builder.op("Squeeze", count), step)

    # The n-th entry found belongs to column n - (entries of the texts before it) of its text's row.
    before = builder.op("CumSum", counts, start, exclusive=1)
    offset = builder.op("Sub", builder.op("Mul", numbers(texts), width), before)
    target = builder.op(
        "Add", numbers(builder.op("Shape", entry)), builder.op("GatherElements", offset, text, axis=0)
    )
    blank = builder.op(
        "Expand", builder.put("padding_id", np.array(PADDING_ID)), builder.op("Mul", texts, width)
    )
    entries = builder.op("ScatterElements", blank, target, entry, axis=0)
    entries = builder.op("Reshape", entries, builder.op("Concat", texts, width, axis=0))
    return entries, builder.op("Expand", builder.put("none", np.float32(0)), shape)


def _index(builder: GraphBuilder, number: int) -> str:
    return builder.put("flat" if number < 0 else f"index_{number}", np.array([number]))
