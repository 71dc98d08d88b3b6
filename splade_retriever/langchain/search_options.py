"""The keyword arguments that every search of the adapter takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splade_retriever.errors import InputError
from splade_retriever.index.search_request import Fusion, Mode
from splade_retriever.langchain.filters import LangChainFilter, to_index_filter

__all__ = ["LangChainSearchOptions"]


@dataclass(frozen=True, slots=True)
class LangChainSearchOptions:
    """The options of a search of the vector store or the retriever."""

    filter: LangChainFilter | None = None
    """A dict (`splade_retriever.filters`), a `qdrant_client.models.Filter` or a structured query's filter."""
    offset: int = 0
    """Documents to skip, for the next pages."""
    score_threshold: float | None = None
    """Minimum score, in the engine's scale (sparse: a dot product, unbounded)."""
    mode: Mode | None = None
    """"sparse", "second", "dense" or "hybrid"; None for hybrid where there is a second model or a dense
    encoder, else sparse."""
    fusion: Fusion | None = None
    """How a hybrid search joins its rankings; None for RRF with k = 60."""
    with_scores: bool = False
    """Put the score into each document's metadata, under `METADATA_KEY`."""
    with_explanations: bool = False
    """Put the score and its explanation there."""
    with_origins: bool = False
    """Put the explanation there, and name in it the word that each token of an expansion comes from."""

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> "LangChainSearchOptions":
        """Read the keyword arguments of a search.

        Raises:
            InputError: If a keyword is unknown.
        """
        if unknown := [name for name in keywords if name not in cls.__slots__]:
            raise InputError(
                f"The search got the unknown argument {', '.join(unknown)}; "
                f"allowed: k, {', '.join(cls.__slots__)}."
            )
        return cls(**keywords)

    @property
    def explained(self) -> bool:
        """Whether hits are explained."""
        return self.with_explanations or self.with_origins

    def index_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `SpladeIndex.search`."""
        return {
            "filter": to_index_filter(self.filter),
            "offset": self.offset,
            "score_threshold": self.score_threshold,
            "mode": self.mode,
            "fusion": self.fusion,
            # An explanation needs the vector; reading it with the hit saves one call per hit.
            "with_vectors": self.explained,
        }
