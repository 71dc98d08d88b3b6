"""Ten LangChain chains on FastEmbedSparse + QdrantVectorStore and on this package: results and times.

    python -m benchmarks.langchain_swap            # a BERT-base model, 200 passages, about a minute
    python -m benchmarks.langchain_swap --quick    # a tiny model, 50 passages: the behaviour of each
    python -m benchmarks.langchain_swap --write    # puts the table into docs/langchain.md

Both stacks read the same ONNX file (random weights) and hold the same passages in memory. Adding encodes and
stores them; a chain's time is the median of its runs after one that does not count, the stacks in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from langchain_core.documents import Document

from benchmarks.bert_base import bert_base
from benchmarks.machine import processor, report, versions
from tests.langchain.chains import (
    CHAINS,
    Chain,
    Stack,
    langchain_qdrant_stack,
    outcome,
    passages,
    splade_retriever_stack,
)
from tests.mlm_graphs import Shape, save_folder

T = TypeVar("T")

TINY = Shape(vocab=30522, hidden=32, layers=2, positions=512)
PAGE = Path("docs/langchain.md")
START, END = "<!-- langchain swap: start -->", "<!-- langchain swap: end -->"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, each chain timed once")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/bert-base"), help="model folder")
    arguments = parser.parse_args()
    if arguments.write and arguments.quick:
        parser.error("--quick is for a look; its times are not for the page")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as new:
        folder = save_folder(Path(new), TINY) if arguments.quick else bert_base(arguments.folder)
        content = "\n".join(
            compared(folder, passages(50 if arguments.quick else 200), runs=1 if arguments.quick else 5)
        )
    print(content)
    if arguments.write:
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), content), "utf-8")


def compared(folder: Path, documents: Sequence[Document], *, runs: int) -> Iterator[str]:
    """Yield the lines of the table, the machine and the data first."""
    size_mb = (folder / "model.onnx").stat().st_size / 1e6
    yield (
        f"`python -m benchmarks.langchain_swap`, {processor()}, "
        f"{versions('langchain-core', 'langchain-qdrant', 'fastembed', 'qdrant-client', 'onnxruntime')}. "
        f"{len(documents)} passages in memory, one model file of {size_mb:,.0f} MB; median of {runs}."
    )
    yield ""
    stacks, adding = [], []
    for make in (langchain_qdrant_stack, splade_retriever_stack):
        report(f"opening and adding with {make.__name__} ...")
        stack, seconds = timed(partial(make, folder, documents))
        stacks.append(stack)
        adding.append(f"{seconds:.1f} s")
    yield f"| chain | what it does | {stacks[0].name} | {stacks[1].name} | same answers |"
    yield "|---|---|---|---|---|"
    yield f"| (before) | opens the model, encodes and stores the passages | {adding[0]} | {adding[1]} | |"
    for name, chain in CHAINS.items():
        report(f"{name} ...")
        yield row(name, chain, stacks, runs)


def row(name: str, chain: Chain, stacks: Sequence[Stack], runs: int) -> str:
    """Run one chain on both stacks, and write the table's line."""
    results = [outcome(chain, stack) for stack in stacks]
    able = [n for n, result in enumerate(results) if not isinstance(result, Exception)]
    times: dict[int, list[float]] = {n: [] for n in able}
    for _ in range(runs):
        for n in able:
            times[n].append(timed(partial(chain, stacks[n]))[1])
    cells = [
        f"{statistics.median(times[n]) * 1000:,.0f} ms" if n in able else failure(result)
        for n, result in enumerate(results)
    ]
    same = ("yes" if results[0] == results[1] else "no") if len(able) == len(stacks) else ""
    return f"| {name} | {purpose(chain)} | {' | '.join(cells)} | {same} |"


def purpose(chain: Chain) -> str:
    """Return the first line of a chain's docstring."""
    words = (chain.__doc__ or "").splitlines()[0].rstrip(".")
    return words[0].lower() + words[1:]


def failure(error: object) -> str:
    """Format an error for a cell: its type, and the first words of its first line."""
    words = str(error).strip().splitlines()[0]
    shown = words if len(words) <= 80 else f"{words[:80].rsplit(' ', 1)[0]} ..."
    return f"{type(error).__name__}: {shown}".replace("|", "\\|")


def with_table(page: str, content: str) -> str:
    """Put the table into the page, between its marks.

    Raises:
        ValueError: The page has no such marks.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(
            f"{PAGE} has no lines {START} and {END}, expected both. Put them where the table goes."
        )
    return f"{before}{START}\n{content}\n{END}{after}"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a function, and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


if __name__ == "__main__":
    main()
