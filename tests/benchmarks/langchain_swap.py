"""Ten LangChain chains on FastEmbedSparse + QdrantVectorStore and on this package: what each gives, how long.

    python -m tests.benchmarks.langchain_swap            # a BERT-base model, 200 passages, about 5 minutes
    python -m tests.benchmarks.langchain_swap --quick    # a tiny model, 50 passages: what each does

Both stacks read the same ONNX file (random weights) and hold the same passages in memory. "adding" encodes
and stores them; a chain's time is the median of its runs after one that does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.bert_base import bert_base
from tests.langchain_chains import CHAINS, Stack, ours, outcome, passages, theirs
from tests.mlm_graphs import Shape, save_folder

T = TypeVar("T")

TINY = Shape(vocab=30522, hidden=32, layers=2, positions=512)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/bert-base"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as new:
        folder = save_folder(Path(new), TINY) if arguments.quick else bert_base(arguments.folder)
        documents = passages(50 if arguments.quick else 200)
        print(f"{len(documents)} passages, model of {(folder / 'model.onnx').stat().st_size / 1e6:.0f} MB\n")
        stacks = []
        adding = []
        for make in (theirs, ours):
            stack, seconds = timed(lambda make=make: make(folder, documents))
            stacks.append(stack)
            adding.append(f"{seconds:.1f} s")
        print(f"| chain | {stacks[0].name} | {stacks[1].name} | the same |\n|---|---|---|---|")
        print(f"| opening the model and adding | {adding[0]} | {adding[1]} | |")
        runs = 1 if arguments.quick else 5
        for name in CHAINS:
            print(row(name, stacks, runs))


def row(name: str, stacks: list[Stack], runs: int) -> str:
    """Run one chain on both stacks, and write the table's line."""
    results = [outcome(CHAINS[name], stack) for stack in stacks]
    cells = []
    for stack, result in zip(stacks, results, strict=True):
        if isinstance(result, Exception):
            cells.append(f"{type(result).__name__}: {str(result).splitlines()[0][:80]}")
        else:
            times = [timed(lambda stack=stack: CHAINS[name](stack))[1] for _ in range(runs)]
            cells.append(f"{statistics.median(times) * 1000:.0f} ms")
    failed = any(isinstance(result, Exception) for result in results)
    same = "" if failed else ("yes" if results[0] == results[1] else "no")
    return f"| {name} | {cells[0]} | {cells[1]} | {same} |"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Give what the work gave, and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


if __name__ == "__main__":
    main()
