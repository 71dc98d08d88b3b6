"""FastEmbed's keywords that `SparseTextEmbedding` does not have: refused with what to use instead."""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

from splade_retriever.errors import InputError

__all__ = ["refuse_keywords"]

_OF_BM25: Final = "belongs to BM25. Pass it to Bm25Embedding"
_BM25_KEYWORDS: Final = ("k", "b", "avg_len", "language", "token_max_length", "disable_stemmer", "stopwords")
_REMEDIES: Final = {
    "device_id": "does not exist here. Pass providers=[('CUDAExecutionProvider', {'device_id': ...})]",
    **dict.fromkeys(_BM25_KEYWORDS, _OF_BM25),
    "stemmer": "belongs to BM25. Pass language= or disable_stemmer=True to Bm25Embedding",
    "alpha": "belongs to FastEmbed's BM42, which this package does not have. Leave it out",
}


def refuse_keywords(call: str, keywords: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse keywords that a call does not take.

    Args:
        call: What was called, for the message.
        keywords: The keywords.
        known: Keywords that it takes, to suggest the closest.

    Raises:
        InputError: A keyword of FastEmbed.
        TypeError: Any other keyword.
    """
    for name in keywords:
        if name in _REMEDIES:
            raise InputError(f"{call} got {name!r}, which {_REMEDIES[name]}.")
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {similar[0]!r}?" if similar else f"It takes: {', '.join(known)}."
        raise TypeError(f"{call} got an unexpected keyword argument {name!r}. {hint}")
