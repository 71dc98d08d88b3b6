"""Measures a model on a collection in BEIR layout, through `SpladeIndex`, and compares it with baselines."""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np

from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.encoding.model_cards import Precision
from splade_retriever.encoding.model_loading import ModelArgument, check_plain_weights, load_encoder
from splade_retriever.errors import InputError
from splade_retriever.evaluation.baselines import (
    Bm25,
    DenseBaseline,
    SentenceTransformerEncoder,
    import_optional,
)
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.index.point_encoding import prune
from splade_retriever.protocols import DenseEncoder, Encoder, NodeEncoder, as_dense
from splade_retriever.sparse import SparseEmbedding

__all__ = ["Cost", "EvaluationReport", "Gains", "Quality", "evaluate", "ndcg_of_each", "score_rankings"]

logger = logging.getLogger(__name__)

Gains = Literal["exponential", "linear"]

_DEPTH: Final = 100
"""Documents retrieved for each query, as R@100 needs."""
_HIGHEST_GRADE: Final = 20
"""trec_eval keeps a table as long as the highest gain, which is 2**grade - 1."""


@dataclass(frozen=True)
class Quality:
    """Ranking quality of one system, as means over the queries, and its speed."""

    system: str
    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float
    ms_per_query: float
    """Median time to encode one query and find its best 100 documents, one query after another."""


