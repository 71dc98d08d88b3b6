"""Savings and loss of quality by pruning and smaller weights, on collections in BEIR layout.

    python -m benchmarks.pruning --evaluation FOLDER             # a collection, or a folder of them
    python -m benchmarks.pruning --evaluation FOLDER --write     # into docs/benchmarks.md

Everything is encoded once, and kept until the model or the texts change. Each setting has separate indexes,
which prune the vectors as a user's index does: one index per collection, for nDCG@10, and one of all
collections, for size and latency. Each is optimised with a threshold of 1 KB in place of 10,000, because the
engine uses the datatype only in an optimised index. Latency is that of `SpladeIndex.search` for the best 10
documents with their texts, for an encoded query, one after another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qdrant_client import models

from benchmarks.footprint import on_disk
from benchmarks.machine import processor, report, versions
from benchmarks.page import write
from benchmarks.vectors import VectorFile
from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.evaluation.beir import BeirCollection
from splade_retriever.evaluation.evaluate import score_rankings
from splade_retriever.index.point_encoding import prune
from splade_retriever.protocols import Encoder
from splade_retriever.sparse import SparseEmbedding

K = 10
EVERY_NTH = {"squad-dev": 10}
QUERY_DIMS = (None, 24, 16, 8)
ALL = "all"


@dataclass(frozen=True)
class Documents:
    """Settings that shape an index."""

    max_active_dims: int | None = None
    min_weight: float = 0.0
    datatype: str = "float32"

    @property
    def label(self) -> str:
        """The settings that differ from the defaults."""
        if self.max_active_dims is not None:
            return f"`max_active_dims={self.max_active_dims}`"
        if self.min_weight:
            return f"`min_weight={self.min_weight}`"
        return "nothing pruned, float32" if self.datatype == "float32" else f'`datatype="{self.datatype}"`'


BY_DIMS = tuple(Documents(max_active_dims=dims) for dims in (None, 128, 96, 64, 48, 32))
OTHERS = (
    *(Documents(min_weight=weight) for weight in (0.1, 0.3, 0.5)),
    *(Documents(datatype=datatype) for datatype in ("float16", "uint8")),
)


@dataclass(frozen=True)
class Encoded:
    """A collection and the unpruned vectors of its documents and queries."""

    collection: BeirCollection
    documents: list[SparseEmbedding]
    queries: list[SparseEmbedding]


@dataclass(frozen=True)
class Result:
    """Size, latency and quality of one setting of documents and queries."""

    documents: Documents
    query_dims: int | None
    dims: tuple[float, float]
    """Mean active dimensions of a document and of a query."""
    index_mb: float
    folder_mb: float
    p50_ms: float
    ndcg: dict[str, float]
    """Collection -> nDCG@10."""

    @property
    def mean(self) -> float:
        """The mean of the collections' nDCG@10."""
        return statistics.mean(self.ndcg.values())


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, measure, print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluation", type=Path, required=True, help="a collection, or a folder of them")
    parser.add_argument("--model", help="a model's name or folder; default: the bundled model")
    parser.add_argument("--precision", choices=["fp32", "int8"])
    parser.add_argument("--every-nth", type=int, help="of the queries; default: 1, of squad-dev 10")
    parser.add_argument(
        "--vectors", type=Path, default=Path("runs/benchmarks/vectors"), help="to keep them in"
    )
    parser.add_argument("--write", action="store_true", help="put the report into docs/benchmarks.md")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    encoder = SparseTextEmbedding(arguments.model, precision=arguments.precision)
    encoded = encode(read(arguments.evaluation, arguments.every_nth), encoder, arguments.vectors)
    results = [
        one
        for documents in (*BY_DIMS, *OTHERS)
        for one in measure(encoded, encoder, documents, QUERY_DIMS if documents in BY_DIMS else (None,))
    ]
    lines = [*conditions(encoded, encoder), "", *tables(results)]
    print("\n".join(lines))
    report(f"took {time.perf_counter() - started:.0f} s")
    if arguments.write:
        write("pruning", "Pruning", "\n".join(lines))


