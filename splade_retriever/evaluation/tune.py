"""Finds the smallest vectors that rank as well on your documents, and the weights of hybrid searches."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict

import numpy as np

from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.encoding.model_loading import ModelArgument, check_plain_weights, load_encoder
from splade_retriever.encoding.windows import WindowTokenizer, embed_complete_texts
from splade_retriever.errors import InputError
from splade_retriever.evaluation.baselines import import_optional
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import ndcg_of_each
from splade_retriever.evaluation.tune_report import HybridRow, TuneReport, TuneRow
from splade_retriever.index.documents import Hit
from splade_retriever.index.options import Datatype, Fusion, Mode, Windows
from splade_retriever.index.point_encoding import prune
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.protocols import DenseEncoder, Encoder, NodeEncoder
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_float, checked_int

__all__ = ["choose", "choose_hybrid", "collection_from_headings", "tune"]

Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
"""nDCG@10 of each query."""

_DEPTH: Final = 10
_TEXTS_PER_BATCH: Final = 256
_SAMPLES: Final = 2000
"""Bootstrap samples of the queries."""
_SEED: Final = 0
_MIN_WORDS: Final = 2
"""A heading of one word, such as "Overview", says too little to be a query."""


def tune(
    collection: BeirCollection,
    model: ModelArgument = None,
    *,
    document_dims: Sequence[int | None] = (None, 128, 64, 32),
    query_dims: Sequence[int | None] = (None, 32, 16, 8),
    datatypes: Sequence[Datatype] = ("float32", "float16"),
    windows: Sequence[Windows] | None = None,
    second_model: ModelArgument = None,
    dense: DenseEncoder | NodeEncoder | None = None,
    hybrid_weights: Sequence[tuple[float, float]] = ((3, 1), (2, 1), (1, 1), (1, 2), (1, 3)),
    max_loss: float = 0.01,
    made_from_headings: bool = False,
    show_progress: bool = False,
) -> TuneReport:
    """Index a collection with every combination of settings, and measure quality, size and time.

    Documents and queries are encoded once, documents once more for another treatment of long texts.

    Args:
        collection: Documents, queries and judgements.
        model: An encoder, a model's name or folder, or None for the bundled model.
        document_dims: Values of `max_active_dims`; None keeps all weights.
        query_dims: Values of `query_max_active_dims`.
        datatypes: How the engine stores weights.
        windows: How to treat texts that are longer than the model reads, "merge" or "truncate"; the other
            rows are compared with the first. None for both if there are such texts, else "truncate".
        second_model: A second sparse encoder, such as "Qdrant/bm25", to measure hybrid searches with the
            chosen settings as well.
        dense: A dense encoder, the same. With both, all three rankings are joined.
        hybrid_weights: Weights of the sparse ranking, and of the second or the dense one; with both, these
            share the weight of the latter.
        max_loss: Loss of nDCG@10 that is acceptable.
        made_from_headings: Say in the report that nobody judged the queries.
        show_progress: Show a progress bar while documents are encoded.

    Raises:
        InputError: If a list of values is empty, `max_loss` is negative, or `windows` has another value.
        MissingExtraError: If ir-measures is not installed.
    """
    lists = [document_dims, query_dims, datatypes, hybrid_weights, *([] if windows is None else [windows])]
    if not all(lists):
        raise InputError("tune() got an empty list of values, expected at least one value of each.")
    max_loss = checked_float("max_loss", max_loss, "a number of 0 or more", minimum=0.0)
    document_dims, query_dims = (
        [checked_int(name, value, minimum=1, optional=True) for value in values]
        for name, values in (("document_dims", document_dims), ("query_dims", query_dims))
    )
    if not set(windows or ()) <= {"merge", "truncate"}:
        raise InputError(f"windows is {windows!r}, expected 'merge' and 'truncate'.")
    import_optional("ir_measures", "ir-measures")
    encoder = load_encoder(model, lazy_load=False)
    check_plain_weights(encoder, "tune()")
    treatments = windows or _treatments(collection, encoder)
    queries = list(encoder.query_embed(list(collection.queries.values())))
    rows: list[TuneRow] = []
    vectors: dict[Windows, list[SparseEmbedding]] = {}
    first: Scores | None = None
    for treatment in treatments:
        vectors[treatment] = _encoded(collection, encoder, treatment, show_progress=show_progress)
        for datatype, kept in itertools.product(datatypes, document_dims):
            settings = {
                "model": encoder,
                "max_active_dims": kept,
                "datatype": datatype,
                "windows": treatment,
            }
            measured = _measured(settings, collection, vectors[treatment], queries, query_dims=query_dims)
            for query_kept, (scores, search_ms, size) in measured.items():
                first = scores if first is None else first
                rows.append(
                    TuneRow(
                        max_active_dims=kept,
                        query_max_active_dims=query_kept,
                        datatype=datatype,
                        windows=treatment,
                        index_bytes=size,
                        search_ms=search_ms,
                        **_compared(scores, first),
                    )
                )
    marked = tuple(replace(row, on_front=_is_on_front(row, rows)) for row in rows)
    choice = choose(marked, max_loss=max_loss)
    hybrid: tuple[HybridRow, ...] = ()
    if dense is not None or second_model is not None:
        others = {"second_model": second_model, "dense": dense}
        measure = partial(_hybrid_rows, collection, vectors[choice.windows], encoder=encoder)
        hybrid = tuple(measure(others=others, choice=choice, weights=hybrid_weights))
    return TuneReport(
        collection=collection.name,
        documents=len(collection.documents),
        queries=len(queries),
        made_from_headings=made_from_headings,
        max_loss=max_loss,
        rows=marked,
        choice=choice,
        hybrid=hybrid,
        hybrid_choice=choose_hybrid(hybrid) if hybrid else None,
    )


def choose(rows: Sequence[TuneRow], *, max_loss: float) -> TuneRow:
    """Return the smallest row, then the fastest, that loses at most `max_loss` also at its interval's end.

    The first row is the one that the others are compared with. A higher nDCG@10 alone is never a reason: in
    many rows the best one is partly luck.
    """
    good = [row for row in rows if row.low >= -max_loss]
    return min(good or rows[:1], key=lambda row: (row.index_bytes, row.search_ms))


def choose_hybrid(rows: Sequence[HybridRow]) -> HybridRow:
    """Return the row with the largest gain at the lower end of its interval; the first if none is above 0.

    The first row is sparse vectors alone, which need no second encoder.
    """
    best = max(rows, key=lambda row: row.low)
    return best if best.low > 0 else rows[0]


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
) -> dict[int | None, tuple[Scores, float, int]]:
    """Index the documents once, and search with every pruning of the queries."""
    results: dict[int | None, tuple[Scores, float]] = {}
    with tempfile.TemporaryDirectory(prefix="splade-tune-") as place:
        with SpladeIndex(place, **index_settings) as index:
            texts = list(collection.documents.values())
            index.add(texts, ids=list(collection.documents), vectors=documents)
            index.optimize()
            search = partial(index.search, k=_DEPTH + 1)
            for query_kept in query_dims:
                pruned = [prune(vector, query_kept) for vector in queries]
                results[query_kept] = _ranked(search, collection, pruned)
        size = disk_usage(Path(place))
    return {query_kept: (scores, ms, size) for query_kept, (scores, ms) in results.items()}


def _hybrid_rows(
    collection: BeirCollection,
    documents: Sequence[SparseEmbedding],
    *,
    encoder: Encoder,
    others: Mapping[str, Any],
    choice: TuneRow,
    weights: Sequence[tuple[float, float]],
) -> Iterator[HybridRow]:
    """Measure each ranking alone and hybrid searches with the chosen settings; sparse comes first."""
    with (
        tempfile.TemporaryDirectory(prefix="splade-tune-") as place,
        SpladeIndex(
            place,
            model=encoder,
            **others,
            max_active_dims=choice.max_active_dims,
            query_max_active_dims=choice.query_max_active_dims,
            datatype=choice.datatype,
            windows=choice.windows,
        ) as index,
    ):
        index.add(list(collection.documents.values()), ids=list(collection.documents), vectors=documents)
        first: Scores | None = None
        for mode, fusion in _ways(index.branches, weights):
            search = partial(index.search, k=_DEPTH + 1, mode=mode, fusion=fusion)
            scores, search_ms = _ranked(search, collection, list(collection.queries.values()))
            first = scores if first is None else first
            compared = _compared(scores, first)
            yield HybridRow(mode=mode, weights=fusion.weights, search_ms=search_ms, **compared)


def _ways(branches: Sequence[Mode], weights: Sequence[tuple[float, float]]) -> Iterator[tuple[Mode, Fusion]]:
    """Yield each ranking alone, then all of them with each weights."""
    for branch in branches:
        yield branch, Fusion()
    for sparse, other in weights:
        pair = (sparse, other)
        yield "hybrid", Fusion(weights=pair if len(branches) == 2 else (sparse, other / 2, other / 2))


def _ranked(
    search: Callable[[Any], list[Hit]], collection: BeirCollection, queries: Sequence[Any]
) -> tuple[Scores, float]:
    """Search for each query; return the nDCG@10 of each, and the median time in milliseconds."""
    ranking: dict[str, list[str]] = {}
    seconds: list[float] = []
    for id, query in zip(collection.queries, queries, strict=True):
        started = time.perf_counter()
        hits = search(query)
        seconds.append(time.perf_counter() - started)
        excluded = id if id in collection.queries_in_corpus else None
        ranking[id] = [hit.id for hit in hits if hit.id != excluded][:_DEPTH]
    return ndcg_of_each(ranking, collection.judgements), statistics.median(seconds) * 1e3


def _treatments(collection: BeirCollection, encoder: Encoder) -> Sequence[Windows]:
    return ("merge", "truncate") if _has_long_texts(collection, encoder) else ("truncate",)


def _has_long_texts(collection: BeirCollection, encoder: Encoder) -> bool:
    tokenizer = getattr(encoder, "tokenizer", None)
    if not isinstance(tokenizer, WindowTokenizer):
        return False
    texts = iter(collection.documents.values())
    batches = iter(lambda: list(itertools.islice(texts, _TEXTS_PER_BATCH)), [])
    return any(item.truncated for batch in batches for item in tokenizer.encode_batch(batch))


def _encoded(
    collection: BeirCollection, encoder: Encoder, treatment: Windows, *, show_progress: bool
) -> list[SparseEmbedding]:
    texts = list(collection.documents.values())
    if treatment == "merge":
        return embed_complete_texts(texts, encoder)
    return list(_with_progress(encoder.passage_embed(texts), collection, shown=show_progress))


class _Compared(TypedDict):
    ndcg_at_10: float
    difference: float
    low: float
    high: float


def _compared(scores: Scores, first: Scores) -> _Compared:
    """Return the mean, its difference to that of other scores, and the interval of the difference."""
    low, high = _interval(scores - first)
    difference = float((scores - first).mean())
    return {"ndcg_at_10": float(scores.mean()), "difference": difference, "low": low, "high": high}


def _interval(differences: Scores) -> tuple[float, float]:
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
