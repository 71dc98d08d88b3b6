"""Which entries of the vocabulary expand texts: those that weigh in texts which do not hold them.

    python -m model_building.expansions --model MODEL_FOLDER --data DATA

Prints what share of all expansions the most frequent ones make, in training texts and queries as training
reads them. A quarter of the vocabulary makes none: names, numbers, rare word pieces, other scripts. An entry
that does not expand needs no column in the decoder, which is half of the model's multiplications: it weighs
in the texts that hold it, by its own places (`LexicalHead.expanding`).

The last column estimates what texts of a new kind would keep: the entries are chosen without one source after
the other, and the worst of them is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from model_building.restore import load_model
from model_building.train import read_pairs
from splade_retriever.encoding.batching import TokenBatch, batches
from splade_retriever.encoding.encode_stream import cores
from splade_retriever.encoding.onnx.graph_builder import BLOCK
from splade_retriever.encoding.session import Session
from splade_retriever.encoding.tokenizer import TokenIds
from splade_retriever.errors import InputError

SAMPLE = 4_000
"""Of each source's texts, and of its queries, at most."""
BLOCKS = (24, 32, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76)
"""Rows of the table, in blocks of the decoder."""

Counts: TypeAlias = NDArray[np.int64]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder exported with all entries")
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    arguments = parser.parse_args()
    if not load_model(arguments.model).head.all_expand():
        parser.error(f"{arguments.model} has columns for some entries only; export it without --expanding")
    counts = count_expansions(arguments.model / "model.onnx", sample(arguments.data))
    print("\n".join(table(counts)))


def sample(data: Path) -> dict[str, list[list[int]]]:
    """Return token ids of texts and queries by source, those that `prepare` wrote, evenly spaced.

    Raises:
        InputError: If there are none.
    """
    sources = read_pairs(data)
    if not sources:
        raise InputError(
            f"{data} holds no prepared data to count expansions in. Run model_building.prepare first."
        )
    return {
        source.name: [
            text.tolist()
            for kind in ("text", "query")
            for text in source.rows(kind, np.arange(0, len(source), -(-len(source) // SAMPLE)))
        ]
        for source in sources
    }


def count_expansions(file: Path, texts: Mapping[str, Sequence[list[int]]]) -> dict[str, Counts]:
    """Count the texts that each entry weighs in without standing in them, (vocab,), by source.

    Args:
        file: A pooled graph; one that leaves columns out has nothing to count there.
        texts: Token ids by source, special ones included.
    """
    session = Session(file)

    def expansions(batch: TokenBatch) -> Counts:
        weights = session.weights(batch.input_ids, batch.attention_mask)
        np.put_along_axis(weights, batch.input_ids, 0, axis=1)
        return np.count_nonzero(weights, axis=0)

    with ThreadPoolExecutor(cores()) as pool:
        return {
            name: np.sum(list(pool.map(expansions, _batches(own))), axis=0) for name, own in texts.items()
        }


def _batches(texts: Sequence[list[int]]) -> Iterator[TokenBatch]:
    return batches([TokenIds(text, False) for text in texts], token_budget=2048)


def most_frequent(counts: Counts, entries: int) -> NDArray[np.bool_]:
    """Mark the entries that expand most often, (vocab,); of equal ones the first. None that never does."""
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[:entries]] = True
    return chosen & (counts > 0)


def table(counts: Mapping[str, Counts]) -> Iterator[str]:
    """Lay out what share of all expansions the most frequent entries make.

    Raises:
        InputError: If there are fewer than two sources.
    """
    total = sum(counts.values(), start=np.zeros(1, dtype=np.int64))
    if len(counts) < 2:
        raise InputError(f"{len(counts)} source is too few to leave one out, expected two at least.")
    yield "| entries that expand | share of all expansions | of those of a source left out, at least |"
    yield "|---|---|---|"
    every = int((total > 0).sum())
    for size in [*(blocks * BLOCK for blocks in BLOCKS if blocks * BLOCK < every), every]:
        left_out = min(_share(own, most_frequent(total - own, size)) for own in counts.values())
        yield f"| {size:,} | {_share(total, most_frequent(total, size)):.2%} | {left_out:.2%} |"


def _share(counts: Counts, chosen: NDArray[np.bool_]) -> float:
    return float(counts[chosen].sum() / max(1, counts.sum()))


if __name__ == "__main__":
    main()
