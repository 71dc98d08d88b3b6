"""What agents call: search, get, explain and why_not, with JSON values of bounded size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.hit_explanations import explain_hits
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.key_paths import key_levels

__all__ = ["MAX_CHARACTERS", "MAX_HITS", "IndexTools"]

MAX_HITS: Final = 50
MAX_CHARACTERS: Final = 2000
"""Of the text of a hit; `get` returns the complete text."""

_MAX_IDS: Final = 100
_WORDS: Final = 8
"""Reasons per hit."""


class IndexTools:
    """Searches an index for an agent.

    The docstring of a method is its description for the model that calls it, which cannot choose the tenant.
    """

    def __init__(self, index: SpladeIndex, *, tenant: str | None = None) -> None:
        """Make the tools of an index.

        Args:
            index: An open index; the caller closes it.
            tenant: Whose documents are found, read, added and deleted, where the index separates tenants.
                Without it `search` finds those of all tenants, and the tools that take ids raise an error.

        Raises:
            InputError: If the tenant is not a text, or the index does not separate tenants.
        """
        if tenant is not None:
            _check_tenant(index, tenant)
        self.index, self.tenant = index, tenant

    @property
    def reading(self) -> tuple[Callable[..., dict[str, Any]], ...]:
        """The methods that change nothing."""
        return (self.search, self.get, self.explain, self.why_not)

    @property
    def writing(self) -> tuple[Callable[..., dict[str, Any]], ...]:
        """The methods that change the index."""
        return (self.add, self.delete)

    def search(self, query: str, k: int = 5, filter: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Find the documents that match a query best, with the words that decided.

        Args:
            query: A question or keywords.
            k: How many documents to return, 1 to 50.
            filter: Conditions on the metadata, such as {"year": {"$gte": 2020}}.

        Returns:
            `hits`, best first: `id`, `score`, `text` (at most 2,000 characters; `cut` is true where it was
            longer), `metadata`, and `why`: the words that contributed most to the score, with their shares;
            empty where the model has no words for its tokens.
        """
        _check_k(k)
        hits = self.index.search(query, k, filter=self._of_tenant(filter))
        explanations = explain_hits(self.index, query, hits)
        return {"hits": [_hit(hit, explanation) for hit, explanation in zip(hits, explanations, strict=True)]}

    def get(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return documents with their complete text by id.

        Args:
            ids: Ids of documents, at most 100.

        Returns:
            `documents` (`id`, `text`, `metadata`) in the order of the ids, and `missing`, the ids that no
            document has.
        """
        if len(ids) > _MAX_IDS:
            raise InputError(f"ids has {len(ids)} ids, expected at most {_MAX_IDS}.")
        found = {hit.id: hit for hit in self.index.get(ids, tenant=self.tenant)}
        return {
            "documents": [_document(found[id]) for id in dict.fromkeys(ids) if id in found],
            "missing": [id for id in dict.fromkeys(ids) if id not in found],
        }

    def explain(self, query: str, id: str) -> dict[str, Any]:
        """Explain the score of one document for a query.

        Args:
            query: The query.
            id: The id of the document.

        Returns:
            `query`, `score`, `contributions` (token, its weight in query and document, and their product;
            their sum is the score) and `spans`, the marked places of the text.
        """
        hits = self.index.get([id], tenant=self.tenant)
        if not hits:
            raise InputError(f"There is no document with the id {id!r}. Pass an id that `search` returned.")
        return self.index.explain(query, hits[0]).to_dict()

    def why_not(
        self, query: str, id: str, k: int = 5, filter: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Explain why a search does not return a document.

        Args:
            query: The query of the search.
            id: The id of the document.
            k: How many documents the search returns, 1 to 50.
            filter: The conditions of the search on the metadata.

        Returns:
            `found`: whether the search returns the document after all; its `rank` and `score`; `cut_id` and
            `cut_score` of the last hit, and the score that is `needed` to reach it; `reasons`, the decisive
            one first; and `differences`: what words contribute to the document (`score`) and to the last hit
            (`other_score`), where the hit gains most first.
        """
        _check_k(k)
        filter = self._of_tenant(filter)
        missing = self.index.why_not(query, id, k, filter=filter, tenant=self.tenant).to_dict()
        del missing["explanation"]
        return {**missing, "differences": missing["differences"][:_WORDS]}

    def text_of(self, id: str) -> str:
        """Return the complete text of a document.

        Raises:
            InputError: If there is no such document.
        """
        hits = self.index.get([id], tenant=self.tenant)
        if not hits:
            raise InputError(f"There is no document with the id {id!r}.")
        return hits[0].text

    def add(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Add documents; a document with an id that exists is replaced.

        Args:
            texts: The texts.
            ids: An id for each text; without them, random ids.
            metadatas: Metadata for each text.

        Returns:
            `ids` of the documents, in order.
        """
        if self.tenant is not None:
            metadatas = self._with_tenant([None] * len(texts) if metadatas is None else metadatas)
        return {"ids": self.index.add(texts, metadatas, ids)}

    def delete(self, ids: Sequence[str]) -> dict[str, Any]:
        """Delete documents by id.

        Args:
            ids: Ids of documents.

        Returns:
            `deleted`, the ids that existed.
        """
        known = [hit.id for hit in self.index.get(ids, tenant=self.tenant)]
        if known:
            self.index.delete(known, tenant=self.tenant)
        return {"deleted": known}

    def _of_tenant(self, filter: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return a filter for documents of the tenant that match a filter."""
        field = self.index.layout.tenant_field
        if self.tenant is None or field is None:
            return filter
        own = {field: self.tenant}
        return own if filter is None else {"$and": [own, filter]}

    def _with_tenant(self, metadatas: Sequence[Any]) -> list[Any]:
        """Return metadatas of `add` with the tenant in each."""
        field = self.index.layout.tenant_field
        if self.tenant is None or field is None:
            return list(metadatas)
        levels = key_levels(field)
        return [_owned({} if metadata is None else metadata, levels, self.tenant) for metadata in metadatas]


def _check_tenant(index: SpladeIndex, tenant: object) -> None:
    if not isinstance(tenant, str) or not tenant:
        raise InputError(f"tenant is {tenant!r}, expected a string that is not empty, or None.")
    if index.layout.tenant_field is None:
        raise InputError(
            f"tenant={tenant!r} is passed, but collection {index.collection!r} does not separate tenants. "
            "Leave it out, or use a collection that was created with tenant_field=."
        )


def _owned(metadata: Any, levels: Sequence[str], tenant: str) -> Any:
    """Return metadata with a tenant at a path of names; what is no metadata is returned for `add` to refuse.

    Raises:
        InputError: If it has another value there.
    """
    if not isinstance(metadata, Mapping):
        return metadata
    name, *inner = levels
    if inner:
        return {**metadata, name: _owned(metadata.get(name, {}), inner, tenant)}
    if metadata.get(name, tenant) != tenant:
        raise InputError(
            f"The metadata has {metadata[name]!r} at {name!r}, where the tenant belongs. Nothing was "
            f"written. Leave out {name!r}."
        )
    return {**metadata, name: tenant}


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_HITS:
        raise InputError(f"k is {k}, expected 1 to {MAX_HITS}.")


def _hit(hit: Hit, explanation: Explanation) -> dict[str, Any]:
    found = {
        "id": hit.id,
        "score": hit.score,
        "text": hit.text[:MAX_CHARACTERS],
        "metadata": hit.metadata,
        "why": [
            {"word": contribution.token, "score": contribution.score}
            for contribution in explanation.contributions[:_WORDS]
        ],
    }
    return found if len(hit.text) <= MAX_CHARACTERS else {**found, "cut": True}


def _document(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "text": hit.text, "metadata": hit.metadata}
