"""Count which entries of the vocabulary expand the training texts, and how often.

    python -m model_building.expansions --model MODEL_FOLDER --data DATA

An expansion is an entry that has a weight in a text which does not hold it. The table shows the share of all
expansions that the most frequent entries make, in training texts and queries as training reads them. A
quarter of the vocabulary makes none: names, numbers, rare word pieces, other scripts. An entry that does not
expand is related to no other token than its own (`encoding.onnx.related_entries`), so it has a weight only in
texts that hold it (`LexicalHead.expanding`).

The last column estimates the share for texts of a new kind: the entries are chosen without one source after
the other, and the column shows the worst of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model_building.minilm import minilm_folder
from model_building.train import read_pairs
from splade_retriever.encoding.onnx.bundled_graph import State
from splade_retriever.encoding.onnx.graph_builder import BLOCK
from splade_retriever.errors import InputError
from splade_retriever.training.expansions import Counts, count_expansions, expansions_of_state
from splade_retriever.training.load_model import load_model

SAMPLE = 4_000
"""Maximum number of texts of each source, and of its queries."""
BLOCKS = (24, 32, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76)
"""Rows of the table, in blocks of the decoder."""


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder exported with all entries")
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    arguments = parser.parse_args()
    head = load_model(arguments.model).head
    if not bool((head.expanding | head.barred).all()):
        parser.error(
            f"Only some entries of model {arguments.model} expand texts. Export it without --expanding."
        )
    counts = count_expansions(arguments.model / "model.onnx", sample(arguments.data))
    print("\n".join(table(counts)))


def sample(data: Path) -> dict[str, list[list[int]]]:
    """Return token ids of evenly spaced texts and queries by source, from a folder that `prepare` wrote.

    Raises:
        InputError: If the folder has none.
    """
    sources = read_pairs(data)
    if not sources:
        raise InputError(
            f"Folder {data} has no prepared data to count expansions in. Run model_building.prepare first."
        )
    return {
        source.name: [
            text.tolist()
            for kind in ("text", "query")
            for text in source.rows(kind, np.arange(0, len(source), -(-len(source) // SAMPLE)))
        ]
        for source in sources
    }


def most_expanding(state: State, entries: int, data: Path, floor: float) -> NDArray[np.bool_]:
    """Mark the entries that expand the training texts and queries most often, (vocab,).

    Args:
        state: The weights.
        entries: Maximum number of entries; those that expand no text are not among them.
        data: The folder of prepared data.
        floor: Of the export; lighter weights expand nothing.

    Raises:
        InputError: If `entries` is not at least 1, or there is no prepared data.
    """
    if entries < 1:
        raise InputError(
            f"At least 1 entry must expand texts, got {entries}. Omit the number to let all expand."
        )
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    counts = expansions_of_state(state, sample(data), floor, vocabulary=tokenizer.get_vocab())
    return most_frequent(counts, entries)


def most_frequent(counts: Counts, entries: int) -> NDArray[np.bool_]:
    """Mark the entries that expand most often, (vocab,), the first of equal ones; none that never expands."""
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[:entries]] = True
    return chosen & (counts > 0)


def table(counts: Mapping[str, Counts]) -> Iterator[str]:
    """Format the share of all expansions that the most frequent entries make, as Markdown lines.

    Raises:
        InputError: If there are fewer than two sources.
    """
    total = sum(counts.values(), start=np.zeros(1, dtype=np.int64))
    if len(counts) < 2:
        raise InputError(f"There is {len(counts)} source, expected at least two: one of them is left out.")
    yield "| entries that expand | share of all expansions | lowest share in a source that was left out |"
    yield "|---|---|---|"
    every = int((total > 0).sum())
    for size in [*(blocks * BLOCK for blocks in BLOCKS if blocks * BLOCK < every), every]:
        left_out = min(_share(each, most_frequent(total - each, size)) for each in counts.values())
        yield f"| {size:,} | {_share(total, most_frequent(total, size)):.2%} | {left_out:.2%} |"


def _share(counts: Counts, chosen: NDArray[np.bool_]) -> float:
    return float(counts[chosen].sum() / max(1, counts.sum()))


if __name__ == "__main__":
    main()
