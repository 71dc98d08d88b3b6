"""Finds the smallest vectors that rank as well: pruning and datatype, measured on your own documents."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.encoding.model_loading import ModelArgument, check_plain_weights, load_encoder
from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.evaluation.baselines import import_optional
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import ndcg_of_each
from splade_retriever.index.options import Datatype
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_float, checked_int

__all__ = ["TuneReport", "TuneRow", "check_plot", "choose", "collection_from_headings", "tune"]

_DEPTH: Final = 10
_SAMPLES: Final = 2000
"""Bootstrap samples of the queries."""
_SEED: Final = 0
_MIN_WORDS: Final = 2
"""A heading of one word, such as "Overview", says too little to be a query."""


@dataclass(frozen=True)
class TuneRow:
    """One combination of settings."""

    max_active_dims: int | None
    query_max_active_dims: int | None
    datatype: Datatype
    ndcg_at_10: float
    difference: float
    """nDCG@10 minus that of the first row, which prunes nothing."""
    low: float
    """Lower end of the 95 % interval of the difference, by a paired bootstrap over the queries."""
    high: float
    index_bytes: int
    """Size of the closed index folder on disk, texts included."""
    search_ms: float
    """Median time to find the best 10 documents for an encoded query."""
    on_front: bool = False
    """No other row is at least as good in quality, size and time, and better in one."""


@dataclass(frozen=True)
class TuneReport:
    """All combinations, and the one to use."""

    collection: str
    documents: int
    queries: int
    made_from_headings: bool
    """The queries are headings of the documents, not judged by people."""
    max_loss: float
    rows: tuple[TuneRow, ...]
    choice: TuneRow
    """The smallest row whose loss is at most `max_loss`, also at the lower end of its interval."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def index_settings(self) -> dict[str, Any]:
        """Return the chosen settings as arguments of `SpladeIndex`."""
        chosen = self.choice
        settings = {
            "max_active_dims": chosen.max_active_dims,
            "query_max_active_dims": chosen.query_max_active_dims,
            "datatype": None if chosen.datatype == "float32" else chosen.datatype,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        source = "made from headings, not judged by people" if self.made_from_headings else "judged"
        lines = [
            f"**{self.collection}**: documents {self.documents:,}, queries {self.queries:,} ({source})",
            "",
            "| document dims | query dims | datatype | nDCG@10 | difference (95 %) | index | search | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            mark = "chosen" if row == self.choice else "front" if row.on_front else ""
            lines.append(
                f"| {row.max_active_dims or 'all'} | {row.query_max_active_dims or 'all'} | {row.datatype} | "
                f"{row.ndcg_at_10:.4f} | {row.difference:+.4f} ({row.low:+.4f}..{row.high:+.4f}) | "
                f"{row.index_bytes / 1e6:.1f} MB | {row.search_ms:.1f} ms | {mark} |"
            )
        lines += [
            "",
            f"- chosen: the smallest index that loses at most {self.max_loss} with 97.5 % certainty",
        ]
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Draw quality against size and against time, as PNG or SVG by the file's extension.

        Raises:
            InputError: If the file does not end in .png or .svg.
            MissingExtraError: If matplotlib is not installed.
        """
        check_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        sizes = [row.index_bytes / 1e6 for row in self.rows]
        times = [row.search_ms for row in self.rows]
        for axes, values, label in zip(
            figure.subplots(1, 2, sharey=True), (sizes, times), ("index, MB", "search, ms"), strict=True
        ):
            for row, value in zip(self.rows, values, strict=True):
                errors = [[row.difference - row.low], [row.high - row.difference]]
                colour = "C3" if row == self.choice else "C0" if row.on_front else "0.6"
                axes.errorbar(value, row.ndcg_at_10, yerr=errors, fmt="o", color=colour)
            axes.set_xlabel(label)
            axes.set_ylabel("nDCG@10")
        figure.suptitle(f"{self.collection}: chosen red, Pareto front blue; bars: 95 % of the difference")
        figure.savefig(path)


def tune(
    collection: BeirCollection,
    model: ModelArgument = None,
    *,
    document_dims: Sequence[int | None] = (None, 128, 64, 32),
    query_dims: Sequence[int | None] = (None, 32, 16, 8),
    datatypes: Sequence[Datatype] = ("float32", "float16"),
    max_loss: float = 0.01,
    made_from_headings: bool = False,
    show_progress: bool = False,
) -> TuneReport:
    """Index a collection with every combination of settings, and measure quality, size and time.

    Documents and queries are encoded once.

    Args:
        collection: Documents, queries and judgements.
        model: An encoder, a model's name or folder, or None for the bundled model.
        document_dims: Values of `max_active_dims`; None keeps all weights.
        query_dims: Values of `query_max_active_dims`.
        datatypes: How the engine stores weights.
        max_loss: Loss of nDCG@10 that is acceptable.
        made_from_headings: Say in the report that nobody judged the queries.
        show_progress: Show a progress bar while documents are encoded.

    Raises:
        InputError: If a list of values is empty, or `max_loss` is negative.
        MissingExtraError: If ir-measures is not installed.
    """
    if not (document_dims and query_dims and datatypes):
        raise InputError("tune() got an empty list of values, expected at least one value of each.")
    max_loss = checked_float("max_loss", max_loss, "a number of 0 or more", minimum=0.0)
    document_dims, query_dims = (
        [checked_int(name, value, minimum=1, optional=True) for value in values]
        for name, values in (("document_dims", document_dims), ("query_dims", query_dims))
    )
    import_optional("ir_measures", "ir-measures")
    encoder = load_encoder(model, lazy_load=False)
    check_plain_weights(encoder, "tune()")
    vectors = encoder.passage_embed(list(collection.documents.values()))
    documents = list(_with_progress(vectors, collection, shown=show_progress))
    queries = list(encoder.query_embed(list(collection.queries.values())))
    rows: list[TuneRow] = []
    first: np.ndarray[Any, np.dtype[np.float64]] | None = None
    for datatype, kept in itertools.product(datatypes, document_dims):
        index_settings = {"model": encoder, "max_active_dims": kept, "datatype": datatype}
        measured = _measured(index_settings, collection, documents, queries, query_dims=query_dims)
        for query_kept, (scores, search_ms, size) in measured.items():
            first = scores if first is None else first
            low, high = _interval(scores - first)
            rows.append(
                TuneRow(
                    max_active_dims=kept,
                    query_max_active_dims=query_kept,
                    datatype=datatype,
                    ndcg_at_10=float(scores.mean()),
                    difference=float((scores - first).mean()),
                    low=low,
                    high=high,
                    index_bytes=size,
                    search_ms=search_ms,
                )
            )
    marked = tuple(replace(row, on_front=_is_on_front(row, rows)) for row in rows)
    return TuneReport(
        collection=collection.name,
        documents=len(documents),
        queries=len(queries),
        made_from_headings=made_from_headings,
        max_loss=max_loss,
        rows=marked,
        choice=choose(marked, max_loss=max_loss),
    )


def check_plot(path: str | Path) -> None:
    """Check that a plot can be drawn, before anything is measured.

    Raises:
        InputError: If the file does not end in .png or .svg.
        MissingExtraError: If matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise InputError(f"The plot's file is {str(path)!r}, expected a name that ends in .png or .svg.")
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'The plot needs matplotlib. Run: pip install "splade-retriever[plot]"'
        ) from error


def choose(rows: Sequence[TuneRow], *, max_loss: float) -> TuneRow:
    """Return the smallest row, then the fastest, that loses at most `max_loss` also at its interval's end.

    The first row is the one that the others are compared with. A higher nDCG@10 alone is never a reason: in
    many rows the best one is partly luck.
    """
    good = [row for row in rows if row.low >= -max_loss]
    return min(good or rows[:1], key=lambda row: (row.index_bytes, row.search_ms))


def collection_from_headings(
    name: str, passages: Iterable[tuple[str, str, str]], *, max_queries: int = 500
) -> BeirCollection:
    """Make a collection of documents whose headings are the queries.

    A passage is relevant to its own lowest heading; the text that is encoded does not have it. It shows how
    settings compare, not how good a search is for real users.

    Args:
        name: Name of the collection.
        passages: Id, text and headings ("Moon > Landing") of each passage.
        max_queries: Maximum number of headings, spread evenly.

    Raises:
        InputError: If no passage has a heading of two words or more.
    """
    max_queries = checked_int("max_queries", max_queries, minimum=1)
    documents: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for id, text, headings in passages:
        documents[id] = text
        heading = headings.rpartition(" > ")[2].strip()
        if len(heading.split()) >= _MIN_WORDS:
            relevant.setdefault(heading, {})[id] = 1
    if not relevant:
        raise InputError(
            f"{name} has {len(documents)} passages and no heading of {_MIN_WORDS} words or more, so there "
            "are no queries. Pass a folder with corpus.jsonl, queries.jsonl and qrels.tsv, or Markdown files "
            "with headings."
        )
    step = -(-len(relevant) // max_queries)
    chosen = dict(list(relevant.items())[::step])
    return BeirCollection(
        name=name,
        documents=documents,
        queries={heading: heading for heading in chosen},
        judgements=chosen,
        unjudged_queries=0,
        unknown_documents=0,
        unknown_queries=0,
        queries_in_corpus=frozenset(),
    )


def _measured(
    index_settings: Mapping[str, Any],
    collection: BeirCollection,
    documents: Sequence[SparseEmbedding],
    queries: Sequence[SparseEmbedding],
    *,
    query_dims: Sequence[int | None],
) -> dict[int | None, tuple[np.ndarray[Any, np.dtype[np.float64]], float, int]]:
    """Index the documents once, and search with every pruning of the queries."""
    rankings: dict[int | None, dict[str, list[str]]] = {}
    seconds: dict[int | None, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="splade-tune-") as place:
        with SpladeIndex(place, **index_settings) as index:
            texts = list(collection.documents.values())
            index.add(texts, ids=list(collection.documents), vectors=documents)
            index.optimize()
            for query_kept in query_dims:
                rankings[query_kept], seconds[query_kept] = {}, []
                for id, vector in zip(collection.queries, queries, strict=True):
                    pruned = prune(vector, query_kept)
                    started = time.perf_counter()
                    hits = index.search(pruned, k=_DEPTH + 1)
                    seconds[query_kept].append(time.perf_counter() - started)
                    excluded = id if id in collection.queries_in_corpus else None
                    rankings[query_kept][id] = [hit.id for hit in hits if hit.id != excluded][:_DEPTH]
        size = disk_usage(Path(place))
    return {
        query_kept: (
            ndcg_of_each(ranking, collection.judgements),
            statistics.median(seconds[query_kept]) * 1e3,
            size,
        )
        for query_kept, ranking in rankings.items()
    }


def _interval(differences: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences, by a bootstrap over the queries."""
    random = np.random.default_rng(_SEED)
    count = len(differences)
    means = differences[random.integers(0, count, (_SAMPLES, count))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _is_on_front(row: TuneRow, rows: Sequence[TuneRow]) -> bool:
    def costs(one: TuneRow) -> tuple[float, float, float]:
        return -one.ndcg_at_10, one.index_bytes, one.search_ms

    return not any(
        other != row
        and all(theirs <= own for theirs, own in zip(costs(other), costs(row), strict=True))
        and costs(other) != costs(row)
        for other in rows
    )


def _with_progress(
    vectors: Iterable[SparseEmbedding], collection: BeirCollection, *, shown: bool
) -> Iterable[SparseEmbedding]:
    from tqdm import tqdm

    progress: Iterable[SparseEmbedding] = tqdm(
        vectors, total=len(collection.documents), unit="document", disable=not shown, leave=False
    )
    return progress