@dataclass(frozen=True)
class Cost:
    """Size and speed of the sparse vectors."""

    document_dims: float
    """Mean number of active dimensions of a document, after pruning."""
    query_dims: float
    """Mean number of active dimensions of a query, after pruning."""
    flops: float
    """Expected multiplications for a query and a document: the sum over the vocabulary of the share of
    queries times the share of documents in which the entry is active (arXiv 2004.05665, as in SPLADE)."""
    index_bytes: int
    """Size of the closed index folder on disk, texts included."""
    documents_per_s: float
    """Documents encoded per second."""
    encode_ms: float
    """Median time to encode one query."""
    search_ms: float
    """Median time to find the best 100 documents, with their texts, for an encoded query."""


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of a model on one collection."""

    collection: str
    documents: int
    queries: int
    gains: Gains
    """Gain of a grade in nDCG: 2**grade - 1 ("exponential"), or the grade ("linear")."""
    splade: Quality
    cost: Cost
    bm25: Quality | None
    dense: Quality | None
    truncated_documents: int | None
    """Documents that are longer than the model reads; None if the encoder does not count them."""
    unjudged_queries: int
    """Queries that were skipped, since no document is judged relevant to them."""
    unknown_documents: int
    """Judged documents that are not in the corpus; they count as not found."""
    unknown_queries: int
    """Judged queries whose text is missing; they were skipped."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, nested like the attributes."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the report as two Markdown tables, with a line for each note."""
        lines = [
            f"**{self.collection}**: documents {self.documents:,}, queries {self.queries:,}, "
            f"{self.gains} gains",
            "",
            "| system | nDCG@10 | R@100 | MRR@10 | ms/query |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.system} | {row.ndcg_at_10:.4f} | {row.recall_at_100:.4f} | {row.mrr_at_10:.4f} | "
            f"{row.ms_per_query:.1f} |"
            for row in (self.splade, self.bm25, self.dense)
            if row is not None
        ]
        cost = self.cost
        lines += [
            "",
            "| dims/document | dims/query | FLOPS | index | documents/s | encode a query | search |",
            "|---|---|---|---|---|---|---|",
            f"| {cost.document_dims:.1f} | {cost.query_dims:.1f} | {cost.flops:.2f} | "
            f"{cost.index_bytes / 1e6:.1f} MB | {cost.documents_per_s:.1f} | {cost.encode_ms:.1f} ms | "
            f"{cost.search_ms:.1f} ms |",
        ]
        notes = self.notes()
        return "\n".join([*lines, "", *(f"- {note}" for note in notes)] if notes else lines)

    def notes(self) -> list[str]:
        """Return a note, with a count, for everything that was skipped or truncated."""
        counts = {
            "documents truncated, since they are longer than the model reads": self.truncated_documents or 0,
            "queries skipped, since no document is relevant to them": self.unjudged_queries,
            "judged documents that are not in the corpus and count as not found": self.unknown_documents,
            "judged queries skipped, since their text is missing": self.unknown_queries,
        }
        return [f"{what}: {count:,}" for what, count in counts.items() if count]


def evaluate(
    folder: str | Path,
    model: ModelArgument = None,
    *,
    precision: Precision | None = None,
    split: str = "test",
    every_nth: int = 1,
    gains: Gains = "exponential",
    max_active_dims: int | None = None,
    query_max_active_dims: int | None = None,
    min_weight: float = 0.0,
    datatype: Literal["float32", "float16", "uint8"] | None = None,
    bm25: bool = True,
    dense: DenseEncoder | NodeEncoder | str | None = None,
    show_progress: bool = False,
) -> EvaluationReport:
    """Index a collection in a temporary folder, search for its queries, and score the rankings.

    1. Encode the documents, title and text, and add them to a `SpladeIndex` of the embedded engine.
    2. Search for one query after another, for 100 documents; the engine's search is exact.
    3. Score the rankings with ir-measures. Do the same with BM25 and the dense encoder.

    A document that is the query itself is not counted as an answer.

    Args:
        folder: See `splade_retriever.evaluation.beir.BeirCollection.read`.
        model: An encoder, a model's name or folder, or None for the bundled model.
        precision: Precision of a model that is given by name.
        split: Name of the file in `qrels/`.
        every_nth: Use one of so many judged queries.
        gains: Gain of a grade in nDCG. With grades of 0 and 1 both are equal; published BEIR figures are
            linear.
        max_active_dims: Keep that many of a document's heaviest weights.
        query_max_active_dims: The same for queries.
        min_weight: Drop document weights below this.
        datatype: Type of the weights in the engine.
        bm25: Compare with BM25 (bm25s; English stems and stop words, k1 0.9, b 0.4).
        dense: Compare with a dense encoder by exact cosine search; a str is the name or folder of a
            sentence-transformers model.
        show_progress: Show a progress bar while documents are indexed.

    Raises:
        InputError: The folder has another layout, or an argument is not valid.
        MissingExtraError: A package is not installed.
    """
    collection = BeirCollection.read(folder, split=split, every_nth=every_nth)
    _check_grades(collection, gains)
    # A missing package is an error before anything is encoded.
    import_optional("ir_measures", "ir-measures")
    encoder = load_encoder(model, lazy_load=False, settings={"precision": precision})
    check_plain_weights(encoder, "evaluate(), which compares with BM25 by itself,")
    dense_encoder = SentenceTransformerEncoder(dense) if isinstance(dense, str) else dense
    if dense_encoder is not None:
        as_dense(dense_encoder)  # raises before anything is encoded
    bm25_quality = _measured(Bm25(collection.documents), collection, gains) if bm25 else None
    settings = {
        "max_active_dims": max_active_dims,
        "query_max_active_dims": query_max_active_dims,
        "min_weight": min_weight,
        "datatype": datatype,
    }
    with tempfile.TemporaryDirectory(prefix="splade-eval-") as place:
        with contextlib.closing(_Splade(place, encoder, settings)) as splade:
            splade.add(collection.documents, show_progress=show_progress)
            quality = _measured(splade, collection, gains)
        cost = splade.cost(index_bytes=disk_usage(Path(place)))
    dense_quality = None
    if dense_encoder is not None:
        dense_quality = _measured(DenseBaseline(collection.documents, dense_encoder), collection, gains)
    report = EvaluationReport(
        collection=collection.name,
        documents=len(collection.documents),
        queries=len(collection.queries),
        gains=gains,
        splade=quality,
        cost=cost,
        bm25=bm25_quality,
        dense=dense_quality,
        truncated_documents=splade.truncated_documents,
        unjudged_queries=collection.unjudged_queries,
        unknown_documents=collection.unknown_documents,
        unknown_queries=collection.unknown_queries,
    )
    for note in report.notes():
        logger.warning("%s: %s", collection.name, note)
    return report


def score_rankings(
    rankings: Mapping[str, Sequence[str]],
    judgements: Mapping[str, Mapping[str, int]],
    *,
    gains: Gains = "exponential",
) -> dict[str, float]:
    """Score rankings with ir-measures, which computes as trec_eval does.

    Args:
        rankings: Query id -> document ids, best first.
        judgements: Query id -> document id -> grade, 1..20 for a relevant one. A query without a
            ranking scores 0.
        gains: Gain of a grade in nDCG.

    Returns:
        `ndcg_at_10`, `recall_at_100` and `mrr_at_10`, means over the judged queries.

    Raises:
        MissingExtraError: ir-measures is not installed.

    Source:
        nDCG with exponential gains: Burges et al., ICML 2005; the discount of rank r is 1 / log2(r + 1).
    """
    library = import_optional("ir_measures", "ir-measures")
    measures = {
        "ndcg_at_10": library.nDCG(gains=_gain_of_grade(gains)) @ 10,
        "recall_at_100": library.R @ 100,
        "mrr_at_10": library.RR @ 10,
    }
    scores = library.calc_aggregate(list(measures.values()), judgements, _run_of(rankings))
    return {name: float(scores[measure]) for name, measure in measures.items()}


def ndcg_of_each(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Mapping[str, int]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return nDCG@10 of each judged query, in the order of the judgements; see `score_rankings`."""
    library = import_optional("ir_measures", "ir-measures")
    measure = library.nDCG(gains=_gain_of_grade("exponential")) @ 10
    found = {
        score.query_id: score.value for score in library.iter_calc([measure], judgements, _run_of(rankings))
    }
    return np.array([found.get(query, 0.0) for query in judgements], dtype=np.float64)


def _gain_of_grade(gains: Gains) -> dict[int, int]:
    return {
        grade: 2**grade - 1 if gains == "exponential" else grade for grade in range(1, _HIGHEST_GRADE + 1)
    }


