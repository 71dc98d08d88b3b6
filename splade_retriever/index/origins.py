"""Finds the words that the tokens of an expansion come from, by the model."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from splade_retriever.errors import InputError
from splade_retriever.protocols import Encoder, OriginEncoder, TokenOrigin
from splade_retriever.sparse import SparseEmbedding

__all__ = ["OriginFinder"]

_TOLERANCE: Final = 0.1
"""By how much the weight at a token may differ from the stored one, absolute and relative: 8-bit products
round by up to 0.03. A larger difference means that the stored vector was made from another text."""


class OriginFinder:
    """Finds the origins of the tokens that a query shares with documents.

    Raises:
        InputError: The encoder cannot find them.
    """

    def __init__(self, encoder: Encoder, query: str, query_vector: SparseEmbedding) -> None:
        if not isinstance(encoder, OriginEncoder):
            raise InputError(
                f"The encoder {type(encoder).__name__} has no method token_origins, which origins=True "
                "needs. Use SparseTextEmbedding, or leave origins out."
            )
        self._encoder, self._query_vector = encoder, query_vector
        ids = query_vector.indices.tolist()
        self._of_query = _spans(encoder.token_origins(query, ids)) if _is_expanded(encoder) else {}

    def of_query(self) -> dict[int, tuple[int, int]]:
        """Return the words of the query that the model expanded, by token id."""
        return self._of_query

    def of_text(
        self, text: str, vector: SparseEmbedding, windows: Sequence[tuple[int, int]] | None
    ) -> dict[int, tuple[int, int]]:
        """Return the words of a text that the model expanded, by token id.

        Args:
            text: The document.
            vector: Its stored vector.
            windows: The parts of the text that the vector was made from; None for the beginning.
        """
        shared, stored = self._shared(vector), vector.as_dict()
        best: dict[int, tuple[float, tuple[int, int]]] = {}
        for start, end in windows or [(0, len(text))]:
            for id, origin in self._encoder.token_origins(text[start:end], shared).items():
                if id not in best or origin.weight > best[id][0]:
                    best[id] = origin.weight, (start + origin.start, start + origin.end)
        return {
            id: span
            for id, (weight, span) in best.items()
            if abs(weight - stored[id]) <= _TOLERANCE * (1 + stored[id])
        }

    def _shared(self, vector: SparseEmbedding) -> list[int]:
        shared: list[int] = np.intersect1d(self._query_vector.indices, vector.indices).tolist()
        return shared


def _is_expanded(encoder: Encoder) -> bool:
    """Return whether queries go through the network; those of inference-free models are not expanded."""
    return encoder.fingerprint.get("query_side", "symmetric") == "symmetric"


def _spans(origins: Mapping[int, TokenOrigin]) -> dict[int, tuple[int, int]]:
    return {id: (origin.start, origin.end) for id, origin in origins.items()}
