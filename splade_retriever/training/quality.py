"""Measure models on the held-out files of a corpus, beside BM25."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from splade_retriever.encoding.text_embedding import SparseTextEmbedding
from splade_retriever.evaluation.evaluate import Quality, evaluate
from splade_retriever.training.corpus import Corpus

__all__ = ["measure", "quality_table"]


def measure(corpus: Corpus, models: Mapping[str, str | Path]) -> dict[str, Quality]:
    """Search the passages of all files for the headings of the held-out files.

    Args:
        corpus: The passages and headings.
        models: Name -> model folder.

    Returns:
        "BM25" and the names -> quality.

    Raises:
        MissingExtraError: Without the packages of the extra `eval`, which `train` includes.
    """
    qualities: dict[str, Quality] = {}
    with tempfile.TemporaryDirectory(prefix="splade-adapt-") as folder:
        corpus.write_beir(Path(folder))
        for name, model in models.items():
            report = evaluate(folder, SparseTextEmbedding(str(model)), bm25="BM25" not in qualities)
            if report.bm25 is not None:
                qualities["BM25"] = report.bm25
            qualities[name] = report.splade
    return qualities


def quality_table(qualities: Mapping[str, Quality]) -> str:
    """Return the figures as a Markdown table, one line per system."""
    width = max(len("system"), *map(len, qualities))
    lines = [
        f"| {'system':{width}} | nDCG@10 | MRR@10 | R@100  |",
        f"|{'-' * (width + 2)}|---------|--------|--------|",
    ]
    for name, row in qualities.items():
        lines.append(
            f"| {name:{width}} | {row.ndcg_at_10:.4f}  | {row.mrr_at_10:.4f} | {row.recall_at_100:.4f} |"
        )
    return "\n".join(lines)
