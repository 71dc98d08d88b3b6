"""Explanations of hits for tools and pages, which also show those of an encoder without a tokenizer."""

from collections.abc import Sequence

from splade_retriever.explanation import Explanation, literal_tokenizer
from splade_retriever.index.documents import Hit
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.sparse import SparseEmbedding

__all__ = ["explain_hits"]


def explain_hits(
    index: SpladeIndex, query: str, hits: Sequence[Hit], *, query_vector: SparseEmbedding | None = None
) -> list[Explanation]:
    """Explain each hit of a search, in order; of an encoder without a tokenizer only the score is known.

    Args:
        index: The index that was searched.
        query: The query.
        hits: Hits of a search.
        query_vector: As for `SpladeIndex.explain_all`.

    Returns:
        As `SpladeIndex.explain_all`. Where the encoder has no tokenizer that turns ids into tokens, each
        explanation has the sparse score of its hit, and no contributions.

    Raises:
        InputError: If a hit is no longer stored.
    """
    if literal_tokenizer(index.model, query) is not None:
        return index.explain_all(query, hits, query_vector=query_vector)
    return [Explanation(query, hit.text, _sparse_score(hit), contributions=(), marks=()) for hit in hits]


def _sparse_score(hit: Hit) -> float:
    if not hit.branches:
        return hit.score
    return hit.branches["sparse"].score if "sparse" in hit.branches else 0.0