def _run_of(rankings: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return rankings as scores by place, since trec_eval orders equal scores by id."""
    return {
        query: {document: float(-place) for place, document in enumerate(ranked)}
        for query, ranked in rankings.items()
    }


class _System(Protocol):
    """A system that ranks documents."""

    @property
    def name(self) -> str: ...

    def rank(self, query: str, k: int) -> list[str]:
        """Return the ids of the best `k` documents, best first."""
        ...


def _measured(system: _System, collection: BeirCollection, gains: Gains) -> Quality:
    rankings: dict[str, list[str]] = {}
    seconds = []
    for id, text in collection.queries.items():
        is_document = id in collection.queries_in_corpus
        started = time.perf_counter()
        ranked = system.rank(text, _DEPTH + is_document)
        seconds.append(time.perf_counter() - started)
        rankings[id] = [document for document in ranked if not (is_document and document == id)][:_DEPTH]
    return Quality(
        system=system.name,
        **score_rankings(rankings, collection.judgements, gains=gains),
        ms_per_query=statistics.median(seconds) * 1e3,
    )


def _check_grades(collection: BeirCollection, gains: Gains) -> None:
    if gains not in get_args(Gains):
        raise InputError(f"gains is {gains!r}, expected one of {', '.join(get_args(Gains))}.")
    highest = max(grade for grades in collection.judgements.values() for grade in grades.values())
    if highest > _HIGHEST_GRADE:
        raise InputError(
            f"{collection.name} has a judgement of grade {highest}, expected grades up to {_HIGHEST_GRADE}. "
            "Map the grades to a shorter scale."
        )


class _Splade:
    """A model and its index, with their size and speed."""

    def __init__(self, folder: str, encoder: Encoder, settings: Mapping[str, Any]) -> None:
        from splade_retriever.index.splade_index import SpladeIndex

        fingerprint = encoder.fingerprint
        self.name = ", ".join(str(fingerprint[key]) for key in ("model", "precision") if fingerprint.get(key))
        self.truncated_documents: int | None = None
        self._encoder = encoder
        self._index = SpladeIndex(folder, model=encoder, **settings)
        self._settings = settings
        self._documents, self._queries = _ActiveDimensions(), _ActiveDimensions()
        self._encoding_s = 0.0
        self._encode_s: list[float] = []
        self._search_s: list[float] = []

    def add(self, documents: Mapping[str, str], *, show_progress: bool) -> None:
        """Encode and add documents, id -> text."""
        before = getattr(self._encoder, "truncated", None)
        texts = list(documents.values())
        self._index.add(texts, ids=list(documents), vectors=self._encoded(texts), show_progress=show_progress)
        if before is not None:
            self.truncated_documents = getattr(self._encoder, "truncated", before) - before

    def _encoded(self, texts: list[str]) -> Iterator[SparseEmbedding]:
        """Encode documents, and measure the time and the active dimensions."""
        max_active_dims, min_weight = self._settings["max_active_dims"], self._settings["min_weight"]
        vectors = iter(self._encoder.passage_embed(texts))
        while True:
            started = time.perf_counter()
            vector = next(vectors, None)
            self._encoding_s += time.perf_counter() - started
            if vector is None:
                return
            self._documents.add(prune(vector, max_active_dims, min_weight))
            yield vector

    def rank(self, query: str, k: int) -> list[str]:
        """Return the ids of the best `k` documents, best first."""
        started = time.perf_counter()
        (vector,) = self._encoder.query_embed([query])
        encoded = time.perf_counter()
        hits = self._index.search(vector, k=k)
        searched = time.perf_counter()
        self._encode_s.append(encoded - started)
        self._search_s.append(searched - encoded)
        self._queries.add(prune(vector, self._settings["query_max_active_dims"]))
        return [hit.id for hit in hits]

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def cost(self, *, index_bytes: int) -> Cost:
        """Return the size and speed so far."""
        return Cost(
            document_dims=self._documents.mean,
            query_dims=self._queries.mean,
            flops=self._documents.expected_products(self._queries),
            index_bytes=index_bytes,
            documents_per_s=self._documents.texts / self._encoding_s,
            encode_ms=statistics.median(self._encode_s) * 1e3,
            search_ms=statistics.median(self._search_s) * 1e3,
        )


class _ActiveDimensions:
    """Counts how often each vocabulary entry is active."""

    def __init__(self) -> None:
        self.texts = 0
        self._active = np.zeros(0, dtype=np.int64)

    def add(self, vector: SparseEmbedding) -> None:
        """Count one text."""
        self.texts += 1
        if len(vector):
            beyond = int(vector.indices[-1]) + 1 - len(self._active)
            if beyond > 0:
                self._active = np.pad(self._active, (0, beyond))
            self._active[vector.indices] += 1

    @property
    def mean(self) -> float:
        """Mean number of active dimensions of a text."""
        return float(self._active.sum()) / self.texts

    def expected_products(self, other: "_ActiveDimensions") -> float:
        """Return the sum over the vocabulary of the product of both shares of texts with an active entry."""
        shared = min(len(self._active), len(other._active))
        together = self._active[:shared] @ other._active[:shared]
        return float(together) / (self.texts * other.texts)
