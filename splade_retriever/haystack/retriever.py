"""SpladeRetriever: finds documents of a `SpladeDocumentStore` in a pipeline of Haystack."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from splade_retriever.explanation import Explanation
from splade_retriever.haystack.document_store import SpladeDocumentStore, to_document
from splade_retriever.haystack.filters import translate_filters
from splade_retriever.index.documents import Hit
from splade_retriever.index.hit_report import METADATA_KEY, hit_report
from splade_retriever.index.splade_query import QueryControls, with_default_controls
from splade_retriever.validation import checked_int

__all__ = ["SpladeRetriever"]


@component
class SpladeRetriever:
    """Finds documents by SPLADE.

    Args:
        document_store: The store.
        filters: Haystack's filters.
        top_k: Maximum number of documents.
        filter_policy: Whether filters of a call replace these filters, or both must hold.
        explain: Put the score and its explanation into the metadata of each document, under "_splade".
        origins: Put the explanation there, with the word that each token of an expansion comes from.
        controls: Words to boost, require or exclude, synonyms and `expand`, for each query that is not a
            `SpladeQuery`.
    """

    def __init__(
        self,
        document_store: SpladeDocumentStore,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
        explain: bool = False,
        origins: bool = False,
        controls: QueryControls | Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(document_store, SpladeDocumentStore):
            raise ValueError(
                f"document_store is a {type(document_store).__name__}, expected a SpladeDocumentStore."
            )
        translate_filters(filters)
        self.document_store = document_store
        self.filters = filters
        self.top_k = checked_int("top_k", top_k, minimum=1)
        self.filter_policy = filter_policy
        self.explain = explain
        self.origins = origins
        self.controls = QueryControls.of(controls)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
            explain=self.explain,
            origins=self.origins,
            controls=None if self.controls is None else self.controls.to_dict(),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make a retriever of what `to_dict` returned."""
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = SpladeDocumentStore.from_dict(parameters["document_store"])
        parameters["filter_policy"] = FilterPolicy.from_str(parameters.get("filter_policy", "replace"))
        retriever: Self = default_from_dict(cls, {**data, "init_parameters": parameters})
        return retriever

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find the documents that match a query best.

        Args:
            query: The query.
            filters: Haystack's filters, applied by the filter policy.
            top_k: Maximum number of documents; None for the one of the constructor.

        Returns:
            `documents`, best first, with their scores: dot products, unbounded.
        """
        k, conditions = self._search_arguments(filters, top_k)
        index, query = self.document_store.index, with_default_controls(query, self.controls)
        hits = index.search(query, k, filter=conditions)
        explained = self.explain or self.origins
        return _documents(hits, index.explain_all(query, hits, origins=self.origins) if explained else ())

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find documents as `run` does, without blocking the event loop."""
        k, conditions = self._search_arguments(filters, top_k)
        index, query = self.document_store.index, with_default_controls(query, self.controls)
        hits = await index.asearch(query, k, filter=conditions)
        if not (self.explain or self.origins):
            return _documents(hits, ())
        return _documents(hits, await index.aexplain_all(query, hits, origins=self.origins))

    def _search_arguments(
        self, filters: dict[str, Any] | None, top_k: int | None
    ) -> tuple[int, dict[str, Any] | None]:
        joined = apply_filter_policy(self.filter_policy, self.filters, filters)
        return self.top_k if top_k is None else top_k, translate_filters(joined)


def _documents(hits: Sequence[Hit], explanations: Sequence[Explanation]) -> dict[str, list[Document]]:
    documents = [to_document(hit, score=hit.score) for hit in hits]
    for document, hit, explanation in zip(documents, hits, explanations, strict=False):
        report: Mapping[str, Any] = hit_report(hit, explanation)
        document.meta[METADATA_KEY] = dict(report)
    return {"documents": documents}
