"""Expansions: entries of the vocabulary that have a weight in texts that do not hold them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from splade_retriever.encoding.batching import TokenBatch, batches
from splade_retriever.encoding.encode_stream import cores
from splade_retriever.encoding.onnx.bundled_graph import State, barred, write_graph
from splade_retriever.encoding.session import Session
from splade_retriever.encoding.tokenizer import TokenIds

__all__ = ["Counts", "count_expansions", "expansions_of_state", "says_nothing"]

Counts: TypeAlias = NDArray[np.int64]


def count_expansions(file: Path, texts: Mapping[str, Sequence[list[int]]]) -> dict[str, Counts]:
    """Count, by source, the texts that each entry expands, (vocab,).

    Args:
        file: A pooled graph. Entries without a column expand nothing in it.
        texts: Token ids by source, special tokens included.
    """
    session = Session(file)

    def expansions(batch: TokenBatch) -> Counts:
        weights = session.weights(batch.input_ids, batch.attention_mask)
        np.put_along_axis(weights, batch.input_ids, 0, axis=1)
        counts: Counts = np.count_nonzero(weights, axis=0)
        return counts

    with ThreadPoolExecutor(cores()) as pool:
        return {
            name: np.sum(list(pool.map(expansions, _batches(ids))), axis=0) for name, ids in texts.items()
        }


def says_nothing(vocabulary: Mapping[str, int]) -> NDArray[np.bool_]:
    """Mark the entries that say nothing about a text that does not hold them, (vocab,).

    These are punctuation and single letters, within words too. In a text that holds one it has a weight.
    """
    marked = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
    for token, entry in vocabulary.items():
        characters = token.removeprefix("##")
        single = len(characters) == 1 and not characters.isdigit()
        marked[entry] = single or not any(map(str.isalnum, characters))
    return marked


def expansions_of_state(
    state: State,
    texts: Mapping[str, Sequence[list[int]]],
    floor: float,
    *,
    vocabulary: Mapping[str, int],
) -> Counts:
    """Count the texts that each entry would expand if all but those that say nothing had a column, (vocab,).

    Args:
        state: The weights.
        texts: Token ids by source, special tokens included.
        floor: Of the export; lighter weights expand nothing.
        vocabulary: Entries and their ids, see `says_nothing`.
    """
    complete = {**state, "head.expanding": ~barred(state) & ~says_nothing(vocabulary)}
    with tempfile.TemporaryDirectory(prefix="splade-expansions-") as folder:
        file = Path(folder) / "model.onnx"
        write_graph(complete, file, precision="int8", floor=floor)
        counts = count_expansions(file, texts)
    total: Counts = np.sum(list(counts.values()), axis=0)
    return total


def _batches(texts: Sequence[list[int]]) -> Iterator[TokenBatch]:
    return batches([TokenIds(text, False) for text in texts], token_budget=2048)