def read(folder: Path, every_nth: int | None = None) -> list[BeirCollection]:
    """Read a collection, or all in a folder, by name."""
    places = sorted(path.parent for path in folder.glob("*/qrels*")) or [folder]
    return [
        BeirCollection.read(place, every_nth=every_nth or EVERY_NTH.get(place.name, 1))
        for place in dict.fromkeys(places)
    ]


def encode(collections: Sequence[BeirCollection], encoder: Encoder, folder: Path) -> list[Encoded]:
    """Encode documents and queries, or read their vectors from the folder."""
    texts = {
        "documents": [text for collection in collections for text in collection.documents.values()],
        "queries": [text for collection in collections for text in collection.queries.values()],
    }
    about = {
        "collections": [collection.name for collection in collections],
        "encoder": dict(encoder.fingerprint),
        "texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
    }
    note = folder / "about.json"
    if not note.is_file() or json.loads(note.read_text("utf-8")) != about:
        note.unlink(missing_ok=True)
        report(f"encoding {len(texts['documents']):,} documents and {len(texts['queries']):,} queries ...")
        VectorFile.write(folder / "documents", encoder.passage_embed(texts["documents"]))
        VectorFile.write(folder / "queries", encoder.query_embed(texts["queries"]))
        note.write_text(json.dumps(about), encoding="utf-8")
    documents, queries = (iter(VectorFile(folder / name).read()) for name in texts)
    return [
        Encoded(one, [*islice(documents, len(one.documents))], [*islice(queries, len(one.queries))])
        for one in collections
    ]


# Measuring


def measure(
    encoded: Sequence[Encoded], encoder: Encoder, documents: Documents, query_dims: Iterable[int | None]
) -> Iterator[Result]:
    """Index everything with one setting, and search with each of some settings of queries."""
    with tempfile.TemporaryDirectory(prefix="splade-pruning-") as place:
        together = Path(place) / "together"
        build(together, encoder, documents, encoded)
        for one in encoded:
            build(Path(place) / one.collection.name, encoder, documents, [one])
        parts = on_disk(together)
        searched = sum(size for name, size in parts.items() if name.startswith("vector_index"))
        kept = [
            len(prune(vector, documents.max_active_dims, documents.min_weight))
            for one in encoded
            for vector in one.documents
        ]
        for most in query_dims:
            asked = [len(prune(vector, most)) for one in encoded for vector in one.queries]
            yield Result(
                documents=documents,
                query_dims=most,
                dims=(statistics.mean(kept), statistics.mean(asked)),
                index_mb=searched / 1e6,
                folder_mb=sum(parts.values()) / 1e6,
                p50_ms=latency_ms(together, encoder, most, encoded),
                ndcg={
                    one.collection.name: ndcg(Path(place) / one.collection.name, encoder, most, one)
                    for one in encoded
                },
            )
            report(f"{documents.label}, queries of {most or ALL} dims: measured")


def build(folder: Path, encoder: Encoder, documents: Documents, encoded: Sequence[Encoded]) -> None:
    """Index the documents of some collections, and let the engine optimise any number of them."""
    settings: Any = {
        "max_active_dims": documents.max_active_dims,
        "min_weight": documents.min_weight,
        "datatype": documents.datatype,
    }
    with SpladeIndex(folder, model=encoder, **settings) as index:
        for one in encoded:
            collection = one.collection
            # Ids are unique in a collection only.
            ids = [id if len(encoded) == 1 else f"{collection.name}/{id}" for id in collection.documents]
            index.add([*collection.documents.values()], ids=ids, vectors=one.documents)
        client: Any = index.client
        small = models.OptimizersConfigDiff(indexing_threshold=1)
        client.update_collection(index.collection, optimizers_config=small)
        if not client.optimize(index.collection):
            raise SystemExit(f"the engine did not optimise {folder.name}: too few documents to measure with.")


