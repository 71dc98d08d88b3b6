"""LangChain documents <-> what the index takes and gives: pure conversions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import tee
from typing import Any, Final

from langchain_core.documents import Document

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.langchain.filters import LangChainFilter, to_index_filter
from splade_retriever.sparse import SparseEmbedding

__all__ = ["METADATA_KEY", "SearchOptions", "columns", "relevance", "to_document", "to_documents"]

METADATA_KEY: Final = "_splade"
"""The one metadata key that scores and explanations come under, where they are asked for."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What a search may be told by keyword, in the vector store and in the retriever."""

    filter: LangChainFilter | None = None
    """A dict (`splade_retriever.filters`), a `qdrant_client.models.Filter` or a structured query's filter."""
    offset: int = 0
    """Documents to pass over, for the next pages."""
    score_threshold: float | None = None
    """Lowest score, in the engine's own scale (sparse: a dot product, unbounded)."""
    mode: Mode | None = None
    """"sparse", "dense" or "hybrid"; None for hybrid where there is a dense encoder, else sparse."""
    fusion: Fusion | None = None
    """How hybrid joins its two rankings; None for RRF with k = 60."""
    with_scores: bool = False
    """Put the score into each document's metadata, under `METADATA_KEY`."""
    with_explanations: bool = False
    """Put the score and why it is so there."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SearchOptions":
        """Read the keywords of a search.

        Raises:
            InputError: Naming one that there is not.
        """
        if unknown := [name for name in options if name not in cls.__slots__]:
            raise InputError(
                f"a search was given {', '.join(unknown)}, which it does not know; "
                f"allowed: k, {', '.join(cls.__slots__)}."
            )
        return cls(**options)

    def arguments(self) -> dict[str, Any]:
        """Give them as keyword arguments of `SpladeIndex.search`."""
        return {
            "filter": to_index_filter(self.filter),
            "offset": self.offset,
            "score_threshold": self.score_threshold,
            "mode": self.mode,
            "fusion": self.fusion,
            # An explanation needs the vector; reading it along saves a call for each hit.
            "with_vectors": self.with_explanations,
        }


def to_document(hit: Hit) -> Document:
    """Give the document as it was added: text, metadata and id."""
    return Document(id=hit.id, page_content=hit.text, metadata=hit.metadata)


def to_documents(
    hits: Sequence[Hit], options: SearchOptions, explanations: Sequence[Explanation]
) -> list[tuple[Document, float]]:
    """Give documents with their scores, and in their metadata what was asked for.

    Args:
        hits: What was found, best first.
        options: Of the search.
        explanations: One a hit, or none where they were not asked for.
    """
    if not (options.with_scores or options.with_explanations):
        return [(to_document(hit), hit.score) for hit in hits]
    found = []
    for n, hit in enumerate(hits):
        report = _report(hit, explanations[n] if explanations else None)
        document = Document(id=hit.id, page_content=hit.text, metadata={**hit.metadata, METADATA_KEY: report})
        found.append((document, hit.score))
    return found


def _report(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    """Say what is known of a hit, in what JSON has."""
    report: dict[str, Any] = {"score": hit.score}
    if hit.branches:
        report["branches"] = {name: asdict(branch) for name, branch in hit.branches.items()}
    if hit.window is not None:
        report["window"] = list(hit.window)
    if explanation is not None:
        report["explanation"] = explanation.to_dict()
    return report


def columns(
    documents: Iterable[Document], ids: Iterable[str | None] | None
) -> tuple[Iterable[str], Iterable[dict[str, Any]], Iterable[str | None]]:
    """Take documents apart into the three inputs of `SpladeIndex.add`.

    A list gives lists, so that the index can check all of it before it writes; an iterator gives iterators
    that are read in step, so that a stream of any length is never held.

    Args:
        documents: Each with its own id, or None for a random one.
        ids: In place of the documents' own ids.

    Raises:
        InputError: At once for a list, when it is reached for an iterator: an item that is no Document.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise InputError(
            f"documents is one {type(documents).__name__}, expected several. Pass a list of Documents."
        )
    if isinstance(documents, Sequence):
        listed = list(_checked(documents))
        return (
            [document.page_content for document in listed],
            [document.metadata for document in listed],
            [document.id for document in listed] if ids is None else ids,
        )
    # Read in step, each copy is at most one document ahead of the others.
    one, two, three = tee(_checked(documents), 3)
    return (
        (document.page_content for document in one),
        (document.metadata for document in two),
        (document.id for document in three) if ids is None else ids,
    )


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(
                f"document {position} is a {type(document).__name__}, expected a langchain_core Document. "
                "Strings go to add_texts or from_texts."
            )
        yield document


def relevance(score: float, *, mode: Mode, fusion: Fusion, query: SparseEmbedding | None) -> float:
    """Map a score onto 0..1, keeping the order: 0 is "nothing in common", 1 is "all that was asked for".

    - sparse: score / sum of the query's weights, at most 1: the weight that the document gives to the query's
      tokens, on average. One scale for all queries, also for models whose queries come from a table.
    - dense: (1 + cosine) / 2.
    - hybrid by RRF: score / the score of a document that both rankings have first.
    - hybrid by DBSF: score / 2, since each of the two normalised scores is at most about 1; cut to 0..1.

    Args:
        score: As the index gave it.
        mode: How it was searched.
        fusion: How hybrid joined its rankings.
        query: The query's vector, in mode "sparse".
    """
    if mode == "sparse":
        most = 0.0 if query is None else float(query.values.sum(dtype="float64"))
        return min(1.0, score / most) if most > 0.0 else 0.0
    if mode == "dense":
        return _bounded((1.0 + score) / 2.0)
    if fusion.method == "dbsf":
        return _bounded(score / 2.0)
    return _bounded(score / fusion.best_score)


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
