"""What agents call: search, get, explain and why_not, with JSON values of bounded size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["MAX_CHARACTERS", "MAX_HITS", "IndexTools"]

MAX_HITS: Final = 50
MAX_CHARACTERS: Final = 2000
"""Of the text of a hit; `get` returns the complete text."""

_MAX_IDS: Final = 100
_WORDS: Final = 8
"""Reasons per hit."""


class IndexTools:
    """Searches an index for an agent.

    The docstring of a method is its description for the model that calls it.
    """

    def __init__(self, index: SpladeIndex) -> None:
        self.index = index

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
            longer), `metadata`, and `why`: the words that contributed most to the score, with their shares.
        """
        _check_k(k)
        hits = self.index.search(query, k, filter=filter)
        explanations = self.index.explain_all(query, hits)
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
        found = {hit.id: hit for hit in self.index.get(ids)}
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
        hits = self.index.get([id])
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
        missing = self.index.why_not(query, id, k, filter=filter).to_dict()
        del missing["explanation"]
        return {**missing, "differences": missing["differences"][:_WORDS]}

    def text_of(self, id: str) -> str:
        """Return the complete text of a document.

        Raises:
            InputError: If there is no such document.
        """
        hits = self.index.get([id])
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
        return {"ids": self.index.add(texts, metadatas, ids)}

    def delete(self, ids: Sequence[str]) -> dict[str, Any]:
        """Delete documents by id.

        Args:
            ids: Ids of documents.

        Returns:
            `deleted`, the ids that existed.
        """
        known = [hit.id for hit in self.index.get(ids)]
        if known:
            self.index.delete(known)
        return {"deleted": known}


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