def latency_ms(folder: Path, encoder: Encoder, query_dims: int | None, encoded: Sequence[Encoded]) -> float:
    """Return the median time of a search."""
    queries = [query for one in encoded for query in one.queries]
    seconds = []
    with SpladeIndex(folder, model=encoder, query_max_active_dims=query_dims) as index:
        for query in queries[:20]:
            index.search(query, k=K)
        for query in queries:
            started = time.perf_counter()
            index.search(query, k=K)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def ndcg(folder: Path, encoder: Encoder, query_dims: int | None, one: Encoded) -> float:
    """Return the nDCG@10 of a collection's index, as `splade_retriever.evaluation.evaluate` scores it."""
    collection = one.collection
    rankings = {}
    with SpladeIndex(folder, model=encoder, query_max_active_dims=query_dims) as index:
        for id, query in zip(collection.queries, one.queries, strict=True):
            is_document = (
                id in collection.queries_in_corpus
            )  # a query that is a document does not answer itself
            ranked = [hit.id for hit in index.search(query, k=K + is_document)]
            rankings[id] = [document for document in ranked if not (is_document and document == id)][:K]
    return score_rankings(rankings, collection.judgements)["ndcg_at_10"]


# Report


def conditions(encoded: Sequence[Encoded], encoder: Encoder) -> Iterator[str]:
    """Describe the collections, the model and the machine."""
    made_by = encoder.fingerprint
    model = ", ".join(str(made_by[key]) for key in ("model", "precision") if made_by.get(key))
    names = ", ".join(
        f"{one.collection.name} ({len(one.documents):,} documents, {len(one.queries):,} queries)"
        for one in encoded
    )
    yield (
        f"`python -m benchmarks.pruning --evaluation FOLDER`, {processor()}, "
        f"{versions('qdrant-edge-py', 'ir-measures')}."
    )
    yield ""
    yield (
        f"{model} on {names}; exponential gains. Index, folder and latency are those of one index of all "
        f"{sum(len(one.documents) for one in encoded):,} documents, optimised; the folder holds the texts "
        "and the engine's log, too. What is pruned, or stored shorter, is the index; the model is the same."
    )


def tables(results: Sequence[Result]) -> Iterator[str]:
    """Format the figures as Markdown: one changed setting each, by collection, and documents by queries."""
    unpruned = results[0]
    alone = [one for one in results if one.query_dims is None or one.documents == unpruned.documents]
    yield "| | dims/document | dims/query | index | of all | folder | search p50 | nDCG@10, mean | change |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in alone:
        yield (
            f"| {label(one)} | {one.dims[0]:.0f} | {one.dims[1]:.1f} | {one.index_mb:.1f} MB "
            f"| {one.index_mb / unpruned.index_mb:.0%} | {one.folder_mb:.0f} MB | {one.p50_ms:.2f} ms "
            f"| {one.mean:.4f} | {one.mean - unpruned.mean:+.4f} |"
        )
    yield from ["", "nDCG@10 by collection:", ""]
    yield f"| | {' | '.join(unpruned.ndcg)} |"
    yield "|---|" + "---|" * len(unpruned.ndcg)
    for one in alone:
        yield f"| {label(one)} | {' | '.join(f'{value:.4f}' for value in one.ndcg.values())} |"
    yield from ["", "Documents and queries pruned together, mean nDCG@10 and search p50:", ""]
    kept = list(dict.fromkeys(one.query_dims for one in results))
    yield f"| dims of documents | {' | '.join(f'queries: {most or ALL}' for most in kept)} |"
    yield "|---|" + "---|" * len(kept)
    for documents in BY_DIMS:
        row = {one.query_dims: one for one in results if one.documents == documents}
        cells = [f"{row[most].mean:.4f}, {row[most].p50_ms:.2f} ms" for most in kept if most in row]
        yield f"| {documents.max_active_dims or ALL} | {' | '.join(cells)} |"


def label(result: Result) -> str:
    """Return the setting that differs from the defaults."""
    if result.query_dims is None:
        return result.documents.label
    return f"`query_max_active_dims={result.query_dims}`"


if __name__ == "__main__":
    main()
